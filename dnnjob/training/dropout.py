"""Dropout masks of the global batch, of which each replica draws its own rows alone.

masks = draw_masks(units, values=values, stream=stream, replica=replica, num_replicas=2, rows=32)
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from dnnjob.training.hyperparameters import Hyperparameters

_MAX_LAYERS = 1024

Draw = Callable[[tuple[int, int], tf.Tensor], tf.Tensor]
"""From a shape and a key, `(2,)` int64, to uniform numbers."""


def draw_uniform(shape: tuple[int, int], key: tf.Tensor) -> tf.Tensor:
    """Uniform numbers of a key, from 0 to 1."""
    return tf.random.stateless_uniform(shape, seed=key, alg="philox")


def draw_masks(
    layer_units: Sequence[int],
    *,
    values: Hyperparameters,
    stream: tf.Tensor,
    replica: tf.Tensor,
    num_replicas: int,
    rows: int,
    draw: Draw = draw_uniform,
) -> list[tf.Tensor]:
    """A replica's rows of the masks of the global batch, `(rows, units)` for each layer.

    Args:
        layer_units: Width of each dropout layer.
        values: With the share of the inputs that are dropped, and the scale of the others, which
            keeps their mean.
        stream: Seed and number of the step, `(2,)` int64.
        replica: Number of the replica.
        num_replicas: Replicas of the batch.
        rows: Rows of each.
        draw: Draws the numbers of a single replica.
    """
    seed, step = tf.unstack(stream)
    masks = []
    for layer, units in enumerate(layer_units):
        key = tf.stack([seed, step * _MAX_LAYERS + layer])
        if num_replicas == 1:
            drawn = draw((rows, units), key)
        else:
            drawn = _draw_rows(key, replica, rows=rows, units=units)
        masks.append(tf.cast(drawn >= values.dropout_rate, tf.float32) * values.kept_scale)
    return masks


def _draw_rows(key: tf.Tensor, replica: tf.Tensor, *, rows: int, units: int) -> tf.Tensor:
    """A replica's rows of the global batch's uniform numbers, without drawing the others.

    Philox makes four numbers of each count, in order, so those from the nth on begin at count
    n // 4.
    """
    size = rows * units
    first = tf.cast(replica, tf.int64) * size
    keys, count = tf.raw_ops.StatelessRandomGetKeyCounter(seed=key)
    count += tf.stack([tf.cast(first // 4, tf.uint64), tf.constant(0, tf.uint64)])
    shape = [4 * math.ceil((size + 3) / 4)]
    # 1 is Philox.
    drawn = tf.raw_ops.StatelessRandomUniformV2(shape=shape, key=keys, counter=count, alg=1)
    return tf.reshape(tf.slice(drawn, [first % 4], [size]), (rows, units))
