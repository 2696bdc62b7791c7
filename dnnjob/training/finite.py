"""Whether a step's loss and gradients are finite, at the price of one pass over them.

finite = all_finite([error, *gradients])
"""

from collections.abc import Sequence

import tensorflow as tf


def all_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Scalar boolean: no element of any scalar, vector or matrix is NaN or infinite.

    Zero times a finite number is zero, and zero times anything else is NaN. A product with a vector
    of zeros takes a third of the time of a sum of absolute values, and no finite element, however
    large, makes it overflow (docs/decisions/finite-check.md).
    """
    total = tf.add_n([_vanish(tensor) for tensor in tensors])
    return tf.equal(total, 0.0)


def _vanish(tensor: tf.Tensor) -> tf.Tensor:
    matrix = tf.reshape(tensor, (-1, tensor.shape[-1] if tensor.shape.rank else 1))
    return tf.reduce_sum(tf.linalg.matvec(matrix, tf.zeros(matrix.shape[1:], tensor.dtype)))
