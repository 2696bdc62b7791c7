"""What an error makes of a run, and what the processes around it see."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dnnjob.clock import Stopwatch
from dnnjob.data.scratch import scratch_folder
from dnnjob.errors import (
    DataError,
    ExitCode,
    JobError,
    NonFiniteError,
    PeerLostError,
    StoppedError,
)
from dnnjob.launch.foreground import resume_foreground, share_run
from dnnjob.launch.outcome import explain_end
from dnnjob.launch.own_process import logging_to
from dnnjob.launch.watch.resume_verb import resume_command
from dnnjob.launch.worker import run_attempt
from dnnjob.machine import process_key
from dnnjob.runs import (
    Attempt,
    Journal,
    RunPaths,
    Status,
    claim_attempt,
    create_run,
    load_run_job,
    read_status,
    write_status,
)
from dnnjob.tasks import WAIT_S, StopFlag, Task
from tests.conftest import WriteJob


class ResourceExhaustedError(Exception):
    """As TensorFlow's is called."""


@pytest.mark.parametrize(
    ("error", "state", "reason", "code"),
    [
        (StoppedError(signal.SIGTERM), "CANCELLED", "cancelled", 143),
        (StoppedError(signal.SIGINT), "CANCELLED", "cancelled", 130),
        (KeyboardInterrupt(), "CANCELLED", "cancelled", 130),
        (NonFiniteError("x"), "FAILED", "nan", 1),
        (PeerLostError("x"), "FAILED", "peer_lost", 1),
        (DataError("x"), "FAILED", "error", 3),
        (MemoryError(), "FAILED", "out_of_memory", 1),
        (ResourceExhaustedError("x"), "FAILED", "out_of_memory", 1),
        (OSError(errno.ENOSPC, "No space left"), "FAILED", "error", 4),
        (ValueError("x"), "FAILED", "error", 1),
    ],
)
def test_every_error_has_a_state_a_reason_and_an_exit_code(
    tmp_path: Path, error: BaseException, state: str, reason: str, code: int
) -> None:
    outcome = explain_end(error, RunPaths(tmp_path))

    assert (outcome.state, outcome.reason, outcome.exit_code) == (state, reason, code)


@pytest.mark.parametrize("error", [MemoryError(), ResourceExhaustedError("OOM of [4,2]")])
def test_too_little_memory_names_what_to_lower(tmp_path: Path, error: Exception) -> None:
    message = explain_end(error, RunPaths(tmp_path)).message

    assert "train.global_batch_size" in message
    assert "devices.stack" in message
    assert str(error) in message


@pytest.mark.parametrize(
    ("number", "cause"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the quota is used up")],
)
def test_want_of_room_names_its_cause_and_the_way_out(
    tmp_path: Path, number: int, cause: str
) -> None:
    outcome = explain_end(OSError(number, os.strerror(number)), RunPaths(tmp_path))

    assert cause in outcome.message
    assert f"dnnjob resume {tmp_path}" in outcome.message


@pytest.fixture
def paths(write_job: WriteJob, tmp_path: Path) -> RunPaths:
    from dnnjob.config import load_job

    return create_run(tmp_path / "runs", load_job(write_job()))


def test_of_two_that_resume_at_once_one_wins(paths: RunPaths) -> None:
    claim_attempt(paths, after=0)

    with pytest.raises(JobError, match=r"another `dnnjob resume` of .* has just begun attempt 1"):
        run_attempt(paths, watch=Stopwatch(), after=0)


def test_a_live_run_is_not_resumed(paths: RunPaths) -> None:
    Journal(paths, process=process_key(os.getpid()))

    with pytest.raises(JobError, match="is alive"):
        resume_command(paths.root, here=True)


def test_resuming_a_complete_run_that_was_killed_while_it_cleared_up_does_the_rest(
    paths: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder(load_run_job(paths).data, paths.run_id, attempt=1) as folder:
        # Of a process that is gone.
        left = tmp_path / folder.name.replace(f"-{os.getpid()}-", "-999999999-")
        left.mkdir()
    Journal(paths).finish("COMPLETED")
    paths.checkpoints.mkdir()
    (paths.checkpoints / "00000001-1.ckpt").touch()
    half_written = paths.root / ".report.html.1-abcdef.tmp"
    half_written.touch()

    assert resume_foreground(paths.root) == ExitCode.DONE
    assert not paths.checkpoints.exists()
    assert not half_written.exists()
    assert not left.exists()
    assert len(read_status(paths).attempts) == 1


def test_a_run_that_was_stopped_before_its_turn_came_reads_no_table(paths: RunPaths) -> None:
    """Of the points of a process most wait while one of them loads its table."""
    stop = StopFlag()
    stop.want(signal.SIGTERM)
    Path(load_run_job(paths).data.source).unlink()

    assert run_attempt(paths, watch=Stopwatch(), stop=stop) == ExitCode.TERMINATED
    assert read_status(paths).state == "CANCELLED"


def test_the_journal_gives_signs_of_life_by_itself(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.runs.journal.SECONDS_BETWEEN_SIGNS", 0.05)
    journal = Journal(paths)
    before = read_status(paths).updated_at

    with journal.living():
        time.sleep(0.4)

    assert read_status(paths).updated_at > before
    journal.finish("COMPLETED")
    time.sleep(0.2)
    assert read_status(paths).state == "COMPLETED"


def make_status(paths: RunPaths, **changes: Any) -> None:
    attempt = Attempt(host="h", pid=1, started_at=datetime.now(UTC))
    values = {"state": "RUNNING", "attempts": (attempt,), **changes}
    write_status(paths, Status.model_validate(values))


def test_a_step_of_another_number_of_tasks_is_refused(paths: RunPaths) -> None:
    from dnnjob.config import load_job

    job = load_job(paths.job, overrides=["devices.tasks=3"])

    with pytest.raises(JobError, match=r"step of 2 tasks is one run of as many, but .* is 3"):
        share_run(paths.root, job, task=Task(0, 2, "x", launcher="slurm"))


def test_a_task_finds_the_run_of_its_own_step_alone(paths: RunPaths, tmp_path: Path) -> None:
    from dnnjob.config import load_job

    job, root = load_job(paths.job), tmp_path / "steps"
    ended = share_run(root, job, task=Task(0, 2, "mine", launcher="slurm"))
    make_status(ended, state="COMPLETED")
    share_run(root, job, task=Task(0, 2, "other", launcher="slurm"))
    with pytest.raises(PeerLostError, match="task 0 made no"):
        share_run(root, job, task=Task(1, 2, "mine", launcher="slurm"), wait_s=0.2)
    time.sleep(1.1)
    again = share_run(root, job, task=Task(0, 2, "mine", launcher="slurm"))

    assert share_run(root, job, task=Task(1, 2, "mine", launcher="slurm"), wait_s=5) == again


def test_a_task_whose_parent_is_gone_ends_at_once(paths: RunPaths) -> None:
    task = Task(1, 2, "x", launcher="local", parent=1 if os.getpid() != 1 else 2)

    # It would wait for the others for longer.
    done = subprocess.run(
        [sys.executable, "-m", "dnnjob.launch", str(paths.root)],
        env={**os.environ, **task.to_environ()},
        timeout=WAIT_S / 2,
        check=False,
    )

    assert done.returncode == ExitCode.FAILED


def test_a_log_that_cannot_be_kept_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("in the way")

    with logging_to(tmp_path / "logs" / "task.log", rank=0, keeps_stderr=True):
        pass

    assert "No log can be kept" in caplog.text


def test_the_status_names_the_process(paths: RunPaths) -> None:
    Journal(paths, process=process_key(os.getpid()))

    told = json.loads(paths.status.read_text())["attempts"][0]
    assert told["pid"] == os.getpid()
    assert told["process"] == process_key(os.getpid())
