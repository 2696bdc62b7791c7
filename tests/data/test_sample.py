"""A bounded part of a large table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DataConfig
from dnnjob.data.kinds import ReadAs
from dnnjob.data.measurement import measure_sample
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.sample import SampledTable, estimate_splits, sample_columns, sample_table
from dnnjob.data.sources import peek_job
from dnnjob.errors import DataError

NUM_ROWS = 50_000


def sample(data: DataConfig) -> SampledTable:
    found = peek_job(data)
    return sample_table(data, found, ParquetRows.open(found.paths))


def write(folder: Path, *, cuts: int = 2, **columns: object) -> DataConfig:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": np.arange(NUM_ROWS), "y": rng.normal(size=NUM_ROWS)})
    frame = frame.assign(word=rng.choice(["a", "b"], NUM_ROWS), **columns)
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(NUM_ROWS), cuts)):
        frame.iloc[rows].to_parquet(folder / f"{number}.parquet", index=False, row_group_size=500)
    return DataConfig(source=str(folder), target="y")


def test_rows_come_from_all_over_the_table(tmp_path: Path) -> None:
    data = write(tmp_path / "t")

    rows = ParquetRows.open(sorted((tmp_path / "t").iterdir()))
    columns = sample_columns(rows, ["x", "word"], ReadAs(), source=data.source)

    x = columns["x"].numbers
    assert len(x) == columns["word"].num_rows == 32 * 500
    assert x.min() == 0
    assert x.max() == NUM_ROWS - 1
    assert np.diff(np.unique(x // 500)).max() <= 4
    assert columns["word"].column.kind == "text"
    assert columns["word"].column.num_values == 2


def test_a_giant_row_group_is_read_in_part(tmp_path: Path) -> None:
    pd.DataFrame({"x": np.arange(NUM_ROWS)}).to_parquet(tmp_path / "t.parquet")

    rows = ParquetRows.open([tmp_path / "t.parquet"])
    columns = sample_columns(rows, ["x"], ReadAs(), source="t")

    assert columns["x"].num_rows == 1024


def test_rows_of_a_giant_row_group_come_from_all_over_it(tmp_path: Path) -> None:
    pd.DataFrame({"x": np.arange(NUM_ROWS)}).to_parquet(tmp_path / "t.parquet")

    rows = ParquetRows.open([tmp_path / "t.parquet"])
    x = sample_columns(rows, ["x"], ReadAs(), source="t")["x"].numbers

    assert np.histogram(x, bins=10, range=(0, NUM_ROWS))[0].min() > 50
    assert (np.diff(x) > 0).all()


def test_a_group_too_large_for_that_is_read_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.sample._NUM_VALUES", 4000)
    pd.DataFrame({"x": np.arange(NUM_ROWS)}).to_parquet(tmp_path / "t.parquet")

    rows = ParquetRows.open([tmp_path / "t.parquet"])
    x = sample_columns(rows, ["x"], ReadAs(), source="t")["x"].numbers

    assert 3900 < x.max() < 4000


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (np.nan, "in the 16000 rows looked at 0 of 16000 rows have one"),
        (0.0, "in the 16000 rows looked at all 16000 rows are 0"),
    ],
)
def test_what_further_rows_may_cure_is_a_warning(tmp_path: Path, y: float, told: str) -> None:
    data = write(tmp_path / "t", y=y)

    sampled = sample(data)

    assert told in measure_sample(sampled.table).warnings[0]
    assert estimate_splits(data, sampled, seed=0) == [35_000, 0, 15_000, 0]


def test_weights_of_zero_may_be_followed_by_others(tmp_path: Path) -> None:
    data = write(tmp_path / "t", weight=0.0).model_copy(update={"weight_column": "weight"})

    assert measure_sample(sample(data).table).warnings == ()


def test_what_no_further_row_can_cure_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "t", y=np.inf)

    with pytest.raises(DataError, match=r"'y' .* it is infinite in 16000 of 16000 rows"):
        measure_sample(sample(data).table)


def test_shuffled_rows_are_counted_as_they_are_split(tmp_path: Path) -> None:
    data = write(tmp_path / "t").model_copy(update={"validation_fraction": 0.25})

    counts = estimate_splits(data, sample(data), seed=0)

    assert counts == [26_250, 8_750, 15_000, 0]


def test_gaps_in_the_target_and_words_of_a_column_are_counted_by_the_sample(
    tmp_path: Path,
) -> None:
    data = write(
        tmp_path / "t",
        y=np.where(np.arange(NUM_ROWS) % 10, np.arange(NUM_ROWS), np.nan),
        part=np.resize(["train", "train", "train", "test"], NUM_ROWS),
    )
    by_column = data.model_copy(update={"split": "column", "split_column": "part"})

    shuffled, said = (estimate_splits(one, sample(one), seed=0) for one in (data, by_column))

    assert shuffled == pytest.approx([31_500, 0, 13_500, 5_000], abs=100)
    assert said == pytest.approx([32_500, 0, 12_500, 5_000], rel=0.05)


def test_files_that_disagree_are_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "t")
    pd.DataFrame({"x": ["high"], "y": [1.0], "word": ["a"]}).to_parquet(
        tmp_path / "t" / "z.parquet"
    )

    with pytest.raises(DataError, match=r"'x' is numeric in .*0\.parquet, text in .*z\.parquet"):
        sample(data)
