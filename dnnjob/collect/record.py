"""A run as the collected table shows it: one record, whose fields are the columns.

line = Line(run_id="20260101-000000-abcdef", state="RUNNING", path="/runs/...")
run = Run(folder=folder, line=line, job={"train.epochs": 500})
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from dnnjob.runs import State

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The fixed columns of the table, in its order; None where a run has none."""

    run_id: str
    name: str | None = None
    state: State | None = None
    """What the run's files say; None where they say nothing."""
    reason: str | None = None
    """Why the run is no (complete) run: the reason of its status, or what is wrong with it."""
    test_mse: float | None = None
    test_rmse: float | None = None
    test_mae: float | None = None
    test_r2: float | None = None
    test_mse_standardized: float | None = None
    validation_mse: float | None = None
    train_mse: float | None = None
    baseline_mean_mse: float | None = None
    baseline_linear_mse: float | None = None
    num_rows: int | None = None
    num_features: int | None = None
    num_trainable_params: int | None = None
    seed: int | None = None
    train_s: float | None = None
    total_s: float | None = None
    rows_per_s: float | None = None
    devices: str | None = None
    num_replicas: int | None = None
    num_tasks: int | None = None
    host: str | None = None
    slurm_job_id: str | None = None
    sweep_id: str | None = None
    num_attempts: int | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    dnnjob_version: str | None = None
    data_fingerprint: str | None = None
    """`<method>:<value>`."""
    path: str
    test_median_absolute_error: float | None = None
    test_mape: float | None = None
    """A share of the target's size, over the test rows whose target is not zero."""
    baseline_trees_mse: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A folder that is, or should be, a run."""

    folder: Path
    line: Line
    job: Mapping[str, Scalar] = field(default_factory=dict)
    """The resolved job by dotted keys; lists as JSON text."""
    chosen: frozenset[str] = frozenset()
    """Keys that a command or a sweep named."""
    error: str | None = None
    """What a failed run says about its failure."""
    progress: str | None = None
    """How far an unfinished run has come."""
    fault: str | None = None
    """What is wrong with its files."""
