"""What the works have in common: where things lie, command lines, and quotients of figures.

make_run("housing.toml", table.source, "devices.tasks=2", name="two tasks")
ratio("two tasks", "one task", "rows_per_s")
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from inputs import Table
from measure import Contender, Round, read_peer, read_run

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "build" / "bench"
RUNS = FOLDER / "runs"
DNNJOB = Path(sys.executable).with_name("dnnjob")
PYTHON = Path(sys.executable)
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

TRAINING_FIGURES = ("compile_s", "train_s", "rows_per_s", "final_loss", "foreign_cores")


def make_run(
    job: str,
    source: Path,
    *overrides: str,
    name: str = "dnnjob",
    environment: Mapping[str, str] | None = None,
) -> Contender:
    """A run of dnnjob on a job file beside this module; the round is its seed."""
    command = words(DNNJOB, "run", HERE / job, f"data.source={source}", *overrides)
    return Contender(
        name=name,
        command=lambda number: [*command, f"seed={number}", "--root", str(RUNS)],
        read=read_run,
        environment=environment or {},
    )


def make_peer(
    name: str,
    python: Path,
    script: str,
    *options: str,
    table: Table,
    batch: int,
    epochs: int,
    learning_rate: float,
) -> Contender:
    """A peer's script with the arguments that all of them take; the round is its seed."""
    command = words(python, HERE / script, "--table", table.arrays, "--batch", batch)
    command += words("--epochs", epochs, "--learning-rate", learning_rate, *options)
    return Contender(
        name=name,
        command=lambda number: [*command, "--seed", str(number)],
        read=read_peer,
    )


def words(*parts: object) -> list[str]:
    """A command line from its parts."""
    return [str(part) for part in parts]


def ratio(above: str, below: str, figure: str) -> Callable[[Round], float]:
    """The quotient of one figure of two contenders."""
    return lambda one: one[above][figure] / one[below][figure]


def loss_spread(one: Round) -> float:
    """The highest final loss in units of the lowest: all of them did the same work."""
    losses = [figures["final_loss"] for figures in one.values()]
    return max(losses) / min(losses)
