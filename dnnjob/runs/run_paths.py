"""Every file name of run and sweep folders, once.

paths = RunPaths(Path("runs/housing/20261123-101500-3f9a1c"))
paths.status, paths.log(attempt=1, rank=0)
"""

import re
from dataclasses import dataclass
from pathlib import Path

from dnnjob.runs.records import SweepPoint

SWEEPS = "sweeps"
SWEEP_FILE = "sweep.json"
RUN_ID = re.compile(r"^\d{8}-\d{6}-[0-9a-f]{6}$")


def statistics_folder(root: Path) -> Path:
    """Where a root keeps what passes over large tables found, out of the way of its runs."""
    return root / ".dnnjob" / "statistics"


def tables_folder(root: Path) -> Path:
    """Where a root keeps tables that came from memory, for the runs that read them."""
    return root / ".dnnjob" / "tables"


@dataclass(frozen=True)
class RunPaths:
    """The files of one run folder, `ROOT/<name>/<run id>/`."""

    root: Path

    @property
    def run_id(self) -> str:
        """The folder's own name, `YYYYMMDD-HHMMSS-<6 hex>`."""
        return self.root.name

    @property
    def job(self) -> Path:
        """The resolved job."""
        return self.root / "job.toml"

    @property
    def profile(self) -> Path:
        """The resolved profile, where the run was submitted."""
        return self.root / "profile.toml"

    @property
    def status(self) -> Path:
        """State, progress and attempts."""
        return self.root / "status.json"

    @property
    def submission(self) -> Path:
        """What `submit` left: executor, job id, command."""
        return self.root / "submission.json"

    @property
    def cancel(self) -> Path:
        """The wish to stop, written by `cancel` alone."""
        return self.root / "cancel.json"

    @property
    def resumption(self) -> Path:
        """What the last `resume` asked for, written by it alone; absent where it asked nothing."""
        return self.root / "resume.json"

    @property
    def history(self) -> Path:
        """One row an epoch."""
        return self.root / "history.parquet"

    @property
    def tensorboard(self) -> Path:
        """The same for TensorBoard, which takes files with "tfevents" in their names."""
        return self.root / "history.tfevents"

    @property
    def predictions(self) -> Path:
        """One row a source row."""
        return self.root / "predictions.parquet"

    @property
    def report(self) -> Path:
        """The report for programs, written last."""
        return self.root / "report.json"

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.root / "report.html"

    @property
    def plots(self) -> Path:
        """Folder of the plots."""
        return self.root / "plots"

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.root / "model" / "model.keras"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints; gone once complete."""
        return self.root / "checkpoints"

    @property
    def first_checkpoint(self) -> Path:
        """Where a complete run that gets more epochs begins again."""
        return self.checkpoints / "00000001-0.ckpt"

    @property
    def reading_doubts(self) -> Path:
        """What is doubtful of how the table's text was read, for attempts whose job is settled."""
        return self.checkpoints / "reading_doubts.json"

    @property
    def training_state(self) -> Path:
        """The last checkpoint of a complete run, from which more epochs go on."""
        return self.model.with_name("training_state.ckpt")

    def predicted(self, key: str, first: int) -> Path:
        """Predictions on their way, from a row on, among the checkpoints; `key` is of weights."""
        return self.checkpoints / f"predicted-{key}-{first:012d}.parquet"

    @property
    def attempts(self) -> Path:
        """Folder with one folder an attempt."""
        return self.root / "attempts"

    def secret(self, attempt: int) -> Path:
        """What the tasks of an attempt prove to know while they gather, their user's alone."""
        return self.attempts / str(attempt) / "secret"

    @property
    def events(self) -> Path:
        """Folder of what others than the chief learned, one event a file."""
        return self.root / "events"

    @property
    def logs(self) -> Path:
        """Folder of the logs of all tasks and attempts."""
        return self.root / "logs"

    def log(self, *, attempt: int, rank: int) -> Path:
        """What one task said in one attempt."""
        return self.logs / f"attempt-{attempt}-task-{rank}.log"

    @property
    def statistics(self) -> Path:
        """What passes over large tables found, for all runs of the root."""
        return statistics_folder(self.root.parents[1])

    @property
    def submission_folder(self) -> Path:
        """Batch script and submitit's files of a run that was submitted alone."""
        return self.root / "submission"


@dataclass(frozen=True)
class SweepPaths:
    """The files of one sweep, `ROOT/<name>/sweeps/<sweep id>/`."""

    root: Path

    @property
    def sweep_id(self) -> str:
        """The folder's own name, like that of a run."""
        return self.root.name

    @property
    def sweep(self) -> Path:
        """Its points and their run folders."""
        return self.root / SWEEP_FILE

    @property
    def profile(self) -> Path:
        """The resolved profile, where it was submitted."""
        return self.root / "profile.toml"

    @property
    def submission_folder(self) -> Path:
        """Batch script and submitit's files of all its points."""
        return self.root / "submission"

    def run(self, point: "SweepPoint") -> RunPaths:
        """The run folder of a point, also under a root that was moved."""
        return RunPaths(self.root.parents[2] / point.run)
