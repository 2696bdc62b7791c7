"""Runs submitted to a cluster of the tests, and what they must come to.

reference = make_reference(folder)
paths = submit(cluster, reference.job, folder, partition="graceful")
hold(paths)
"""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tomli_w

from dnnjob.runs import Attempt, RunPaths, SweepPaths, read_settled, read_sweep
from tests.conftest import run_command
from tests.launch.killing import write_job
from tests.slurm.clusters import Cluster
from tests.waiting import wait_until

PROFILE: dict[str, Any] = {
    "executor": "slurm",
    "partition": "main",
    "cpus_per_task": 1,
    "memory_gb": 1.5,
    "time_limit_min": 10,
    "warning_lead_s": 30,
}


@dataclass(frozen=True)
class Reference:
    """A job, and the predictions of the run that nobody disturbed."""

    job: Path
    paths: RunPaths

    def check(self, paths: RunPaths) -> None:
        """Fails unless a run has come to the very same bits."""
        np.testing.assert_array_equal(read_predictions(paths), read_predictions(self.paths))
        assert read_report(paths)["provenance"]["bit_exact"]


def make_reference(folder: Path, *, epochs: int = 3000, tasks: int = 1) -> Reference:
    """A job with everything to restore; 1000 epochs take about a second."""
    folder.mkdir(exist_ok=True)
    job = write_job(folder, epochs=epochs, tasks=tasks, output={"plots": False, "trees": False})
    return run_reference(job, folder / "undisturbed")


def run_reference(job: Path, root: Path) -> Reference:
    """Runs a job here, where nobody disturbs it."""
    # What takes a minute alone takes many on a busy machine.
    done = run_command("run", job, "--root", root, seconds=1000)
    assert done.returncode == 0, done.stderr
    return Reference(job, RunPaths(Path(done.stdout.strip())))


def write_profile(folder: Path, **values: Any) -> Path:
    """A profile for the test cluster; None takes a key out."""
    chosen = {key: value for key, value in (PROFILE | values).items() if value is not None}
    path = folder / f"profile-{len(list(folder.glob('profile-*.toml')))}.toml"
    path.write_text(tomli_w.dumps(chosen))
    return path


def submit(
    cluster: Cluster,
    job: Path,
    folder: Path,
    *,
    words: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    **profile: Any,
) -> RunPaths:
    """Submits one run; its folder."""
    return RunPaths(_submit(cluster, job, folder, words, profile, environ))


def submit_sweep(
    cluster: Cluster, job: Path, folder: Path, *, words: Sequence[str] = (), **profile: Any
) -> list[RunPaths]:
    """Submits a sweep; the folders of its runs."""
    sweep = read_sweep(SweepPaths(_submit(cluster, job, folder, words, profile)))
    return [RunPaths(folder / "runs" / point.run) for point in sweep.points]


def job_id(paths: RunPaths) -> str:
    """Slurm's number of a run."""
    return str(json.loads(paths.submission.read_text())["job_id"])


def hold(
    *runs: RunPaths, attempt: int = 1, written: str = "*-{attempt}.ckpt", seconds: float = 240
) -> None:
    """Lets the chief of each run stand still as soon as its attempt has written a checkpoint.

    So it cannot be done before it is disturbed, however fast the machine, or slow the other runs.
    Slurm wakes it with SIGCONT when it ends the job.
    """
    waiting = list(runs)

    def are_held() -> bool:
        for paths in waiting.copy():
            if list(paths.checkpoints.glob(written.format(attempt=attempt))):
                with suppress(ProcessLookupError):
                    os.kill(chief(paths, attempt=attempt), signal.SIGSTOP)
                waiting.remove(paths)
        return not waiting

    wait_until(are_held, seconds=seconds, every=0.02)


def chief(paths: RunPaths, *, attempt: int = 1) -> int:
    """Number of the process that leads an attempt."""
    return read_attempts(paths)[attempt - 1].pid


def wait_for_end(cluster: Cluster, *runs: RunPaths, still_s: float = 300) -> None:
    """Returns once every run is complete; fails where one fails, or where none stirs any more.

    However slow a machine: a run at work gives a sign of life every ten seconds.
    """
    heard, since = None, time.monotonic()
    while True:
        said = [read_settled(paths) for paths in runs]
        failed = [status for status in said if status.state in ("FAILED", "CANCELLED")]
        assert not failed, failed
        if all(status.state == "COMPLETED" for status in said):
            break
        if said != heard:
            heard, since = said, time.monotonic()
        assert time.monotonic() - since < still_s, f"nothing has stirred for {still_s} s: {said}"
        time.sleep(0.2)
    wait_until(lambda: not any(_is_queued(cluster, paths) for paths in runs), seconds=30)


def read_predictions(paths: RunPaths) -> np.ndarray:
    """The bits that a run came to."""
    return pq.read_table(paths.predictions)["y_pred"].to_numpy()


def read_report(paths: RunPaths) -> dict[str, Any]:
    return json.loads(paths.report.read_text())


def read_attempts(paths: RunPaths) -> tuple[Attempt, ...]:
    return read_settled(paths).attempts


def _submit(
    cluster: Cluster,
    job: Path,
    folder: Path,
    words: Sequence[str],
    profile: dict[str, Any],
    environ: Mapping[str, str] | None = None,
) -> Path:
    file = write_profile(folder, **profile)
    command = ("submit", job, *words, "--profile", file, "--root", folder / "runs")
    done = cluster.dnnjob(*command, **(environ or {}))
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def _is_queued(cluster: Cluster, paths: RunPaths) -> bool:
    return cluster.state(job_id(paths)) in ("PENDING", "RUNNING", "COMPLETING")
