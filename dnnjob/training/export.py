"""The model a user keeps: raw columns in, target units out, stock layers only.

model = build_export(job.model, encoding=encoding, weights=[weights], precision="float32")
save_model(paths.model, model)
predict = load_predictor(paths.model, kinds, precision="float32")
predict({"sex": Texts.of(["M", "F"]), "length": np.array([0.4, 0.5])}).y_pred
"""

import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import ModelConfig
from dnnjob.data.encoding import MISSING, Encoding, FeatureKind
from dnnjob.data.raw_columns import Block, FloatArray, RawColumn, Texts, take_rows
from dnnjob.data.schema import listed
from dnnjob.errors import JobError, first_line
from dnnjob.latest import Latest
from dnnjob.runs import write_bytes
from dnnjob.training.column_models import columns_as_inputs
from dnnjob.training.encoder import (
    build_encoder,
    build_model,
    build_readers,
    free_name,
)
from dnnjob.training.model import build_encoded_dnn
from dnnjob.training.stacked_model import build_stacked_dnn


class Prediction(NamedTuple):
    """Predictions of some rows, target units.

    Attributes:
        y_pred: Of the model, `(num_rows,)`.
        y_std: Standard deviation of its members' predictions, likewise; None of a single network.
    """

    y_pred: FloatArray
    y_std: FloatArray | None


Predictor = Callable[[Block], Prediction]

# Bounds the memory that predicting takes.
_BLOCK_ROWS = 8192
# Keras takes 3 ms to load each on an idle core.
_MEASURED_INPUTS = 256


def build_export(
    model: ModelConfig,
    *,
    encoding: Encoding,
    weights: Sequence[Sequence[np.ndarray]],
    precision: str,
) -> keras.Model:
    """A Keras model from a dictionary of raw columns to predictions in target units.

    Built outside every strategy, since building it inside one waits for the other tasks.

    Args:
        model: Layers of the network.
        encoding: How the columns became its inputs.
        weights: Trained weights of each network; the model is the mean of their predictions.
        precision: `devices.precision` of the job.
    """
    names = [column.name for column in encoding.columns]
    inputs, numbers = build_readers(encoding)
    encoded = build_encoder(encoding, name=free_name("encoder", names))(numbers)
    dnn_name, several = free_name("dnn", names), len(weights) > 1
    if several:
        dnn = build_stacked_dnn(
            model, encoding, weights=weights, precision=precision, name=dnn_name
        )
    else:
        dnn = build_encoded_dnn(model, encoding, seed=0, precision=precision, name=dnn_name)
        dnn.set_weights(list(weights[0]))
    predicted = dnn(encoded)
    target = encoding.target
    if encoding.mode != "none" or target.transform != "none" or target.bounds is not None:
        restore = _build_restore(encoding, predicted, name=free_name("target_units", names))
        predicted = restore(predicted)
    if several:
        predicted = keras.layers.GlobalAveragePooling1D(name=free_name("mean", names))(predicted)
    return build_model(inputs, predicted, name="dnnjob")


def _build_restore(encoding: Encoding, predicted: Any, *, name: str) -> keras.layers.Layer:
    """What turns the network's output into target units."""
    target = encoding.target
    scaling = keras.layers.Rescaling(target.std, target.mean, name=name)
    if target.transform == "none" and target.bounds is None:
        return scaling
    output = keras.Input(predicted.shape[1:], name="output")
    y = scaling(output)
    if target.transform == "log1p":
        y = keras.ops.expm1(y)
    if target.bounds is not None:
        y = keras.ops.clip(y, *target.bounds)
    return keras.Model(output, y, name=name)


@dataclass(frozen=True, eq=False)
class _Exported:
    """A model that an earlier run of this process has saved.

    Attributes:
        layers: The network but for the rates of its dropout.
        encoding: How the columns became its inputs.
        precision: `devices.precision` of the job.
        model: From raw columns.
    """

    layers: ModelConfig
    encoding: Encoding
    precision: str
    model: keras.Model

    def fits(self, layers: ModelConfig, encoding: Encoding, precision: str) -> bool:
        """Whether it is that of such a network but for its weights."""
        mine = self.layers, self.encoding, self.precision
        return mine == (layers, encoding, precision)

    def take(self, model: ModelConfig, weights: Sequence[np.ndarray]) -> keras.Model:
        """The model with other weights, and other rates of dropout."""
        (dnn,) = (one for one in self.model.layers if isinstance(one, keras.Sequential))
        dnn.set_weights(list(weights))
        for layer in dnn.layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = model.dropout_rate
        return self.model


# Points of a search come by turns to models of few shapes.
_exported = Latest[_Exported](most=8)
_MOST_KEPT_PARAMS = 2**20


def build_next_export(
    model: ModelConfig,
    *,
    encoding: Encoding,
    weights: Sequence[Sequence[np.ndarray]],
    precision: str,
) -> keras.Model:
    """As `build_export`, in little of its time where a run before had such a network.

    It is good until the next call, which may give it other weights.
    """
    if len(weights) > 1:
        return build_export(model, encoding=encoding, weights=weights, precision=precision)
    shape = model.model_dump(exclude={"l2", "members", "bagging"})
    layers = ModelConfig(**shape | {"dropout_rate": 0.5 if model.dropout_rate else 0.0})
    before = _exported.find(lambda one: one.fits(layers, encoding, precision))
    if before is not None:
        return before.take(model, weights[0])
    made = build_export(model, encoding=encoding, weights=weights, precision=precision)
    if made.count_params() <= _MOST_KEPT_PARAMS:
        _exported.keep(_Exported(layers, encoding, precision, made))
    return made


@dataclass(frozen=True)
class SavedModel:
    """What a saved model takes.

    Attributes:
        file_mb: Size of the file, MiB.
        load_s: Seconds to load it; None where that was not measured.
    """

    file_mb: float
    load_s: float | None


def save_model(path: Path, model: keras.Model, *, is_to_be_loaded: bool = False) -> SavedModel:
    """Writes a `.keras` file in one step.

    Args:
        path: The file.
        model: Of raw columns.
        is_to_be_loaded: Whether to load it again, to see for how long; not from so many columns
            on that the run would wait for it.
    """
    # Keras chooses the format by the suffix and opens the file itself.
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder) / f"model-{os.getpid()}.keras"
        model.save(beside)
        content = beside.read_bytes()
    write_bytes(path, content)
    load_s = None
    if is_to_be_loaded and len(model.inputs) <= _MEASURED_INPUTS:
        began = time.perf_counter()
        with columns_as_inputs():
            keras.models.load_model(path, compile=False, safe_mode=True)
        load_s = time.perf_counter() - began
    return SavedModel(len(content) / 2**20, load_s)


def load_predictor(path: Path, kinds: Mapping[str, FeatureKind], *, precision: str) -> Predictor:
    """What predicts raw columns `(num_rows,)` with a saved model.

    Args:
        path: A `.keras` file of `save_model`.
        kinds: What its columns hold.
        precision: `devices.precision` of the run that trained it.

    Raises:
        JobError: If the file is damaged.
    """
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    model = load_keras(path)
    _check_inputs(path, model, kinds)
    # What the last layer of several networks takes is what each of them predicts.
    of_members = isinstance(model.layers[-1], keras.layers.GlobalAveragePooling1D)
    if of_members:
        model = keras.Model(model.input, [model.output, model.layers[-1].input])

    def predict(block: Block) -> Prediction:
        num_rows = len(next(iter(block.values())))
        y_pred, y_std = np.empty(num_rows), np.empty(num_rows) if of_members else None
        for start in range(0, num_rows, _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            part = take_rows(block, rows)
            inputs = {name: as_input(part[name], kind) for name, kind in kinds.items()}
            predicted = model(inputs, training=False)
            if y_std is not None:
                predicted, each = predicted
                y_std[rows] = each.numpy()[:, :, 0].std(axis=1, dtype=np.float64)
            y_pred[rows] = predicted.numpy()[:, 0]
        return Prediction(y_pred, y_std)

    return predict


def load_keras(path: Path) -> keras.Model:
    """A model of `save_model`.

    Raises:
        JobError: If the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        raise JobError(
            f"Predicting needs the run's model, but {path} is damaged: its {path.stat().st_size:,} "
            "bytes are no whole .keras file. Run the job again; the run's job.toml repeats it."
        )
    try:
        with columns_as_inputs():
            return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(
            f"Predicting needs the run's model, but {path} cannot be loaded: {first_line(error)}. "
            "Run the job again; the run's job.toml repeats it."
        ) from error


def _check_inputs(path: Path, model: keras.Model, kinds: Mapping[str, FeatureKind]) -> None:
    """Refuses a model of other columns than the run's, which somebody has put there."""
    taken = set(model.input) if isinstance(model.input, dict) else set(model.input_names)
    lacking, further = sorted(set(kinds) - taken), sorted(taken - set(kinds))
    if lacking or further or model.output_shape[1:] != (1,):
        differences = [
            *([f"it does not take {listed(lacking)}"] if lacking else []),
            *([f"it takes {listed(further)}"] if further else []),
        ]
        raise JobError(
            f"Predicting needs the run's own model, but {path} is another one: "
            f"{' and '.join(differences) or 'it gives no single number'}. Put the run's file back, "
            "or run the job again; the run's job.toml repeats it."
        )


def as_input(column: RawColumn, kind: FeatureKind) -> tf.Tensor:
    """Raw values as the exported model takes them, `(rows, 1)`."""
    if isinstance(column, Texts):
        dtype = tf.float32 if kind == "codes" else tf.string
        missing = np.nan if kind == "codes" else MISSING
        values = (
            np.array([*map(float, column.values), missing])
            if kind == "codes"
            else np.array([*column.values, missing], dtype=object)
        )
        return tf.constant(values[column.codes][:, None], dtype)
    if kind == "datetime":
        dates = np.datetime_as_string(np.nan_to_num(column).astype("datetime64[s]")).astype(object)
        return tf.constant(np.where(np.isnan(column), MISSING, dates)[:, None], tf.string)
    return tf.constant(column[:, None], tf.float32)
