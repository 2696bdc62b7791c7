"""Roots of made-up runs, the same for the same seed: most complete, some not, some broken.

python tests/collect/make_runs.py ROOT --runs 10000 --broken 0.01
make_root(Path("root"), num_runs=100, broken_fraction=0.1)
"""

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tomli_w

from dnnjob.config import resolve_job
from dnnjob.data.split import SPLITS
from dnnjob.results.report import PREDICTIONS_SCHEMA

FEATURES = ("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE", "DIS", "RAD", "TAX", "PTRATIO")
NUM_ROWS = 506
START = datetime(2026, 1, 1, tzinfo=UTC)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
WIDTHS = ([64], [200, 1000], [512, 512])
OPTIMIZERS = ("sgd", "adam")
UNFINISHED = ("RUNNING", "FAILED", "CANCELLED", "REQUEUED", "CREATED")
SUMMARY = (
    'Model: "dnn"\n'
    + "┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━┓\n" * 9
)


@dataclass(frozen=True)
class Wish:
    """What a made-up run is to be."""

    number: int = 0
    name: str = "housing"
    seed: int = 0
    learning_rate: float = 0.01
    hidden_units: tuple[int, ...] = (200, 1000)
    optimizer: str = "sgd"
    test_mse: float | None = 12.5
    """None for a run without test rows."""
    validation_mse: float | None = None
    """None for a run without validation rows."""
    trees_mse: float | None = None
    """Of the baseline; None where it was left out."""
    fingerprint: str = "2e164947a745110ec49182f4076bc26f"
    split_seed: int | None = None
    """Default: the seed."""
    predictions: bool = False

    @property
    def run_id(self) -> str:
        """The run folder's name."""
        return f"{START + timedelta(seconds=self.number):%Y%m%d-%H%M%S}-{self.number:06x}"


def make_job(wish: Wish) -> dict[str, Any]:
    """The resolved job."""
    values = {
        "name": wish.name,
        "seed": wish.seed,
        "data": {
            "source": "/data/housing.csv",
            "target": "MEDV",
            "features": list(FEATURES),
            "split_seed": wish.seed if wish.split_seed is None else wish.split_seed,
            "window_rows": 5_000_000,
        },
        "model": {"hidden_units": list(wish.hidden_units)},
        "train": {"learning_rate": wish.learning_rate, "optimizer": wish.optimizer},
        "devices": {"threads": 2, "xla": "on"},
    }
    named = {**values, "name": "job"}
    dumped = resolve_job(named, origin="made up").model_dump(mode="json", exclude={"sweep"})
    return {**dumped, "name": wish.name}


def make_report(wish: Wish, job: dict[str, Any] | None = None) -> dict[str, Any]:
    """All of `report.json`."""
    started = START + timedelta(seconds=wish.number)
    ended = started + timedelta(seconds=20)
    attempt = {
        "host": f"n{wish.number % 4}",
        "pid": 1000,
        "slurm_job_id": str(5000 + wish.number),
        "started_at": started.isoformat(),
        "ended_at": ended.isoformat(),
    }
    return {
        "format_version": 1,
        "run_id": wish.run_id,
        "name": wish.name,
        "state": "COMPLETED",
        "job": job or make_job(wish),
        "metrics": {
            "train": make_metrics((wish.test_mse or 12.5) / 3, num_rows=354),
            "validation": wish.validation_mse and make_metrics(wish.validation_mse, num_rows=35),
            "test": wish.test_mse and make_metrics(wish.test_mse, num_rows=152),
        },
        "baselines": {
            "test": wish.test_mse
            and {
                "mean": {"mse": 83.7},
                "linear": {"mse": 28.1},
                "trees": wish.trees_mse and {"mse": wish.trees_mse, "num_rows": 354},
            }
        },
        "training": {
            "epochs": 500,
            "steps": 3000,
            "final_loss": 0.03,
            "best_epoch": None,
            "stop_reason": "epochs",
        },
        "model": {
            "num_trainable_params": 204601,
            "summary": SUMMARY,
            "inputs": dict.fromkeys(FEATURES, "float32"),
        },
        "data": {
            "source": "/data/housing.csv",
            "num_rows": NUM_ROWS,
            "num_features": len(FEATURES),
            "columns": [*FEATURES, "MEDV"],
            "fingerprint": {"method": "sha256-bytes", "value": wish.fingerprint},
        },
        "strategy": {
            "kind": "OneDeviceStrategy",
            "num_replicas": 1,
            "num_tasks": 1,
            "devices": ["/device:CPU:0"],
            "threads": 2,
            "xla": "on",
        },
        "timing_s": {
            "import": 4.0,
            "load": 0.1,
            "compile": 1.0,
            "train": 1.9 + wish.number % 7,
            "evaluate": 0.01,
            "predict": 0.1,
            "report": 0.6,
            "total": 8.0 + wish.number % 7,
            "total_all_attempts": 8.0 + wish.number % 7,
        },
        "throughput": {"steps_per_s": 1500.0, "rows_per_s": 88000.0},
        "resources": {"peak_rss_mb": 844.5, "cpu_s": 17.3, "gpu_peak_mb": None},
        "provenance": {
            "dnnjob": "0.1.0",
            "python": "3.11.7",
            "tensorflow": "2.21.0",
            "keras": "3.15.1",
            "host": attempt["host"],
            "cpu": "A processor",
            "gpus": [],
            "command": f"dnnjob run job.toml seed={wish.seed}",
            "started_at": started.isoformat(),
            "ended_at": ended.isoformat(),
            "attempts": [attempt],
            "bit_exact": True,
        },
    }


def make_metrics(mse: float, *, num_rows: int) -> dict[str, Any]:
    """The metrics of one split."""
    return {
        "num_rows": num_rows,
        "mse": mse,
        "rmse": mse**0.5,
        "mae": 0.7 * mse**0.5,
        "r2": 1 - mse / 84.0,
        "mse_standardized": mse / 84.4,
    }


def make_status(wish: Wish, state: str, *, updated_at: datetime | None = None) -> dict[str, Any]:
    """All of `status.json`."""
    report = make_report(wish)
    failed = state == "FAILED"
    ended = None if state in ("RUNNING", "CREATED") else report["provenance"]["ended_at"]
    attempt = {**report["provenance"]["attempts"][0], "ended_at": ended}
    return {
        "state": state,
        "reason": {"FAILED": "nan", "CANCELLED": "cancelled"}.get(state),
        "error": "The loss became NaN in epoch 3, batch 7. Lower it." if failed else None,
        "progress": {"epoch": 120, "epochs": 500, "loss": 0.25},
        "attempts": [] if state == "CREATED" else [attempt],
        "updated_at": (updated_at or datetime.now(UTC)).isoformat(),
    }


def write_run(
    root: Path, wish: Wish | None = None, state: str = "COMPLETED", folder: Path | None = None
) -> Path:
    """Writes one run folder under `root`, and gives it back."""
    wish = wish or Wish()
    folder = folder or root / wish.name / wish.run_id
    folder.mkdir(parents=True, exist_ok=True)
    job = make_job(wish)
    write_toml(folder / "job.toml", job)
    write_json(folder / "status.json", make_status(wish, state))
    if state == "COMPLETED":
        if wish.predictions:
            write_predictions(folder, wish)
        write_json(folder / "report.json", make_report(wish, job))
    return folder


def write_predictions(folder: Path, wish: Wish, *, num_rows: int = NUM_ROWS) -> None:
    """Writes `predictions.parquet`, whose test MSE is about `wish.test_mse`."""
    split_seed = wish.seed if wish.split_seed is None else wish.split_seed
    truth = np.random.default_rng(1).normal(22.0, 9.0, num_rows)
    held_out = np.random.default_rng(split_seed).random(num_rows) < 0.3
    noise = np.random.default_rng(1000 + wish.number).normal(
        0.0, (wish.test_mse or 0.0) ** 0.5, num_rows
    )
    codes = pa.array(np.where(held_out, 2, 0), pa.int8())
    split = pa.DictionaryArray.from_arrays(codes, pa.array(SPLITS))
    columns = [pa.array(np.arange(num_rows)), split, pa.array(truth), pa.array(truth + noise)]
    table = pa.Table.from_arrays(columns, schema=PREDICTIONS_SCHEMA)
    pq.write_table(table, folder / "predictions.parquet")


def write_json(path: Path, value: object) -> None:
    """Writes JSON as runs do, without their flush to the disk."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_toml(path: Path, job: dict[str, Any]) -> None:
    """Writes a job as runs do: what has no value is left out."""
    values = copy.deepcopy(job)
    for table in (values, *(part for part in values.values() if isinstance(part, dict))):
        for key in [key for key, value in table.items() if value is None]:
            del table[key]
    path.write_text(tomli_w.dumps(values))


def make_root(
    root: Path,
    *,
    num_runs: int,
    broken_fraction: float = 0.01,
    seed: int = 0,
    num_jobs: int = 20,
    predictions: bool = False,
) -> None:
    """Writes `num_runs` run folders of a sweep with five seeds a setting, in `num_jobs` jobs."""
    rng = np.random.default_rng(seed)
    settings = [(rate, units, opt) for rate in RATES for units in WIDTHS for opt in OPTIMIZERS]
    for number in range(num_runs):
        rate, units, optimizer = settings[number // 5 % len(settings)]
        loss = 8 + 4 * abs(np.log10(rate) + 2) + (2 if optimizer == "adam" else 0)
        wish = Wish(
            number=number,
            name=f"job{number * num_jobs // num_runs:02d}" if num_jobs > 1 else "housing",
            seed=number % 5,
            learning_rate=rate,
            hidden_units=tuple(units),
            optimizer=optimizer,
            test_mse=float(loss * rng.lognormal(0.0, 0.15)),
            predictions=number % 50 == 0 or predictions,
        )
        draw = rng.random()
        if draw < broken_fraction:
            folder = root / wish.name / wish.run_id
            BREAKAGES[rng.integers(len(BREAKAGES))](folder, wish)
        elif draw < broken_fraction + 0.1:
            write_run(root, wish, UNFINISHED[rng.integers(len(UNFINISHED))])
        else:
            write_run(root, wish)


def _break_report(folder: Path, wish: Wish) -> None:
    write_run(folder.parent.parent, wish)
    report = folder / "report.json"
    report.write_bytes(report.read_bytes()[:2000])


def _break_all(folder: Path, wish: Wish) -> None:
    _break_report(folder, wish)
    for name in ("status.json", "job.toml"):
        (folder / name).write_bytes(b"\x00\xff" * 40)


def _leave_empty(folder: Path, wish: Wish) -> None:
    folder.mkdir(parents=True)


def _leave_job_only(folder: Path, wish: Wish) -> None:
    folder.mkdir(parents=True)
    write_toml(folder / "job.toml", make_job(wish))


def _write_foreign_json(folder: Path, wish: Wish) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "report.json", ["not", "ours"])


def _write_later_format(folder: Path, wish: Wish) -> None:
    write_run(folder.parent.parent, wish)
    write_json(folder / "report.json", {**make_report(wish), "format_version": 99})


def _make_report_a_folder(folder: Path, wish: Wish) -> None:
    (folder / "report.json").mkdir(parents=True)


def _lose_report(folder: Path, wish: Wish) -> None:
    write_run(folder.parent.parent, wish)
    (folder / "report.json").unlink()


def _fall_silent(folder: Path, wish: Wish) -> None:
    write_run(folder.parent.parent, wish, "RUNNING")
    write_json(folder / "status.json", make_status(wish, "RUNNING", updated_at=START))


def _loop_link(folder: Path, wish: Wish) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(folder.name)


def _put_foreign_folder(folder: Path, wish: Wish) -> None:
    odd = folder.with_name(f"notes of {wish.number} <b>é & co")
    odd.mkdir(parents=True)
    (odd / "todo.txt").write_text("nothing")


BREAKAGES: tuple[Callable[[Path, Wish], None], ...] = (
    _break_report,
    _break_all,
    _leave_empty,
    _leave_job_only,
    _write_foreign_json,
    _write_later_format,
    _make_report_a_folder,
    _lose_report,
    _fall_silent,
    _loop_link,
    _put_foreign_folder,
)


def main() -> None:
    """Makes a root from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--broken", type=float, default=0.01)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--predictions", action="store_true")
    wanted = parser.parse_args()
    make_root(
        wanted.root,
        num_runs=wanted.runs,
        broken_fraction=wanted.broken,
        seed=wanted.seed,
        num_jobs=wanted.jobs,
        predictions=wanted.predictions,
    )


if __name__ == "__main__":
    main()
