"""Training rows of a table: resident, or what feeds the compiled step window by window.

rows = WindowedRows.of(table, encoding, budget_bytes=2**30, threads=2)
prepared = rows.prepare(job, devices, first_replica=0)
feed = prepared.make_feed(step)
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.folds import Folds
from dnnjob.data.order import Plan, StepPlan, WindowPlan, window_rows
from dnnjob.data.split import TRAIN, VALIDATION
from dnnjob.data.table import Piece, Table, piece_rows, take_piece
from dnnjob.data.windows import (
    Window,
    WindowSource,
    count_resident_blocks,
    stream_windows,
)
from dnnjob.training.encoder import build_encoder
from dnnjob.training.network import Network
from dnnjob.training.step import CompiledStep, ResidentData
from dnnjob.training.strategy import Devices

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]

# Rows that are encoded together: what comes of them stays in the cache from one op to the next.
_ENCODED_ROWS = 8192
# Validation rows of one matrix product.
_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class Feed:
    """What a training needs for rows that do not stay on the device.

    Attributes:
        windows: Of a seed, the windows from that of a step on.
        validate: Validation loss of a network's present weights; None where there are no such rows.
            What it is given is called between its pieces.
    """

    windows: Callable[[int, int], Iterator[Window]]
    validate: Callable[[Network, Callable[[], None]], float] | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows on the way to a training.

    Attributes:
        plan: Steps of the member with the most rows.
        data: Rows to compile the step with.
        make_feed: What feeds the compiled step; None where all rows are resident.
        folds: Fold of each training row, whose number is that of the member that leaves it out;
            None where all train on all.
        stops_on_folds: Whether the rows left out validate a member.
    """

    plan: Plan
    data: ResidentData
    make_feed: Callable[[CompiledStep], Feed] | None = None
    folds: Folds | None = None
    stops_on_folds: bool = False


@dataclass(frozen=True, eq=False)
class WindowedRows:
    """A table ready for the network.

    Attributes:
        table: The rows.
        encoding: How they become inputs.
        encode: The encoder, traced once.
        budget_bytes: What training rows may take of this task's memory.
        threads: Threads to read with.
        folds: Fold of each training row, where members leave one out each.
        resident: By a device's name, what one holds of all rows already, for runs that follow each
            other; None keeps nothing there.
    """

    table: Table
    encoding: Encoding
    encode: Callable[[Floats], Floats]
    budget_bytes: float
    threads: int
    folds: Folds | None = None
    resident: dict[str, ResidentData] | None = None

    @classmethod
    def of(
        cls,
        table: Table,
        encoding: Encoding,
        *,
        budget_bytes: float,
        threads: int,
        folds: Folds | None = None,
    ) -> "WindowedRows":
        """A table's rows; its encoder is built here."""
        encode = trace_encoder(build_encoder(encoding))
        return cls(table, encoding, encode, budget_bytes, threads, folds)

    @property
    def num_inputs(self) -> int:
        """Inputs of the network."""
        return self.encoding.num_inputs

    @property
    def fingerprint(self) -> Fingerprint:
        """What tells this table from another."""
        return self.table.fingerprint

    @property
    def num_targets(self) -> int:
        """Numbers of a row beside its inputs: the target, and with weights their root."""
        return 1 if self.table.data.weight_column is None else 2

    def prepare(self, job: JobConfig, devices: Devices, *, first_replica: int) -> Prepared:
        """What a training of the job takes.

        Args:
            job: The resolved job.
            devices: What it runs on.
            first_replica: The first of this task's.
        """
        if not self.table.by_windows:
            return self._prepare_resident(job, devices)
        plan = WindowPlan(
            num_rows=self.table.num_split_rows(TRAIN),
            global_batch_size=job.train.global_batch_size,
            num_replicas=devices.num_replicas,
            epochs=job.train.epochs,
            window_rows=window_rows(job.data, self.table.kinds),
        )
        source = self._source(plan, devices, first_replica)
        blank = [(tf.zeros(x), tf.zeros(y)) for x, y in source.shapes]
        data = ResidentData(
            x=devices.place_each([x for x, _ in blank]),
            y=devices.place_each([y for _, y in blank]),
        )
        return Prepared(plan, data, partial(self._make_feed, source))

    def _prepare_resident(self, job: JobConfig, devices: Devices) -> Prepared:
        """Every device holds all rows."""
        data = self._place_rows(devices)
        left_out = np.zeros(1, int) if self.folds is None else np.bincount(self.folds)
        plan = StepPlan(
            num_rows=self.table.num_split_rows(TRAIN) - int(left_out.min()),
            global_batch_size=job.train.global_batch_size,
            num_replicas=devices.num_replicas,
            epochs=job.train.epochs,
        )
        # With patience a member stops on its fold even then, which leaves validation rows unused.
        is_free = not data.num_validation_rows or job.train.patience is not None
        stops_on_folds = self.folds is not None and is_free
        if stops_on_folds:
            data = replace(
                data,
                x_validation=data.x,
                y_validation=data.y,
                num_validation_rows=int(left_out.max()),
            )
        return Prepared(plan, data, folds=self.folds, stops_on_folds=stops_on_folds)

    def _place_rows(self, devices: Devices) -> ResidentData:
        """All rows on every device; a single one may hold them since an earlier run."""
        name = devices.names[0]
        resident = self.resident if devices.num_replicas == 1 else None
        if resident is not None and name in resident:
            return resident[name]
        (x, y), (x_validation, y_validation) = self._read_splits((TRAIN, VALIDATION))
        data = ResidentData(
            x=devices.place(lambda: tf.constant(x)),
            y=devices.place(lambda: tf.constant(y)),
            x_validation=devices.place(lambda: tf.constant(x_validation)),
            y_validation=devices.place(lambda: tf.constant(y_validation)),
            num_validation_rows=len(y_validation),
        )
        if resident is not None:
            resident[name] = data
        return data

    def _read_splits(self, splits: Sequence[int]) -> list[tuple[Floats, Floats]]:
        """Inputs and targets of all rows of some splits, in the order of the table."""
        filled = [self._blank(self.table.num_split_rows(split)) for split in splits]
        ends = dict.fromkeys(splits, 0)
        for piece in self.table.pieces(size=piece_rows(self.num_inputs)):
            for split, (x, y) in zip(splits, filled, strict=True):
                part = take_piece(piece, np.flatnonzero(piece.labels == split))
                if len(part.y):
                    place = slice(ends[split], ends[split] + len(part.y))
                    x[place], y[place] = self._encode(part, split)
                    ends[split] = place.stop
        return filled

    def _blank(self, num_rows: int) -> tuple[Floats, Floats]:
        shape = (num_rows,) if self.num_targets == 1 else (num_rows, 2)
        return np.zeros((num_rows, self.num_inputs), np.float32), np.zeros(shape, np.float32)

    def _make_feed(self, source: WindowSource, step: CompiledStep) -> Feed:
        plan = source.plan
        logger.info(
            "%d windows an epoch of up to %d training rows, %d of %d blocks stay in memory.",
            plan.windows_per_epoch,
            plan.window_size(0),
            source.num_resident_blocks,
            plan.num_blocks,
        )

        def windows(seed: int, first_step: int) -> Iterator[Window]:
            before = self.table.rows.num_read_bytes
            yield from stream_windows(plan, source, seed=seed, first_step=first_step)
            logger.info(
                "Read %d training rows, %d bytes, for steps %d to %d.",
                source.num_read_rows,
                self.table.rows.num_read_bytes - before,
                first_step + 1,
                plan.num_steps,
            )

        num_rows = self.table.num_split_rows(VALIDATION)
        validate = partial(self._validate, step, source, num_rows=num_rows)
        return Feed(windows, validate if num_rows else None)

    def _source(self, plan: WindowPlan, devices: Devices, first_replica: int) -> WindowSource:
        replicas = range(first_replica, first_replica + len(devices.names))
        return WindowSource(
            plan=plan,
            read=partial(self.read, TRAIN),
            replicas=replicas,
            num_inputs=self.num_inputs,
            num_targets=self.num_targets,
            num_resident_blocks=count_resident_blocks(
                plan,
                num_replicas=len(replicas),
                num_values=self.num_inputs + self.num_targets,
                budget_bytes=self.budget_bytes,
            ),
            threads=self.threads,
        )

    def read(self, split: int, first: int, stop: int) -> tuple[Floats, Floats]:
        """Inputs and targets of rows of a split, counted in the order of the table."""
        return self._encode(self.table.read_split(split, first, stop), split)

    def _encode(self, piece: Piece, split: int) -> tuple[Floats, Floats]:
        return self.encode(self.encoding.numbers(piece.block)), self._targets(piece, split)

    def _targets(self, piece: Piece, split: int) -> Floats:
        y = self.encoding.target.scale(piece.y)
        if piece.weights is None:
            return y
        roots = np.sqrt(piece.weights / self.table.mean_weight(split))
        return np.stack([y, roots.astype(np.float32)], axis=1)

    def _validate(
        self,
        step: CompiledStep,
        source: WindowSource,
        network: Network,
        advance: Callable[[], None],
        *,
        num_rows: int,
    ) -> float:
        """Mean squared error of all validation rows, each task reading its own."""
        num_replicas = source.plan.num_replicas
        chunks = max(1, piece_rows(self.num_inputs) // _CHUNK_ROWS)
        at_once = min(num_rows, num_replicas * chunks * _CHUNK_ROWS)
        share = math.ceil(at_once / num_replicas)
        num_chunks = math.ceil(share / _CHUNK_ROWS)
        each = num_chunks * math.ceil(share / num_chunks)
        starts = range(0, num_rows, each * num_replicas)

        def read(start: int) -> list[tuple[Floats, Floats]]:
            return [
                self._read_padded(start + replica * each, each, num_rows=num_rows)
                for replica in source.replicas
            ]

        total = 0.0
        with ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(read, starts[0])
            for start in starts:
                parts = waiting.result()
                if start + starts.step < num_rows:
                    waiting = ahead.submit(read, start + starts.step)
                rows = np.arange(each * num_replicas, dtype=np.int32)
                known = np.where(start + rows < num_rows, rows % each, -1)
                places = known.reshape(num_replicas, num_chunks, -1).swapaxes(0, 1)
                tensors = [(tf.constant(x), tf.constant(y)) for x, y in parts]
                with network.present() as state:
                    total += step.sum_squared_errors(state, tensors, np.ascontiguousarray(places))
                advance()
        return total / num_rows

    def _read_padded(self, first: int, size: int, *, num_rows: int) -> tuple[Floats, Floats]:
        x, y = self._blank(size)
        if count := max(0, min(size, num_rows - first)):
            x[:count], y[:count] = self.read(VALIDATION, first, first + count)
        return x, y


def with_first_ahead(windows: Iterator[Window]) -> Iterator[Window]:
    """The same windows, the first of which is being filled already."""
    pool = ThreadPoolExecutor(1)
    first = pool.submit(next, windows, None)
    pool.shutdown(wait=False)
    return _chain(first, windows)


def _chain(first: "Future[Window | None]", windows: Iterator[Window]) -> Iterator[Window]:
    window = first.result()
    # The future would keep it in memory.
    del first
    if window is not None:
        yield window
        del window
        yield from windows


def trace_encoder(encoder: keras.Model) -> Callable[[Floats], Floats]:
    """The network's inputs `(rows, num_inputs)` of `Encoding.numbers`, traced once."""
    traced = tf.function(
        lambda numbers: encoder(numbers),
        input_signature=[tf.TensorSpec((None, encoder.input_shape[-1]), tf.float32)],
        autograph=False,
    )

    def encode(numbers: Floats) -> Floats:
        inputs = np.empty((len(numbers), encoder.output_shape[-1]), np.float32)
        for first in range(0, len(numbers), _ENCODED_ROWS):
            rows = slice(first, first + _ENCODED_ROWS)
            inputs[rows] = traced(numbers[rows])
        return inputs

    return encode
