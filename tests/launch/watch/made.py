"""Made-up runs: their folders and records, in any state.

paths = make_run(root, state="RUNNING", attempts=[attempt(slurm_job_id="7")], silent_s=5)
send(paths, job_id="7")
"""

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dnnjob.config import resolve_job, to_toml
from dnnjob.machine import process_key, user_name
from dnnjob.runs import (
    Attempt,
    RunPaths,
    Status,
    Submission,
    Sweep,
    SweepPaths,
    SweepPoint,
    write_record,
    write_text,
)

CLUSTER = "alpha"


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def attempt(began_s: float = 100, **changes: object) -> Attempt:
    values: dict[str, Any] = {"host": "n1", "pid": 1, "started_at": ago(began_s), **changes}
    if "slurm_job_id" in values:
        values = {"slurm_cluster": CLUSTER, "slurm_restarts": 0} | values
    return Attempt.model_validate(values)


def attempt_here(**changes: object) -> Attempt:
    """An attempt of this very process, which lives."""
    here = {"host": socket.gethostname(), "pid": os.getpid(), "process": process_key(os.getpid())}
    return attempt(**{**here, **changes})


def status(
    state: str = "RUNNING", attempts: Sequence[Attempt] = (), *, silent_s: float = 5, **more: object
) -> Status:
    values = {"state": state, "attempts": tuple(attempts), "updated_at": ago(silent_s), **more}
    return Status.model_validate(values)


def submission(job_id: str = "7", *, sent_s: float = 200, **changes: object) -> Submission:
    values = {
        "executor": "slurm",
        "cluster": CLUSTER,
        "job_id": job_id,
        "host": "login",
        "user": user_name(),
        "submitted_at": ago(sent_s),
        "command": "dnnjob submit tiny.toml",
        "folder": "submission",
        **changes,
    }
    return Submission.model_validate(values)


def make_run(root: Path, number: int = 1, told: Status | None = None) -> RunPaths:
    """A run folder as `submit` and the chief leave it."""
    paths = RunPaths(root.absolute() / "tiny" / f"20260101-000000-{number:06x}")
    job = {"name": "tiny", "data": {"source": "table.csv", "target": "y"}}
    write_text(paths.job, to_toml(resolve_job(job, origin="made up")))
    # Not write_status, which stamps the present.
    write_text(paths.status, (told or status("CREATED")).model_dump_json())
    return paths


def send(paths: RunPaths, job_id: str = "7", **changes: object) -> Submission:
    """Leaves a submission in a run folder."""
    sent = submission(job_id, place=str(paths.root), **changes)
    write_record(paths.submission, sent)
    (paths.root / sent.folder).mkdir(parents=True, exist_ok=True)
    return sent


def make_sweep(
    root: Path, runs: Sequence[RunPaths], sweep_id: str = "20260101-000000-aaaaaa"
) -> Path:
    """A sweep of these runs."""
    paths = SweepPaths(root.absolute() / "tiny" / "sweeps" / sweep_id)
    points = tuple(
        SweepPoint(
            number=number, values={"seed": number}, run=str(run.root.relative_to(root.absolute()))
        )
        for number, run in enumerate(runs, start=1)
    )
    paths.submission_folder.mkdir(parents=True, exist_ok=True)
    write_record(paths.sweep, Sweep(sweep_id=sweep_id, name="tiny", points=points))
    return paths.root
