"""Uniform numbers in plain arithmetic against XLA's own."""

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.training.dropout import draw_uniform
from dnnjob.training.philox import philox_uniform

KEYS = [[3, 5], [0, 0], [2**32 - 1, 1024 * 77 + 1], [2**40 + 7, 2**33 + 9]]


@pytest.mark.parametrize("shape", [(5, 7), pytest.param((64, 8), marks=pytest.mark.long)])
def test_each_network_of_a_stack_draws_what_xla_draws_for_it_alone(shape: tuple[int, int]) -> None:
    keys = tf.constant(KEYS, tf.int64)
    alone = tf.function(lambda key: draw_uniform(shape, key), jit_compile=True, autograph=False)

    drawn = tf.vectorized_map(lambda key: philox_uniform(shape, key), keys)

    for key, numbers in zip(keys, drawn, strict=True):
        np.testing.assert_array_equal(numbers, alone(key))
