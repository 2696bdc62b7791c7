"""The finite check against NumPy's."""

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.training.finite import all_finite

SHAPES = [(), (7,), (1,), (12, 200), (200, 1), (1, 33)]


def check(arrays: list[np.ndarray], *, xla: bool) -> bool:
    """The check's verdict, compiled as a step compiles it."""
    compiled = tf.function(lambda *tensors: all_finite(tensors), jit_compile=xla, autograph=False)
    return bool(compiled(*map(tf.constant, arrays)))


def make_arrays(scale: float = 1.0) -> list[np.ndarray]:
    """One array of every shape, of both signs."""
    rng = np.random.default_rng(4)
    return [np.asarray(scale * rng.uniform(-1, 1, shape), np.float32) for shape in SHAPES]


@pytest.mark.parametrize("xla", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(len(SHAPES)))
def test_one_element_that_is_not_finite_is_found_wherever_it_is(
    place: int, value: float, xla: bool
) -> None:
    for at in (0, -1):
        arrays = make_arrays()
        arrays[place].reshape(-1)[at] = value

        assert not check(arrays, xla=xla)


@pytest.mark.parametrize("xla", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1.0, 3.4e38])
def test_finite_elements_pass_however_large_or_small(scale: float, xla: bool) -> None:
    assert check(make_arrays(scale), xla=xla)


@pytest.mark.parametrize("xla", [True, False])
def test_infinities_of_both_signs_do_not_cancel(xla: bool) -> None:
    arrays = make_arrays()
    arrays[3][0, 0], arrays[3][0, 1] = np.inf, -np.inf

    assert not check(arrays, xla=xla)
