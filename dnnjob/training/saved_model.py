"""A model of `model.keras` as TensorFlow's SavedModel, for servers that know nothing of Keras.

names = write_saved_model(Path("served"), model)      # the signature's name of each column
"""

import re
from collections.abc import Iterable
from pathlib import Path

import keras
import tensorflow as tf

OUTPUT = "y_pred"


def write_saved_model(folder: Path, model: keras.Model) -> dict[str, str]:
    """Writes a model with one signature, of raw columns `(rows,)` to `y_pred` `(rows,)`.

    Numbers enter as float32 with NaN for missing, texts and ISO dates as strings with "" for
    missing; what comes out is in target units.

    Args:
        folder: A new one.
        model: What `load_keras` gives.

    Returns:
        For each column, by what name the signature takes it.
    """
    names = name_inputs(model.input)
    signature = {
        column: tf.TensorSpec([None], model.input[column].dtype, name=name)
        for column, name in names.items()
    }

    def serve(columns: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = {column: tf.expand_dims(value, 1) for column, value in columns.items()}
        return {OUTPUT: model(inputs, training=False)[:, 0]}

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, input_signature=[signature])
    archive.write_out(str(folder), verbose=False)
    return names


def name_inputs(columns: Iterable[str]) -> dict[str, str]:
    """Names of letters, digits and underscores, each once: those of a signature have no others."""
    names: dict[str, str] = {}
    for column in columns:
        name = re.sub(r"\W", "_", column, flags=re.ASCII)
        name = name if re.match(r"[A-Za-z]", name) else f"column_{name}"
        while name in names.values():
            name += "_"
        names[column] = name
    return names
