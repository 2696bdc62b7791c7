"""The first rows of files of text."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DataConfig
from dnnjob.data import heads as heads_module
from dnnjob.data.heads import estimate_rows, head_columns, plan_text, read_heads
from dnnjob.data.kinds import ReadAs
from dnnjob.data.source_files import peek_source
from dnnjob.data.sources import peek_job


@pytest.fixture(autouse=True)
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "_NUM_ROWS", 200)


def write(path: Path, num_rows: int = 5000) -> str:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=num_rows), "y": rng.normal(size=num_rows)})
    frame.assign(note="two\nlines, quoted").to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zip"])
def test_rows_are_estimated_from_the_first_ones(tmp_path: Path, suffix: str) -> None:
    files = peek_source(write(tmp_path / f"t.csv{suffix}"))
    assert files is not None

    heads = read_heads(files)

    assert heads[0].num_rows == 200
    assert estimate_rows(files, heads) == [pytest.approx(5000, rel=0.25)]
    assert head_columns(heads, ReadAs(), source="t")["x"].num_rows == 200


def test_a_file_that_ends_within_its_head_is_counted(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfx y\n\n" + b"1 2\n" * 7)
    files = peek_source(str(tmp_path / "t.txt"))
    assert files is not None

    assert estimate_rows(files, read_heads(files)) == [7]


def test_files_without_a_head_are_told_by_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads_module, "_NUM_FILES", 2)
    for number, num_rows in enumerate((30, 3000, 31)):
        write(tmp_path / f"{number}.csv", num_rows)
    files = peek_source(str(tmp_path))
    assert files is not None

    first, second, third = estimate_rows(files, read_heads(files))

    assert (first, third) == (30, 31)
    assert second == pytest.approx(3000, rel=0.1)


def test_no_more_than_the_head_is_unpacked(tmp_path: Path) -> None:
    whole = gzip.compress(Path(write(tmp_path / "t.csv", 50_000)).read_bytes())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    files = peek_source(str(tmp_path / "cut.csv.gz"))
    assert files is not None

    assert read_heads(files)[0].num_rows == 200


def test_a_text_of_any_length_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f'y,text\n1,a\n2,"{"long" * 50_000}"\n3,b\n')
    files = peek_source(str(tmp_path / "t.csv"))
    assert files is not None

    (head,) = read_heads(files)

    assert (head.num_rows, head.is_whole) == (3, True)


def test_rows_of_long_texts_are_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads_module, "_NUM_LETTERS", 1000)
    files = peek_source(write(tmp_path / "t.csv"))
    assert files is not None

    (head,) = read_heads(files)

    assert 10 < head.num_rows < 30
    assert not head.is_whole
    assert estimate_rows(files, [head]) == [pytest.approx(5000, rel=0.1)]


def test_a_table_is_planned_as_the_run_reads_it(tmp_path: Path) -> None:
    data = DataConfig(source=write(tmp_path / "t.csv"), target="y")
    short, long = (data.model_copy(update={"window_rows": rows}) for rows in (1000, 5000))

    plan = plan_text(short, peek_job(short))

    assert plan is not None
    assert sum(plan.part_rows) == pytest.approx(5000, rel=0.1)
    assert plan_text(data, peek_job(data)) is None
    assert plan_text(long, peek_job(long)) is None
