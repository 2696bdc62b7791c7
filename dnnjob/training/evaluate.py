"""Predictions of every row, in blocks.

predict = make_predictor(stack.networks)
y_pred = predict(x)                # standardized, float64, (num_networks, num_rows)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

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
    predict_block = networks[0].seat.predict

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
