"""A sweep in the foreground, killed at random moments and resumed, against an undisturbed one."""

import random
import subprocess
import time
from pathlib import Path

import pytest

from dnnjob.errors import ExitCode
from dnnjob.launch.watch.run_selection import open_runs
from dnnjob.launch.watch.run_views import look
from dnnjob.machine import sees_process
from dnnjob.results.report import read_report
from dnnjob.runs import RunPaths, read_status
from tests.conftest import Command, WriteJob, command_line


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_sweep_killed_at_ten_moments_ends_in_the_bits_of_one_that_was_not(
    write_job: WriteJob, tmp_path: Path, dnnjob: Command
) -> None:
    """All of it is killed at once, as by a machine that goes down."""
    job, root = _write(write_job, epochs=4000, points=8), tmp_path / "killed"
    rng = random.Random(0)
    straight = dnnjob("run", job, "--root", tmp_path / "straight", seconds=1200)
    kills = int(_kill(command_line("run", job, "--root", root), root, after_s=rng.uniform(0, 2)))
    (sweep,) = (root / "tiny" / "sweeps").iterdir()
    for _ in range(9):
        kills += _kill(command_line("resume", sweep), root, after_s=rng.uniform(0, 2))
    done = dnnjob("resume", sweep, seconds=1200)

    assert (straight.returncode, done.returncode) == (ExitCode.DONE, ExitCode.DONE), done.stderr
    assert kills == 10
    _compare(straight.stdout, sweep)


@pytest.mark.long
def test_a_sweep_that_was_killed_tells_so_and_goes_on(
    write_job: WriteJob, tmp_path: Path, dnnjob: Command
) -> None:
    job, root = _write(write_job, epochs=2000, points=2), tmp_path / "killed"
    assert _kill(command_line("run", job, "--root", root), root, after_s=0.0)
    (sweep,) = (root / "tiny" / "sweeps").iterdir()

    waited = dnnjob("wait", sweep)
    assert waited.returncode == ExitCode.FAILED
    assert "vanished" in waited.stderr
    done = dnnjob("resume", sweep)
    assert done.returncode == ExitCode.DONE, done.stderr
    straight = dnnjob("run", job, "--root", tmp_path / "straight")
    _compare(straight.stdout, sweep)


def _write(write_job: WriteJob, *, epochs: int, points: int) -> Path:
    return write_job(
        train={"epochs": epochs, "checkpoint_every_s": 0.5},
        devices={"threads": 1, "stack": 2, "xla": "on"},
        output={"plots": False},
        sweep={"seed": list(range(points))},
    )


def _kill(command: list[str], root: Path, *, after_s: float) -> bool:
    """Kills a command so long after a point of it is at work; whether it lived until then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not _is_at_work(root):
        time.sleep(0.1)
    try:
        process.wait(after_s)
        return False
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for sweep in root.glob("*/sweeps/*"):
        _await_lanes(sweep)
    return True


def _is_at_work(root: Path) -> bool:
    runs = [RunPaths(path) for path in root.glob("*/2*") if RunPaths(path).status.is_file()]
    begun = [one for one in map(read_status, runs) if one.state == "RUNNING"]
    last = [status.attempts[-1] for status in begun]
    return any(sees_process(one.pid, one.process, host=one.host) for one in last)


def _await_lanes(sweep: Path) -> None:
    """The kernel ends them with what has started them, a moment later."""
    until = time.monotonic() + 30
    while any(not view.is_over for view in look(open_runs(sweep))):
        assert time.monotonic() < until
        time.sleep(0.1)


def _compare(straight: str, sweep: Path) -> None:
    others = [RunPaths(Path(line)) for line in straight.splitlines()]
    for paths, other in zip(open_runs(sweep), others, strict=True):
        assert paths.predictions.read_bytes() == other.predictions.read_bytes()
        assert read_report(paths.report).provenance.bit_exact
