"""The order of training: a function of seed, epoch and table alone, in pure NumPy.

plan = StepPlan(num_rows=354, global_batch_size=64, num_replicas=1, epochs=500)
plan.indices(range(0, 3), seed=0)     # (3 * 6, 1, 64), -1 where a batch is short
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int32]

# Index tensors of one block stay below this many rows (4 bytes each): enough that the calls on a
# small table need no new tensor, little enough to be made ahead without being noticed.
_MAX_BLOCK_ROWS = 2**22
# An epoch's permutation takes a fraction of a millisecond to set up, however few its rows.
_MAX_BLOCK_EPOCHS = 1024

_WINDOW_BYTES = 2**28
_MIN_WINDOW_ROWS = 2**16

_ORDER, _WEIGHTS = 0, 1


def philox(seed: int, *, epoch: int, window: int = 0, group: int = 0) -> np.random.Generator:
    """The random stream of one place in training; no two places share numbers.

    Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", doi:10.1145/2063384.2063405.
    """
    # The lowest counter word counts the numbers drawn; the others name the place.
    bits = np.random.Philox(key=[seed, _ORDER], counter=[0, group, window, epoch])
    return np.random.Generator(bits)


def weight_seeds(seed: int, *, count: int) -> list[int]:
    """Seeds of the initial weights of `count` layers, each below 2**31."""
    stream = np.random.Generator(np.random.Philox(key=[seed, _WEIGHTS]))
    return [int(value) for value in stream.integers(2**31, size=count)]


def default_window_rows(num_features: int) -> int:
    """Rows of a window where the job names none: 256 MiB of float32 features and targets."""
    return max(_MIN_WINDOW_ROWS, _WINDOW_BYTES // (4 * (num_features + 1)))


@dataclass(frozen=True)
class StepPlan:
    """How the rows of a resident table become steps.

    Attributes:
        num_rows: Training rows, > 0.
        global_batch_size: Rows of a step over all replicas; an epoch's last step may have fewer.
        num_replicas: Replicas that share each batch in equal slices.
        epochs: Passes over the rows.
    """

    num_rows: int
    global_batch_size: int
    num_replicas: int
    epochs: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass; the last may be short."""
        return math.ceil(self.num_rows / self.global_batch_size)

    @property
    def rows_per_replica(self) -> int:
        """Places of one replica in a step, padding included."""
        return math.ceil(min(self.global_batch_size, self.num_rows) / self.num_replicas)

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        return self.epochs * self.steps_per_epoch

    @property
    def epochs_per_block(self) -> int:
        """Epochs whose index tensors are made and handed over together."""
        rows = self.steps_per_epoch * self.num_replicas * self.rows_per_replica
        return max(1, min(self.epochs, _MAX_BLOCK_EPOCHS, _MAX_BLOCK_ROWS // rows))

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Shape of a block's index tensor: steps, replicas, rows of a replica."""
        steps = self.epochs_per_block * self.steps_per_epoch
        return steps, self.num_replicas, self.rows_per_replica

    def block_epochs(self, block: int) -> range:
        """Epochs of the `block`-th block of epochs."""
        first = block * self.epochs_per_block
        return range(first, min(first + self.epochs_per_block, self.epochs))

    def step_rows(self) -> npt.NDArray[np.int64]:
        """Rows of each step of an epoch, shape `(steps_per_epoch,)`."""
        rows = np.full(self.steps_per_epoch, self.global_batch_size, dtype=np.int64)
        rows[-1] = self.num_rows - self.global_batch_size * (self.steps_per_epoch - 1)
        return rows

    def indices(self, epochs: Iterable[int], *, seed: int) -> Indices:
        """Row numbers of every place of every step of `epochs`.

        Returns:
            Shape `(num_epochs * steps_per_epoch, num_replicas, rows_per_replica)`; -1 is padding.
        """
        return np.concatenate([self._epoch_indices(epoch, seed=seed) for epoch in epochs])

    def _epoch_indices(self, epoch: int, *, seed: int) -> Indices:
        order = philox(seed, epoch=epoch).permutation(self.num_rows)
        batch = min(self.global_batch_size, self.num_rows)
        places = np.full((self.steps_per_epoch, batch), -1, dtype=np.int32)
        places.reshape(-1)[: self.num_rows] = order
        padding = self.num_replicas * self.rows_per_replica - batch
        places = np.pad(places, ((0, 0), (0, padding)), constant_values=-1)
        return places.reshape(-1, self.num_replicas, self.rows_per_replica)
