"""The networks of several members as one Keras model, their weights on a leading axis.

dnn = build_stacked_dnn(job.model, encoding, weights=weights, precision="float32", name="dnn")
dnn(inputs)                    # (rows, num_members, 1), standardized
"""

from collections.abc import Sequence

import keras
import numpy as np

from dnnjob.config import ModelConfig
from dnnjob.data.encoding import Encoding
from dnnjob.training.model import (
    build_embeddings,
    build_encoded_dnn,
    dense_name,
    dtype_policy,
)


def build_stacked_dnn(
    model: ModelConfig,
    encoding: Encoding,
    *,
    weights: Sequence[Sequence[np.ndarray]],
    precision: str,
    name: str,
) -> keras.Model:
    """All members side by side in stock layers: a file of them loads as fast as one of a network.

    Without dropout, which only training has.

    Args:
        model: Layers of a network.
        encoding: What its inputs are.
        weights: Trained weights of each, as Keras's `get_weights` has them.
        precision: `devices.precision` of the job.
        name: Keras's name of the model.
    """
    members, numbers = len(weights), encoding.numeric_embedding(model)
    inputs = keras.Input((encoding.num_inputs,), name="features")
    if encoding.embedding_shapes or numbers:
        seeds = range(len(encoding.embedding_shapes) + 4)
        x = build_embeddings(
            encoding.num_inputs, encoding.embedding_shapes, numbers, seeds, members=members
        )(inputs)
    else:
        x = keras.layers.RepeatVector(members, name="members")(inputs)
    for place, units in enumerate((*model.hidden_units, 1)):
        is_last = place == len(model.hidden_units)
        x = keras.layers.EinsumDense(
            "bkn,knh->bkh",
            output_shape=(members, units),
            bias_axes="kh",
            activation="linear" if is_last else model.activation,
            dtype="float32" if is_last else dtype_policy(precision),
            name=dense_name(place),
        )(x)
    stacked = keras.Model(inputs, x, name=name)
    _fill(stacked, build_encoded_dnn(model, encoding, seed=0, precision=precision), weights)
    return stacked


def _fill(
    stacked: keras.Model, single: keras.Sequential, weights: Sequence[Sequence[np.ndarray]]
) -> None:
    """Gives the layers of a stack the weights of the layers of their names in single networks."""
    each: dict[str, list[list[np.ndarray]]] = {}
    for values in weights:
        single.set_weights(list(values))
        for layer in _layers_with_weights(single):
            each.setdefault(layer.name, []).append(layer.get_weights())
    for layer in _layers_with_weights(stacked):
        found = each[layer.name]
        if isinstance(layer, keras.layers.Embedding):
            # One code finds the vectors of all members.
            layer.set_weights([np.concatenate([table for (table,) in found], axis=1)])
        elif layer.trainable:
            layer.set_weights([np.stack(parts) for parts in zip(*found, strict=True)])
        else:
            layer.set_weights(found[0])


def _layers_with_weights(model: keras.Model) -> list[keras.layers.Layer]:
    layers: list[keras.layers.Layer] = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            layers += _layers_with_weights(layer)
        elif layer.weights:
            layers.append(layer)
    return layers
