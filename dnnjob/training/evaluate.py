"""Predictions of every row, in blocks.

y_pred = predict_rows(dnn, x)      # standardized, float64
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dnnjob.training.model import forward

RowPredictor = Callable[[Any], npt.NDArray[np.float64]]

# Rows of one matrix product; bounds memory. A whole multiple of every vector width, so that a
# row's prediction does not depend on the block it falls in.
_BLOCK_ROWS = 8192


def predict_rows(dnn: keras.Sequential, x: Any) -> npt.NDArray[np.float64]:
    """Standardized predictions `(num_rows,)` for standardized inputs `(num_rows, num_inputs)`."""
    return make_predictor(dnn)(x)


def make_predictor(dnn: keras.Sequential) -> RowPredictor:
    """`predict_rows` of one network, traced once for all calls."""
    predict_block = _trace(dnn)

    def predict(x: Any) -> npt.NDArray[np.float64]:
        starts = range(0, len(x), _BLOCK_ROWS)
        blocks = [predict_block(x[start : start + _BLOCK_ROWS]).numpy() for start in starts]
        return np.concatenate(blocks, dtype=np.float64)

    return predict


def _trace(dnn: keras.Sequential) -> Callable[[Any], tf.Tensor]:
    traced: Callable[[Any], tf.Tensor] = tf.function(
        lambda rows: forward(dnn, rows),
        input_signature=[tf.TensorSpec((None, dnn.input_shape[-1]), tf.float32)],
        autograph=False,
    )
    return traced
