"""Update rules as Keras's optimizers have them, as functions of values alone.

slots = [tf.zeros_like(weight) for _ in range(count_slots(job.train))]
slots = new_slots(job.train, slots, gradient, rate=rate, momentum=0.9)
weight = new_weight(job.train, weight, slots, gradient, rate=rate, momentum=0.9, number=n)
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


def new_slots(
    train: TrainConfig,
    slots: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    *,
    rate: tf.Tensor,
    momentum: tf.Tensor | float,
) -> list[tf.Tensor]:
    """What the optimizer remembers of a weight after one update.

    Args:
        train: Which rule, with its beta_2, and whether it has momentum.
        slots: `count_slots` tensors of the weight's shape: momentum of sgd; mean gradient and mean
            squared gradient of adam; mean squared gradient and momentum of rmsprop.
        gradient: Of the weight's shape.
        rate: Learning rate, a scalar.
        momentum: Share of its last change that a weight keeps, a scalar.
    """
    match train.optimizer:
        case "sgd":
            return [velocity * momentum - gradient * rate for velocity in slots]
        case "adam" | "adamw":
            mean, square = slots
            return [
                mean + (gradient - mean) * (1 - _BETA_1),
                square + (tf.square(gradient) - square) * (1 - train.beta_2),
            ]
        case "rmsprop":
            square, *velocities = slots
            square = _RHO * square + (1 - _RHO) * tf.square(gradient)
            change = rate * gradient / tf.sqrt(square + _EPSILON)
            return [square, *(momentum * velocity + change for velocity in velocities)]


def new_weight(
    train: TrainConfig,
    weight: tf.Tensor,
    slots: Sequence[tf.Tensor],
    gradient: tf.Tensor,
    *,
    rate: tf.Tensor,
    momentum: tf.Tensor | float,
    number: tf.Tensor,
) -> tf.Tensor:
    """A weight after one update; learning rate, decay and clipping are the caller's.

    The order of operations is that of Keras 3 (`keras/src/optimizers`).

    Args:
        train: As `new_slots` has it.
        weight: The weight, any shape.
        slots: Those of after the update.
        gradient: Of the weight's shape.
        rate: Learning rate, a scalar.
        momentum: As `new_slots` has it.
        number: Number of the update, from 1, a float32 scalar.
    """
    match train.optimizer:
        case "sgd":
            if not slots:
                return weight - gradient * rate
            (velocity,) = slots
            if train.nesterov:
                return weight + (velocity * momentum - gradient * rate)
            return weight + velocity
        case "adam" | "adamw":
            return _by_adam(train, weight, slots, rate, number)
        case "rmsprop":
            square, *velocities = slots
            if velocities:
                return weight - velocities[0]
            return weight - rate * gradient / tf.sqrt(square + _EPSILON)


def _by_adam(
    train: TrainConfig,
    weight: tf.Tensor,
    slots: Sequence[tf.Tensor],
    rate: tf.Tensor,
    number: tf.Tensor,
) -> tf.Tensor:
    """Kingma and Ba, arXiv:1412.6980, in the form before its section 2.1."""
    mean, square = slots
    beta_1_power = tf.pow(tf.constant(_BETA_1), number)
    beta_2_power = tf.pow(tf.constant(train.beta_2), number)
    alpha = rate * tf.sqrt(1 - beta_2_power) / (1 - beta_1_power)
    return weight - mean * alpha / (tf.sqrt(square) + _EPSILON)
