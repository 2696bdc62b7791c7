"""How many rows one matrix product takes: a batch and the validation rows, cut into equal parts.

rows = chunk_rows(devices, threads=2)
places = validation_indices(num_rows=5000, num_replicas=2)
"""

import math

import numpy as np
import tensorflow as tf

from dnnjob.data.order import StepPlan
from dnnjob.training.strategy import Devices

# Rows of one matrix product. A larger batch is added up from chunks, whose activations stay in
# the caches: 20 % faster at 8192 rows than one product (docs/decisions/xla.md).
_LEAST_CHUNK_ROWS, _CHUNK_ROWS_A_THREAD = 512, 256
_GPU_CHUNK_ROWS = 1024
# Of validation, which keeps no activations.
_VALIDATION_ROWS = 1024


def chunk_rows(devices: Devices, *, threads: int) -> int:
    """The most rows of a batch that one product takes.

    Args:
        devices: What the run computes on.
        threads: Of a task; 0 where the job leaves them open.
    """
    if devices.kind == "gpu":
        return _GPU_CHUNK_ROWS
    return max(_LEAST_CHUNK_ROWS, _CHUNK_ROWS_A_THREAD * (threads // len(devices.names)))


def validation_indices(num_rows: int, num_replicas: int) -> np.ndarray:
    """The validation rows in chunks, `(num_chunks, num_replicas, rows)`; -1 is padding."""
    if num_rows == 0:
        return np.zeros((0, num_replicas, 1), np.int32)
    plan = StepPlan(num_rows, _VALIDATION_ROWS, num_replicas, epochs=1)
    shape = (plan.steps_per_epoch, num_replicas, plan.rows_per_replica)
    places = np.full(np.prod(shape), -1, np.int32)
    places[:num_rows] = np.arange(num_rows)
    return places.reshape(shape)


def cut(rows: tf.Tensor, num_chunks: int, *, padding: float) -> tf.Tensor:
    """Rows in chunks of equal size, `(num_chunks, rows_per_chunk, ...)`, padded at the end."""
    size = math.ceil(int(rows.shape[0]) / num_chunks)
    missing = num_chunks * size - int(rows.shape[0])
    widths = [(0, missing)] + [(0, 0)] * (rows.shape.rank - 1)
    padded = tf.pad(rows, widths, constant_values=padding)
    return tf.reshape(padded, (num_chunks, size, *rows.shape[1:]))
