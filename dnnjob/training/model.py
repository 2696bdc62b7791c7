"""The dense network, as a Keras model of stock layers.

dnn = build_dnn(job.model, num_inputs=12, seed=0, precision="float32")
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import ModelConfig
from dnnjob.data.encoding import Encoding, NumericEmbedding
from dnnjob.data.order import weight_seeds
from dnnjob.training.numeric_embedding import NUM_SEEDS, embed_numbers

_POLICIES = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16"}


def build_dnn(
    model: ModelConfig,
    *,
    num_inputs: int,
    seed: int,
    precision: str,
    embeddings: Sequence[tuple[int, int]] = (),
    numbers: NumericEmbedding | None = None,
    name: str = "dnn",
) -> keras.Sequential:
    """The untrained network from standardized inputs to one standardized output.

    Kernels start Glorot-uniform and embeddings uniform, as Keras's defaults, biases at zero.

    Args:
        model: Layers, activation and dropout.
        num_inputs: Inputs of a row, > 0, the codes of embeddings included.
        embeddings: Buckets and units of the embeddings that the last inputs are codes for.
        numbers: How numbers enter, where not plainly.
        seed: Seed of the initial weights.
        precision: `devices.precision` of the job.
        name: Keras's name of the network.
    """
    num_dense = len(model.hidden_units) + 1
    # Those of the dense layers first: embeddings leave them as they are.
    num_seeds = num_dense + len(embeddings) + (NUM_SEEDS if numbers else 0)
    drawn = weight_seeds(seed, count=num_seeds)
    seeds = iter(drawn[:num_dense])
    layers: list[keras.layers.Layer] = [keras.Input((num_inputs,), name="features")]
    if embeddings or numbers:
        layers.append(build_embeddings(num_inputs, embeddings, numbers, drawn[num_dense:]))
    for number, units in enumerate(model.hidden_units, start=1):
        dense = dense_name(number - 1)
        layers.append(_dense(dense, units, model.activation, next(seeds), _POLICIES[precision]))
        if model.dropout_rate:
            layers.append(keras.layers.Dropout(model.dropout_rate, name=f"dropout_{number}"))
    # The output stays float32 in every precision: the loss is a difference of near numbers.
    dense = dense_name(len(model.hidden_units))
    layers.append(_dense(dense, 1, "linear", next(seeds), "float32"))
    return keras.Sequential(layers, name=name)


def build_encoded_dnn(
    model: ModelConfig, encoding: Encoding, *, seed: int, precision: str, name: str = "dnn"
) -> keras.Sequential:
    """The untrained network for what an encoding makes of a table's columns."""
    return build_dnn(
        model,
        num_inputs=encoding.num_inputs,
        embeddings=encoding.embedding_shapes,
        numbers=encoding.numeric_embedding(model),
        seed=seed,
        precision=precision,
        name=name,
    )


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


def summarize(dnn: keras.Sequential) -> str:
    """The text of `model.summary()`."""
    lines: list[str] = []
    dnn.summary(line_length=80, print_fn=lines.append, expand_nested=True)
    return "\n".join(lines)


def build_embeddings(
    num_inputs: int,
    embeddings: Sequence[tuple[int, int]],
    numbers: NumericEmbedding | None,
    seeds: Sequence[int],
    *,
    members: int = 0,
) -> keras.Model:
    """What replaces numbers, and the codes at the end of a row, by their learned vectors.

    Args:
        num_inputs: Inputs of a row, the codes included.
        embeddings: Buckets and units of each code's embedding.
        numbers: How numbers enter, where not plainly.
        seeds: Of the initial weights, those of the embeddings first.
        members: Networks on a leading axis, as `embed_numbers` has them; 0 is a single one.
    """
    inputs = keras.Input((num_inputs,), name="inputs")
    num_plain = num_inputs - len(embeddings)
    parts = []
    if numbers is not None:
        vectors = embed_numbers(
            _take(inputs, numbers.places),
            numbers,
            seeds=seeds[len(embeddings) :],
            members=members,
        )
        parts.append(vectors)
    embedded = set(() if numbers is None else numbers.places)
    plain = [place for place in range(num_plain) if place not in embedded]
    if plain:
        taken = _take(inputs, plain)
        parts.append(
            keras.layers.RepeatVector(members, name="plain_of_members")(taken) if members else taken
        )
    for number, ((buckets, units), seed) in enumerate(zip(embeddings, seeds, strict=False)):
        code = keras.ops.cast(inputs[:, num_plain + number], "int32")
        embedding = keras.layers.Embedding(
            buckets,
            units * (members or 1),
            embeddings_initializer=keras.initializers.RandomUniform(-0.05, 0.05, seed=seed),
            name=f"embedding_{number + 1}",
        )
        vectors = embedding(code)
        if members:
            vectors = keras.layers.Reshape((members, units))(vectors)
        parts.append(vectors)
    joined = keras.layers.Concatenate(name="embedded")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(inputs, joined, name="embeddings")


def _take(inputs: Any, places: Sequence[int]) -> Any:
    """Some of the inputs of each row, in their order."""
    first, stop = places[0], places[-1] + 1
    if len(places) == stop - first:
        return inputs[:, first:stop]
    return keras.ops.take(inputs, np.array(places, dtype=np.int32), axis=1)


def dtype_policy(precision: str) -> str:
    """Keras's policy of the hidden layers for `devices.precision`."""
    return _POLICIES[precision]


def dense_name(place: int) -> str:
    """Name of the dense layer at a place, from 0."""
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
