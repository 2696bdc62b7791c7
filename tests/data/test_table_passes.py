"""A table that is passed over once and then read in pieces, against the whole of it."""

import signal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data import measurement
from dnnjob.data.order import goes_by_windows, streams
from dnnjob.data.split import (
    MAX_SHUFFLED_ROWS,
    TEST,
    TRAIN,
    UNLABELLED,
    VALIDATION,
    choose_split,
)
from dnnjob.data.splitter import Labels, SplitFacts, make_splitter
from dnnjob.data.spool import Scratch
from dnnjob.data.table import Table
from dnnjob.errors import DataError, JobError, StoppedError
from dnnjob.tasks import Crew, StopFlag
from tests.data.opened import open_files, open_table, split_table

NUM_ROWS = 5000
FEATURES = ("plain", "gaps", "word", "flag", "day")


def make_frame() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"plain": rng.normal(100, 3, NUM_ROWS)})
    frame["gaps"] = np.where(rng.random(NUM_ROWS) < 0.2, np.nan, rng.normal(size=NUM_ROWS))
    frame["word"] = rng.choice(["red", "green", "blue"], NUM_ROWS)
    frame["flag"] = rng.random(NUM_ROWS) < 0.3
    frame["day"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(
        rng.integers(0, 900, NUM_ROWS), unit="D"
    )
    frame["weight"] = rng.random(NUM_ROWS) + 0.5
    frame["name"] = [f"row {number}" for number in range(NUM_ROWS)]
    frame["y"] = frame["plain"] * 2 + rng.normal(size=NUM_ROWS)
    return frame


def make_data(folder: Path, **changes: object) -> DataConfig:
    values = {
        "source": str(folder),
        "target": "y",
        "validation_fraction": 0.2,
        "weight_column": "weight",
        "id_columns": ("name",),
    }
    return DataConfig.model_validate(values | changes)


def make_job(data: DataConfig) -> JobConfig:
    return JobConfig(name="t", seed=1, data=data)


def deal(data: DataConfig, num_rows: int, *, seed: int, first: int = 0) -> Labels:
    """Splits of rows that all have a target, by their numbers."""
    splitter = make_splitter(data, (num_rows, 0, 0), SplitFacts(), seed=seed)
    return splitter(first, np.zeros(num_rows), None)


def open_frame(
    frame: pd.DataFrame,
    folder: Path,
    *,
    cuts: int = 1,
    row_group: int | None = None,
    features: tuple[str, ...] = FEATURES,
    **changes: object,
) -> Table:
    tables, scratch = folder / "tables", folder / "scratch"
    tables.mkdir()
    scratch.mkdir()
    for number, part in enumerate(np.array_split(np.arange(len(frame)), cuts)):
        path = tables / f"{number:03d}.parquet"
        frame.iloc[part].to_parquet(path, index=False, row_group_size=row_group or len(frame))
    data = make_data(tables, features=features, **changes)
    return open_files(
        make_job(data),
        block_rows=700,
        get_scratch=lambda: Scratch(scratch),
        threads=2,
    )


@pytest.mark.parametrize(("cuts", "row_group"), [(1, None), (1, 50), (7, None), (50, 40)])
def test_the_layout_of_files_changes_nothing(
    tmp_path: Path, cuts: int, row_group: int | None
) -> None:
    frame = make_frame()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = open_frame(frame, tmp_path / "a")
    other = open_frame(frame, tmp_path / "b", cuts=cuts, row_group=row_group)

    assert other.fit_encoding(make_data(Path())) == whole.fit_encoding(make_data(Path()))
    for split in (TRAIN, VALIDATION, TEST):
        assert other.num_split_rows(split) == whole.num_split_rows(split)
    one, two = (table.read_split(TRAIN, 600, 1500) for table in (whole, other))
    np.testing.assert_array_equal(one.row_ids, two.row_ids)
    np.testing.assert_array_equal(
        whole.fit_encoding(make_data(Path())).numbers(one.block),
        other.fit_encoding(make_data(Path())).numbers(two.block),
    )


def test_rows_of_a_split_are_read_by_their_number(tmp_path: Path) -> None:
    frame = make_frame()
    table = open_frame(frame, tmp_path)
    labels = deal(table.data, NUM_ROWS, seed=1)

    for split in (TRAIN, VALIDATION, TEST):
        rows = np.flatnonzero(labels == split)
        assert table.num_split_rows(split) == len(rows)
        for first, stop in ((0, 3), (100, 333), (len(rows) - 5, len(rows)), (0, len(rows))):
            piece = table.read_split(split, first, stop)
            np.testing.assert_array_equal(piece.row_ids, rows[first:stop])
            np.testing.assert_array_equal(piece.y, frame["y"].to_numpy()[rows[first:stop]])
            assert piece.ids["name"].to_pylist() == [f"row {row}" for row in rows[first:stop]]
            assert piece.weights is not None


def test_a_table_of_large_row_groups_is_copied_and_one_of_small_ones_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    large = open_frame(make_frame(), tmp_path / "a")
    small = open_frame(make_frame(), tmp_path / "b", row_group=100)

    assert max(group.num_rows for group in large.rows.groups) <= 350
    assert all(group.path.parent.name == "scratch" for group in large.rows.groups)
    assert all(group.path.parent.name == "tables" for group in small.rows.groups)


def test_rows_without_a_target_are_unlabelled(tmp_path: Path) -> None:
    frame = make_frame()
    frame.loc[::10, "y"] = np.nan
    table = open_frame(frame, tmp_path)

    assert table.num_split_rows(UNLABELLED) == 500
    assert np.isnan(table.read_split(UNLABELLED, 0, 500).y).all()
    assert "y is missing in 500 of 5000 rows" in table.warnings[0]


def test_a_constant_feature_and_a_leak_are_told(tmp_path: Path) -> None:
    frame = make_frame().assign(constant=7.0)
    frame["leak"] = frame["y"]

    table = open_frame(frame, tmp_path, features=("plain", "constant", "leak"))

    told = " ".join(table.warnings)
    assert "constant features tell nothing: constant." in told
    assert "leak equals the target y in every row" in told
    assert "plain" not in told


def test_near_copies_of_the_target_and_ids_are_told_as_in_memory(tmp_path: Path) -> None:
    frame, rng = make_frame(), np.random.default_rng(3)
    spread = frame["y"].std()
    frame["near"] = 32 - 1.8 * (frame["y"] + rng.normal(0, 0.005 * spread, NUM_ROWS))
    frame["far"] = frame["y"] + rng.normal(0, 0.05 * spread, NUM_ROWS)
    frame.loc[frame.index % 7 == 0, "near"] = np.nan
    frame["place"], frame["house_id"] = np.arange(NUM_ROWS), rng.permutation(NUM_ROWS) * 7
    frame["year"] = np.arange(NUM_ROWS) * 3
    names = ("near", "far", "place", "house_id", "year", "name")

    table = open_frame(frame, tmp_path, features=names, id_columns=())

    assert table.warnings == open_table(table.data).warnings
    known = frame["near"].notna()
    assert abs(np.corrcoef(frame["near"][known], frame["y"][known])[0, 1]) > 0.9999
    assert 0.9 < abs(np.corrcoef(frame["far"], frame["y"])[0, 1]) < 0.9999
    told = " ".join(table.warnings)
    assert "near is nearly the target y, up to scale and offset: a leak" in told
    assert "place, house_id, name have another value in each of 5000 rows" in told
    assert "Those that are belong in data.id_columns." in told


def test_rows_on_both_sides_of_the_split_are_counted_as_in_memory(tmp_path: Path) -> None:
    frame = make_frame().assign(name=lambda rows: rows["name"].str[-2:])
    frame.iloc[3000:3300] = frame.iloc[:300].to_numpy()
    frame = frame.astype(make_frame().dtypes)
    frame.loc[3000:3300, "weight"] = 1.0

    table = open_frame(frame, tmp_path, row_group=700)

    held = split_table(make_job(table.data))
    assert held.warnings == table.warnings
    told = [line for line in table.warnings if "equal a training row" in line]
    rows = frame[[*FEATURES, "y"]].assign(label=held.piece.labels)
    train = rows[rows["label"] == TRAIN].drop(columns="label").drop_duplicates()
    counts = rows.merge(train, on=[*FEATURES, "y"])["label"].value_counts()
    sizes = rows["label"].value_counts()
    assert min(counts[TEST], counts[VALIDATION]) > 20
    assert told[0].startswith(
        f"{counts[VALIDATION]} of {sizes[VALIDATION]} validation rows and "
        f"{counts[TEST]:,} of {sizes[TEST]:,} test rows equal a training row in all features"
    )


def test_the_duplicates_of_a_real_table_are_those_of_pandas() -> None:
    path = Path(__file__).parents[2].parent / "shared" / "data" / "wine.csv"
    if not path.is_file():
        pytest.skip(f"the real table is not there: {path}")
    frame = pd.read_csv(path)
    target = str(frame.columns[-1])

    table = split_table(make_job(DataConfig(source=str(path), target=target)))

    rows = frame.assign(label=table.piece.labels)
    train = frame[rows["label"] == TRAIN].drop_duplicates()
    shared = int((rows.merge(train)["label"] == TEST).sum())
    told = [line for line in table.warnings if "equal a training row" in line]
    assert shared > 0
    assert told[0].startswith(f"{shared} of {(rows['label'] == TEST).sum():,} test rows equal")


def test_what_texts_and_headers_lack_is_told_as_in_memory(tmp_path: Path) -> None:
    frame = make_frame().assign(rare=[f"only {number // 2}" for number in range(NUM_ROWS)])
    frame["nearly"] = [str(number // 2) for number in range(NUM_ROWS)]
    frame.loc[7, "nearly"] = "none given"
    frame["Unnamed: 0"] = np.arange(NUM_ROWS)

    table = open_frame(frame, tmp_path, features=("plain", "rare", "nearly", "Unnamed: 0"))

    assert table.warnings == open_table(table.data).warnings
    told = " ".join(table.warnings)
    assert "every text of rare, nearly is in fewer than 5 rows" in told
    assert "nearly is taken for text, since 1 of 5000 rows hold no number, such as 'none" in told
    assert "columns without a name: Unnamed: 0" in told


@pytest.mark.long
def test_wide_tables_are_passed_over_in_blocks_of_fewer_rows(tmp_path: Path) -> None:
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(9000, 1000)))
    wide.columns = [f"x{number}" for number in range(1000)]
    wide = wide.astype(np.float32).assign(y=np.arange(9000.0))
    features = tuple(wide.columns[:-1])
    table = open_frame(wide, tmp_path, features=features, weight_column=None, id_columns=())

    rows = table.read_split(TRAIN, 0, table.num_split_rows(TRAIN)).row_ids
    expected = wide["x7"].to_numpy(np.float64)[rows].mean()
    assert table.fit_encoding(make_data(Path())).columns[7].mean == pytest.approx(
        expected, rel=1e-9
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"split": "time", "split_column": "day"}, {"split": "group", "split_column": "day"}],
    ids=["shuffle", "time", "group"],
)
@pytest.mark.parametrize("row_group", [100, None], ids=["in place", "copied"])
def test_a_pass_that_was_kept_is_not_made_again(
    tmp_path: Path, changes: dict[str, object], row_group: int | None
) -> None:
    frame = make_frame()
    frame.loc[::10, "y"] = np.nan
    first = open_frame(frame, tmp_path, row_group=row_group, **changes)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    def open_again(scratch: Path) -> Table:
        data = first.data
        return open_files(
            make_job(data),
            block_rows=700,
            get_scratch=lambda: Scratch(scratch),
            threads=1,
            kept=tmp_path / "kept",
        )

    made, found = (open_again(tmp_path / name) for name in ("one", "two"))

    assert len(list((tmp_path / "kept").iterdir())) == 1
    if row_group is not None:
        assert made.rows.num_read_bytes > 0
    assert found.rows.num_read_bytes == 0
    assert (
        found.fit_encoding(make_data(Path()))
        == made.fit_encoding(make_data(Path()))
        == first.fit_encoding(make_data(Path()))
    )
    assert found.warnings == made.warnings
    np.testing.assert_array_equal(found.group_counts, made.group_counts)
    for one, two in zip(made.pieces(size=999), found.pieces(size=999), strict=True):
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one.row_ids, two.row_ids)


@pytest.mark.parametrize("split", ["shuffle", "time"])
def test_looking_for_what_the_split_must_know_can_be_stopped(
    tmp_path: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"split": split, "split_column": "day" if split == "time" else None}
    data = open_frame(make_frame(), tmp_path, row_group=100, **changes).data
    stop = StopFlag()
    stop.want(signal.SIGTERM)
    monkeypatch.delattr(measurement, "survey_rows")

    with pytest.raises(StoppedError):
        open_files(
            make_job(data),
            block_rows=700,
            get_scratch=lambda: Scratch(tmp_path / "scratch"),
            threads=1,
            crew=Crew(stop),
        )


def test_files_whose_columns_are_of_other_kinds_are_refused(tmp_path: Path) -> None:
    frame = make_frame()
    (tmp_path / "tables").mkdir()
    (tmp_path / "scratch").mkdir()
    frame.to_parquet(tmp_path / "tables" / "a.parquet")
    frame.astype({"plain": str}).to_parquet(tmp_path / "tables" / "b.parquet")
    data = make_data(tmp_path / "tables")

    with pytest.raises(DataError, match=r"'plain' is numeric in .*a\.parquet, text in .*b\.parq"):
        open_files(
            make_job(data),
            block_rows=700,
            get_scratch=lambda: Scratch(tmp_path / "scratch"),
            threads=1,
        )


def test_ids_of_other_types_in_other_files_are_texts(tmp_path: Path) -> None:
    frame = make_frame()
    (tmp_path / "tables").mkdir()
    (tmp_path / "scratch").mkdir()
    frame.assign(name=frame.index).to_parquet(tmp_path / "tables" / "a.parquet")
    frame.to_parquet(tmp_path / "tables" / "b.parquet")
    data = make_data(tmp_path / "tables", features=["plain"])

    table = open_files(
        make_job(data),
        block_rows=700,
        get_scratch=lambda: Scratch(tmp_path / "scratch"),
        threads=1,
    )

    found = [key for piece in table.pieces(size=999) for key in piece.ids["name"].to_pylist()]
    assert found == [str(row) for row in frame.index] + frame["name"].tolist()


def test_ids_of_other_types_in_other_files_split_the_rows_as_in_memory(tmp_path: Path) -> None:
    frame = make_frame()
    keys = {"numbers": frame.index % 90, "days": frame["day"]}
    first = frame.assign(numbers=frame.index % 90).iloc[:2500].assign(days=keys["days"].dt.date)
    second = frame.assign(numbers=frame.index % 90 * 1.0, days=keys["days"]).iloc[2500:]
    for name in ("tables", "numbers", "days"):
        (tmp_path / name).mkdir()
    first.to_parquet(tmp_path / "tables" / "a.parquet")
    second.to_parquet(tmp_path / "tables" / "b.parquet")

    for key in keys:
        split = {"split": "group", "split_column": key, "id_columns": (key,)}
        job = make_job(make_data(tmp_path / "tables", features=["plain"], **split))
        table = open_files(
            job,
            block_rows=700,
            get_scratch=partial(Scratch, tmp_path / key),
            threads=1,
        )
        (piece,) = table.pieces(size=10**6)

        expected = split_table(job).split
        np.testing.assert_array_equal(np.flatnonzero(piece.labels == TEST), expected.test)
        np.testing.assert_array_equal(np.flatnonzero(piece.labels == TRAIN), expected.train)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("y", 3.0, "all 5000 rows are 3"),
        ("plain", np.inf, "'plain' is infinite in 5000 of 5000 rows"),
        ("plain", 1e39, "beyond|range of float32"),
        ("weight", -1.0, "goes down to -1"),
    ],
)
def test_values_that_training_cannot_take_are_refused(
    tmp_path: Path, column: str, value: float, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        open_frame(make_frame().assign(**{column: value}), tmp_path)


def test_a_copy_that_finds_no_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    with pytest.raises(JobError, match=r"needs 0\.0 GiB.*Set data\.scratch"):
        open_frame(make_frame(), tmp_path)


def test_a_table_streams_when_its_training_rows_exceed_a_window(tmp_path: Path) -> None:
    data = make_data(tmp_path, test_fraction=0.5, validation_fraction=0.0)

    assert not goes_by_windows(data, (2000, 0, 0), window_rows=1000)
    assert goes_by_windows(data, (2002, 0, 0), window_rows=1000)


def test_a_table_is_read_in_pieces_by_its_rows_trained_on_or_not(tmp_path: Path) -> None:
    data, kinds = make_data(tmp_path, test_fraction=0.999, window_rows=10**9), {"x": "numeric"}
    whole = 2**28 // 8 // 4

    assert not streams(data, (whole, 0, 0), kinds, share=1 / 4)
    assert streams(data, (whole + 1, 0, 0), kinds, share=1 / 4)
    assert not streams(data, (4 * whole, 0, 0), kinds)
    assert streams(data, (4 * whole + 1, 0, 0), kinds)
    assert streams(data.model_copy(update={"window_rows": 5}), (10_000, 0, 0), kinds)


def test_auto_hashes_beyond_ten_million_rows() -> None:
    assert choose_split("auto", MAX_SHUFFLED_ROWS) == "shuffle"
    assert choose_split("auto", MAX_SHUFFLED_ROWS + 1) == "hash"
    assert choose_split("hash", 10) == "hash"


def test_hashed_splits_have_their_shares_and_do_not_depend_on_the_piece(tmp_path: Path) -> None:
    data = make_data(tmp_path, split="hash", test_fraction=0.3, validation_fraction=0.1)
    whole = deal(data, 100_000, seed=4)
    pieces = np.concatenate(
        [deal(data, 1000, seed=4, first=first) for first in range(0, 100_000, 1000)]
    )
    other = deal(data, 100_000, seed=5)

    np.testing.assert_array_equal(whole, pieces)
    assert np.bincount(whole, minlength=3) / 1e5 == pytest.approx([0.63, 0.07, 0.3], abs=0.005)
    assert (whole == other).mean() == pytest.approx(0.63**2 + 0.07**2 + 0.3**2, abs=0.01)


def test_hashed_folds_cover_every_row_once(tmp_path: Path) -> None:
    tests = [
        deal(make_data(tmp_path, split="hash", folds=4, fold=fold), 10_000, seed=0) == TEST
        for fold in range(4)
    ]

    assert (np.sum(tests, axis=0) == 1).all()
