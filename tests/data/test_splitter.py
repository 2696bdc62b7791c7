"""Splits of every kind, of tables in memory and of streamed ones, against pandas."""

from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from dnnjob.config import JobConfig
from dnnjob.data import splitter as module
from dnnjob.data.quantiles import QuantileSketch
from dnnjob.data.raw_columns import Texts
from dnnjob.data.splitter import SplitFacts, make_splitter
from dnnjob.data.spool import Scratch
from dnnjob.data.table_loading import open_table as open_long_table
from dnnjob.errors import DataError
from dnnjob.tasks import Crew, StopFlag
from tests.data.opened import open_files, open_table, split_table

NUM_ROWS = 3000
NAMES = np.array(["train", "validation", "test", "unlabelled"])
Labels = np.ndarray
Split = Callable[[pd.DataFrame, JobConfig], Labels]


def make_frame() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"x": rng.normal(size=NUM_ROWS)})
    frame["group"] = rng.integers(0, 200, NUM_ROWS)
    frame["house"] = rng.choice([f"house {n}" for n in range(150)], NUM_ROWS)
    frame["day"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(
        rng.integers(0, 400, NUM_ROWS), unit="D"
    )
    frame["second"] = rng.integers(0, 10**6, NUM_ROWS) + 0.5
    frame["part"] = rng.choice(["train", "Validation", " TEST"], NUM_ROWS)
    frame["y"] = frame["x"] + rng.normal(size=NUM_ROWS)
    return frame


def make_job(folder: Path, **data: object) -> JobConfig:
    values = {"source": str(folder), "target": "y", "features": ["x"]} | data
    return JobConfig.model_validate({"name": "t", "seed": 3, "data": values})


def in_memory(folder: Path, job: JobConfig) -> Labels:
    return NAMES[split_table(job).piece.labels]


def streamed(folder: Path, job: JobConfig) -> Labels:
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    table = open_files(job, block_rows=200, get_scratch=lambda: Scratch(scratch))
    pieces = list(table.pieces(size=700))
    return NAMES[np.concatenate([piece.labels for piece in pieces])]


@pytest.fixture(params=[in_memory, streamed], ids=["memory", "streamed"])
def split(request: pytest.FixtureRequest, tmp_path: Path) -> Split:
    """Writes a frame as two files and splits it; both ways to read it."""

    def apply(frame: pd.DataFrame, job: JobConfig) -> Labels:
        folder = tmp_path / "tables"
        folder.mkdir()
        frame.iloc[:1000].to_parquet(folder / "a.parquet", index=False)
        frame.iloc[1000:].to_parquet(folder / "b.parquet", index=False, row_group_size=500)
        labels: Labels = request.param(folder, job)
        return labels

    return apply


# Groups


@pytest.mark.parametrize(
    "keys",
    [
        {"split": "shuffle"},
        {"split": "hash"},
        {"split": "group", "split_column": "house"},
        {"split": "time", "split_column": "second"},
    ],
)
def test_without_a_test_fraction_every_kind_of_split_trains_on_all_rows(
    split: Split, tmp_path: Path, keys: dict[str, str]
) -> None:
    job = make_job(tmp_path / "tables", test_fraction=0.0, **keys)

    assert set(split(make_frame(), job)) == {"train"}


@pytest.mark.parametrize("column", ["group", "house", "day"])
def test_no_group_is_on_both_sides(split: Split, tmp_path: Path, column: str) -> None:
    frame = make_frame()
    job = make_job(tmp_path / "tables", split="group", split_column=column, validation_fraction=0.2)

    labels = split(frame, job)

    sides = frame.assign(split=labels).groupby(column)["split"].nunique()
    assert (sides == 1).all()
    shares = pd.Series(labels).value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.3, abs=0.1)
    assert shares["validation"] == pytest.approx(0.14, abs=0.08)


def large_keys() -> list[int]:
    """Integers of which float64 merges eight."""
    return [1_582_218_195_625_938_901 + number // 3 for number in range(NUM_ROWS)]


def expected_test_rows(keys: list[str], job: JobConfig) -> Labels:
    """Which rows test, where each text of digits is a group."""
    splitter = make_splitter(job.data, (NUM_ROWS, 0, 0), SplitFacts(), seed=3)
    return splitter(0, np.zeros(NUM_ROWS), Texts.of(keys)) == NAMES.tolist().index("test")


@pytest.mark.parametrize("dtype", ["int64", "uint64", "Int64", "decimal"])
def test_groups_of_integers_beyond_float64_stay_apart(
    split: Split, tmp_path: Path, dtype: str
) -> None:
    keys = large_keys()
    job = make_job(tmp_path / "tables", split="group", split_column="group")
    column = pd.Series([Decimal(key) for key in keys]) if dtype == "decimal" else None
    frame = make_frame().assign(group=pd.Series(keys, dtype=dtype) if column is None else column)

    labels = split(frame, job)

    np.testing.assert_array_equal(labels == "test", expected_test_rows([*map(str, keys)], job))
    assert frame.assign(is_test=labels == "test").groupby("group")["is_test"].nunique().max() == 1


def test_groups_that_float64_holds_are_split_as_numbers_beside_larger_ones_too(
    split: Split, tmp_path: Path
) -> None:
    frame = make_frame()
    job = make_job(tmp_path / "tables", split="group", split_column="group")
    splitter = make_splitter(job.data, (NUM_ROWS, 0, 0), SplitFacts(), seed=3)
    expected = splitter(0, np.zeros(NUM_ROWS), frame["group"].to_numpy(np.float64))
    large = frame.assign(group=np.where(frame.index % 700 == 699, 2**53 + 1, frame["group"]))

    labels = split(large, job)

    small = frame.index % 700 != 699
    np.testing.assert_array_equal(labels[small], NAMES[expected][small])


def test_large_groups_of_files_with_other_types_stay_apart(tmp_path: Path) -> None:
    keys, folder = large_keys(), tmp_path / "tables"
    folder.mkdir()
    keys[:1000] = range(1000)
    frame = make_frame().assign(group=keys)
    frame.iloc[:1000].astype({"group": "int32"}).to_parquet(folder / "a.parquet", index=False)
    frame.iloc[1000:].to_parquet(folder / "b.parquet", index=False)
    job = make_job(folder, split="group", split_column="group")

    expected = expected_test_rows([*map(str, keys)], job)
    np.testing.assert_array_equal(streamed(folder, job) == "test", expected)
    np.testing.assert_array_equal(NAMES[split_table(job).piece.labels] == "test", expected)


@pytest.mark.parametrize("digits", [19, 21])
@pytest.mark.parametrize("ids", [(), ("group",)])
def test_large_groups_in_text_stay_apart(tmp_path: Path, digits: int, ids: tuple[str, ...]) -> None:
    keys, folder = [key + 10**digits - 10**19 for key in large_keys()], tmp_path / "tables"
    folder.mkdir()
    keys[:1000] = range(1000)
    frame = make_frame().assign(group=[*map(str, keys)])
    frame.iloc[:1000].to_csv(folder / "a.csv", index=False)
    frame.iloc[1000:].to_csv(folder / "b.csv", index=False)
    changes = {"split": "group", "split_column": "group", "id_columns": ids}
    job = make_job(folder, **changes)
    expected = expected_test_rows([*map(str, keys)], job)

    held = split_table(job).piece.labels
    np.testing.assert_array_equal(NAMES[held] == "test", expected)

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    windows = make_job(folder, window_rows=500, **changes)
    table = open_long_table(
        windows, make_scratch=lambda: scratch, threads=1, crew=Crew(StopFlag()), kept=None
    )
    pieces = [piece.labels for piece in table.pieces(size=700)]
    assert table.by_windows
    np.testing.assert_array_equal(NAMES[np.concatenate(pieces)] == "test", expected)


def test_a_row_without_a_group_is_one_of_its_own(split: Split, tmp_path: Path) -> None:
    frame = make_frame()
    frame.loc[frame.index % 2 == 0, "house"] = None
    job = make_job(tmp_path / "tables", split="group", split_column="house")

    labels = split(frame, job)

    alone = labels[frame["house"].isna()]
    assert (alone == "test").mean() == pytest.approx(0.3, abs=0.05)


def test_folds_keep_groups_together_and_cover_every_row(split: Split, tmp_path: Path) -> None:
    frame = make_frame()
    job = make_job(tmp_path / "tables", split="group", split_column="group", folds=4, fold=1)
    labels = split(frame, job)

    others = [
        in_memory(tmp_path, job.model_copy(update={"data": job.data.model_copy(update=change)}))
        for change in ({"fold": fold} for fold in (0, 2, 3))
    ]

    assert (np.sum([one == "test" for one in (labels, *others)], axis=0) == 1).all()


def test_a_group_has_one_split_as_number_and_as_text() -> None:
    job = make_job(Path("/t"), split="group", split_column="group")
    splitter = make_splitter(job.data, (500, 0, 0), SplitFacts(), seed=3)
    y, keys = np.zeros(500), np.arange(500.0)

    numbers = splitter(0, y, keys)

    texts = splitter(0, y, Texts.of([str(number) for number in range(500)]))
    zeros = splitter(0, y, Texts.of([f"0{number}" for number in range(500)]))
    np.testing.assert_array_equal(numbers, texts)
    assert (numbers != zeros).any()
    np.testing.assert_array_equal(splitter(0, y, -0.0 * keys), splitter(0, y, 0.0 * keys))


# Time


@pytest.mark.parametrize("column", ["day", "second"])
def test_the_newest_rows_test_and_those_before_them_validate(
    split: Split, tmp_path: Path, column: str
) -> None:
    frame = make_frame()
    frame.loc[::7, "y"] = np.nan
    frame.loc[7, column] = None
    job = make_job(tmp_path / "tables", split="time", split_column=column, validation_fraction=0.25)

    labels = split(frame, job)

    known = frame[frame["y"].notna()]
    # Ranks from the newest on, equal times sharing the best one.
    ranks = known[column].rank(ascending=False, method="min")
    expected = pd.Series("train", index=known.index)
    rest = known[ranks > np.ceil(0.3 * len(known))]
    newest = rest[column].rank(ascending=False, method="min") <= np.ceil(0.25 * len(rest))
    expected[ranks <= np.ceil(0.3 * len(known))] = "test"
    expected[rest.index[newest]] = "validation"
    assert labels[frame["y"].isna()].tolist() == ["unlabelled"] * int(frame["y"].isna().sum())
    assert labels[known.index].tolist() == expected.tolist()
    assert set(expected) == {"train", "validation", "test"}


def test_cuts_of_long_tables_are_near_and_the_same_both_ways(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SHUFFLED_ROWS", 100)
    monkeypatch.setattr(module, "QuantileSketch", partial(QuantileSketch, room=64))
    frame = make_frame()
    job = make_job(tmp_path / "tables", split="time", split_column="second")

    labels = split(frame, job)

    assert frame["second"][labels == "train"].max() < frame["second"][labels == "test"].min()
    assert (labels == "test").mean() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_array_equal(labels, in_memory(tmp_path, job))


def test_texts_that_are_dates_are_times(split: Split, tmp_path: Path) -> None:
    frame = make_frame()
    frame["day"] = frame["day"].dt.strftime("%Y-%m-%d")
    job = make_job(tmp_path / "tables", split="time", split_column="day")

    labels = split(frame, job)

    assert frame["day"][labels == "train"].max() < frame["day"][labels == "test"].min()


def test_a_row_without_a_time_is_refused(split: Split, tmp_path: Path) -> None:
    frame = make_frame()
    frame.loc[[3, 9], "day"] = pd.NaT
    job = make_job(tmp_path / "tables", split="time", split_column="day")

    with pytest.raises(DataError, match=r"'day' in .* is missing in 2 of them"):
        split(frame, job)


# A column


def test_a_column_says_the_split_in_any_case(split: Split, tmp_path: Path) -> None:
    frame = make_frame()
    frame.loc[5, ["y", "part"]] = np.nan, None
    job = make_job(tmp_path / "tables", split="column", split_column="part")

    labels = split(frame, job)

    expected = frame["part"].str.strip().str.lower().fillna("unlabelled")
    assert labels.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("value", "told"),
    [("dev", r"'dev' there, in row 2000, 2001"), (None, r"nothing there, in row 2000, 2001")],
)
def test_other_words_are_refused_with_their_rows(
    split: Split, tmp_path: Path, value: str | None, told: str
) -> None:
    frame = make_frame()
    frame.loc[[2000, 2001], "part"] = value
    job = make_job(tmp_path / "tables", split="column", split_column="part")

    with pytest.raises(DataError, match=told):
        split(frame, job)


def test_a_column_of_numbers_says_no_split(split: Split, tmp_path: Path) -> None:
    job = make_job(tmp_path / "tables", split="column", split_column="group")

    with pytest.raises(DataError, match=r"and \d+ more \(from 0\)"):
        split(make_frame(), job)


# Files


@pytest.mark.parametrize("read", [in_memory, streamed])
@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_rows_of_files_follow_each_other(
    tmp_path: Path, read: Callable[[Path, JobConfig], Labels], fraction: float
) -> None:
    frame = make_frame()
    parts = {"a": frame[:2000], "b": frame[2000:2100], "c": frame[2100:]}
    for name, part in parts.items():
        part.to_parquet(tmp_path / f"{name}.parquet", index=False)
    sources = {"source": str(tmp_path / "a.parquet"), "test_source": str(tmp_path / "c.parquet")}
    if not fraction:
        sources["validation_source"] = str(tmp_path / "b.parquet")
    job = make_job(tmp_path, split="files", validation_fraction=fraction, **sources)

    labels = read(tmp_path / "tables", job)

    if fraction:
        assert labels[2000:].tolist() == ["test"] * 900
        assert set(labels[:2000]) == {"train", "validation"}
        assert (labels[:2000] == "validation").mean() == pytest.approx(fraction, abs=0.03)
    else:
        assert labels.tolist() == ["train"] * 2000 + ["validation"] * 100 + ["test"] * 900


def test_files_of_the_test_rows_must_have_the_same_columns(tmp_path: Path) -> None:
    make_frame().to_csv(tmp_path / "a.csv", index=False)
    make_frame().drop(columns="y").to_csv(tmp_path / "b.csv", index=False)
    job = make_job(
        tmp_path,
        split="files",
        source=str(tmp_path / "a.csv"),
        test_source=str(tmp_path / "b.csv"),
    )

    with pytest.raises(DataError, match=r"b\.csv lacks y"):
        open_table(job.data)


def test_a_file_that_would_train_and_test_is_refused(tmp_path: Path) -> None:
    make_frame().to_csv(tmp_path / "a.csv", index=False)
    make_frame().head(9).to_csv(tmp_path / "b.csv", index=False)
    job = make_job(
        tmp_path,
        split="files",
        source=str(tmp_path / "*.csv"),
        test_source=str(tmp_path / "b.csv"),
    )

    with pytest.raises(DataError, match=r"b\.csv is in data\.source and in data\.test_source"):
        open_table(job.data)


def test_other_test_rows_make_another_fingerprint(tmp_path: Path) -> None:
    frame = make_frame()
    frame.to_csv(tmp_path / "a.csv", index=False)
    values = []
    for part in (frame[:50], frame[50:]):
        part.to_csv(tmp_path / "b.csv", index=False)
        job = make_job(
            tmp_path,
            split="files",
            source=str(tmp_path / "a.csv"),
            test_source=str(tmp_path / "b.csv"),
        )
        values.append(open_table(job.data).fingerprint.value)

    assert values[0] != values[1]


# Shuffled and hashed rows


def test_shuffled_rows_with_a_target_are_those_of_scikit_learn(
    split: Split, tmp_path: Path
) -> None:
    frame = make_frame()
    frame.loc[::7, "y"] = np.nan
    job = make_job(tmp_path / "tables")

    labels = split(frame, job)

    _, test = train_test_split(
        np.flatnonzero(frame["y"].notna()), test_size=0.3, random_state=job.seed
    )
    assert np.flatnonzero(labels == "test").tolist() == sorted(test)


def test_auto_goes_by_the_number_of_rows_alone(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.split.MAX_SHUFFLED_ROWS", NUM_ROWS - 1)
    job = make_job(tmp_path / "tables")
    hashed = job.model_copy(update={"data": job.data.model_copy(update={"split": "hash"})})

    labels = split(make_frame(), job)

    np.testing.assert_array_equal(labels, in_memory(tmp_path, hashed))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"split": "hash", "test_fraction": 0.00001}, r"3000 train, 0 validation, 0 test"),
        ({"split": "hash", "test_fraction": 0.99999}, r"0 train, 0 validation, 3000 test"),
        (
            {"split": "hash", "validation_fraction": 0.00001},
            r"needs validation rows .* data\.validation_fraction = 1e-05 leaves \d+ train, 0 vali",
        ),
        (
            {"split": "group", "split_column": "one", "test_fraction": 0.5},
            r'data.split = "group", data.split_column = \'one\' and data.test_fraction = 0.5',
        ),
        (
            {"split": "time", "split_column": "one"},
            r"0 train, 0 validation, 3000 test .*fewer equal times",
        ),
        ({"split": "column", "split_column": "two"}, r"needs test rows .* Write the missing words"),
    ],
)
def test_empty_splits_are_refused_with_key_counts_and_way_out(
    split: Split, tmp_path: Path, data: dict[str, object], told: str
) -> None:
    frame = make_frame().assign(one=1, two="train")

    with pytest.raises(DataError, match=told):
        split(frame, make_job(tmp_path / "tables", **data))


def test_patience_needs_validation_rows_of_the_column(split: Split, tmp_path: Path) -> None:
    frame = make_frame()
    frame["part"] = np.where(frame["x"] > 0, "train", "test")
    job = make_job(tmp_path / "tables", split="column", split_column="part")
    patient = job.model_copy(update={"train": job.train.model_copy(update={"patience": 3})})

    with pytest.raises(DataError, match="needs validation rows"):
        split(frame, patient)
