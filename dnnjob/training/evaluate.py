"""Predictions of every row, in blocks.

y_pred = predict_rows(dnn, x, kept=kept)      # standardized, float64
"""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dnnjob.training.model import forward
from dnnjob.training.predicted import PredictionKeeper

# Rows of one matrix product; bounds memory. A whole multiple of every vector width, so that a
# row's prediction does not depend on the block it falls in.
_BLOCK_ROWS = 8192


def predict_rows(
    dnn: keras.Sequential, x: Any, *, kept: PredictionKeeper
) -> npt.NDArray[np.float64]:
    """Standardized predictions `(num_rows,)` for standardized inputs `(num_rows, num_inputs)`.

    Raises:
        StoppedError: If a signal asked for it; a later attempt predicts the rest.
    """
    compiled = tf.function(
        lambda rows: forward(dnn, rows),
        input_signature=[tf.TensorSpec((None, dnn.input_shape[-1]), tf.float32)],
        autograph=False,
    )
    blocks = [kept.restore(dnn, len(x))]
    for start in range(len(blocks[0]), len(x), _BLOCK_ROWS):
        blocks.append(compiled(x[start : start + _BLOCK_ROWS]).numpy())
        kept.keep(blocks)
    return np.concatenate(blocks, dtype=np.float64)
