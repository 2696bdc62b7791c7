"""Sums of errors over the rows of a batch: what steps minimise, and what histories show.

error = squared_error(residuals, roots)
total = robust_error(train, residuals, roots)
"""

import tensorflow as tf

from dnnjob.config import TrainConfig


def squared_error(residuals: tf.Tensor, roots: tf.Tensor | None) -> tf.Tensor:
    """Sum of squared errors.

    Args:
        residuals: What is predicted less what is observed, `(rows,)`, 0 for padding.
        roots: Roots of the rows' weights, likewise; None where all weigh the same.
    """
    return tf.reduce_sum(tf.square(residuals if roots is None else residuals * roots))


def robust_error(train: TrainConfig, residuals: tf.Tensor, roots: tf.Tensor | None) -> tf.Tensor:
    """Sum of absolute errors, or of Huber's, as `train.loss` asks.

    Huber, "Robust estimation of a location parameter", doi:10.1214/aoms/1177703732; with the
    factor one half of its squared part, as Keras has it.

    Args:
        train: Loss and Huber's delta, in units of the scaled target.
        residuals: As `squared_error` has them.
        roots: See there.
    """
    losses = tf.abs(residuals)
    if (delta := train.delta) is not None:
        squares = 0.5 * tf.square(residuals)
        losses = tf.where(losses <= delta, squares, delta * losses - 0.5 * delta**2)
    return tf.reduce_sum(losses if roots is None else losses * tf.square(roots))
