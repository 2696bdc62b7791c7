"""What the collected table needs of each file of a run, as plain JSON values that a cache can hold.

facts = parse_report(paths.report.read_bytes())
facts["test_mse"], facts["job"]["train.learning_rate"]
"""

import json
import math
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import pydantic_core
from pydantic import ValidationError

from dnnjob.collect.cache import Facts
from dnnjob.collect.record import Scalar
from dnnjob.results.report import FORMAT_VERSION, Report
from dnnjob.runs import Attempt, Record, Status, Submission, attempt_number

# The key of a word KEY=VALUE of a command, which may stand in quotes.
ASSIGNED = re.compile(r"(?:^|\s)'?([a-z_]+(?:\.\w+)+)=")
MAX_INT = 2**63 - 1
TEST_METRICS = ("mse", "rmse", "mae", "r2", "mse_standardized", "median_absolute_error", "mape")
AnyRecord = TypeVar("AnyRecord", bound=Record)


def parse_report(content: bytes) -> Facts:
    """Columns of the table from `report.json`, and the job.

    Raises:
        ValueError: If it is no report, or one of a later format.
    """
    report = _validate(Report, content)
    if report.format_version > FORMAT_VERSION:
        raise ValueError(
            f"its format {report.format_version} is later than {FORMAT_VERSION}, update dnnjob"
        )
    facts = {"state": report.state, **_error_columns(report), **_size_columns(report)}
    facts |= {**_work_columns(report), **_origin_columns(report)}
    chosen = ASSIGNED.findall(report.provenance.command)
    return {**_drop_unfit(facts), "job": dict(_flatten(report.job)), "chosen": chosen}


def parse_status(content: bytes) -> Facts:
    """Columns of the table from `status.json`, with `error`, `progress` and `updated_at`.

    Raises:
        ValueError: If it is no status.
    """
    status = _validate(Status, content)
    done = status.progress
    loss = "" if done.loss is None else f", loss {done.loss:.4g}"
    return {
        "state": status.state,
        "reason": status.reason,
        "error": status.error,
        "progress": f"epoch {done.epoch} of {done.epochs}{loss}" if done.epochs else None,
        "updated_at": _to_text(status.updated_at),
        "attempt": attempt_number(status),
        **_attempt_columns(status.attempts),
    }


def parse_job(content: bytes) -> Facts:
    """Name, seed and dotted keys of `job.toml`.

    Raises:
        ValueError: If it is no TOML, or no UTF-8.
    """
    values = tomllib.loads(content.decode())
    name, seed = values.get("name"), values.get("seed")
    return {
        "name": name if isinstance(name, str) else None,
        "seed": seed if isinstance(seed, int) and _fits(seed) else None,
        "job": dict(_flatten(values)),
    }


def parse_submission(content: bytes) -> Facts:
    """Slurm's job id, sweep and time of `submission.json`, where it names them.

    Raises:
        ValueError: If it is no submission.
    """
    sent = _validate(Submission, content)
    return {
        "slurm_job_id": sent.job_id if sent.executor == "slurm" else None,
        "sweep_id": sent.sweep_id,
        "submitted_at": _to_text(sent.submitted_at.astimezone(UTC)),
        "after_attempt": sent.after_attempt,
    }


def parse_sweep(content: bytes) -> Facts:
    """The run folders that the points of `sweep.json` name, and the keys that they vary.

    Raises:
        ValueError: If it is no JSON object with a list of points.
    """
    points = _load_object(content).get("points")
    if not isinstance(points, list):
        raise ValueError("it has no list of points")
    named = [point.get("run") for point in points if isinstance(point, dict)]
    values = [point.get("values") for point in points if isinstance(point, dict)]
    keys = {key for one in values if isinstance(one, dict) for key in one}
    return {"runs": [run for run in named if isinstance(run, str)], "keys": sorted(keys)}


def _error_columns(report: Report) -> Facts:
    test, baselines = report.metrics.test, report.baselines.test
    facts: Facts = {f"test_{name}": getattr(test, name, None) for name in TEST_METRICS}
    return facts | {
        "validation_mse": getattr(report.metrics.validation, "mse", None),
        "train_mse": getattr(report.metrics.train, "mse", None),
        "baseline_mean_mse": baselines.mean.mse if baselines else None,
        "baseline_linear_mse": baselines.linear.mse if baselines else None,
        "baseline_trees_mse": baselines.trees.mse if baselines and baselines.trees else None,
    }


def _size_columns(report: Report) -> Facts:
    fingerprint = report.data.fingerprint
    return {
        "num_rows": report.data.num_rows,
        "num_features": report.data.num_features,
        "num_trainable_params": report.model.num_trainable_params,
        "data_fingerprint": f"{fingerprint.method}:{fingerprint.value}",
    }


def _work_columns(report: Report) -> Facts:
    strategy = report.strategy
    return {
        "train_s": report.timing_s.train,
        "total_s": report.timing_s.total,
        "rows_per_s": report.throughput.rows_per_s,
        "devices": ", ".join(strategy.devices),
        "num_replicas": strategy.num_replicas,
        "num_tasks": strategy.num_tasks,
    }


def _origin_columns(report: Report) -> Facts:
    origin, seed = report.provenance, report.job.get("seed")
    return {
        **_attempt_columns(origin.attempts),
        "name": report.name,
        "seed": seed if isinstance(seed, int) else None,
        "host": origin.host,
        "num_attempts": len(origin.attempts),
        "started_at": _to_text(origin.started_at),
        "ended_at": _to_text(origin.ended_at),
        "dnnjob_version": origin.dnnjob,
    }


def _attempt_columns(attempts: tuple[Attempt, ...]) -> Facts:
    if not attempts:
        return {"num_attempts": 0}
    first, last = attempts[0], attempts[-1]
    return {
        "num_attempts": len(attempts),
        "host": last.host,
        "slurm_job_id": last.slurm_job_id,
        "started_at": _to_text(first.started_at),
        "ended_at": None if last.ended_at is None else _to_text(last.ended_at),
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Dotted keys with plain values; lists become JSON text, times and NaN their names."""
    for key, value in values.items():
        match value:
            case dict() if prefix or key != "sweep":
                yield from _flatten(value, f"{prefix}{key}.")
            case dict():
                continue
            case str():
                yield sys.intern(prefix + key), sys.intern(value)
            case None | bool() | int() | float():
                yield sys.intern(prefix + key), value if _fits(value) else str(value)
            case _:
                # Thousands of runs share their long lists of features: one text serves all.
                text = json.dumps(value, ensure_ascii=False, default=str)
                yield sys.intern(prefix + key), sys.intern(text)


def _drop_unfit(facts: Facts) -> Facts:
    return {key: value if _fits(value) else None for key, value in facts.items()}


def _fits(value: object) -> bool:
    """Whether a number is finite, and an integer one of 64 bits."""
    match value:
        case int():
            return -MAX_INT <= value <= MAX_INT
        case float():
            return math.isfinite(value)
        case _:
            return True


def _validate(record: type[AnyRecord], content: bytes) -> AnyRecord:
    try:
        return record.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(_describe_fault(error)) from error


def _load_object(content: bytes) -> dict[str, Any]:
    values = pydantic_core.from_json(content)
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    return values


def _describe_fault(error: ValidationError) -> str:
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]


def _to_text(time: datetime) -> str:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()
