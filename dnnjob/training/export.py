"""The model a user keeps: raw columns in, target units out, stock layers only.

export_model(paths.model, job=job, features=features, statistics=statistics, weights=weights)
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from dnnjob.config import ModelConfig
from dnnjob.data.statistics import Standardization
from dnnjob.runs import write_file
from dnnjob.training.model import build_dnn, build_preprocessing


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
    dnn = build_dnn(model, num_inputs=len(features), seed=0, precision=precision)
    dnn.set_weights(list(weights))
    scaled = dnn(preprocessing.output)
    if standardization.mode != "none":
        scaled = keras.layers.Rescaling(
            standardization.target_std, standardization.target_mean, name="target_units"
        )(scaled)
    return keras.Model(preprocessing.input, scaled, name="dnnjob")


def save_model(path: Path, model: keras.Model) -> None:
    """Writes a `.keras` file in one step."""
    # Keras chooses the format by the suffix and opens the file itself.
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / f"model-{os.getpid()}.keras"
        model.save(beside)
        content = beside.read_bytes()
    write_file(path, lambda file: file.write(content))
