"""Several tasks on this machine: one run, one command, and what is left when a task is killed."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow.parquet as pq
import pytest

from dnnjob.errors import ExitCode
from dnnjob.launch.local_tasks import _lost_first
from dnnjob.results.report import Report, read_report
from dnnjob.runs import RunPaths, Status, read_settled
from tests.conftest import command_line, make_frame, run_here, write_tiny_job

SECTIONS = {
    "model": {"hidden_units": [32, 16], "dropout_rate": 0.2},
    "train": {
        "epochs": 200,
        "global_batch_size": 63,
        "optimizer": "adam",
        "schedule": "cosine",
        "patience": 200,
        "checkpoint_every_s": 0.2,
    },
}


# Of runs that nothing happens to.
FEW_EPOCHS = "train.epochs=40"


@dataclass(frozen=True)
class Done:
    """A run that ended well."""

    paths: RunPaths
    report: Report
    talk: str

    @property
    def losses(self) -> np.ndarray:
        return pq.read_table(self.paths.history)["loss"].to_numpy()

    @property
    def predictions(self) -> np.ndarray:
        return pq.read_table(self.paths.predictions)["y_pred"].to_numpy()


@dataclass(frozen=True)
class Ended:
    """How an attempt ended that something happened to."""

    code: int
    seconds: float
    status: Status
    pids: tuple[int, ...]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # All tasks warn of a column that says nothing.
    frame = make_frame(400).assign(same=1.0)
    return write_tiny_job(tmp_path_factory.mktemp("job"), frame, **SECTIONS)


def run(job: Path, root: Path, *overrides: str) -> Done:
    command = command_line("run", job, *overrides, "--root", root)
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    (folder,) = done.stdout.splitlines()
    paths = RunPaths(Path(folder))
    return Done(paths, read_report(paths.report), done.stderr)


@pytest.fixture(scope="module")
def alone(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    paths = run_here(job, FEW_EPOCHS, root=tmp_path_factory.mktemp("alone"))
    return Done(paths, read_report(paths.report), "")


@pytest.fixture(scope="module")
def together(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(job, tmp_path_factory.mktemp("together"), "devices.tasks=2", FEW_EPOCHS)


def test_two_tasks_train_as_one_does(alone: Done, together: Done) -> None:
    np.testing.assert_allclose(together.losses[:20], alone.losses[:20], rtol=1e-5)
    ours, theirs = together.report.metrics.test, alone.report.metrics.test
    assert ours is not None
    assert theirs is not None
    assert ours.mse == pytest.approx(theirs.mse, rel=0.005)


def test_the_report_tells_of_the_tasks(together: Done) -> None:
    strategy = together.report.strategy

    assert strategy.kind == "MultiWorkerMirroredStrategy"
    assert (strategy.num_tasks, strategy.num_replicas, strategy.threads) == (2, 2, 1)
    assert together.report.provenance.command.startswith("dnnjob run ")
    assert len(together.predictions) == 400


def test_the_chief_alone_talks_and_every_task_keeps_a_log(together: Done) -> None:
    logs = sorted(path.name for path in together.paths.logs.iterdir())

    assert logs == ["attempt-1-task-0.log", "attempt-1-task-1.log"]
    assert together.talk.count("Training on 2 CPU replica(s)") == 1
    for name in logs:
        assert "Training on 2 CPU replica(s)" in (together.paths.logs / name).read_text()


def test_what_all_tasks_warn_of_appears_once(together: Done) -> None:
    follower = together.paths.log(attempt=1, rank=1).read_text()
    (warning,) = (line for line in follower.splitlines() if " WARNING " in line)
    assert together.talk.count(warning.partition(" WARNING ")[2]) == 1
    assert "Task 1: " not in together.talk


def children_of(pid: int, *, count: int) -> tuple[int, ...]:
    """The tasks of a command, by rank, once there are so many."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        # One that is stopped before it is its own program keeps its parent waiting, deaf.
        begun = [Path(f"/proc/{child}/cmdline").read_bytes() for child in pids]
        if len(pids) == count and all(b"dnnjob.launch" in command for command in begun):
            return tuple(map(int, pids))
        time.sleep(0.01)
    raise AssertionError(f"the command never had {count} tasks")


class Command:
    """A `dnnjob` command that something is to happen to."""

    def __init__(
        self, *arguments: object, attempt: int = 1, stderr: int | IO[str] = subprocess.DEVNULL
    ) -> None:
        self.attempt = attempt
        self.process = subprocess.Popen(
            command_line(*arguments),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            process_group=0,
        )
        with self.process.stdout as said:  # type: ignore[union-attr]
            self.paths = RunPaths(Path(said.readline().strip()))

    def wait_until_it_trains(self) -> tuple[int, ...]:
        """Waits for a checkpoint of this attempt; the processes of its tasks, by rank."""
        limit = time.monotonic() + 120
        while time.monotonic() < limit and self.process.poll() is None:
            if any(self.paths.checkpoints.glob(f"*-{self.attempt}.ckpt")):
                break
            time.sleep(0.02)
        assert self.process.poll() is None, "it ended before it trained"
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return tuple(map(int, children.split()))

    def end_by(self, number: int, *, rank: int | None) -> Ended:
        """Sends a signal to a task, or to the command itself, and waits for the command's end."""
        pids = self.wait_until_it_trains()
        os.kill(self.process.pid if rank is None else pids[rank], number)
        began = time.monotonic()
        code = self.process.wait(120)
        seconds = time.monotonic() - began
        while any(map(lives, pids)) and time.monotonic() - began < 60:
            time.sleep(0.02)
        return Ended(code, seconds, read_settled(self.paths), pids)


def await_pending(pids: Sequence[int], number: signal.Signals) -> None:
    """Waits until a signal waits for each of several processes that stand still."""
    limit = time.monotonic() + 60
    while not all(is_pending(pid, number) for pid in pids):
        assert time.monotonic() < limit, "it is passed no signal on"
        time.sleep(0.02)


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that stands still."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_task_killed_before_it_meets_the_others_ends_the_run_at_once_and_is_named(
    job: Path, tmp_path: Path, rank: int
) -> None:
    command = Command("run", job, "devices.tasks=2", "--root", tmp_path)
    pids = children_of(command.process.pid, count=2)
    os.kill(pids[rank], signal.SIGKILL)

    code = command.process.wait(60)

    status = read_settled(command.paths)
    assert code == ExitCode.FAILED
    assert (status.state, status.reason) == ("FAILED", "peer_lost")
    assert f"task {rank} by signal 9" in str(status.error)
    assert not any(map(lives, pids))


@pytest.mark.slow
def test_a_task_killed_while_the_chief_waits_for_its_imports_ends_the_run(
    job: Path, tmp_path: Path
) -> None:
    command = Command("run", job, "devices.tasks=2", "--root", tmp_path)
    chief, follower = children_of(command.process.pid, count=2)
    wait_until_it_imports(follower)
    os.kill(follower, signal.SIGSTOP)
    wait_until_it_rests(chief)
    os.kill(follower, signal.SIGKILL)

    assert "task 1 on " in end_as_lost(command, seconds=60)
    assert not any(map(lives, (chief, follower)))


def end_as_lost(command: Command, *, seconds: float) -> str:
    """The error of a command that ends, as FAILED, for want of a task."""
    code = command.process.wait(seconds)
    status = read_settled(command.paths)
    assert code == ExitCode.FAILED
    assert (status.state, status.reason) == ("FAILED", "peer_lost")
    return str(status.error)


def wait_until_it_imports(pid: int) -> None:
    """Waits until a task has met the others and is about to have TensorFlow."""
    limit = time.monotonic() + 120
    while "libtensorflow" not in Path(f"/proc/{pid}/maps").read_text():
        assert time.monotonic() < limit, "it does not come to import TensorFlow"
        time.sleep(0.02)


def wait_until_it_rests(pid: int) -> None:
    """Waits until a process has TensorFlow and takes hardly any processor time for six seconds."""
    wait_until_it_imports(pid)
    before, now = -1.0, 0.0
    while now - before > 0.1:
        time.sleep(6)
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        before, now = now, sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
def test_an_interrupt_while_the_tasks_start_ends_the_run_as_any_other(
    job: Path, tmp_path: Path
) -> None:
    command = Command("run", job, "devices.tasks=2", "--root", tmp_path)
    children_of(command.process.pid, count=2)
    command.process.send_signal(signal.SIGINT)

    code = command.process.wait(60)

    status = read_settled(command.paths)
    assert code == ExitCode.INTERRUPTED
    assert (status.state, status.reason) == ("CANCELLED", "cancelled")


@pytest.mark.long
def test_a_second_interrupt_ends_at_once_tasks_that_do_not_listen(
    job: Path, tmp_path: Path
) -> None:
    command = Command("run", job, "devices.tasks=2", "--root", tmp_path)
    pids = children_of(command.process.pid, count=2)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    command.process.send_signal(signal.SIGINT)
    # Two that come before it has heard the first are one.
    await_pending(pids, signal.SIGINT)
    command.process.send_signal(signal.SIGINT)

    code = command.process.wait(60)

    assert code == ExitCode.INTERRUPTED
    assert read_settled(command.paths).state == "CANCELLED"
    assert not any(map(lives, pids))


@pytest.mark.parametrize(
    "rank", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)]
)
def test_a_task_that_falls_silent_ends_the_run_and_is_named(
    job: Path, tmp_path: Path, rank: int
) -> None:
    limit = "devices.hang_timeout_s=15"
    command = Command("run", job, "devices.tasks=2", limit, "--root", tmp_path)

    ended = command.end_by(signal.SIGSTOP, rank=rank)

    assert ended.code == ExitCode.FAILED
    assert (ended.status.state, ended.status.reason) == ("FAILED", "peer_lost")
    assert f"task {rank} on " in str(ended.status.error)
    assert "was silent for" in str(ended.status.error)
    assert not any(map(lives, ended.pids))


@pytest.mark.long
def test_a_chief_that_waited_in_vain_names_the_task_it_waited_for(
    job: Path, tmp_path: Path
) -> None:
    command = Command("run", job, "devices.tasks=2", "--root", tmp_path)
    chief, follower = children_of(command.process.pid, count=2)
    _await_word(command.paths.log(attempt=1, rank=1), "Waiting for TensorFlow")
    os.kill(chief, signal.SIGSTOP)
    os.kill(follower, signal.SIGKILL)
    os.kill(chief, signal.SIGALRM)
    os.kill(chief, signal.SIGCONT)

    assert end_as_lost(command, seconds=60).endswith("ended too early: task 1 by signal 9.")


@pytest.mark.parametrize(
    ("codes", "lost"),
    [
        ({0: -9, 1: 1}, [0]),
        ({0: -14, 1: 4}, [1]),
        ({0: -14, 1: 1, 2: -9}, [2]),
        ({0: -14, 1: 0}, [0]),
    ],
)
def test_the_task_is_named_that_the_others_lost(codes: dict[int, int], lost: list[int]) -> None:
    assert _lost_first(codes) == lost


@pytest.mark.slow
def test_a_task_killed_while_tensorflow_connects_ends_the_run_all_the_same(
    job: Path, tmp_path: Path
) -> None:
    command = Command("run", job, "devices.tasks=2", "--root", tmp_path)
    _, follower = children_of(command.process.pid, count=2)
    _await_word(command.paths.log(attempt=1, rank=1), "Waiting for TensorFlow")
    os.kill(follower, signal.SIGKILL)

    assert "task 1" in end_as_lost(command, seconds=100)


def _await_word(log: Path, word: str) -> None:
    limit = time.monotonic() + 60
    while not (log.exists() and word in log.read_text()):
        assert time.monotonic() < limit
        time.sleep(0.001)


@dataclass(frozen=True)
class Story:
    """One run to which everything happened in turn, and that was resumed each time."""

    ends: dict[str, Ended]
    talk: str
    """What the attempt said whose chief was killed."""
    done: Done


@pytest.fixture(scope="module")
def story(job: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    root = tmp_path_factory.mktemp("story")
    command = Command("run", job, "devices.tasks=2", "--root", root)
    paths, ends = command.paths, {}
    ends["follower killed"] = command.end_by(signal.SIGKILL, rank=1)
    happenings = {
        "chief killed": (signal.SIGKILL, 0),
        "command killed": (signal.SIGKILL, None),
        "interrupted": (signal.SIGINT, None),
        "terminated": (signal.SIGTERM, 1),
    }
    for attempt, (name, (number, rank)) in enumerate(happenings.items(), start=2):
        with (root / f"{name}.txt").open("w") as talk:
            command = Command("resume", paths.root, attempt=attempt, stderr=talk)
            ends[name] = command.end_by(number, rank=rank)
    last = subprocess.run(
        command_line("resume", paths.root), capture_output=True, text=True, timeout=240, check=False
    )
    assert last.returncode == 0, last.stderr
    talk = (root / "chief killed.txt").read_text()
    return Story(ends, talk, Done(paths, read_report(paths.report), last.stderr))


@pytest.mark.long
@pytest.mark.parametrize(("name", "rank"), [("follower killed", 1), ("chief killed", 0)])
def test_a_killed_task_ends_the_run_within_a_minute_and_is_named(
    story: Story, name: str, rank: int
) -> None:
    ended = story.ends[name]

    assert ended.code == ExitCode.FAILED
    assert ended.seconds < 60
    assert (ended.status.state, ended.status.reason) == ("FAILED", "peer_lost")
    assert f"task {rank} on " in str(ended.status.error)
    assert f"(process {ended.pids[rank]})" in str(ended.status.error)


@pytest.mark.long
def test_what_another_task_than_the_chief_has_to_say_appears_once_under_its_name(
    story: Story,
) -> None:
    assert story.talk.count("Task 1: ") == 1
    assert "Task 1: A run needs all its tasks, but task 0 on " in story.talk


@pytest.mark.long
def test_tasks_end_with_the_command_that_started_them(story: Story) -> None:
    ended = story.ends["command killed"]

    assert ended.status.state == "RUNNING"
    assert not any(map(lives, ended.pids))


@pytest.mark.long
def test_an_interrupt_ends_all_tasks_with_a_checkpoint(story: Story) -> None:
    ended = story.ends["interrupted"]

    assert ended.code == ExitCode.INTERRUPTED
    assert (ended.status.state, ended.status.reason) == ("CANCELLED", "cancelled")
    assert not any(map(lives, ended.pids))


@pytest.mark.long
def test_a_signal_to_one_task_ends_all(story: Story) -> None:
    ended = story.ends["terminated"]

    assert ended.code == ExitCode.TERMINATED
    assert ended.status.state == "CANCELLED"


@pytest.mark.long
def test_a_run_killed_in_every_way_ends_as_one_that_was_not(
    job: Path, tmp_path: Path, story: Story
) -> None:
    undisturbed = run(job, tmp_path, "devices.tasks=2")

    np.testing.assert_array_equal(story.done.predictions, undisturbed.predictions)
    np.testing.assert_array_equal(story.done.losses, undisturbed.losses)
    attempts = story.done.report.provenance.attempts
    assert len(attempts) == 6
    assert all(attempt.resumed_from is not None for attempt in attempts[1:])
    assert story.done.report.provenance.bit_exact


@pytest.mark.long
def test_the_processes_of_a_slurm_step_make_one_run(
    job: Path, tmp_path: Path, together: Done
) -> None:
    step = {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
    }
    processes = [
        subprocess.Popen(
            command_line("run", job, "devices.threads=1", FEW_EPOCHS, "--root", tmp_path),
            env={**os.environ, **step, "SLURM_PROCID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        # The others may come before the chief.
        for rank in ("1", "0")
    ]
    said = [process.communicate(timeout=240)[0] for process in processes]

    assert [process.returncode for process in processes] == [0, 0]
    (folder,) = (tmp_path / "tiny").iterdir()
    assert said == ["", f"{folder}\n"]
    done = Done(RunPaths(folder), read_report(folder / "report.json"), "")
    np.testing.assert_array_equal(done.predictions, together.predictions)
    assert done.report.strategy.num_tasks == 2
