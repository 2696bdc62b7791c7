"""The dense network and the preprocessing in front of it, as Keras models of stock layers.

dnn = build_dnn(job.model, num_inputs=12, seed=0, precision="float32")
preprocessing = build_preprocessing(("CRIM", "ZN"), mean=mean, std=std)
"""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import ModelConfig
from dnnjob.data.order import weight_seeds
from dnnjob.data.schema import FloatArray
from dnnjob.data.statistics import Standardization

_POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16"}


def build_dnn(
    model: ModelConfig, *, num_inputs: int, seed: int, precision: str, name: str = "dnn"
) -> keras.Sequential:
    """The untrained network from standardized inputs to one standardized output.

    Kernels start Glorot-uniform, as Keras's default, biases at zero.

    Args:
        model: Layers, activation and dropout.
        num_inputs: Inputs of a row, > 0.
        seed: Seed of the initial weights.
        precision: `devices.precision` of the job.
        name: Keras's name of the network.
    """
    seeds = iter(weight_seeds(seed, count=len(model.hidden_units) + 1))
    layers: list[keras.layers.Layer] = [keras.Input((num_inputs,), name="features")]
    for number, units in enumerate(model.hidden_units, start=1):
        dense = _dense_name(number - 1)
        layers.append(_dense(dense, units, model.activation, next(seeds), _POLICIES[precision]))
        if model.dropout_rate:
            layers.append(keras.layers.Dropout(model.dropout_rate, name=f"dropout_{number}"))
    # The output stays float32 in every precision: the loss is a difference of near numbers.
    dense = _dense_name(len(model.hidden_units))
    layers.append(_dense(dense, 1, "linear", next(seeds), "float32"))
    return keras.Sequential(layers, name=name)


def forward(dnn: keras.Sequential, x: tf.Tensor, *, masks: Sequence[tf.Tensor] = ()) -> tf.Tensor:
    """Standardized predictions of the network, shape `(rows,)`.

    Args:
        dnn: The network.
        x: Standardized inputs, `(rows, num_inputs)`.
        masks: In training, what each dropout layer's inputs are multiplied by, `(rows, units)`;
            without them dropout is the identity, as in prediction.
    """
    remaining = iter(masks)
    for layer in dnn.layers:
        if isinstance(layer, keras.layers.Dropout):
            x = x * tf.cast(next(remaining), x.dtype) if masks else x
        else:
            x = layer(x)
    return tf.cast(x[:, 0], tf.float32)


def dropout_units(dnn: keras.Sequential) -> list[int]:
    """Width of each dropout layer, in order."""
    return [
        int(layer.output.shape[-1])
        for layer in dnn.layers
        if isinstance(layer, keras.layers.Dropout)
    ]


def kernels(dnn: keras.Sequential) -> list[bool]:
    """For each trainable variable, whether it is a kernel: what l2 acts on."""
    return [variable.name == "kernel" for variable in dnn.trainable_variables]


def build_preprocessing(features: Sequence[str], standardization: Standardization) -> keras.Model:
    """A model from raw columns to the network's inputs.

    Args:
        features: Names of the columns, each an input of shape `(rows, 1)`.
        standardization: What the columns are scaled by.
    """
    inputs: dict[str, Any] = {}
    for feature in features:
        name = free_name(
            feature.replace("/", "\N{DIVISION SLASH}"), {*features, *inputs} - {feature}
        )
        inputs[feature] = keras.Input((1,), name=name)
    columns = list(inputs.values())
    joined = columns[0]
    if len(columns) > 1:
        joined = keras.layers.Concatenate(name=free_name("columns", features))(columns)
    if standardization.mode != "none":
        # Not Normalization: it keeps a float32 variance, which overflows from deviations of 1e19
        # on, and takes none below 1e-7 for what it is.
        centred = keras.layers.Rescaling(
            1.0, (-standardization.mean).tolist(), name=free_name("centred", features)
        )(joined)
        joined = keras.layers.Rescaling(
            (1.0 / standardization.std).tolist(), name=free_name("z_scores", features)
        )(centred)
    return build_model(inputs, joined, name="preprocessing")


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, with underscores where it is taken: Keras names inputs and layers in one space."""
    while name in taken:
        name += "_"
    return name


def build_model(inputs: Mapping[str, Any], outputs: Any, *, name: str) -> keras.Model:
    """A Keras model whose inputs are a dictionary of columns."""
    with slashes_in_columns():
        return keras.Model(inputs, outputs, name=name)


@contextmanager
def slashes_in_columns() -> Iterator[None]:
    """Inside, models are made of columns whose names have slashes, without Keras's warning.

    An input's name cannot have one, so it differs from the column's, the key of the dictionary.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "When providing `inputs` as a dict")
        yield


def preprocess(preprocessing: keras.Model, features: Sequence[str], x: FloatArray) -> tf.Tensor:
    """The network's inputs `(rows, num_inputs)` float32, from raw rows `(rows, num_features)`."""
    columns = np.asarray(x, dtype=np.float32)
    return preprocessing({name: columns[:, [at]] for at, name in enumerate(features)})


def summarize(dnn: keras.Sequential) -> str:
    """The text of `model.summary()`."""
    lines: list[str] = []
    dnn.summary(line_length=80, print_fn=lines.append)
    return "\n".join(lines)


def _dense_name(place: int) -> str:
    # Keras's own numbers go on counting from one network of a process to the next.
    return f"dense_{place}" if place else "dense"


def _dense(name: str, units: int, activation: str, seed: int, policy: str) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        name=name,
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(seed=seed),
        dtype=policy,
    )
