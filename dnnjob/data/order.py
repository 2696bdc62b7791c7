"""The order of training: a function of seed, epoch and table alone, in pure NumPy.

plan = StepPlan(num_rows=354, global_batch_size=64, num_replicas=1, epochs=500)
plan.indices(range(0, 3), seed=0)     # (3 * 6, 1, 64), -1 where a batch is short

plan = WindowPlan(num_rows=14_000_000, ..., window_rows=3_195_660)
plan.pieces(0, 2, replica=0, seed=0)  # the training rows of the replica's part of a window
plan.indices(0, 2, seed=0)            # where each step finds its rows in the parts
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.encoding_fit import most_inputs
from dnnjob.data.splitter import PartRows, expected_train_rows
from dnnjob.errors import JobError

Indices = npt.NDArray[np.int32]

# Index tensors of one block stay below this many rows (4 bytes each): enough that the calls on a
# small table need no new tensor, little enough to be made ahead without being noticed.
_MAX_BLOCK_ROWS = 2**22
# An epoch's permutation takes a fraction of a millisecond to set up, however few its rows.
_MAX_BLOCK_EPOCHS = 1024

_WINDOW_BYTES = 2**28
_MIN_WINDOW_ROWS = 2**12

# A window is read as about this many blocks of consecutive rows, two or more a group: long enough
# to be read at once, and so many that no batch comes from one stretch of the table.
_BLOCKS_A_WINDOW = 64
_MAX_GROUPS = 32

_ORDER, _WEIGHTS, _BLOCKS, _MEMBERS, _FOLDS = range(5)


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


def member_seeds(seed: int, *, count: int) -> list[int]:
    """Seeds of the members of a run: its own, then numbers drawn from it, each below 2**32.

    A member has the same seed however many there are.
    """
    stream = np.random.Generator(np.random.Philox(key=[seed, _MEMBERS]))
    seeds = [seed]
    while len(seeds) < count:
        drawn = int(stream.integers(2**32))
        if drawn not in seeds:
            seeds.append(drawn)
    return seeds[:count]


def fold_stream(seed: int) -> np.random.Generator:
    """The random stream that deals training rows to folds, of the splits' seed."""
    return np.random.Generator(np.random.Philox(key=[seed, _FOLDS]))


def default_window_rows(data: DataConfig, kinds: Mapping[str, FeatureKind]) -> int:
    """Rows of a window where the job names none: 256 MiB of float32 inputs and targets."""
    inputs = sum(most_inputs(data, name, kind) for name, kind in kinds.items())
    return max(_MIN_WINDOW_ROWS, _WINDOW_BYTES // (4 * (inputs + 1)))


def window_rows(data: DataConfig, kinds: Mapping[str, FeatureKind]) -> int:
    """Rows of a window: as the job says, or from what the features hold."""
    return data.window_rows or default_window_rows(data, kinds)


def goes_by_windows(data: DataConfig, part_rows: PartRows, *, window_rows: int) -> bool:
    """Whether a table of files is trained window by window: by the rows it is expected to train."""
    return expected_train_rows(data, part_rows) > window_rows


def streams(
    data: DataConfig,
    part_rows: PartRows,
    kinds: Mapping[str, FeatureKind],
    *,
    share: float = 1.0,
) -> bool:
    """Whether a table of files is read in pieces, whatever the memory.

    Args:
        data: What the job says.
        part_rows: Rows of the table, trained on or not.
        kinds: What the features hold.
        share: Of a default window; a table of more rows is.
    """
    by_windows = goes_by_windows(data, part_rows, window_rows=window_rows(data, kinds))
    return by_windows or sum(part_rows) > share * default_window_rows(data, kinds)


def refuse_short_window(data: DataConfig, num_rows: int) -> None:
    """Refuses a table in memory whose training rows are more than a window holds.

    Raises:
        JobError: If the job asks for such windows.
    """
    if data.window_rows is not None and data.window_rows < num_rows:
        raise JobError(
            f"data.window_rows must hold the {num_rows} training rows of a built-in table, or of "
            f"Parquet files beside files of text, but it is {data.window_rows}. Leave it out, or "
            "write the table as Parquet."
        )


@dataclass(frozen=True)
class Plan:
    """How training rows become steps.

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
    def block_shape(self) -> tuple[int, int, int]:
        """Shape of the index tensor of a call: steps, replicas, rows of a replica."""
        raise NotImplementedError


@dataclass(frozen=True)
class StepPlan(Plan):
    """The steps of a table that is one window: every epoch permutes it whole.

    Attributes:
        room: Training rows that index tensors have room for, those of the member of a stack that
            has the most; 0 is `num_rows`.
    """

    room: int = 0

    @property
    def _most(self) -> "StepPlan":
        """The plan of the member whose index tensors all have the shape of."""
        return replace(self, num_rows=self.room, room=0) if self.room else self

    @property
    def rows_per_replica(self) -> int:
        """Places of one replica in a step, padding included."""
        rows = max(self.num_rows, self.room)
        return math.ceil(min(self.global_batch_size, rows) / self.num_replicas)

    @property
    def epochs_per_block(self) -> int:
        """Epochs whose index tensors are made and handed over together."""
        rows = self._most.steps_per_epoch * self.num_replicas * self.rows_per_replica
        return max(1, min(self.epochs, _MAX_BLOCK_EPOCHS, _MAX_BLOCK_ROWS // rows))

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Shape of a block's index tensor: steps, replicas, rows of a replica."""
        steps = self.epochs_per_block * self._most.steps_per_epoch
        return steps, self.num_replicas, self.rows_per_replica

    def block_epochs(self, block: int) -> range:
        """Epochs of the `block`-th block of epochs."""
        first = block * self.epochs_per_block
        return range(first, min(first + self.epochs_per_block, self.epochs))

    def indices(self, epochs: Iterable[int], *, seed: int) -> Indices:
        """Row numbers of every place of every step of `epochs`.

        Returns:
            Shape `(num_epochs * steps_per_epoch, num_replicas, rows_per_replica)`; -1 is padding.
        """
        numbers = list(epochs)
        batch = min(self.global_batch_size, self.num_rows)
        padding = self.num_replicas * self.rows_per_replica - batch
        places = np.full((len(numbers), self.steps_per_epoch * batch), -1, dtype=np.int32)
        for order, epoch in zip(places, numbers, strict=True):
            order[: self.num_rows] = philox(seed, epoch=epoch).permutation(self.num_rows)
        places = places.reshape(-1, batch)
        if padding:
            places = np.pad(places, ((0, 0), (0, padding)), constant_values=-1)
        return places.reshape(-1, self.num_replicas, self.rows_per_replica)


@dataclass(frozen=True)
class WindowPlan(Plan):
    """The steps of a table of several windows.

    The training rows, in the order of the table, are cut into blocks. Every epoch permutes the
    blocks (a short last one stays last) and gathers them into windows. A window's rows, one block
    after the other, are cut into groups of equal size; the rows of each group are permuted, and
    every batch takes equally many rows of every group, one group after the other. A replica takes
    its slice of every batch, and so needs few groups of a window and no others.

    Attributes:
        window_rows: Rows of a window, at most; more where a batch is larger.
    """

    window_rows: int

    @cached_property
    def num_groups(self) -> int:
        """Groups of a window: the greatest divisor of the batch that is at most 32."""
        batch = self.global_batch_size
        return max(n for n in range(1, _MAX_GROUPS + 1) if batch % n == 0)

    @cached_property
    def blocks_per_window(self) -> int:
        """Blocks of a whole window."""
        return _BLOCKS_A_WINDOW // self.num_groups * self.num_groups

    @cached_property
    def block_rows(self) -> int:
        """Rows of a whole block: such that a whole window is a whole number of batches."""
        unit = self._group_share // math.gcd(
            self._group_share, self.blocks_per_window // self.num_groups
        )
        return max(unit, self.window_rows // self.blocks_per_window // unit * unit)

    @property
    def _group_share(self) -> int:
        """Rows that a whole batch takes of each group."""
        return self.global_batch_size // self.num_groups

    @property
    def rows_per_replica(self) -> int:
        """Places of one replica in a step, padding included."""
        return math.ceil(self.global_batch_size / self.num_replicas)

    @property
    def num_blocks(self) -> int:
        """Blocks of the table."""
        return math.ceil(self.num_rows / self.block_rows)

    @property
    def windows_per_epoch(self) -> int:
        """Windows of one pass; the last may be short."""
        return math.ceil(self.num_blocks / self.blocks_per_window)

    @property
    def steps_per_window(self) -> int:
        """Steps of a whole window."""
        return self.blocks_per_window * self.block_rows // self.global_batch_size

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Shape of a window's index tensor: steps, replicas, rows of a replica."""
        return self.steps_per_window, self.num_replicas, self.rows_per_replica

    def block_range(self, block: int) -> range:
        """Training rows of a block, counted in the order of the table."""
        first = block * self.block_rows
        return range(first, min(first + self.block_rows, self.num_rows))

    def window_size(self, window: int) -> int:
        """Rows of a window of an epoch."""
        first = window * self.blocks_per_window * self.block_rows
        return min(self.blocks_per_window * self.block_rows, self.num_rows - first)

    def window_steps(self, window: int) -> int:
        """Steps of a window of an epoch."""
        return math.ceil(self.window_size(window) / self.global_batch_size)

    def window_blocks(self, epoch: int, window: int, *, seed: int) -> list[int]:
        """The blocks of a window, in the order of its rows."""
        whole = self.num_rows // self.block_rows
        bits = np.random.Philox(key=[seed, _BLOCKS], counter=[0, 0, 0, epoch])
        order = np.arange(self.num_blocks)
        order[:whole] = np.random.Generator(bits).permutation(whole)
        first = window * self.blocks_per_window
        return [int(block) for block in order[first : first + self.blocks_per_window]]

    def part(self, window: int, replica: int) -> range:
        """The rows of a window that a replica needs: those of the groups of its slice."""
        first = min(replica * self.rows_per_replica, self.global_batch_size)
        stop = min(first + self.rows_per_replica, self.global_batch_size)
        bounds = self._group_bounds(window)
        if first == stop:
            return range(0)
        return range(
            bounds[first // self._group_share], bounds[(stop - 1) // self._group_share + 1]
        )

    def part_rows(self, replica: int) -> int:
        """Rows of a replica's part of the largest window, at least 1."""
        return max(1, *(len(self.part(window, replica)) for window in self._window_kinds))

    def pieces(self, epoch: int, window: int, *, replica: int, seed: int) -> list[range]:
        """The training rows of a replica's part of a window, in its order, each of one block."""
        part, pieces, start = self.part(window, replica), [], 0
        for block in self.window_blocks(epoch, window, seed=seed):
            rows = self.block_range(block)
            first, stop = max(part.start, start), min(part.stop, start + len(rows))
            if first < stop:
                pieces.append(rows[first - start : stop - start])
            start += len(rows)
        return pieces

    def indices(
        self, epoch: int, window: int, *, seed: int, replicas: Collection[int] | None = None
    ) -> Indices:
        """Where every place of every step of a window finds its row.

        Args:
            epoch: The epoch.
            window: Its window.
            seed: Seed of the order.
            replicas: The replicas whose row numbers are wanted; all, if None. Those of the others
                are 0.

        Returns:
            Rows of each replica's part, shape `block_shape`; -1 is padding.
        """
        bounds, share = self._group_bounds(window), self._group_share
        wanted = range(self.num_replicas) if replicas is None else replicas
        parts = [self.part(window, replica) for replica in wanted]
        places = np.full((self.steps_per_window, self.num_groups, share), -1, dtype=np.int32)
        for group, (first, stop) in enumerate(pairwise(bounds)):
            rows = np.full(self.steps_per_window * share, -1, dtype=np.int32)
            if any(part.start < stop and first < part.stop for part in parts):
                order = philox(seed, epoch=epoch, window=window, group=group)
                rows[: stop - first] = first + order.permutation(stop - first)
            else:
                rows[: stop - first] = 0
            places[:, group] = rows.reshape(self.steps_per_window, share)
        flat = places.reshape(self.steps_per_window, -1)
        padding = self.num_replicas * self.rows_per_replica - self.global_batch_size
        flat = np.pad(flat, ((0, 0), (0, padding)), constant_values=-1)
        split = flat.reshape(self.block_shape)
        for replica, part in zip(wanted, parts, strict=True):
            mine = split[:, replica]
            split[:, replica] = np.where(mine >= 0, mine - part.start, -1)
        return split

    @property
    def _window_kinds(self) -> tuple[int, ...]:
        return 0, self.windows_per_epoch - 1

    def _group_bounds(self, window: int) -> list[int]:
        """First row of each group of a window, and their end."""
        size, extra = divmod(self.window_size(window), self.num_groups)
        return [group * size + min(group, extra) for group in range(self.num_groups + 1)]
