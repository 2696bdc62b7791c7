"""Runs that are killed again and again, against one that was not.

    python tests/launch/killing.py --tasks 1 --kills 25 --epochs 20000

tells every kill and what the attempt after it repeated.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import tomli_w

from dnnjob.runs import RunPaths, read_status

# What training may repeat besides the second between checkpoints: a call, and on a busy machine
# the time until it gets its share again.
CALL_S = 2.5


@dataclass(frozen=True)
class Kill:
    """One kill, and what it cost."""

    moment: str
    after_s: float
    lost_s: float | None
    """Age of the newest checkpoint where training was killed; None where it had none yet."""


def write_job(folder: Path, *, epochs: int, tasks: int) -> Path:
    """A job with every state that a checkpoint must hold."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 6))
    y = np.tanh(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.2 * rng.normal(size=400)
    rows = "\n".join(",".join(f"{value:.6f}" for value in row) for row in np.column_stack([x, y]))
    (folder / "table.csv").write_text(f"a,b,c,d,e,f,y\n{rows}\n")
    job = {
        "name": "killed",
        "seed": 5,
        "data": {"source": "table.csv", "target": "y", "validation_fraction": 0.2},
        "model": {"hidden_units": [32, 16], "dropout_rate": 0.2},
        "train": {
            "epochs": epochs,
            "global_batch_size": 48,
            "optimizer": "adam",
            "learning_rate": 0.001,
            "schedule": "cosine",
            "patience": epochs,
            "checkpoint_every_s": 1.0,
        },
        "devices": {"kind": "cpu", "tasks": tasks, "threads": 1},
        "output": {"plots": False},
    }
    path = folder / "job.toml"
    path.write_text(tomli_w.dumps(job))
    return path


def predictions(paths: RunPaths) -> np.ndarray:
    """The bits that a run came to."""
    return pq.read_table(paths.predictions)["y_pred"].to_numpy()


def run(job: Path, root: Path) -> RunPaths:
    """The run that nobody disturbs."""
    done = subprocess.run(_command("run", job, "--root", root), stdout=subprocess.PIPE, check=True)
    return RunPaths(Path(done.stdout.decode().strip()))


class KilledRun:
    """A run whose attempts are killed."""

    def __init__(self, job: Path, root: Path, log: Path) -> None:
        self._log = log
        self._process = self._start("run", job, "--root", root, stdout=subprocess.PIPE)
        with self._process.stdout as said:  # type: ignore[union-attr]
            self.paths = RunPaths(Path(said.readline().decode().strip()))

    @property
    def has_ended(self) -> bool:
        """Whether the attempt came to its end before anything killed it."""
        return self._process.poll() is not None

    def kill_at(self, moment: str, reached: Callable[[RunPaths], bool], *, ranks: str) -> Kill:
        """Kills the attempt as soon as `reached`, or says when it ended first.

        `ranks` are the tasks to kill: "all" with the command itself, or numbers.
        """
        began = time.monotonic()
        while not reached(self.paths) and not self.has_ended:
            time.sleep(0.001)
        lost = self._lost_s()
        if ranks == "all":
            # The command and, by the kernel, its tasks.
            self._process.kill()
        else:
            for pid in self._task_pids(ranks):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        after = time.monotonic() - began
        self._process.wait(120)
        return Kill(moment, after, lost)

    def resume(self) -> None:
        """Starts the next attempt."""
        self._wait_for_tasks()
        self._process = self._start("resume", self.paths.root)

    def finish(self) -> int:
        """Lets the attempt come to its end; its exit code."""
        return self._process.wait(600)

    def _lost_s(self) -> float | None:
        files = sorted(self.paths.checkpoints.glob("*.ckpt"))
        attempts = [name for name in files if name.stem.endswith(f"-{self._attempt()}")]
        done = self.paths.predictions.exists() or not attempts
        return None if done else time.time() - attempts[-1].stat().st_mtime

    def _attempt(self) -> int:
        return max((int(path.name) for path in self.paths.attempts.glob("*")), default=0)

    def _task_pids(self, ranks: str) -> list[int]:
        folder = self.paths.attempts / str(self._attempt())
        files = [folder / f"task-{rank}.json" for rank in ranks.split(",")]
        return [json.loads(file.read_text())["pid"] for file in files if file.exists()]

    def _wait_for_tasks(self) -> None:
        limit = time.monotonic() + 60
        pids = self._task_pids("0,1,2")
        while any(_lives(pid) for pid in pids) and time.monotonic() < limit:
            time.sleep(0.05)

    def _start(
        self, *arguments: object, stdout: int = subprocess.DEVNULL
    ) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as talk:
            return subprocess.Popen(
                _command(*arguments), stdout=stdout, stderr=talk, process_group=0
            )


MOMENTS = ("time", "time", "checkpoint", "evaluation", "published")


def _reached(moment: str, *, seconds: float) -> Callable[[RunPaths], bool]:
    """What to wait for: a random time, a checkpoint half written, evaluation, half the results."""
    ends = time.monotonic() + seconds
    return {
        "time": lambda paths: time.monotonic() > ends,
        "checkpoint": lambda paths: any(paths.checkpoints.glob(".*.tmp")),
        "evaluation": _has_trained,
        "published": lambda paths: paths.predictions.exists(),
    }[moment]


def _has_trained(paths: RunPaths) -> bool:
    attempt = max((int(path.name) for path in paths.attempts.glob("*")), default=0)
    log = paths.log(attempt=attempt, rank=0)
    epochs = tomllib.loads(paths.job.read_text())["train"]["epochs"]
    return log.exists() and f"Epoch {epochs}/{epochs}:" in log.read_text()


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "dnnjob", *map(str, arguments)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_series(
    folder: Path, *, epochs: int, tasks: int, kills: int, seed: int, ranks: tuple[str, ...]
) -> list[Kill]:
    """Kills a run `kills` times and lets it end; a run that ends before is followed by another.

    Raises:
        AssertionError: If predictions differ from the undisturbed run's, or too much was repeated.
    """
    rng = random.Random(seed)
    job = write_job(folder, epochs=epochs, tasks=tasks)
    began = time.monotonic()
    expected = predictions(run(job, folder / "undisturbed"))
    longest_s = time.monotonic() - began
    print(f"undisturbed: {longest_s:.1f} s", flush=True)
    done: list[Kill] = []
    while len(done) < kills:
        done += _kill_one(folder, job, rng, kills - len(done), longest_s, ranks, expected)
    return done


def _kill_one(
    folder: Path,
    job: Path,
    rng: random.Random,
    kills: int,
    longest_s: float,
    ranks: tuple[str, ...],
    expected: np.ndarray,
) -> list[Kill]:
    killed = KilledRun(job, folder / "killed", folder / "talk.log")
    done: list[Kill] = []
    while len(done) < kills:
        moment = rng.choice(MOMENTS)
        reached = _reached(moment, seconds=rng.uniform(0, longest_s))
        kill = killed.kill_at(moment, reached, ranks=rng.choice(ranks))
        if killed.paths.report.exists():
            break
        done.append(kill)
        print(kill, read_status(killed.paths).progress.epoch, flush=True)
        killed.resume()
    assert killed.finish() == 0
    status = read_status(killed.paths)
    assert status.state == "COMPLETED"
    assert len(status.attempts) >= 1
    np.testing.assert_array_equal(predictions(killed.paths), expected)
    report = json.loads(killed.paths.report.read_text())
    assert report["provenance"]["bit_exact"]
    assert not killed.paths.checkpoints.exists()
    assert not list(killed.paths.root.rglob(".*.tmp"))
    for kill in done:
        assert kill.lost_s is None or kill.moment != "time" or kill.lost_s < 1 + CALL_S, kill
    return done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--epochs", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", nargs="+", default=["all"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        series = kill_series(
            Path(scratch),
            epochs=given.epochs,
            tasks=given.tasks,
            kills=given.kills,
            seed=given.seed,
            ranks=tuple(given.ranks),
        )
    lost = [kill.lost_s for kill in series if kill.lost_s is not None and kill.moment == "time"]
    print(f"{len(series)} kills, at most {max(lost, default=0):.2f} s of training repeated")
