"""The input pipeline: windows of training rows with the index tensors of their steps, as tf.data.

for window in make_windows(plan, seed=0, first_step=0): ...    # made ahead, in the background
for window in stream_windows(plan, source, seed=0, first_step=0): ...     # with their rows
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dnnjob.data.order import StepPlan, WindowPlan
from dnnjob.latest import Latest

Floats = npt.NDArray[np.float32]
ReadRows = Callable[[int, int], tuple[Floats, Floats]]
"""From the first and the end of a range of training rows to their inputs and targets."""

_BLOCKS_AHEAD = 2
# TensorFlow takes over an array at this alignment, and copies others.
_ALIGNMENT = 64


@dataclass(frozen=True)
class Window:
    """A stretch of steps over rows that are on the device.

    Attributes:
        first_step: Number of its first step in the whole training.
        num_steps: Steps it holds; its index tensor may have room for more.
        indices: Row numbers, `(num_steps, num_replicas, rows_per_replica)` int32, -1 is padding.
        rows: Inputs and targets of each local replica; None where they are resident throughout.
    """

    first_step: int
    num_steps: int
    indices: tf.Tensor
    rows: tuple[tuple[tf.Tensor, tf.Tensor], ...] | None = None


def make_windows(
    plan: StepPlan,
    *,
    seed: int,
    first_step: int = 0,
    rows: npt.NDArray[np.int32] | None = None,
) -> Iterator[Window]:
    """The windows of training from that of `first_step` on, each made while the one before trains.

    All have the shape of the first, so that one compilation serves them; the last may hold
    fewer epochs than its index tensor has room for.

    Args:
        plan: The steps.
        seed: Seed of the order.
        first_step: Where training goes on.
        rows: Those of the rows on the device that the plan is of, `(plan.num_rows,)`; all, if None.
    """
    block_steps = plan.epochs_per_block * plan.steps_per_epoch
    first_block = first_step // block_steps
    num_blocks = -(-plan.epochs // plan.epochs_per_block)
    blocks = tf.data.Dataset.range(first_block, num_blocks)

    def make_indices(block: np.int64) -> np.ndarray:
        indices = _padded_indices(plan, int(block), seed=seed)
        # The last place is what -1, padding, stands for.
        return indices if rows is None else np.append(rows, np.int32(-1))[indices]

    dataset = blocks.map(_as_is(make_indices, tf.int32)).prefetch(_BLOCKS_AHEAD)
    for block, indices in enumerate(dataset.with_options(_options()), start=first_block):
        num_steps = len(plan.block_epochs(block)) * plan.steps_per_epoch
        yield Window(block * block_steps, num_steps, indices)


def _as_is(function: Callable[..., Any], types: Any) -> Callable[[tf.Tensor], Any]:
    """The function of NumPy's values for a pipeline.

    Autograph would convert what calls it, and leave a file in the temporary folder after every run.
    """
    call: Callable[[tf.Tensor], Any] = tf.autograph.experimental.do_not_convert(
        lambda number: tf.numpy_function(function, [number], types, stateful=False)
    )
    return call


@dataclass(frozen=True, eq=False)
class _IndexBlock:
    """Row numbers of the steps of a block."""

    key: tuple[StepPlan, tuple[int, int, int], int, int]
    indices: np.ndarray


# Points of a search have one seed, and so the same order, each member its own.
_index_blocks = Latest[_IndexBlock](most=16)
_MOST_BYTES_A_BLOCK = 2**21


def _padded_indices(plan: StepPlan, block: int, *, seed: int) -> np.ndarray:
    key = plan, plan.block_shape, block, seed
    if (before := _index_blocks.find(lambda one: one.key == key)) is not None:
        return before.indices
    indices = plan.indices(plan.block_epochs(block), seed=seed)
    missing = plan.block_shape[0] - len(indices)
    indices = np.pad(indices, ((0, missing), (0, 0), (0, 0)), constant_values=-1)
    if indices.nbytes <= _MOST_BYTES_A_BLOCK:
        _index_blocks.keep(_IndexBlock(key, indices))
    return indices


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows of a block in memory, those that this task has needed so far."""

    x: Floats
    y: Floats
    is_read: npt.NDArray[np.bool_]


@dataclass
class WindowSource:
    """Fills windows with the rows that this task's replicas need of them.

    Attributes:
        plan: The steps.
        read: Reads training rows.
        replicas: This task's.
        num_inputs: Inputs of a row.
        num_targets: 2 with weights, else 1.
        num_resident_blocks: Blocks, the first of the table, that stay in memory once read.
        threads: Threads to read with.
    """

    plan: WindowPlan
    read: ReadRows
    replicas: range
    num_inputs: int
    num_targets: int
    num_resident_blocks: int
    threads: int
    num_read_rows: int = 0
    """Training rows read so far."""
    _resident: "dict[int, _Block]" = field(default_factory=dict)
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _buffers: "_Buffers" = field(default_factory=lambda: _Buffers())

    @property
    def shapes(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shapes of each replica's inputs and targets."""
        return [self._shapes(replica) for replica in self.replicas]

    def _shapes(self, replica: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rows = self.plan.part_rows(replica)
        targets = (rows,) if self.num_targets == 1 else (rows, self.num_targets)
        return (rows, self.num_inputs), targets

    def fill(self, epoch: int, window: int, *, seed: int, pool: ThreadPoolExecutor) -> list[Floats]:
        """Inputs and targets of each replica's part of a window, one after the other.

        Of two windows that are filled the first must be released before a third is: it gets the
        memory.
        """
        filled: list[Floats] = []
        buffer = iter(self._buffers.take(_flatten(self.shapes)))
        for replica in self.replicas:
            x, y = next(buffer), next(buffer)
            pieces = self.plan.pieces(epoch, window, replica=replica, seed=seed)
            ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)

            def copy(piece: range, end: int, x: Floats = x, y: Floats = y) -> None:
                x[end - len(piece) : end], y[end - len(piece) : end] = self._rows_of(piece)

            for _ in pool.map(copy, pieces, ends.tolist()):
                pass
            filled += [x, y]
        return filled

    def release(self) -> None:
        """Lets the memory of the oldest window be filled again; its rows are no longer its own."""
        self._buffers.release()

    def forget(self) -> None:
        """Lets go of all memory: TensorFlow keeps what fills windows in a circle of references."""
        self._buffers = _Buffers()
        self._resident = {}

    def _rows_of(self, piece: range) -> tuple[Floats, Floats]:
        number = piece.start // self.plan.block_rows
        if number >= self.num_resident_blocks:
            return self._read(piece)
        block = self.plan.block_range(number)
        held = self._resident.get(number)
        if held is None:
            held = self._resident[number] = self._blank_block(len(block))
        rows = slice(piece.start - block.start, piece.stop - block.start)
        # No row of another task's part is read: where pieces of a block differ between epochs,
        # what is lacking.
        lacking = np.flatnonzero(~held.is_read[rows])
        if len(lacking):
            first, stop = int(lacking[0]), int(lacking[-1]) + 1
            place = slice(rows.start + first, rows.start + stop)
            held.x[place], held.y[place] = self._read(piece[first:stop])
            held.is_read[place] = True
        return held.x[rows], held.y[rows]

    def _blank_block(self, num_rows: int) -> "_Block":
        targets = (num_rows,) if self.num_targets == 1 else (num_rows, self.num_targets)
        return _Block(
            x=np.empty((num_rows, self.num_inputs), np.float32),
            y=np.empty(targets, np.float32),
            is_read=np.zeros(num_rows, np.bool_),
        )

    def _read(self, rows: range) -> tuple[Floats, Floats]:
        x, y = self.read(rows.start, rows.stop)
        with self._counting:
            self.num_read_rows += len(rows)
        return x, y


def count_resident_blocks(
    plan: WindowPlan, *, num_replicas: int, num_values: int, budget_bytes: float
) -> int:
    """Blocks that fit into the budget beside the window that trains and the one that is filled.

    Args:
        plan: The steps.
        num_replicas: Replicas of this task.
        num_values: Inputs and targets of a row.
        budget_bytes: What training rows may take.
    """
    row_bytes = 4 * num_values
    windows = 2 * num_replicas * plan.part_rows(0) * row_bytes
    return max(
        0, min(plan.num_blocks, int((budget_bytes - windows) // (plan.block_rows * row_bytes)))
    )


def stream_windows(
    plan: WindowPlan, source: WindowSource, *, seed: int, first_step: int = 0
) -> Iterator[Window]:
    """The windows of training from that of `first_step` on; earlier ones are not read.

    A window is filled in the background while the one before trains. Its rows are there until the
    next is asked for.
    """
    places = [
        (epoch, window) for epoch in range(plan.epochs) for window in range(plan.windows_per_epoch)
    ]
    epoch, step = divmod(first_step, plan.steps_per_epoch)
    first = epoch * plan.windows_per_epoch + min(
        step // plan.steps_per_window, plan.windows_per_epoch - 1
    )
    types = [tf.int32, *[tf.float32, tf.float32] * len(source.replicas)]
    # One thread is left to the steps where there are several.
    with _forgetting(source), ThreadPoolExecutor(source.threads) as pool:

        def fill(number: np.int64) -> list[np.ndarray]:
            epoch, window = places[int(number)]
            indices = plan.indices(epoch, window, seed=seed, replicas=source.replicas)
            return [indices, *source.fill(epoch, window, seed=seed, pool=pool)]

        dataset = tf.data.Dataset.range(first, len(places)).map(_as_is(fill, types))
        # The one that is filled is the only one ahead: memory holds two.
        iterator = iter(dataset.prefetch(1).with_options(_options()))
        for epoch, window in places[first:]:
            indices, *parts = next(iterator)
            for tensor, shape in zip(parts, _flatten(source.shapes), strict=True):
                tensor.set_shape(shape)
            indices.set_shape(plan.block_shape)
            yield Window(
                first_step=epoch * plan.steps_per_epoch + window * plan.steps_per_window,
                num_steps=plan.window_steps(window),
                indices=indices,
                rows=tuple(zip(parts[::2], parts[1::2], strict=True)),
            )
            source.release()


@contextmanager
def _forgetting(source: WindowSource) -> Iterator[None]:
    try:
        yield
    finally:
        source.forget()


def _flatten(pairs: Sequence[tuple[Any, Any]]) -> list[Any]:
    return [one for pair in pairs for one in pair]


class _Buffers:
    """Memory of two windows, in turn: clearing fresh pages costs as much as reading the rows."""

    def __init__(self) -> None:
        self._buffers: tuple[list[Floats], list[Floats]] = [], []
        self._num_taken = 0
        self._vacant = threading.Semaphore(len(self._buffers))

    def take(self, shapes: Sequence[tuple[int, ...]]) -> list[Floats]:
        """Arrays of these shapes with any numbers in them, once a buffer is vacant."""
        self._vacant.acquire()
        buffer = self._buffers[self._num_taken % len(self._buffers)]
        self._num_taken += 1
        if [array.shape for array in buffer] != list(shapes):
            buffer[:] = map(_aligned, shapes)
        return list(buffer)

    def release(self) -> None:
        """Makes the buffer that was taken first vacant."""
        self._vacant.release()


def _aligned(shape: tuple[int, ...]) -> Floats:
    """An array at an address that TensorFlow takes as it is."""
    size = 4 * math.prod(shape)
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(np.float32).reshape(shape)


def _options() -> tf.data.Options:
    # The autotuner wakes at 10 ms, 20 ms, ... 5.12 s, 10.24 s, and the end of the iterator may wait
    # for it: half of the runs lost up to half their time there (TensorFlow 2.21).
    options = tf.data.Options()
    options.autotune.enabled = False
    return options
