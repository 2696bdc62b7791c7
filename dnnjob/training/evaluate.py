"""Predictions of every row, in blocks.

predict = make_predictor(stack.networks)
y_pred = predict(x)                # standardized, float64, (num_networks, num_rows)
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dnnjob.training.model import forward
from dnnjob.training.network import Network

RowPredictor = Callable[[Any], npt.NDArray[np.float64]]

# Rows of one matrix product; bounds memory. A whole multiple of every vector width, so that a
# row's prediction does not depend on the block it falls in.
_BLOCK_ROWS = 8192


def make_predictor(networks: Sequence[Network]) -> RowPredictor:
    """Standardized predictions `(num_networks, num_rows)` for standardized inputs, traced once.

    Args:
        networks: Of one shape.
    """
    with networks[0].present() as state:
        predict_block = _trace(networks[0].seat.dnn, state.weights)

    def predict(x: Any) -> npt.NDArray[np.float64]:
        starts = range(0, len(x), _BLOCK_ROWS)
        predicted = np.empty((len(networks), len(x)))
        for place, network in enumerate(networks):
            with network.present() as state:
                for start in starts:
                    rows = slice(start, start + _BLOCK_ROWS)
                    predicted[place, rows] = predict_block(
                        state.weights, tf.constant(x[rows])
                    ).numpy()
        return predicted

    return predict


def _trace(dnn: keras.Sequential, weights: Sequence[tf.Variable]) -> Callable[..., tf.Tensor]:
    def predict(weights: Sequence[tf.Variable], rows: tf.Tensor) -> tf.Tensor:
        with keras.StatelessScope(
            state_mapping=list(zip(dnn.trainable_variables, weights, strict=True))
        ):
            return forward(dnn, rows)

    traced: Callable[..., tf.Tensor] = tf.function(predict, autograph=False).get_concrete_function(
        weights, tf.TensorSpec((None, dnn.input_shape[-1]), tf.float32)
    )
    return traced
