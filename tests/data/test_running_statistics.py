"""Totals of a stream against NumPy on the whole of it."""

import numpy as np
import pytest

from dnnjob.data.quantiles import QuantileSketch
from dnnjob.data.raw_columns import Texts
from dnnjob.data.running_statistics import (
    NumberTotals,
    Totals,
    add_totals,
    join_totals,
    measure_block,
    measure_column,
)

BLOCK = 4099


def stream(values: np.ndarray) -> NumberTotals:
    parts = [{"x": measure_column(values[at : at + BLOCK])} for at in range(0, len(values), BLOCK)]
    totals = join_totals(parts)["x"]
    assert isinstance(totals, NumberTotals)
    return totals


def make_streams() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "normal": rng.normal(1e6, 1.0, 300_000),
        "skewed": rng.exponential(size=300_000) ** 3,
        "ascending": np.sort(rng.normal(size=300_000)),
        "descending": np.sort(rng.normal(size=300_000))[::-1].copy(),
        "saw": np.tile(np.arange(1000.0), 300),
        "short": rng.normal(size=777),
    }


@pytest.mark.parametrize("name", make_streams())
def test_moments_equal_those_of_the_whole_table(name: str) -> None:
    values = make_streams()[name]

    found = stream(values).statistics()

    assert found.mean == pytest.approx(values.mean(), rel=1e-9)
    assert found.variance == pytest.approx(values.var(), rel=1e-9)
    assert (found.minimum, found.maximum) == (values.min(), values.max())


@pytest.mark.parametrize("name", make_streams())
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.99])
def test_quantiles_err_by_less_than_a_thousandth_of_the_rank(name: str, share: float) -> None:
    values = make_streams()[name]

    found = stream(values).sketch.quantile(share)

    below, upto = (np.searchsorted(np.sort(values), found, side=side) for side in ("left", "right"))
    assert below / len(values) - 1e-3 <= share <= upto / len(values) + 1e-3


def test_the_median_of_few_numbers_is_numpys() -> None:
    for size in (1, 2, 9, 8192):
        values = np.random.default_rng(size).normal(size=size)
        assert QuantileSketch().added(values).quantile(0.5) == np.median(values)


def test_a_sketch_of_nothing_has_no_median_and_stays_small_for_much() -> None:
    sketch = QuantileSketch()
    assert np.isnan(sketch.quantile(0.5))
    for block in np.array_split(np.random.default_rng(0).normal(size=2_000_000), 30):
        sketch += QuantileSketch().added(block)

    assert sum(len(level) for level in sketch.levels) < 100_000
    assert sum(len(held) << level for level, held in enumerate(sketch.levels)) == 2_000_000


def test_gaps_and_infinities_are_counted_and_take_no_part() -> None:
    values = np.array([1.0, np.nan, 3.0, np.inf, -np.inf, np.nan])

    totals = stream(values)

    assert (totals.num_rows, totals.num_missing, totals.num_infinite) == (6, 2, 2)
    assert (totals.mean, totals.minimum, totals.maximum) == (2.0, 1.0, 3.0)


def test_blocks_without_numbers_change_nothing_but_the_counts() -> None:
    empty, full = measure_column(np.full(5, np.nan)), measure_column(np.array([0.1, 0.1]))

    for joined in (add_totals(empty, full), add_totals(full, empty)):
        found = joined.statistics()
        assert (found.num_rows, found.num_missing) == (7, 5)
        assert (found.mean, found.variance) == (0.1, 0.0)
    assert measure_column(np.full(5, np.nan)).statistics().is_empty


def test_texts_are_counted_over_blocks() -> None:
    parts: list[dict[str, Totals]] = [
        {"s": measure_column(Texts.of(texts))} for texts in (["a", "b", None], ["b", "c"])
    ]

    found = join_totals(parts)["s"].statistics()

    assert found.counts == {"a": 1, "b": 2, "c": 1}
    assert (found.num_rows, found.num_missing, found.num_uncounted) == (5, 1, 0)


def test_numbers_and_texts_do_not_add_up() -> None:
    with pytest.raises(TypeError, match="do not add up"):
        add_totals(measure_column(np.zeros(2)), measure_column(Texts.of(["a"])))


def test_columns_measured_together_are_measured_as_each_alone() -> None:
    rng = np.random.default_rng(3)
    gaps = np.where(rng.random(500) < 0.1, np.nan, rng.normal(size=500))
    block = {str(place): rng.normal(place, 3, size=500) for place in range(9)} | {"gaps": gaps}

    together = measure_block(block)

    assert list(together) == list(block)
    for name, values in block.items():
        alone, joint, known = measure_column(values), together[name], values[~np.isnan(values)]
        assert joint.statistics() == alone.statistics()
        assert joint.statistics().median == np.median(known)
        assert joint.statistics().variance == pytest.approx(known.var())
