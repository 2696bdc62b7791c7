"""The run folder: atomic writes, attempts, status."""

import errno
import json
import os
import re
import stat
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.config import DataConfig, JobConfig, load_job
from dnnjob.errors import ExitCode, JobError, MissingError, SupersededError
from dnnjob.runs import (
    RUN_ID,
    Journal,
    Position,
    Progress,
    RunPaths,
    Status,
    claim_attempt,
    clear_folder,
    create_run,
    latest_attempt,
    open_run,
    read_status,
    write_file,
    write_json,
    write_status,
    write_text,
)

JOB = JobConfig(name="tiny", data=DataConfig(source="/t.csv", target="y"))


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return create_run(tmp_path, JOB)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Making and opening a run


def test_a_new_run_has_its_job_and_a_status(paths: RunPaths, tmp_path: Path) -> None:
    assert paths.root.parent == tmp_path / "tiny"
    assert RUN_ID.match(paths.run_id)
    assert names(paths.root) == {"job.toml", "status.json"}
    assert load_job(paths.job) == JOB
    assert read_status(paths).state == "CREATED"


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    assert len({create_run(tmp_path, JOB).root for _ in range(20)}) == 20


def test_a_taken_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = ["aaaaaa", "tmp", "tmp"]
    monkeypatch.setattr(
        "dnnjob.runs.run_files.secrets.token_hex", lambda _: drawn.pop(0) if drawn else "bbbbbb"
    )
    monkeypatch.setattr("dnnjob.runs.run_files.datetime", _Noon)
    first = create_run(tmp_path, JOB)
    drawn[:] = ["aaaaaa"]
    assert [first.run_id, create_run(tmp_path, JOB).run_id] == [
        "20260301-120000-aaaaaa",
        "20260301-120000-bbbbbb",
    ]


class _Noon(datetime):
    @classmethod
    def now(cls, tz: object = None) -> "datetime":
        return datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_relative_root_gives_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert create_run(Path("runs"), JOB).root.is_relative_to(tmp_path / "runs")


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError, match="--root") as caught:
        create_run(tmp_path / "file", JOB)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    (tmp_path / "tiny").write_text("")
    with pytest.raises(MissingError, match="--root"):
        create_run(tmp_path, JOB)


def test_a_run_that_cannot_be_written_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dnnjob.runs.run_files.write_status", refuse)
    with pytest.raises(MissingError, match="No space left on device"):
        create_run(tmp_path, JOB)
    assert not list((tmp_path / "tiny").iterdir())


def test_a_run_is_opened_by_its_folder(paths: RunPaths) -> None:
    assert open_run(paths.root) == paths


def test_a_folder_without_a_job_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"A run folder holds a job\.toml"):
        open_run(tmp_path)
    with pytest.raises(JobError, match=r"A run folder holds a job\.toml"):
        open_run(tmp_path / "none")


# Writing


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "x.txt", "first")
    write_text(tmp_path / "a" / "x.txt", "größe")
    assert (tmp_path / "a" / "x.txt").read_text(encoding="utf-8") == "größe"
    assert names(tmp_path / "a") == {"x.txt"}


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "x.txt", fail)
    assert (tmp_path / "x.txt").read_text() == "old"
    assert names(tmp_path) == {"x.txt"}


def test_readers_see_the_old_or_the_new_never_a_part(tmp_path: Path) -> None:
    path, seen = tmp_path / "x.txt", set()
    write_text(path, "a" * 100_000)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            text = path.read_text()
            seen.add((text[0], len(text), len(set(text))))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in "bcdefgh" * 5:
        write_text(path, letter * 100_000)
    done.set()
    reader.join()
    assert {(length, letters) for _, length, letters in seen} == {(100_000, 1)}


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.txt").stat().st_mode) == 0o640


def test_json_refuses_what_other_readers_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"mse": float("nan")})
    assert not names(tmp_path)
    write_json(tmp_path / "x.json", {"größe": [1, None]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"größe": [1, None]}


def test_a_folder_is_cleared_if_it_is_there(tmp_path: Path) -> None:
    write_text(tmp_path / "checkpoints" / "1.ckpt", "")
    clear_folder(tmp_path / "checkpoints")
    clear_folder(tmp_path / "checkpoints")
    assert not names(tmp_path)


# Attempts


def test_attempts_are_counted_from_one(paths: RunPaths) -> None:
    assert latest_attempt(paths) == 0
    assert [claim_attempt(paths) for _ in range(3)] == [1, 2, 3]
    (paths.attempts / "notes.txt").write_text("")
    assert latest_attempt(paths) == 3


def test_many_claimants_get_numbers_of_their_own(paths: RunPaths) -> None:
    claimed: list[int] = []
    threads = [
        threading.Thread(target=lambda: claimed.append(claim_attempt(paths))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == list(range(1, 17))


# The journal


def test_an_attempt_is_running_with_host_process_and_start(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    before = datetime.now(UTC)
    Journal(paths)
    status = read_status(paths)
    (attempt,) = status.attempts
    assert status.state == "RUNNING"
    assert (attempt.pid, attempt.slurm_job_id, attempt.ended_at) == (os.getpid(), "17", None)
    assert before <= attempt.started_at <= status.updated_at


def test_an_end_is_told_with_its_reason(paths: RunPaths) -> None:
    journal = Journal(paths)
    journal.mark_resumed(Position(epoch=2, batch=5))
    journal.finish("FAILED", reason="nan", error="too fast")
    status = read_status(paths)
    (attempt,) = status.attempts
    assert (status.state, status.reason, status.error) == ("FAILED", "nan", "too fast")
    assert (attempt.reason, attempt.resumed_from) == ("nan", Position(epoch=2, batch=5))
    assert attempt.ended_at is not None


def test_a_later_attempt_keeps_the_earlier_ones_and_forgets_their_error(paths: RunPaths) -> None:
    Journal(paths).finish("FAILED", reason="error", error="no")
    Journal(paths).finish("COMPLETED")
    status = read_status(paths)
    assert (status.state, status.reason, status.error) == ("COMPLETED", None, None)
    assert [attempt.reason for attempt in status.attempts] == ["error", None]


def test_a_superseded_attempt_writes_no_more(paths: RunPaths) -> None:
    old = Journal(paths)
    Journal(paths)
    before = paths.status.read_bytes()
    with pytest.raises(SupersededError, match=r"attempt 1 of .* attempt 2 has begun"):
        old.finish("COMPLETED")
    assert paths.status.read_bytes() == before


def test_a_damaged_status_does_not_stop_the_next_attempt(paths: RunPaths) -> None:
    paths.status.write_text("{")
    Journal(paths)
    assert read_status(paths).state == "RUNNING"


def test_progress_is_written_at_most_every_ten_seconds(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(paths)
    journal.show_progress(Progress(epoch=1, epochs=9, loss=0.5), 100.0, 1.0)
    assert read_status(paths).progress.epoch == 0
    monkeypatch.setattr("dnnjob.runs.journal.SECONDS_BETWEEN_SIGNS", 0.0)
    journal.show_progress(Progress(epoch=2, epochs=9, loss=0.25), 100.0, 1.0)
    assert read_status(paths).progress == Progress(epoch=2, epochs=9, loss=0.25)


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE])
def test_storage_that_refuses_a_sign_of_life_ends_no_run(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: int
) -> None:
    journal = Journal(paths)
    monkeypatch.setattr("dnnjob.runs.journal.SECONDS_BETWEEN_SIGNS", 0.0)

    def refuse(*_: object) -> None:
        raise OSError(fault, os.strerror(fault))

    with monkeypatch.context() as storage:
        storage.setattr("dnnjob.runs.atomic_files.write_bytes", refuse)
        journal.show_progress(Progress(epoch=1, epochs=9, loss=0.5), 100.0, 1.0)
        journal.mark_resumed(Position(epoch=1))
    journal.show_progress(Progress(epoch=2, epochs=9, loss=0.25), 100.0, 1.0)

    assert os.strerror(fault) in caplog.text
    assert read_status(paths).progress.epoch == 2
    assert read_status(paths).attempts[-1].resumed_from == Position(epoch=1)


def test_a_full_disk_does_not_keep_a_run_from_telling_its_end(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(paths)
    write_text(paths.status, paths.status.read_text() + " " * 2000)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dnnjob.runs.atomic_files.write_bytes", refuse)
    journal.finish("FAILED", reason="error", error="the disk is full")
    assert read_status(paths).error == "the disk is full"


def test_a_status_of_a_later_version_is_read(paths: RunPaths) -> None:
    write_status(paths, Status(state="RUNNING"))
    values = json.loads(paths.status.read_text()) | {"mood": "good"}
    paths.status.write_text(json.dumps(values))
    assert read_status(paths).state == "RUNNING"


def test_times_are_utc(paths: RunPaths) -> None:
    text = paths.status.read_text()
    assert re.search(r'"updated_at": "\d{4}-\d{2}-\d{2}T[\d:.]+Z"', text)
