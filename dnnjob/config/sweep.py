"""The points of a sweep: the product of the lists in a job's `[sweep]`, or what a search draws.

for point in make_points(job): print(point.values, point.job.train.learning_rate)
"""

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from dnnjob.config.job import JobConfig
from dnnjob.config.overrides import get_key, resolve_job, set_key
from dnnjob.config.search import Range, draw_settings
from dnnjob.errors import JobError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One job of a sweep and the values that set it apart, None where it leaves a key out."""

    values: dict[str, Any]
    job: JobConfig


def make_points(job: JobConfig) -> tuple[Point, ...]:
    """One point for each combination of the swept values, the last key fastest; else one.

    A job with `search.points` has those of the search instead; with `search.start` it is itself the
    first of them.

    Raises:
        JobError: If a swept key or value is invalid, or a list is empty or repeats a value.
    """
    for key, values in job.sweep.items():
        if not isinstance(values, Range) and not values:
            raise JobError(
                f"A sweep's key needs values, but sweep.{key} is an empty list. "
                "Give it at least one value, or leave it out."
            )
        if not isinstance(values, Range):
            _refuse_repeated(key, values)
        if key.partition(".")[0] in ("name", "sweep", "search"):
            raise JobError(
                f"A sweep gives the keys of one job other values, but sweep.{key} is none of "
                "those. Leave it out."
            )
    points = tuple(_points(job))
    asked = job.search.points
    if asked is not None and len(points) < asked:
        logger.info(
            "The search asks for %d points, but there are %d: all of them are run.",
            asked,
            len(points),
        )
    if job.search.halving is not None:
        for point in points:
            _refuse_halving(point, job.search.halving, of_many=len(points) > 1)
    return points


def _points(job: JobConfig) -> Iterator[Point]:
    points = (_make_point(job, setting) for setting in _settings(job))
    if not job.search.start:
        yield from points
        return
    start = _make_start(job)
    yield start
    others = (point for point in points if point.job != start.job)
    most = None if job.search.points is None else job.search.points - 1
    yield from itertools.islice(others, most)


def _make_start(job: JobConfig) -> Point:
    held = job.model_dump(mode="json", exclude={"sweep", "search"}, exclude_none=True)
    values = {key: get_key(held, key) for key in job.sweep}
    origin = "The job as it stands, which search.start makes the first point,"
    return Point(values, resolve_job(held, origin=origin))


def _settings(job: JobConfig) -> Iterable[dict[str, Any]]:
    if job.search.points is not None:
        return draw_settings(job.sweep, num_points=job.search.points, seed=job.seed)
    products = itertools.product(*map(_listed, job.sweep.items()))
    return (dict(zip(job.sweep, values, strict=True)) for values in products)


def _refuse_halving(point: Point, halving: int, *, of_many: bool) -> None:
    """Raises where points cannot be told apart early.

    Raises:
        JobError: If so.
    """
    job, rule = point.job, f"search.halving = {halving}"
    if not of_many:
        raise JobError(f"{rule} compares points, but there is one. Sweep a key, or leave it out.")
    if not job.may_validate:
        raise JobError(
            f"{rule} goes by the validation loss, but data.validation_fraction is 0. Set "
            'data.validation_fraction = 0.2, or model.members with model.bagging = "folds", or '
            "leave halving out."
        )
    if job.train.epochs < halving**2:
        raise JobError(
            f"{rule} compares points after 1/{halving**2} and 1/{halving} of the epochs, but "
            f"train.epochs is {job.train.epochs}. Give {halving**2} or more, or leave halving out."
        )
    if "train.epochs" in point.values:
        raise JobError(
            f"{rule} compares points after equally many epochs, but sweep.train.epochs varies "
            "them. Leave one of the two out."
        )
    if job.devices.tasks > 1:
        raise JobError(
            f"{rule} is for runs of one task, but devices.tasks is {job.devices.tasks}. Leave one "
            "of the two out."
        )


def _refuse_repeated(key: str, values: tuple[Any, ...]) -> None:
    """Raises where a list has a value twice: its points would be the same run again."""
    for place, value in enumerate(values):
        # 1 and true are equal in Python and differ in TOML.
        if any(value == one and type(value) is type(one) for one in values[:place]):
            raise JobError(
                f"The points of a sweep differ, but sweep.{key} has {value!r} more than once. "
                "Leave the repetition out; other seeds of a point are made by sweeping seed, too."
            )


def _listed(item: tuple[str, tuple[Any, ...] | Range]) -> tuple[Any, ...]:
    key, values = item
    if isinstance(values, Range):
        raise JobError(
            f"A sweep is the product of lists, but sweep.{key} is a range. Set "
            "search.points, which draws from it, or give it a list."
        )
    return values


def _make_point(job: JobConfig, values: dict[str, Any]) -> Point:
    nested = job.model_dump(exclude={"sweep", "search"}, exclude_none=True)
    for key, value in values.items():
        set_key(nested, key, value)
    setting = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return Point(values, resolve_job(nested, origin=f"The sweep's point {setting or job.name}"))
