"""The points of a sweep: the product of the lists in a job's `[sweep]`.

for point in make_points(job): print(point.values, point.job.train.learning_rate)
"""

import itertools
from dataclasses import dataclass
from typing import Any

from dnnjob.config.job import JobConfig
from dnnjob.config.overrides import resolve_job, set_key
from dnnjob.errors import JobError


@dataclass(frozen=True)
class Point:
    """One job of a sweep and the values that set it apart."""

    values: dict[str, Any]
    job: JobConfig


def make_points(job: JobConfig) -> tuple[Point, ...]:
    """One point for each combination of the swept values, the last key fastest; else one.

    Raises:
        JobError: If a swept key or value is invalid, or a list is empty.
    """
    for key, values in job.sweep.items():
        if not values:
            raise JobError(
                f"A sweep's key needs values, but sweep.{key} is an empty list. "
                "Give it at least one value, or leave it out."
            )
    return tuple(
        _make_point(job, dict(zip(job.sweep, values, strict=True)))
        for values in itertools.product(*job.sweep.values())
    )


def _make_point(job: JobConfig, values: dict[str, Any]) -> Point:
    nested = job.model_dump(exclude={"sweep"}, exclude_none=True)
    for key, value in values.items():
        set_key(nested, key, value)
    setting = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return Point(values, resolve_job(nested, origin=f"The sweep's point {setting or job.name}"))
