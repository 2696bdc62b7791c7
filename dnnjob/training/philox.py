"""Uniform numbers as XLA draws them, in plain arithmetic that several networks share a kernel of.

drawn = philox_uniform((64, 200), key)     # bit for bit `stateless_uniform(alg="philox")` in XLA

XLA's own op takes one key: networks on a leading axis, each with a key of its own, would draw one
after the other.
"""

import math

import tensorflow as tf

# Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405:
# Philox 4x32 of ten rounds.
_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
# What turns seeds into a key and a counter is a block of Philox under this key
# (tensorflow/python/ops/random_ops_util.py).
_SCRAMBLING = 0x3EC8F720, 0x02461E29
_HALF, _LOW = 32, 2**32 - 1
# Those of a number that become a float32.
_BITS = 23


def philox_uniform(shape: tuple[int, int], key: tf.Tensor) -> tf.Tensor:
    """Uniform numbers of a key, from 0 to 1.

    Args:
        shape: Of what is drawn.
        key: Two seeds, `(2,)` int64.
    """
    size = math.prod(shape)
    seeds = [tf.cast(seed, tf.uint64) for seed in tf.unstack(key)]
    halves = [half for seed in seeds for half in (seed & _number(_LOW), _upper(seed))]
    *key_words, high, higher = _blocks(halves, [_number(word) for word in _SCRAMBLING])
    count = tf.range(math.ceil(size / 4), dtype=tf.int64)
    blank = tf.zeros_like(count)
    counter = [tf.cast(count, tf.uint64), tf.cast(blank, tf.uint64)]
    words = _blocks([*counter, counter[1] + high, counter[1] + higher], key_words)
    drawn = tf.reshape(tf.stack(words, axis=-1), (-1,))[:size]
    leading = tf.bitwise.right_shift(drawn, _number(32 - _BITS))
    return tf.reshape(tf.cast(leading, tf.float32) * 2.0**-_BITS, shape)


def _blocks(counter: list[tf.Tensor], key: list[tf.Tensor]) -> list[tf.Tensor]:
    """Four numbers below 2**32 of each counter, uint64 as all of it."""
    a, b, c, d = counter
    for number in range(_ROUNDS):
        first, second = (
            _number(factor) * one for factor, one in zip(_MULTIPLIERS, (a, c), strict=True)
        )
        low, high = (
            (word + _number(number * step)) & _number(_LOW)
            for word, step in zip(key, _WEYL, strict=True)
        )
        a, c = _upper(second) ^ b ^ low, _upper(first) ^ d ^ high
        b, d = second & _number(_LOW), first & _number(_LOW)
    return [a, b, c, d]


def _upper(number: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.right_shift(number, _number(_HALF))


def _number(value: int) -> tf.Tensor:
    return tf.constant(value % 2**64, tf.uint64)
