"""Files of text that are rewritten chunk by chunk, against the same files in memory."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data import csv_reader
from dnnjob.data.csv_files import most_rows
from dnnjob.data.raw_columns import Texts
from dnnjob.data.sources import peek_job
from dnnjob.data.split import TEST, TRAIN, VALIDATION
from dnnjob.data.spool import Scratch, look_over_job, rewrite
from dnnjob.data.table import Table
from dnnjob.data.table_loading import open_table
from dnnjob.errors import DataError, JobError
from dnnjob.tasks import Crew, StopFlag, Task
from dnnjob.tasks.rendezvous import Peer
from tests.data.opened import split_table

CHUNK, CHUNK_BYTES = 50, 2**12
NUM_ROWS = 4 * CHUNK
FEATURES = [
    *("plain", "gaps", "word", "flag", "day", "late_word", "late_date", "huge", "code", "empty"),
    "starts_empty",
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_reader, "_BLOCK_BYTES", CHUNK_BYTES)


def make_frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = np.arange(NUM_ROWS)
    frame = pd.DataFrame({"plain": rng.normal(size=NUM_ROWS).round(6)})
    frame["gaps"] = np.where(rows % 7 == 0, "?", rows.astype(str))
    frame["word"] = rng.choice(["red", "green", " NA", ""], NUM_ROWS)
    frame["flag"] = np.where(rows % 3 == 0, "", np.where(rows % 2, "True", "False"))
    frame["day"] = [f"2024-0{1 + row % 9}-1{row % 9} 10:00:0{row % 7}" for row in rows]
    # Numbers, and zeros before them, until the last chunk.
    frame["late_word"] = [f"{row:03d}" for row in rows[:-1]] + ["seven"]
    frame["late_date"] = ["2024-01-01"] * (NUM_ROWS - 1) + ["soon"]
    frame["huge"] = [str(2**70 + int(row)) if row > 120 else str(row) for row in rows]
    frame["code"] = np.where(rows % 5 == 0, "", (rows % 4).astype(float).astype(str))
    frame["empty"] = ""
    frame["starts_empty"] = np.where(rows < 2 * CHUNK, "", rows.astype(str))
    frame["id"] = np.where(rows == 3, "", rows.astype(str))
    frame["name"] = [f"{row:04d}" if row < 180 else f"row {row}" for row in rows]
    frame["y"] = frame["plain"] * 2 + rng.normal(size=NUM_ROWS).round(6)
    frame.loc[5, "y"] = np.nan
    return frame


def make_job(source: Path, **changes: object) -> JobConfig:
    data = {
        "source": str(source),
        "target": "y",
        "features": FEATURES,
        "id_columns": ["id", "name"],
        "columns": {"code": {"kind": "codes"}},
        "window_rows": 60,
    }
    return JobConfig.model_validate({"name": "t", "data": data | changes})


def open_text(job: JobConfig, scratch: Path) -> Table:
    scratch.mkdir(exist_ok=True)
    return open_table(
        job, make_scratch=lambda: scratch, threads=2, crew=Crew(StopFlag()), kept=None
    )


def assert_as_in_memory(job: JobConfig, scratch: Path) -> None:
    streamed, table = open_text(job, scratch), split_table(job)
    assert streamed.kinds == table.kinds
    assert streamed.fingerprint == table.fingerprint
    (piece,) = streamed.pieces(size=10**6)
    np.testing.assert_array_equal(piece.y, table.y)
    for name in table.features:
        ours, theirs = piece.block[name], table.block[name]
        if isinstance(theirs, Texts):
            assert isinstance(ours, Texts), name
            ours, theirs = (np.array([*one.values, None])[one.codes] for one in (ours, theirs))
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    for name, column in table.ids.items():
        assert piece.ids[name].to_pylist() == column.to_pylist(), name
    split = table.split
    for place, rows in ((TRAIN, split.train), (VALIDATION, split.validation), (TEST, split.test)):
        np.testing.assert_array_equal(np.flatnonzero(piece.labels == place), rows)


def test_chunks_are_read_as_the_whole_file_is(tmp_path: Path) -> None:
    make_frame().to_csv(tmp_path / "t.csv", index=False)

    assert_as_in_memory(make_job(tmp_path / "t.csv"), tmp_path / "scratch")


@pytest.mark.parametrize(
    "key", ["day", "late_word", "huge", "flag", "gaps", "starts_empty", "empty", "id"]
)
@pytest.mark.parametrize("is_id", [True, False], ids=["id", "no id"])
def test_rows_are_split_as_in_memory_by_any_column(tmp_path: Path, key: str, is_id: bool) -> None:
    make_frame().to_csv(tmp_path / "t.csv", index=False)
    split = {"split": "group", "split_column": key, "validation_fraction": 0.3}
    ids = [key] if is_id else []

    job = make_job(tmp_path / "t.csv", features=["plain"], id_columns=ids, columns={}, **split)

    assert_as_in_memory(job, tmp_path / "scratch")


@pytest.mark.parametrize("kind", ["text", "codes"])
def test_ids_that_are_read_as_texts_keep_their_zeros(tmp_path: Path, kind: str) -> None:
    make_frame().to_csv(tmp_path / "t.csv", index=False)
    split = {"split": "group", "split_column": "starts_empty", "validation_fraction": 0.3}

    job = make_job(
        tmp_path / "t.csv",
        features=["plain"],
        id_columns=["starts_empty"],
        columns={"starts_empty": kind},
        **split,
    )

    assert_as_in_memory(job, tmp_path / "scratch")


def test_several_compressed_files_are_one_table(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    frame = make_frame().drop(columns=["id", "name"])
    for number, rows in enumerate(np.array_split(np.arange(NUM_ROWS), 3)):
        text = frame.iloc[rows].drop(columns="late_date").to_csv(index=False)
        (tmp_path / "t" / f"{number}.csv.gz").write_bytes(gzip.compress(text.encode()))
    features = ["plain", "gaps", "word", "flag", "day"]

    job = make_job(tmp_path / "t", features=features, id_columns=[])

    assert_as_in_memory(job, tmp_path / "scratch")


def test_decimal_commas_are_numbers_in_every_chunk(tmp_path: Path) -> None:
    rows = np.arange(NUM_ROWS)
    text = [str(row) if row < CHUNK else f"{row},5" for row in rows]
    frame = pd.DataFrame({"x": text, "mixed": text, "y": rows})
    frame.loc[NUM_ROWS - 1, "mixed"] = "1.5"
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";")
    job = make_job(tmp_path / "t.csv", features=["x", "mixed"], id_columns=[], columns={})

    assert_as_in_memory(job, tmp_path / "scratch")


def test_the_copy_has_small_row_groups_and_stays_in_the_scratch_folder(tmp_path: Path) -> None:
    make_frame().to_csv(tmp_path / "t.csv", index=False)

    table = open_text(make_job(tmp_path / "t.csv", window_rows=30), tmp_path / "scratch")

    assert table is not None
    assert table.by_windows
    assert {group.path.parent.parent.name for group in table.rows.groups} == {"scratch"}
    assert max(group.num_rows for group in table.rows.groups) <= 64


def test_a_file_below_a_window_is_not_looked_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_frame().to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.setattr("dnnjob.data.table_loading.look_over_job", None)

    open_text(make_job(tmp_path / "t.csv", window_rows=None), tmp_path / "s")

    assert not list((tmp_path / "s").iterdir())


def test_lines_bound_the_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'a,y\r\n1,"two\r\nlines"\r\n3,4')
    found = peek_job(DataConfig(source=str(tmp_path / "t.csv"), target="y"))

    assert 2 <= most_rows(found.files, enough=100) <= 5


def test_files_of_several_kinds_are_refused_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    rows = np.arange(NUM_ROWS)
    pd.DataFrame({"x": rows, "y": rows}).to_csv(tmp_path / "t" / "a.csv", index=False)
    pd.DataFrame({"x": ["b"] * NUM_ROWS, "y": rows}).to_csv(tmp_path / "t" / "b.csv", index=False)
    job = make_job(tmp_path / "t", features=["x"], id_columns=[], columns={})

    with pytest.raises(DataError, match=r"'x' is numeric in .*a\.csv, text in .*b\.csv"):
        open_text(job, tmp_path / "scratch")


def test_a_broken_line_is_told_with_its_file(tmp_path: Path) -> None:
    text = make_frame()[["plain", "y"]].to_csv(index=False)
    (tmp_path / "t.csv").write_text(text + "1,2,3,4\n")
    job = make_job(tmp_path / "t.csv", features=["plain"], id_columns=[], columns={})

    with pytest.raises(DataError, match=r"line 202 of .*t\.csv"):
        open_text(job, tmp_path / "scratch")


def test_room_is_checked_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_frame().to_csv(tmp_path / "t.csv", index=False)
    job = make_job(tmp_path / "t.csv")
    found = peek_job(job.data)
    look = look_over_job(job.data, found, crew=Crew(StopFlag()))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    (tmp_path / "scratch").mkdir()

    with pytest.raises(JobError, match=r"Set data\.scratch"):
        rewrite(
            job.data,
            found,
            look,
            scratch=Scratch(tmp_path / "scratch"),
            block_rows=10,
            crew=Crew(StopFlag()),
        )
    assert not list((tmp_path / "scratch").iterdir())


class TwoApart(Crew):
    """One of two tasks on this machine whose temporary folders the other does not see."""

    local_peers = (
        Peer(rank=0, launch="l", host="h", pid=1, network="n", address="a", port=1),
        Peer(rank=1, launch="l", host="h", pid=2, network="n", address="a", port=2),
    )

    def gather(self, value: object) -> list[object]:
        return [value, "/no/such/folder" if isinstance(value, str) else 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_there_must_be_room_for_the_copies_of_all_tasks_of_a_machine(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.spool.LEAST_GROUP_ROWS", 1)
    monkeypatch.setattr("dnnjob.data.measurement.LEAST_GROUP_ROWS", 1)
    frame = make_frame()[["plain", "y"]]
    if suffix == "csv":
        frame.to_csv(tmp_path / "t.csv", index=False)
    else:
        frame.to_parquet(tmp_path / "t.parquet", index=False)
    job = make_job(tmp_path / f"t.{suffix}", features=["plain"], id_columns=[], columns={})
    # A copy takes 16 bytes a row at most.
    usage = type("Usage", (), {"free": 1.2 * 16 * NUM_ROWS if suffix == "csv" else 2800})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)

    def open_as(crew: Crew) -> Table:
        scratch = tmp_path / type(crew).__name__
        scratch.mkdir()
        return open_table(job, make_scratch=lambda: scratch, threads=1, crew=crew, kept=None)

    assert open_as(Crew(StopFlag())) is not None
    with pytest.raises(JobError, match="2 tasks' copies need"):
        open_as(TwoApart(StopFlag()))


class Ring:
    """Tasks of a run, each in a thread of its own."""

    def __init__(self, num_tasks: int) -> None:
        self.num_tasks = num_tasks
        self._barrier = threading.Barrier(num_tasks, timeout=60)
        self._given: list[object] = [None] * num_tasks

    def exchange(self, rank: int, value: object) -> list[object]:
        self._given[rank] = value
        self._barrier.wait()
        given = list(self._given)
        self._barrier.wait()
        return given


class OfRing(Crew):
    """One of them."""

    local_peers = TwoApart.local_peers

    def __init__(self, ring: Ring, rank: int) -> None:
        super().__init__(StopFlag())
        self.task = Task(rank, ring.num_tasks, "x", local_tasks=ring.num_tasks)
        self._ring = ring

    def share(self, value: object) -> object:
        return self._ring.exchange(self.task.rank, value)[0]

    def gather(self, value: object) -> list[object]:
        return self._ring.exchange(self.task.rank, value)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_tasks_that_see_one_folder_share_one_copy(
    tmp_path: Path, suffix: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.spool.LEAST_GROUP_ROWS", 1)
    monkeypatch.setattr("dnnjob.data.measurement.LEAST_GROUP_ROWS", 1)
    if suffix == "csv":
        make_frame().to_csv(tmp_path / "t.csv", index=False)
    else:
        make_frame().to_parquet(tmp_path / "t.parquet", index=False)
    job, ring = make_job(tmp_path / f"t.{suffix}"), Ring(2)

    def open_as(rank: int) -> Table:
        def make_scratch() -> Path:
            (tmp_path / f"scratch-{rank}").mkdir()
            return tmp_path / f"scratch-{rank}"

        return open_table(
            job,
            make_scratch=make_scratch,
            threads=1,
            crew=OfRing(ring, rank),
            kept=tmp_path / "kept" if kept else None,
        )

    with ThreadPoolExecutor(2) as pool:
        chief, follower = pool.map(open_as, range(2))

    assert chief is not None
    assert follower is not None
    assert list((tmp_path / "scratch-0").rglob("*.parquet"))
    assert not list((tmp_path / "scratch-1").iterdir())
    assert follower.rows.groups == chief.rows.groups
    assert follower.fit_encoding(job.data) == chief.fit_encoding(job.data)
    for one, two in zip(chief.pieces(size=999), follower.pieces(size=999), strict=True):
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one.y, two.y)


def test_a_task_makes_the_copy_that_another_reads_though_it_sees_one_itself(tmp_path: Path) -> None:
    """Task 2 sees the folder of task 1 alone, which sees that of the chief, too."""
    folders = [tmp_path / name for name in ("chief", "maker", "reader")]
    for folder in folders:
        folder.mkdir()
    hidden, ring = threading.local(), Ring(3)

    def share(rank: int) -> Scratch:
        hidden.folder = folders[0] if rank == 2 else None
        return Scratch.share(folders[rank], OfRing(ring, rank))

    def is_dir(path: Path) -> bool:
        if path == hidden.folder:
            raise PermissionError(13, "Permission denied")
        return path in folders

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(3) as pool:
        patched.setattr(Path, "is_dir", is_dir)
        found = list(pool.map(share, range(3)))

    assert [one.folder.name for one in found] == ["chief", "maker", "maker"]
    assert [one.is_mine for one in found] == [True, True, False]
    assert found[0].copies == 2
