"""The model a user keeps: raw columns in, target units out, stock layers only.

model = build_export(job.model, features=features, standardization=scale, weights=weights, ...)
save_model(paths.model, model)
predict = load_predictor(paths.model, precision="float32")
y_pred = predict({"CRIM": crim, "ZN": zn})
"""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import ModelConfig
from dnnjob.data.schema import FloatArray
from dnnjob.data.statistics import Standardization
from dnnjob.errors import JobError
from dnnjob.runs import write_file
from dnnjob.training.model import (
    build_dnn,
    build_model,
    build_preprocessing,
    free_name,
    slashes_in_columns,
)

Predictor = Callable[[Mapping[str, FloatArray]], FloatArray]

# Bounds the memory that predicting takes.
_BLOCK_ROWS = 8192


def build_export(
    model: ModelConfig,
    *,
    features: Sequence[str],
    standardization: Standardization,
    weights: Sequence[np.ndarray],
    precision: str,
) -> keras.Model:
    """A Keras model from a dictionary of raw columns to predictions in target units.

    Built outside every strategy, since building it inside one waits for the other tasks.

    Args:
        model: Layers of the network.
        features: Names of its columns, in the order of training.
        standardization: What the columns and the target were scaled by.
        weights: The network's trained weights.
        precision: `devices.precision` of the job.
    """
    preprocessing = build_preprocessing(features, standardization)
    name = free_name("dnn", features)
    dnn = build_dnn(model, num_inputs=len(features), seed=0, precision=precision, name=name)
    dnn.set_weights(list(weights))
    scaled = dnn(preprocessing.output)
    if standardization.mode != "none":
        scaled = keras.layers.Rescaling(
            standardization.target_std,
            standardization.target_mean,
            name=free_name("target_units", features),
        )(scaled)
    return build_model(preprocessing.input, scaled, name="dnnjob")


def save_model(path: Path, model: keras.Model) -> None:
    """Writes a `.keras` file in one step."""
    # Keras chooses the format by the suffix and opens the file itself.
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / f"model-{os.getpid()}.keras"
        model.save(beside)
        content = beside.read_bytes()
    write_file(path, lambda file: file.write(content))


def load_predictor(path: Path, *, precision: str) -> Predictor:
    """What predicts raw columns `(num_rows,)` with a saved model, in target units `(num_rows,)`.

    Args:
        path: A `.keras` file of `save_model`.
        precision: `devices.precision` of the run that trained it.

    Raises:
        JobError: If the file is damaged.
    """
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    try:
        with slashes_in_columns():
            model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise JobError(
            f"Predicting needs the run's model, but {path} cannot be loaded: {told[0]}. "
            "Run the job again; the run's job.toml repeats it."
        ) from error

    def predict(columns: Mapping[str, FloatArray]) -> FloatArray:
        num_rows = len(next(iter(columns.values())))
        y_pred = np.empty(num_rows)
        for start in range(0, num_rows, _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            block = {name: tf.constant(x[rows, None], tf.float32) for name, x in columns.items()}
            y_pred[rows] = model(block, training=False).numpy()[:, 0]
        return y_pred

    return predict
