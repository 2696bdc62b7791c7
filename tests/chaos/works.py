"""The jobs that are disturbed: small ones, each with other states that a run must restore.

work = WORKS["streamed"]
job = work.write(folder)         # table and job file
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from tests.conftest import CHECKOUT
from tests.slurm.clusters import missing_programs

_WRAPPER = CHECKOUT / "docker" / "dnnjob"

_ROWS, _UNLABELLED = 400, 3000


@dataclass(frozen=True)
class Work:
    """A job and its table.

    Attributes:
        name: Of both.
        write_table: Fills a folder with the table; its path.
        changes: Of the job that all have in common, by section.
        executor: What starts it: "here", "container", "pool" for this machine's queue, or "slurm".
        rarity: It is drawn the less often the higher: its runs take so many times as long.
    """

    name: str
    write_table: Callable[[Path], Path]
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    executor: str = "here"
    rarity: int = 1
    points: int = 1
    """Runs that it becomes: more of a sweep."""

    @property
    def tasks(self) -> int:
        """Processes of the run."""
        return int(self.changes.get("devices", {}).get("tasks", 1))

    @property
    def is_in_foreground(self) -> bool:
        """Whether the command that starts it stays until its end."""
        return self.executor in ("here", "container")

    @property
    def is_contained(self) -> bool:
        """Whether it has process ids and mounts of its own."""
        return self.executor == "container"

    @property
    def can_halt(self) -> bool:
        """Whether its processes can stop themselves: the first of a container cannot."""
        return not self.is_contained

    @property
    def program(self) -> tuple[str, ...]:
        """What its commands begin with."""
        return (str(_WRAPPER),) if self.is_contained else (sys.executable, "-m", "dnnjob")

    @property
    def can_be_warm(self) -> bool:
        """Whether what starts it does the work; tasks, lanes and the queue begin cold."""
        return self.tasks == 1 and self.points == 1 and self.executor == "here"

    @property
    def processes(self) -> tuple[str, ...]:
        """Whom a fault can hit."""
        if self.executor != "here":
            return ("all", "chief", "launcher")
        if self.points > 1:
            return ("all", "lane", "launcher")
        return ("all", "chief", "follower", "launcher") if self.tasks > 1 else ("all", "chief")

    def image(self) -> str:
        """What its container is made of; nothing without."""
        return _inspect("{{.Id}}") if self.is_contained else ""

    @property
    def is_streamed(self) -> bool:
        """Whether its table does not fit the memory it is given."""
        return "memory_budget_gb" in self.changes.get("data", {})

    def lacks(self) -> str | None:
        """Why this machine cannot have it; None if it can."""
        if self.executor == "slurm" and (missing := missing_programs(accounting=False)):
            return f"{', '.join(missing)} of Slurm is not installed"
        return _lacks_image() if self.is_contained else None

    @property
    def has_parts(self) -> bool:
        """Whether it predicts long enough to leave predictions on its way."""
        return self.write_table is _write_parquet

    @property
    def is_copied(self) -> bool:
        """Whether it reads a copy of its table in scratch."""
        return self.is_streamed and self.write_table is _write_long_text

    def write(self, folder: Path) -> Path:
        """Writes the table and the job's file."""
        folder.mkdir(parents=True, exist_ok=True)
        table = self.write_table(folder)
        job: dict[str, Any] = {
            "name": self.name,
            "seed": 5,
            "data": {"source": table.name, "target": "y", "validation_fraction": 0.2},
            "model": {"hidden_units": [16, 8], "dropout_rate": 0.2},
            "train": {
                "epochs": 100,
                "global_batch_size": 48,
                "optimizer": "adam",
                "learning_rate": 0.001,
                "schedule": "cosine",
                "patience": 90,
                "checkpoint_every_s": 0.15,
            },
            # Compiling with XLA takes longer than all the rest: one job tries it.
            "devices": {"kind": "cpu", "threads": 1, "xla": "off"},
            "output": {"plots": False, "trees": False},
        }
        for section, values in self.changes.items():
            job[section] = job.get(section, {}) | values
        path = folder / "job.toml"
        path.write_text(tomli_w.dumps(job))
        return path


@cache
def _lacks_image() -> str | None:
    """Why no container of dnnjob can be started as whoever calls does it; None if one can."""
    if os.geteuid():
        return "only root sees and strikes what is in a container"
    if shutil.which("podman") is None:
        return "there is no podman"
    done = _ask(_WRAPPER, "--version", DNNJOB_ENGINE="podman")
    if done.returncode:
        return done.stderr.strip().rstrip(".") or "the image does not start"
    built = _inspect('{{index .Labels "org.opencontainers.image.revision"}}').partition("-")[0]
    same = _ask("git", "-C", CHECKOUT, "diff", "--quiet", built, "--", "dnnjob", "requirements")
    # What that version did wrong would be told of this one.
    return "the image is of another version: make image" if same.returncode else None


def _inspect(what: str) -> str:
    name = os.environ.get("DNNJOB_IMAGE", "dnnjob:cpu")
    return _ask("podman", "image", "inspect", "--format", what, name).stdout.strip()


def _ask(*words: object, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in words],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def _make_frame(rows: int, unlabelled: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows + unlabelled, 5)).round(6)
    frame = pd.DataFrame(x, columns=list("abcde"))
    noise = 0.5 * rng.normal(size=len(x))
    frame["y"] = (np.tanh(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + noise).round(6)
    frame.loc[rows:, "y"] = np.nan
    return frame


def _write_numbers(folder: Path) -> Path:
    path = folder / "table.csv"
    _make_frame(_ROWS, _UNLABELLED).to_csv(path, index=False)
    return path


def _write_categories(folder: Path) -> Path:
    frame = _make_frame(_ROWS, _UNLABELLED)
    rng = np.random.default_rng(2)
    frame["kind"] = rng.choice(["oak", "ash", "fir", ""], size=len(frame), p=[0.5, 0.3, 0.1, 0.1])
    frame.loc[rng.random(len(frame)) < 0.1, "b"] = np.nan
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    return path


def _write_parquet(folder: Path) -> Path:
    path = folder / "table.parquet"
    _make_frame(6000, 50_000).to_parquet(path, row_group_size=400, index=False)
    return path


def _write_long_text(folder: Path) -> Path:
    path = folder / "table.csv"
    _make_frame(4000, 1000).to_csv(path, index=False)
    return path


_STREAMED = {
    "data": {"window_rows": 1600, "memory_budget_gb": 1e-9},
    # Of the predictions, too, a part at once.
    "train": {"epochs": 4, "patience": 3, "checkpoint_every_s": 0.02},
}
_COPIED = {
    "data": {"window_rows": 800, "memory_budget_gb": 1e-9},
    "train": {"epochs": 4, "patience": 3},
}
# Of the learning rates the second ends with losses that are not finite.
_SWEEP = {
    "sweep": {"train.learning_rate": [0.001, 1e9, 0.003]},
    "train": {"optimizer": "sgd", "schedule": "constant", "epochs": 80, "patience": 70},
    "devices": {"stack": 2},
}
_SEARCH = {
    "sweep": {"train.learning_rate": [0.001, 1e-6, 0.003]},
    "search": {"halving": 3},
    "train": {"epochs": 90, "patience": 80},
    "devices": {"stack": 2},
}
_MEMBERS = {
    "model": {"members": 3, "bagging": "folds"},
    "data": {"validation_fraction": 0.0},
    "train": {"epochs": 80, "patience": 60},
}
_TASKS = {"devices": {"tasks": 2}, "train": {"epochs": 60, "patience": 50}}
_ARRAY = {"sweep": {"train.learning_rate": [0.001, 0.003]}}
WORKS = {
    work.name: work
    for work in (
        Work("resident", _write_numbers),
        Work("streamed", _write_parquet, _STREAMED),
        Work("copied", _write_long_text, _COPIED),
        Work("categories", _write_categories),
        Work(
            "fused", _write_numbers, {"devices": {"xla": "on"}, "train": {"epochs": 200}}, rarity=2
        ),
        Work("two-tasks", _write_numbers, _TASKS, rarity=4),
        Work("members", _write_numbers, _MEMBERS),
        Work("pool", _write_numbers, executor="pool", rarity=4),
        Work("sweep", _write_numbers, _SWEEP, points=3, rarity=4),
        Work("search", _write_numbers, _SEARCH, points=3, rarity=4),
        Work("container", _write_numbers, executor="container", rarity=6),
        Work("slurm", _write_numbers, executor="slurm", rarity=4),
        Work("slurm-array", _write_numbers, _ARRAY, executor="slurm", points=2, rarity=6),
    )
}
