"""What every peer trains: one table, one network's first weights, one order of rows, one result.

    task = load_task(parse_arguments("PyTorch"))
    print_result(task, library="torch 2.13", compile_s=0.0, train_s=2.7, final_loss=0.04)

NumPy alone, since the peers live in an environment without dnnjob.
"""

import argparse
import itertools
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Task:
    """A regression on a table in memory, with all that is random made ahead."""

    x: np.ndarray
    """Features as z-scores, float32, shape `(num_rows, num_features)`."""
    y: np.ndarray
    """Target as z-scores, float32, shape `(num_rows, 1)`."""
    weights: tuple[tuple[np.ndarray, np.ndarray], ...]
    """First kernel and bias of each layer, glorot-uniform and zero, float32."""
    order: np.ndarray
    """Rows of each epoch in their order, int32, shape `(epochs, num_rows)`."""
    batch: int
    """Rows of a step; an epoch's last one may have fewer."""
    learning_rate: float
    """Step size of plain stochastic gradient descent."""
    threads: int
    """CPU cores this process may use."""

    @property
    def epochs(self) -> int:
        """Passes over the table."""
        return len(self.order)

    @property
    def full_steps(self) -> int:
        """Steps of an epoch that have `batch` rows."""
        return self.order.shape[1] // self.batch

    @property
    def full_order(self) -> np.ndarray:
        """Rows of the full batches, shape `(epochs, full_steps, batch)`."""
        rows = self.order[:, : self.full_steps * self.batch]
        return np.ascontiguousarray(rows.reshape(self.epochs, self.full_steps, self.batch))

    @property
    def tail_order(self) -> np.ndarray:
        """Rows of each epoch's short last batch, shape `(epochs, rows of it)`, perhaps none."""
        return np.ascontiguousarray(self.order[:, self.full_steps * self.batch :])


def parse_arguments(peer: str, *options: str) -> argparse.Namespace:
    """The command line of a peer; `options` are the names of its own switches."""
    parser = argparse.ArgumentParser(description=f"Trains the benchmark's network with {peer}.")
    parser.add_argument("--table", type=Path, required=True, help=".npz with x and y, float32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--hidden-units", type=int, nargs="*", default=[200, 1000])
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    for option in options:
        parser.add_argument(f"--{option}", action="store_true")
    return parser.parse_args()


def load_task(arguments: argparse.Namespace) -> Task:
    """The task that the command line describes."""
    with np.load(arguments.table) as table:
        x, y = table["x"], table["y"]
    rng = np.random.default_rng(arguments.seed)
    widths = [x.shape[1], *arguments.hidden_units, 1]
    weights = []
    for inputs, outputs in itertools.pairwise(widths):
        limit = np.sqrt(6.0 / (inputs + outputs))
        kernel = rng.uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
        weights.append((kernel, np.zeros(outputs, np.float32)))
    order = np.stack([rng.permutation(len(x)).astype(np.int32) for _ in range(arguments.epochs)])
    return Task(
        x=x,
        y=y,
        weights=tuple(weights),
        order=order,
        batch=arguments.batch,
        learning_rate=arguments.learning_rate,
        threads=len(os.sched_getaffinity(0)),
    )


class Stopwatch:
    """Seconds since it was made or last read."""

    def __init__(self) -> None:
        """Starts it."""
        self._start = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last reading, which starts the next lap."""
        now = time.perf_counter()
        lap, self._start = now - self._start, now
        return lap


def print_result(
    task: Task, *, library: str, compile_s: float, train_s: float, final_loss: float
) -> None:
    """Prints the figures as the last line of stdout, in JSON.

    Args:
        task: What was trained.
        library: Name and version of what trained it.
        compile_s: Seconds of tracing and compiling, before the first step.
        train_s: Seconds of all steps.
        final_loss: The last epoch's mean squared error, as its steps saw it.
    """
    result = {
        "library": library,
        "threads": task.threads,
        "compile_s": compile_s,
        "train_s": train_s,
        "rows_per_s": task.order.size / train_s,
        "final_loss": final_loss,
    }
    print(json.dumps(result))
