"""The update rules against Keras's own optimizers."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dnnjob.config import TrainConfig
from dnnjob.training.optimizer import count_slots, new_slots, new_weight

RULES: list[tuple[dict[str, Any], keras.Optimizer]] = [
    ({}, keras.optimizers.SGD(0.01)),
    ({"momentum": 0.9}, keras.optimizers.SGD(0.01, momentum=0.9)),
    (
        {"momentum": 0.9, "nesterov": True},
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    ),
    ({"optimizer": "adam", "beta_2": 0.95}, keras.optimizers.Adam(0.01, beta_2=0.95)),
    ({"optimizer": "rmsprop"}, keras.optimizers.RMSprop(0.01)),
    ({"optimizer": "rmsprop", "momentum": 0.5}, keras.optimizers.RMSprop(0.01, momentum=0.5)),
]


@pytest.mark.parametrize(("settings", "optimizer"), RULES)
def test_weights_after_several_updates_are_bit_for_bit_those_of_keras(
    settings: dict[str, Any], optimizer: keras.Optimizer
) -> None:
    train, random = TrainConfig(**settings), np.random.default_rng(3)
    start = random.normal(size=(4, 3)).astype(np.float32)
    gradients = random.normal(size=(5, 4, 3)).astype(np.float32)
    theirs = keras.Variable(start)
    ours, slots = tf.constant(start), [tf.zeros((4, 3))] * count_slots(train)

    for number, gradient in enumerate(gradients, start=1):
        optimizer.apply([tf.constant(gradient)], [theirs])
        rate, momentum = tf.constant(0.01), tf.constant(train.momentum)
        given = tf.constant(gradient)
        slots = new_slots(train, slots, given, rate=rate, momentum=momentum)
        ours = new_weight(
            train,
            ours,
            slots,
            given,
            rate=rate,
            momentum=momentum,
            number=tf.constant(float(number)),
        )

    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
