"""Runs that are killed again and again, against one that was not.

    python tests/launch/killing.py --tasks 1 --seconds 60

tells every kill, where it came, and what the attempts after it repeated. Of each phase there are
kills enough: one that came elsewhere than it was aimed at counts where it came.
"""

import argparse
import json
import math
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tomli_w

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from dnnjob.runs import RunPaths, read_settled
from tests.launch.killed_run import END_S, Kill, KilledRun, Repeated, run
from tests.launch.trace import PHASES, Phase, Trace

CHECKPOINT_EVERY_S = 1.0
NUM_ROWS, NUM_UNLABELLED = 600, 40_000

HANDFUL: dict[Phase, int] = {
    "start-up": 1,
    "training": 1,
    "checkpoint": 1,
    "evaluation": 1,
    "results": 1,
}
ALL: dict[Phase, int] = {
    "start-up": 5,
    "training": 7,
    "checkpoint": 4,
    "evaluation": 4,
    "results": 4,
    "ending": 1,
}
_WHILE_TRAINING: tuple[Phase, ...] = ("training", "checkpoint")


@dataclass(frozen=True)
class Undisturbed:
    """The run that nobody kills: what must come out, and how long its phases take."""

    predictions: np.ndarray
    losses: np.ndarray
    epochs: int
    stop_reason: str
    train_s: float
    phases_s: dict[Phase, float]


def write_job(
    folder: Path, *, epochs: int, tasks: int, output: Mapping[str, bool] | None = None
) -> Path:
    """A job with every state that a checkpoint must hold, and many rows to predict.

    It learns its few rows by heart, so that its least validation loss comes early and patience
    ends it after three quarters of its epochs.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(NUM_ROWS + NUM_UNLABELLED, 6))
    y = np.tanh(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.5 * rng.normal(size=len(x))
    rows = [",".join(f"{value:.6f}" for value in row) for row in np.column_stack([x, y])]
    rows[NUM_ROWS:] = [row.rpartition(",")[0] + "," for row in rows[NUM_ROWS:]]
    (folder / "table.csv").write_text("\n".join(["a,b,c,d,e,f,y", *rows, ""]))
    job = {
        "name": "killed",
        "seed": 5,
        "data": {"source": "table.csv", "target": "y", "validation_fraction": 0.2},
        "model": {"hidden_units": [200, 100], "dropout_rate": 0.2},
        "train": {
            "epochs": epochs,
            "global_batch_size": 48,
            "optimizer": "adam",
            "learning_rate": 0.001,
            "schedule": "cosine",
            "patience": epochs * 3 // 4,
            "checkpoint_every_s": CHECKPOINT_EVERY_S,
        },
        "devices": {"kind": "cpu", "tasks": tasks, "threads": 1},
        "output": dict(output or {}),
    }
    path = folder / "job.toml"
    path.write_text(tomli_w.dumps(job))
    return path


def run_undisturbed(folder: Path, *, epochs: int, tasks: int) -> Undisturbed:
    """Runs the job once, and says what must come out of it."""
    paths, trace = run(
        write_job(folder, epochs=epochs, tasks=tasks), folder / "undisturbed", scratch=folder
    )
    predictions, losses = _outcome(paths)
    report = json.loads(paths.report.read_text())
    trained, reports = trace.at("end", "train"), trace.at("begin", "report")
    written = trace.at("written", "report.json")
    return Undisturbed(
        predictions,
        losses,
        epochs=report["training"]["epochs"],
        stop_reason=report["training"]["stop_reason"],
        train_s=report["timing_s"]["train"],
        phases_s={
            "start-up": trace.at("begin", "train") - trace.events[0]["at"],
            "training": 0.5,
            "checkpoint": 0.0,
            "evaluation": reports - trained,
            "results": written - reports,
            "ending": 0.005,
        },
    )


def kill_series(
    folder: Path,
    *,
    epochs: int,
    tasks: int,
    kills: dict[Phase, int],
    seed: int,
    ranks: tuple[str, ...] = ("all",),
    runs: int = 1,
    least_s: float = 0.0,
) -> list[Kill]:
    """Kills runs until each phase has had its kills, and lets each run end.

    Args:
        folder: For everything.
        epochs: Of the job; more where it trains for less than `least_s`.
        tasks: Of the job.
        kills: Least number of kills of each phase.
        seed: Of the moments.
        ranks: Tasks to draw those to kill from; "all" is the command with all.
        runs: Runs among which the kills are shared out; a few more may be needed.
        least_s: Least seconds that the undisturbed run trains.

    Raises:
        AssertionError: If a run ends in other bits, too much was repeated, or a run that lost a
            task lived on.
    """
    rng = random.Random(seed)
    expected = run_undisturbed(folder, epochs=epochs, tasks=tasks)
    while expected.train_s < least_s:
        epochs = math.ceil(1.5 * epochs * least_s / expected.train_s)
        expected = run_undisturbed(folder, epochs=epochs, tasks=tasks)
    print(f"undisturbed: {expected.epochs} epochs in {expected.train_s:.1f} s", flush=True)
    assert expected.stop_reason == "patience"
    assert 0.7 * epochs < expected.epochs < 0.9 * epochs
    done: list[Kill] = []
    for number in range(1, runs + 7):
        left = Counter(kills) - Counter(kill.phase for kill in done)
        if not left:
            break
        share = {phase: math.ceil(left[phase] / max(1, runs + 1 - number)) for phase in left}
        killed = KilledRun(folder / "job.toml", folder / "killed", scratch=folder)
        _kill_run(killed, Counter(share), expected, rng, ranks)
        _check_outcome(killed, expected)
        _check_kills(killed, number)
        done += killed.kills
    missed = Counter(kills) - Counter(kill.phase for kill in done)
    assert not missed, f"no moment was found for {dict(missed)}"
    return done


def _kill_run(
    killed: KilledRun,
    share: Counter[Phase],
    expected: Undisturbed,
    rng: random.Random,
    ranks: tuple[str, ...],
) -> None:
    """Kills a run until its share is done, or it has ended in spite of all."""
    left, patience = share, 2 * share.total() + 3
    while left and patience:
        phase = _choose(left, killed, rng)
        if phase is None:
            break
        early = sum(left[one] for one in _WHILE_TRAINING)
        reached = _aim(phase, _draw_epoch(killed, expected, early, rng))
        after_s = rng.uniform(0.0, expected.phases_s[phase])
        kill = killed.kill_at(reached, after_s=after_s, ranks=rng.choice(ranks))
        if kill is None:
            break
        left, patience = left - Counter([kill.phase]), patience - 1
        if kill.code == 0:
            # The chief did without the task that was killed.
            break
        killed.resume()


def _choose(left: Counter[Phase], killed: KilledRun, rng: random.Random) -> Phase | None:
    """A phase that is still to come in this run: the end of training cannot be repeated."""
    has_trained = any(trace.has("end", "train") for trace in killed.traces)
    early = [phase for phase in _WHILE_TRAINING if left[phase] and not has_trained]
    late = [phase for phase in PHASES if left[phase] and phase not in _WHILE_TRAINING]
    if early:
        return rng.choice(early + ["start-up"] * (left["start-up"] > 0))
    # The ending may be the run's last word.
    late = [phase for phase in late if phase != "ending"] or late
    return rng.choice(late) if late else None


def _draw_epoch(killed: KilledRun, expected: Undisturbed, early: int, rng: random.Random) -> int:
    """The first of so many random epochs among those that are left to train."""
    done = max((kill.epoch for kill in killed.kills), default=0)
    share = 1.0 - (1.0 - rng.random()) ** (1.0 / max(1, early))
    return int(done + 0.95 * share * (expected.epochs - done))


def _aim(phase: Phase, epoch: int) -> Callable[[Trace], bool]:
    """What to wait for."""
    reached: dict[Phase, Callable[[Trace], bool]] = {
        "start-up": lambda trace: True,
        "training": lambda trace: trace.has("begin", "train") and trace.epoch >= epoch,
        "checkpoint": lambda trace: trace.epoch >= epoch and trace.writes_checkpoint,
        "evaluation": lambda trace: trace.has("end", "train"),
        "results": lambda trace: trace.has("begin", "report"),
        "ending": lambda trace: trace.has("written", "report.json"),
    }
    return reached[phase]


def _check_outcome(killed: KilledRun, expected: Undisturbed) -> None:
    assert killed.finish() == 0
    assert read_settled(killed.paths).state == "COMPLETED"
    predictions, losses = _outcome(killed.paths)
    np.testing.assert_array_equal(predictions, expected.predictions)
    np.testing.assert_array_equal(losses, expected.losses)
    report = json.loads(killed.paths.report.read_text())
    assert report["provenance"]["bit_exact"]
    assert report["training"]["stop_reason"] == expected.stop_reason
    assert not killed.paths.checkpoints.exists()
    assert not list(killed.paths.root.rglob(".*.tmp"))


def _check_kills(killed: KilledRun, number: int) -> None:
    for kill in killed.kills:
        repeated = killed.repeated(kill)
        print(f"run {number}: {_describe(kill, repeated)}", flush=True)
        # A call that ends a second after the last checkpoint is followed by the next one.
        begun = sum(call.seconds for call in repeated.calls[:-1])
        assert begun < CHECKPOINT_EVERY_S, f"{begun:.2f} s before the last call were repeated"
        assert kill.code == 0 or kill.ended_s < END_S, (
            f"the run ended {kill.ended_s:.0f} s after it lost a task"
        )


def _describe(kill: Kill, repeated: Repeated) -> str:
    what = "" if kill.ranks == "all" else f" (task {kill.ranks})"
    text = f"start {kill.start} killed{what} after {kill.after_s:.1f} s in {kill.phase}"
    text += f", epoch {kill.epoch}, gone {kill.ended_s:.1f} s later with code {kill.code}"
    if repeated.resumed_from is None:
        return text
    calls, longest = repeated.calls, max((call.seconds for call in repeated.calls), default=0.0)
    return (
        f"{text}; went on from epoch {repeated.resumed_from.epoch}: {len(calls)} call(s) repeated, "
        f"{repeated.seconds:.2f} s, the longest {longest:.2f} s"
    )


def _outcome(paths: RunPaths) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and losses: the bits that a run came to."""
    predictions = pq.read_table(paths.predictions)["y_pred"].to_numpy()
    return predictions, pq.read_table(paths.history)["loss"].to_numpy()


def main() -> None:
    """Kills a series from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of undisturbed training")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", nargs="+", default=["all"])
    given: Any = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        kills = kill_series(
            folder,
            epochs=800,
            tasks=given.tasks,
            kills=ALL,
            seed=given.seed,
            ranks=tuple(given.ranks),
            runs=given.runs,
            least_s=given.seconds,
        )
    print(f"{len(kills)} kills: {dict(Counter(kill.phase for kill in kills))}")


if __name__ == "__main__":
    main()
