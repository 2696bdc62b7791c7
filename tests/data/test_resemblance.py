"""Rows that are alike and columns that go with the target, against counting and NumPy."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from dnnjob.data import resemblance as module
from dnnjob.data.raw_columns import Texts
from dnnjob.data.resemblance import TwinCount, Twins, co_moments, hash_rows, hash_wholes
from dnnjob.data.split import TEST, TRAIN, UNLABELLED, VALIDATION


def test_rows_have_one_hash_where_all_values_are_equal() -> None:
    numbers = np.array([0.0, -0.0, np.nan, np.float64(np.nan) * -1, 1.0, 1.0, 2.0])
    words = Texts.of(["a", "a", None, None, "a", "b", "a"])

    found = hash_rows({"x": numbers, "word": words})

    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len(set(found.tolist())) == 5


def test_many_rows_have_the_hashes_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    numbers = np.where(np.arange(10) % 4 == 0, np.nan, random.standard_normal(10))
    words = [None if number % 3 == 0 else f"word {number % 2}" for number in range(10)]
    alone = [
        hash_rows({"x": numbers[row : row + 1], "word": Texts.of(words[row : row + 1])})[0]
        for row in range(10)
    ]
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)

    found = hash_rows({"x": numbers, "word": Texts.of(words)})

    assert found.tolist() == alone


def test_the_same_values_in_other_columns_are_another_row() -> None:
    one, two = np.array([1.0]), np.array([2.0])

    assert hash_rows({"a": one, "b": two}) != hash_rows({"a": two, "b": one})


def test_twins_in_parts_are_counted_as_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 400, 1000), rng.choice(4, 1000).astype(np.int8)
    hashes = hash_rows({"x": values.astype(float)})

    parts = [
        Twins.of(hashes[first : first + 130], labels[first : first + 130])
        for first in range(0, 1000, 130)
    ]
    found = sum(parts[1:], parts[0]).count()

    train = set(values[labels == TRAIN])
    shared = [int(np.isin(values[labels == one], [*train]).sum()) for one in (VALIDATION, TEST)]
    sizes = Counter(labels.tolist())
    assert sizes[UNLABELLED] > 0
    assert found == TwinCount((shared[0], shared[1]), (sizes[VALIDATION], sizes[TEST]), 1)


def test_of_many_rows_a_sample_is_held_in_which_twins_stay_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MAX_HELD", 500)
    values = np.tile(np.arange(8000.0), 2)
    labels = np.repeat([TRAIN, TEST], 8000).astype(np.int8)
    hashes = hash_rows({"x": values})

    twins, thinned = Twins(), Twins()
    for first in range(0, 16_000, 1000):
        some = hashes[first : first + 1000], labels[first : first + 1000]
        twins += Twins.of(*some)
        thinned += Twins.of(*some, level=thinned.level)

    found = twins.count()
    assert thinned.count() == found
    assert np.array_equal(thinned.hashes, twins.hashes)
    assert np.array_equal(thinned.counts, twins.counts)
    assert found.one_of in (16, 32)
    assert len(twins.hashes) <= 500
    assert found.shared == found.held_out
    assert found.held_out[1] == pytest.approx(8000 / found.one_of, rel=0.25)


def test_correlations_in_parts_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(1e6, 1, 900), rng.normal(size=900)
    y[:300] += x[:300] - 1e6
    x[::5], y[::7] = np.nan, np.nan
    block = {"x": x, "constant": np.ones(900), "word": Texts.of(["a"] * 900), "y": y}

    moments = [
        co_moments(
            {
                name: column if isinstance(column, Texts) else column[part]
                for name, column in block.items()
            },
            "y",
        )
        for part in (slice(0, 1), slice(1, 400), slice(400, 900))
    ]
    found = (moments[0] + moments[1] + moments[2]).correlations(least_rows=20)

    both = ~(np.isnan(x) | np.isnan(y))
    assert found == {"x": pytest.approx(np.corrcoef(x[both], y[both])[0, 1], rel=1e-9)}
    assert moments[1].correlations(least_rows=400) == {}


@pytest.mark.parametrize(
    ("change", "are_different"),
    [
        (lambda ids: ids, True),
        (lambda ids: np.where(np.arange(len(ids)) % 10 == 0, ids[::-1], ids), False),
    ],
)
def test_a_sample_by_value_tells_whether_long_ids_repeat(
    change: Callable[[np.ndarray], np.ndarray], are_different: bool
) -> None:
    ids = change(np.random.default_rng(0).permutation(2_000_000)[:400_000].astype(float))
    parts = [hash_wholes(part) for part in np.split(ids, 4)]

    total = Twins()
    for part in parts:
        assert part is not None
        total += part

    assert total.level > 0
    assert total.are_different is are_different


@pytest.mark.parametrize("values", [[1.0, 2.5], [1.0, np.nan], [1.0, np.inf]])
def test_what_is_no_whole_number_is_no_id(values: list[float]) -> None:
    assert hash_wholes(np.array(values)) is None
