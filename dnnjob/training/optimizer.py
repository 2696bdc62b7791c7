"""Update rules as Keras's optimizers have them, as functions of values alone.

slots = [tf.zeros_like(weight) for _ in range(count_slots(job.train))]
weight, slots = updated(job.train, weight, slots, gradient, rate=rate, momentum=0.9, number=n)
"""

from collections.abc import Sequence

import tensorflow as tf

from dnnjob.config import TrainConfig

# Keras's defaults; no key of a job sets them.
_BETA_1, _RHO, _EPSILON = 0.9, 0.9, 1e-7


def count_slots(train: TrainConfig) -> int:
    """Tensors of a weight's shape that the optimizer remembers for it; they begin at zero."""
    match train.optimizer:
        case "sgd":
            return 1 if train.momentum else 0
        case "adam" | "adamw":
            return 2
        case "rmsprop":
            return 2 if train.momentum else 1


def updated(
    train: TrainConfig,
    weight: tf.Tensor,
    slots: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    *,
    rate: tf.Tensor,
    momentum: tf.Tensor | float,
    number: tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """A weight and its slots after one update; learning rate, decay and clipping are the caller's.

    The order of operations is that of Keras 3 (`keras/src/optimizers`).

    Args:
        train: Which rule, with its beta_2, and whether it has momentum.
        weight: The weight, any shape.
        slots: What the optimizer remembers of it, `count_slots` tensors of its shape: momentum of
            sgd; mean gradient and mean squared gradient of adam; mean squared gradient and momentum
            of rmsprop.
        gradient: Of the weight's shape.
        rate: Learning rate, a scalar.
        momentum: Share of its last change that a weight keeps, a scalar.
        number: Number of the update, from 1, a float32 scalar.
    """
    match train.optimizer:
        case "sgd":
            return _sgd(train, weight, slots, gradient, rate, momentum)
        case "adam" | "adamw":
            return _adam(train, weight, slots, gradient, rate, number)
        case "rmsprop":
            return _rmsprop(weight, slots, gradient, rate, momentum)


def _sgd(
    train: TrainConfig,
    weight: tf.Tensor,
    slots: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    rate: tf.Tensor,
    momentum: tf.Tensor | float,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    change = gradient * rate
    if not train.momentum:
        return weight - change, []
    velocity = slots[0] * momentum - change
    if train.nesterov:
        return weight + (velocity * momentum - change), [velocity]
    return weight + velocity, [velocity]


def _adam(
    train: TrainConfig,
    weight: tf.Tensor,
    slots: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    rate: tf.Tensor,
    number: tf.Tensor,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Kingma and Ba, arXiv:1412.6980, in the form before its section 2.1."""
    mean, square = slots
    beta_1_power = tf.pow(tf.constant(_BETA_1), number)
    beta_2_power = tf.pow(tf.constant(train.beta_2), number)
    alpha = rate * tf.sqrt(1 - beta_2_power) / (1 - beta_1_power)
    mean += (gradient - mean) * (1 - _BETA_1)
    square += (tf.square(gradient) - square) * (1 - train.beta_2)
    return weight - mean * alpha / (tf.sqrt(square) + _EPSILON), [mean, square]


def _rmsprop(
    weight: tf.Tensor,
    slots: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    rate: tf.Tensor,
    momentum: tf.Tensor | float,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    square, *velocities = slots
    square = _RHO * square + (1 - _RHO) * tf.square(gradient)
    change = rate * gradient / tf.sqrt(square + _EPSILON)
    if not velocities:
        return weight - change, [square]
    velocity = momentum * velocities[0] + change
    return weight - velocity, [square, velocity]
