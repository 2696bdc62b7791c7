"""Points of a search: drawn evenly from the lists and ranges of a job's `[sweep]`.

settings = draw_settings(job.sweep, num_points=60, seed=job.seed)
settings[0]["train.learning_rate"]
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from dnnjob.config.section import Section
from dnnjob.errors import JobError

if TYPE_CHECKING:
    import numpy as np

# scipy's Sobol sequence has directions for so many dimensions, and so many points of 30 bits.
_MAX_KEYS, _MAX_DRAWN_LOG2 = 21_201, 20
Number = Annotated[float, Field(allow_inf_nan=False)]


class SearchConfig(Section):
    """Instead of the product of a sweep's lists, points drawn from its lists and ranges."""

    points: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Points drawn, by a scrambled Sobol sequence that the job's seed keys: a larger search begins
    with the points of a smaller one. Default: no search, but the product of the lists."""
    start: bool = Field(default=False, exclude_if=lambda is_asked: not is_asked)
    """Whether the first point is the job as it stands, beside those of the sweep."""
    halving: Annotated[int, Field(ge=2, le=10)] | None = None
    """Successive halving, with 3: the third of the points whose validation loss is least goes on
    after a ninth of the epochs, and a third of these after a third; the others end there. Points of
    a task are compared with each other. It needs validation rows or folds, and nine epochs.
    Default: all points train to their end."""


class Range(Section):
    """The numbers from `low` to `high`, both included; integers where both are."""

    low: int | Number
    """The least."""
    high: int | Number
    """The largest."""
    log: bool = False
    """Whether equal ratios are equally likely, not equal differences."""
    step: int | Number | None = None
    """Distance of the numbers from `low` on. Default: all of them."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(
                f"A range goes up, but its low is {self.low} and its high {self.high}. Give low "
                "below high, or a list of one value."
            )
        if self.log and self.low <= 0:
            raise ValueError(
                f"A range with log = true lies above zero, but its low is {self.low}. Raise low, "
                "or leave log out."
            )
        if self.step is not None and (self.log or not 0 < self.step <= self.high - self.low):
            raise ValueError(
                f"A step is a distance above 0 within a range without log, but it is {self.step} "
                f"from {self.low} to {self.high}{', with log' if self.log else ''}. Change step, "
                "or leave it out."
            )
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are integers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def num_values(self) -> float:
        """How many different numbers it has; infinite where they are not counted."""
        if self.step is not None:
            return self._last_step + 1
        return self.high - self.low + 1 if self.is_whole else math.inf

    @property
    def _last_step(self) -> int:
        # A high that lies on a step counts, however its decimals round.
        return math.floor((self.high - self.low) / (self.step or 1) * (1 + 1e-12) + 1e-9)

    def value(self, share: float) -> float:
        """The number that `share` of the range, in [0, 1), lies below."""
        if self.step is not None:
            number = self.low + self.step * math.floor(share * (self._last_step + 1))
            return number if self.is_whole else float(f"{number:.12g}")
        # An integer stands for what rounds to it, so that the ends are as likely as the others.
        margin = 0.5 if self.is_whole else 0.0
        low, high = self.low - margin, self.high + margin
        number = low * (high / low) ** share if self.log else low + (high - low) * share
        if self.is_whole:
            return min(max(round(number), int(self.low)), int(self.high))
        # Six digits: what a person types to repeat the run.
        return min(max(float(f"{number:.6g}"), self.low), self.high)


Swept = Mapping[str, tuple[Any, ...] | Range]


def draw_settings(sweep: Swept, *, num_points: int, seed: int) -> list[dict[str, Any]]:
    """Different settings of the swept keys, spread evenly over all of them.

    Setting `i` depends on the sweep and the seed alone, so that a larger search continues a smaller
    one. After Sobol, scrambled by Owen's method (doi:10.1016/S0885-064X(98)90487-1).

    Args:
        sweep: Lists and ranges by key; no list is empty.
        num_points: Settings wanted; all there are where they are fewer.
        seed: Of the scrambling.

    Raises:
        JobError: If nothing is swept, or too many keys are.
    """
    if not 0 < len(sweep) <= _MAX_KEYS:
        raise JobError(
            f"A search draws from the keys of [sweep], 1 to {_MAX_KEYS:,}, but there are "
            f"{len(sweep)}. Name them in [sweep], or leave [search] out."
        )
    num_settings = math.prod(_num_values(values) for values in sweep.values())
    if num_settings <= num_points:
        num_points = int(num_settings)
    settings: dict[str, dict[str, Any]] = {}
    for shares in _sobol(len(sweep), at_least=num_points, seed=seed):
        setting = {
            key: _value(values, float(share))
            for (key, values), share in zip(sweep.items(), shares, strict=True)
        }
        settings.setdefault(repr(setting), setting)
        if len(settings) == num_points:
            break
    return list(settings.values())


def _sobol(num_keys: int, *, at_least: int, seed: int) -> "Iterator[np.ndarray]":
    """Points of the unit cube, `(num_keys,)` each, as many as there are."""
    # Only a search needs them: the other verbs start without.
    import numpy as np
    from scipy.stats import qmc  # type: ignore[import-untyped]

    sequence = qmc.Sobol(num_keys, scramble=True, rng=np.random.default_rng(seed))
    log2 = max(3, math.ceil(math.log2(at_least)))
    # Powers of two keep the balance of the sequence: without them scipy warns.
    yield from sequence.random_base2(log2)
    for doubled in range(log2, _MAX_DRAWN_LOG2):
        yield from sequence.random_base2(doubled)


def _num_values(values: tuple[Any, ...] | Range) -> float:
    return values.num_values if isinstance(values, Range) else len(set(map(repr, values)))


def _value(values: tuple[Any, ...] | Range, share: float) -> Any:
    if isinstance(values, Range):
        return values.value(share)
    return values[min(int(share * len(values)), len(values) - 1)]
