"""The input pipeline: windows of training rows with the index tensors of their steps, as tf.data.

for window in make_windows(plan, seed=0, first_block=0): ...   # made ahead, in the background
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from dnnjob.data.order import StepPlan

_BLOCKS_AHEAD = 2


@dataclass(frozen=True)
class Window:
    """A stretch of steps over rows that are on the device.

    Attributes:
        epochs: Epochs whose steps it holds.
        indices: Row numbers, `(num_steps, num_replicas, rows_per_replica)` int32, -1 is padding.
    """

    epochs: range
    indices: tf.Tensor


def make_windows(plan: StepPlan, *, seed: int, first_block: int = 0) -> Iterator[Window]:
    """The windows of training from `first_block` on, each made while the one before trains.

    All have the shape of the first, so that one compilation serves them; the last may hold
    fewer epochs than its index tensor has room for.
    """
    num_blocks = -(-plan.epochs // plan.epochs_per_block)
    blocks = tf.data.Dataset.range(first_block, num_blocks)

    def make_indices(block: np.int64) -> np.ndarray:
        return _padded_indices(plan, int(block), seed=seed)

    dataset = blocks.map(
        lambda block: tf.numpy_function(make_indices, [block], tf.int32, stateful=False)
    ).prefetch(_BLOCKS_AHEAD)
    # The autotuner wakes at 10 ms, 20 ms, ... 5.12 s, 10.24 s, and the end of the iterator may wait
    # for it: half of the runs lost up to half their time there (TensorFlow 2.21).
    options = tf.data.Options()
    options.autotune.enabled = False
    for block, indices in enumerate(dataset.with_options(options), start=first_block):
        yield Window(plan.block_epochs(block), indices)


def _padded_indices(plan: StepPlan, block: int, *, seed: int) -> np.ndarray:
    indices = plan.indices(plan.block_epochs(block), seed=seed)
    missing = plan.epochs_per_block * plan.steps_per_epoch - len(indices)
    return np.pad(indices, ((0, missing), (0, 0), (0, 0)), constant_values=-1)
