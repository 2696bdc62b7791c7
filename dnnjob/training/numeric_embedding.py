"""How numbers enter the network: each as a learned vector of a few units, in stock Keras layers.

embedded = embed_numbers(numbers, embedding, seeds=(1, 2, 3))     # (rows, columns * width)
"""

import math
from collections.abc import Sequence
from typing import Any, assert_never

import keras
import numpy as np
from keras import ops

from dnnjob.data.encoding import NumericEmbedding

NUM_SEEDS = 4
# As RealMLP starts them (arXiv:2407.04491): frequencies N(0, 0.1^2), phases and outputs uniform.
_FREQUENCY_STD, _OUTPUT_LIMIT = 0.1, 0.25


def embed_numbers(
    numbers: Any, embedding: NumericEmbedding, *, seeds: Sequence[int], members: int = 0
) -> Any:
    """The vectors of standardized numbers side by side, `(rows, num_columns * width)`.

    Args:
        numbers: Standardized inputs, `(rows, num_columns)`.
        embedding: Of which kind, and how wide.
        seeds: `NUM_SEEDS` seeds of the initial weights.
        members: Networks whose weights stand beside each other on a leading axis: the vectors are
            `(rows, members, num_columns * width)`; 0 is a single one without that axis.
    """
    match embedding.kind:
        case "piecewise":
            vectors = _piecewise(numbers, embedding, seeds, members)
        case "periodic":
            vectors = _periodic(numbers, embedding, seeds, members)
        case _:
            assert_never(embedding.kind)
    if members:
        return keras.layers.Reshape((members, -1), name="embedded_numbers")(vectors)
    return keras.layers.Flatten(name="embedded_numbers")(vectors)


def _piecewise(
    numbers: Any, embedding: NumericEmbedding, seeds: Sequence[int], members: int
) -> Any:
    """Linear in the number and in how far it is through each bin, `(rows, columns, units)`.

    Version B of rtdl-num-embeddings (arXiv:2203.05556): what the bins add is zero at the start, so
    that training begins with a linear embedding.
    """
    num_columns, units = len(embedding.places), embedding.units
    k, axis = _member_axis(members)
    slopes, offsets, lower, upper = bin_ramps(embedding.edges)
    num_bins = slopes.shape[1]
    # Weights rather than constants: networks of other tables share the compiled call.
    ramps = keras.layers.EinsumDense(
        "bn,ni->bni",
        output_shape=(num_columns, num_bins),
        bias_axes="ni",
        kernel_initializer=keras.initializers.Constant(slopes.tolist()),
        bias_initializer=keras.initializers.Constant(offsets.tolist()),
        trainable=False,
        name="bins",
    )(numbers)
    passed = ops.minimum(ops.maximum(ramps, lower), upper)
    limit = units**-0.5
    linear = keras.layers.EinsumDense(
        f"bn,{k}nu->b{k}nu",
        output_shape=(*axis, num_columns, units),
        bias_axes=f"{k}nu",
        kernel_initializer=_uniform(limit, seeds[0]),
        bias_initializer=_uniform(limit, seeds[1]),
        name="linear_numbers",
    )(numbers)
    pieces = keras.layers.EinsumDense(
        f"bni,{k}niu->b{k}nu",
        output_shape=(*axis, num_columns, units),
        kernel_initializer="zeros",
        name="pieces",
    )(passed)
    return linear + pieces


def _member_axis(members: int) -> tuple[str, tuple[int, ...]]:
    """Letter and size of the axis that tells members apart, where there is one."""
    return ("k", (members,)) if members else ("", ())


def bin_ramps(
    edges: Sequence[Sequence[float]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slope, offset and bounds of the ramp through each bin, float32 `(columns, bins)` each.

    A column of fewer bins than the others is filled up with ramps that are zero throughout.

    Args:
        edges: Ascending edges of each column's bins, two at least.
    """
    shape = len(edges), max(map(len, edges)) - 1
    slopes, offsets, lower, upper = (np.zeros(shape, np.float32) for _ in range(4))
    for column, ends in enumerate(edges):
        widths = np.diff(np.asarray(ends, np.float64))
        num_bins = len(widths)
        slopes[column, :num_bins] = 1.0 / widths
        offsets[column, :num_bins] = -np.asarray(ends[:-1]) / widths
        upper[column, :num_bins] = 1.0
        # Beyond the outermost edges the ramp goes on.
        lower[column, 0], upper[column, num_bins - 1] = -math.inf, math.inf
    return slopes, offsets, lower, upper


def _periodic(numbers: Any, embedding: NumericEmbedding, seeds: Sequence[int], members: int) -> Any:
    """The number, and combinations of cosines of learned frequencies, `(rows, columns, units)`.

    PBLD of RealMLP (arXiv:2407.04491); the factor 2 pi of its frequencies is in the weights.
    """
    num_columns, units = len(embedding.places), embedding.units
    k, axis = _member_axis(members)
    angles = keras.layers.EinsumDense(
        f"bn,{k}ni->b{k}ni",
        output_shape=(*axis, num_columns, embedding.frequencies),
        bias_axes=f"{k}ni",
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=2 * math.pi * _FREQUENCY_STD, seed=seeds[0]
        ),
        bias_initializer=_uniform(math.pi, seeds[1]),
        name="frequencies",
    )(numbers)
    waves = keras.layers.EinsumDense(
        f"b{k}ni,{k}niu->b{k}nu",
        output_shape=(*axis, num_columns, units - 1),
        bias_axes=f"{k}nu",
        kernel_initializer=_uniform(_OUTPUT_LIMIT, seeds[2]),
        bias_initializer=_uniform(_OUTPUT_LIMIT, seeds[3]),
        name="waves",
    )(ops.cos(angles))
    if members:
        numbers = keras.layers.RepeatVector(members, name="numbers_of_members")(numbers)
    return ops.concatenate([ops.expand_dims(numbers, -1), waves], axis=-1)


def _uniform(limit: float, seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomUniform(-limit, limit, seed=seed)
