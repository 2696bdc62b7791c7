"""Ending runs of this machine; tests/slurm ends those of a cluster."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.watch.cancel import cancel_command
from dnnjob.launch.watch.run_views import look
from dnnjob.machine import process_key
from dnnjob.runs import Event, RunPaths, leave_event, read_cancel
from tests.launch.watch.made import attempt, attempt_here, make_run, make_sweep, send, status


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def carry(process: "subprocess.Popen[bytes]", paths: RunPaths, **changes: object) -> None:
    """Has a process of this machine carry a run."""
    here = {"executor": "local", "cluster": None, "host": socket.gethostname()}
    key = process_key(process.pid)
    send(paths, str(process.pid), **{**here, "process": key, **changes})


def test_a_run_in_the_foreground_gets_the_wish_and_sigterm(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    begun = attempt_here(pid=process.pid, process=process_key(process.pid))
    paths = make_run(root, told=status("RUNNING", [begun]))

    assert cancel_command(paths.root) == ExitCode.DONE

    assert process.wait(10) == -signal.SIGTERM
    assert read_cancel(paths) is not None
    (view,) = look([paths])
    assert (view.state, view.reason) == ("CANCELLED", "cancelled")


def test_runs_in_the_background_end_with_the_process_that_carries_them(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    runs = [make_run(root, 1), make_run(root, 2)]
    sweep = make_sweep(root, runs)
    for paths in runs:
        carry(process, paths, sweep_id=sweep.name, folder=f"../sweeps/{sweep.name}/submission")

    cancel_command(sweep)

    assert process.wait(10) == -signal.SIGTERM
    assert [view.state for view in look(runs)] == ["CANCELLED", "CANCELLED"]


def test_a_process_that_carries_other_runs_is_spared(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    runs = [make_run(root, 1), make_run(root, 2)]
    sweep = make_sweep(root, runs)
    for paths in runs:
        carry(process, paths, sweep_id=sweep.name, folder=f"../sweeps/{sweep.name}/submission")

    cancel_command(runs[0].root)

    assert [read_cancel(paths) is not None for paths in runs] == [True, False]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)


def test_another_process_of_the_same_number_is_told_from_the_one_that_carries_a_run(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    """In a container the first process has the same number each time."""
    runs = [make_run(root, 1), make_run(root, 2)]
    sweep = make_sweep(root, runs)
    shared = {"sweep_id": sweep.name, "folder": f"../sweeps/{sweep.name}/submission"}
    carry(process, runs[0], **shared)
    here = {"executor": "local", "cluster": None, "host": socket.gethostname()}
    send(runs[1], str(process.pid), **here, **shared, process="another boot")

    cancel_command(runs[0].root)

    assert process.wait(10) == -signal.SIGTERM
    assert read_cancel(runs[1]) is None


def test_a_point_that_was_resumed_ends_with_the_process_of_its_own(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    runs = [make_run(root, 1), make_run(root, 2)]
    sweep = make_sweep(root, runs)
    carry(process, runs[0], sweep_id=sweep.name)

    cancel_command(runs[0].root)

    assert process.wait(10) == -signal.SIGTERM


def test_what_has_ended_stays_as_it_is(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dnnjob")
    paths = make_run(root, told=status("FAILED", reason="nan", error="Loss is NaN."))

    assert cancel_command(paths.root) == ExitCode.DONE

    assert read_cancel(paths) is None
    assert "has ended: FAILED (nan: Loss is NaN.)" in caplog.text


def test_a_run_of_another_host_finds_the_wish_in_its_folder(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(host="far")]))

    cancel_command(paths.root)

    assert read_cancel(paths) is not None


def test_a_copy_is_refused_since_its_job_is_the_runs(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    paths = make_run(root)
    carry(process, paths)
    copied = Path(shutil.copytree(paths.root, root / "copy" / paths.run_id))

    with pytest.raises(JobError, match=f"copy of {paths.root}"):
        cancel_command(copied)

    assert process.poll() is None
    assert not (copied / "cancel.json").exists()


def test_a_copy_of_a_run_in_the_foreground_is_refused_too(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    paths = make_run(root)
    begun = attempt_here(pid=process.pid, process=process_key(process.pid), place=str(paths.root))
    paths.status.write_text(status("RUNNING", [begun]).model_dump_json())
    copied = Path(shutil.copytree(paths.root, root / "copy" / paths.run_id))

    with pytest.raises(JobError, match=f"copy of {paths.root}"):
        cancel_command(copied)

    assert process.poll() is None


def test_a_point_that_its_queue_has_closed_keeps_no_process_from_being_ended(
    root: Path, process: "subprocess.Popen[bytes]"
) -> None:
    closed, waiting = make_run(root, 1), make_run(root, 2)
    sweep = make_sweep(root, [closed, waiting])
    for paths in (closed, waiting):
        carry(process, paths, sweep_id=sweep.name, folder=f"../sweeps/{sweep.name}/submission")
    event = Event(writer="local_queue", attempt=0, job_id=str(process.pid), state="FAILED")
    leave_event(closed, "local-queue-attempt-0", event)

    # The sweep's other point is all that the process still carries.
    cancel_command(waiting.root)

    assert process.wait(10) == -signal.SIGTERM
