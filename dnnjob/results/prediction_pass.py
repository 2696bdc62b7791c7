"""The pass over a table that predicts every row, kept on the way, and what the rows leave.

sums, predictions = PredictionPass(table, encoding, encode, predict, parts, num_params).run()
sums.errors, sums.joined("y_pred")
join_parts(predictions, paths, intervals=None, tests_alone=False)
"""

import io
import logging
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.data.encoding import Encoding, NumberColumn
from dnnjob.data.folds import Folds
from dnnjob.data.parquet import fill_parquet
from dnnjob.data.raw_columns import FloatArray, Texts
from dnnjob.data.split import TEST, TRAIN, VALIDATION
from dnnjob.data.table import Piece, Table, piece_rows
from dnnjob.errors import StoppedError
from dnnjob.results.baselines import LinearSums, count_linear_inputs, linear_inputs
from dnnjob.results.intervals import Intervals
from dnnjob.results.metrics import Totals, add_up, pack_totals, unpack_totals
from dnnjob.results.report import add_bounds, make_predictions
from dnnjob.runs import Position, RunPaths, write_bytes, write_file
from dnnjob.tasks import TaskAttempt

logger = logging.getLogger(__name__)

# Rows whose predictions stand in one file, and are in memory until it is written.
_MAX_PART_ROWS = 2**20
# Rows predicted at once times parameters: a second on a few cores, within which a run can stop.
_MAX_PRODUCTS = 1e11
# A multiple of what a network predicts at once, so that a row's prediction does not depend on the
# rows beside it.
_LEAST_ROWS = 8192
# Rows drawn of the table, and again of its test rows, for plots and the worth of columns; and of
# its validation rows, for intervals.
_SAMPLE_ROWS = 20_000
# What a cut or foreign file makes its reader raise.
_DAMAGE = (*(OSError, ValueError, KeyError, EOFError), zipfile.BadZipFile, pa.ArrowException)
_SAMPLED = ("raw", "y", "y_pred", "y_unseen", "labels", "inputs")

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Part: TypeAlias = "Path | pa.Table"
"""Consecutive predictions: a file, or what could not be written."""


@dataclass(frozen=True)
class PredictedParts:
    """The predictions of a run on their way, in files beside its checkpoints.

    Attributes:
        attempt: Told how far predicting has come, and asked between pieces whether to go on.
        trained: Where training ended.
        key: Names the trained weights: parts of others do not count.
        every_s: Seconds between two writings.
    """

    attempt: TaskAttempt
    trained: Position
    key: str
    every_s: float

    def path(self, first: int) -> Path:
        """The file that begins with a row."""
        return self.attempt.journal.paths.predicted(self.key, first)

    def position(self, num_rows: int) -> Position:
        """Where a run stands that has predicted so many rows."""
        return self.trained.model_copy(update={"predicted": num_rows})


@dataclass(eq=False)
class PredictionSums:
    """What the rows predicted so far leave, beside their predictions.

    Attributes:
        errors: Totals of train, validation and test rows.
        members: Totals of the validation and the test rows of each network of several.
        linear: Of the training and test rows.
        num_rows: How many rows.
        num_tests: Test rows among them.
        num_validations: Validation rows among them.
        num_trains: Training rows among them.
        sample: Of each piece, of some of its rows: raw numbers, targets, predictions (`y_pred`),
            predictions by networks that they did not train (`y_unseen`: for training rows by the
            member that left them out, NaN where there is none), splits, and the network's inputs
            of the test rows among them.
        num_written: Pieces of the sample that stand in files.
    """

    linear: LinearSums
    errors: list[Totals] = field(default_factory=lambda: [Totals()] * 3)
    members: list[Totals] = field(default_factory=list)
    num_rows: int = 0
    num_tests: int = 0
    num_validations: int = 0
    num_trains: int = 0
    sample: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _SAMPLED})
    num_written: int = 0

    def joined(self, name: str, first: int = 0) -> Any:
        """The sample from one of its pieces on."""
        return np.concatenate(self.sample[name][first:])

    def dump(self) -> dict[str, Any]:
        """What a later attempt needs to go on after these rows, with the sample not yet written."""
        return {
            "errors": pack_totals([*self.errors, *self.members]),
            "train": self.linear.train,
            "test": self.linear.test,
            "counts": np.array(
                [self.num_rows, self.num_tests, self.num_validations, self.num_trains]
            ),
            **{name: self.joined(name, self.num_written) for name in self.sample},
        }

    def load(self, stored: Mapping[str, Any]) -> None:
        """Goes on after the rows that a dump is of."""
        names = (*self.sample, "errors", "train", "test", "counts")
        # All is read before anything changes: a damaged array raises.
        values = {name: stored[name] for name in names}
        totals = unpack_totals(values["errors"])
        counts = map(int, values["counts"])
        self.num_rows, self.num_tests, self.num_validations, self.num_trains = counts
        self.errors, self.members = totals[:3], totals[3:]
        self.linear = replace(self.linear, train=values["train"], test=values["test"])
        for name, each in self.sample.items():
            each.append(values[name])
        self.num_written = len(self.sample["y"])


@dataclass(frozen=True, eq=False)
class PredictionPass:
    """The pass over a table that predicts it, part by part.

    Attributes:
        table: The rows.
        encoding: How they become inputs.
        encode: The encoder.
        predict: From inputs to predictions of the scaled target, `(num_members, num_rows)`.
        parts: Keeps what is predicted for a later attempt.
        num_params: Of all members, by which rows are predicted at once.
        folds: Of each training row the member that did not train on it, -1 where none is left;
            None where all did.
    """

    table: Table
    encoding: Encoding
    encode: Callable[[Floats], Floats]
    predict: Callable[[Floats], FloatArray]
    parts: PredictedParts
    num_params: int
    folds: Folds | None = None

    def run(self) -> tuple[PredictionSums, list[Part]]:
        """What all rows leave, and their predictions."""
        sums, parts = self._restore()
        watch = self.parts.attempt.watch
        tables: list[pa.Table] = []
        pieces = self.table.pieces(size=self._piece_rows, first=sums.num_rows)
        began, written_at = sums.num_rows, time.monotonic()
        while sums.num_rows < self.table.num_rows:
            with watch.time("predict"):
                piece = next(pieces)
                x = self.encode(self.encoding.numbers(piece.block))
                each = self.encoding.target.restore(self.predict(x))
                y_pred = each.mean(axis=0)
                tables.append(_predictions_of(piece, y_pred, each))
            with watch.time("evaluate"):
                self._add(sums, piece, x, each, y_pred)
            is_due = time.monotonic() - written_at >= self.parts.every_s
            is_full = sums.num_rows - began >= _MAX_PART_ROWS
            if is_due or is_full or sums.num_rows == self.table.num_rows or self._is_to_stop():
                with watch.time("predict"):
                    part = pa.concat_tables(tables)
                    is_written = self._write(sums, part, began)
                written_at = time.monotonic()
                if is_written:
                    parts.append(self.parts.path(began))
                    began = sums.num_rows
                    tables.clear()
            self.parts.attempt.check()
        return sums, [*parts, *tables]

    def _is_to_stop(self) -> bool:
        try:
            self.parts.attempt.check()
        except StoppedError:
            return True
        return False

    @property
    def _piece_rows(self) -> int:
        most = piece_rows(self.encoding.num_inputs)
        affordable = max(_LEAST_ROWS, int(_MAX_PRODUCTS / self.num_params))
        rows = min(most, affordable)
        return rows // _LEAST_ROWS * _LEAST_ROWS or rows

    def _restore(self) -> tuple[PredictionSums, list[Part]]:
        """What an earlier attempt has left of these weights."""
        sums = self._begin()
        parts: list[Part] = []
        while (path := self.parts.path(sums.num_rows)).is_file():
            try:
                # From memory: of a damaged file NumPy leaves the handle open.
                content = io.BytesIO(_side(path).read_bytes())
                with np.load(content, allow_pickle=False) as stored:
                    # Parquet itself would read on with flipped bits.
                    if int(stored["checksum"]) != zlib.crc32(path.read_bytes()):
                        raise ValueError("its checksum does not match its content")
                    sums.load(stored)
            except _DAMAGE as error:
                logger.warning("Skipping the damaged predictions %s: %s.", path, error)
                break
            parts.append(path)
        if parts:
            self.parts.attempt.journal.mark_resumed(self.parts.position(sums.num_rows))
            logger.info(
                "Going on from predicted row %d of %d.", sums.num_rows + 1, self.table.num_rows
            )
        return sums, parts

    def _begin(self) -> PredictionSums:
        columns, table = self.encoding.columns, self.table
        num_inputs = len(columns) if self._is_plain else count_linear_inputs(self.encoding)
        num_rows = table.num_split_rows(TRAIN) + table.num_split_rows(TEST)
        return PredictionSums(LinearSums.of(num_rows=num_rows, num_inputs=num_inputs))

    @property
    def _is_plain(self) -> bool:
        """Whether a linear model takes the columns as they are: all are numbers without gaps."""
        return all(
            isinstance(column, NumberColumn)
            and not column.indicator
            and not self.table.num_missing(column.name, (TRAIN, TEST))
            for column in self.encoding.columns
        )

    def _add(
        self, sums: PredictionSums, piece: Piece, x: Floats, each: Doubles, y_pred: Doubles
    ) -> None:
        for place in range(3):
            rows = piece.labels == place
            if rows.any():
                sums.errors[place] += add_up(piece.y[rows], y_pred[rows])
        trains, folds = piece.labels == TRAIN, self._unseen_folds(sums, piece)
        left_out = folds >= 0
        y_unseen = np.where(trains, np.nan, y_pred)
        y_unseen[left_out] = each[folds[left_out], np.flatnonzero(left_out)]
        if self._folds_validate and left_out.any():
            sums.errors[VALIDATION] += add_up(piece.y[left_out], y_unseen[left_out])
        self._add_members(sums, piece, each, folds)
        rows = trains | (piece.labels == TEST)
        sums.linear = sums.linear.added(
            self._linear_inputs(piece, x, rows),
            piece.y[rows] - self.table.train_mean(self.table.data.target),
            is_test=piece.labels[rows] == TEST,
        )
        drawn, is_test = self._draw(sums, piece), piece.labels == TEST
        sums.num_rows += len(piece.y)
        sums.num_tests += int(is_test.sum())
        sums.num_validations += int((piece.labels == VALIDATION).sum())
        sums.num_trains += int(trains.sum())
        raw = _raw_numbers(piece, self.encoding)
        sample = (
            raw[drawn],
            piece.y[drawn],
            y_pred[drawn],
            y_unseen[drawn],
            piece.labels[drawn],
            x[drawn & is_test],
        )
        for kept, values in zip(sums.sample.values(), sample, strict=True):
            kept.append(values)

    def _add_members(
        self, sums: PredictionSums, piece: Piece, each: Doubles, folds: npt.NDArray[np.int32]
    ) -> None:
        """Adds up the errors of each network of several."""
        if len(each) == 1:
            return
        sums.members = sums.members or [Totals()] * (2 * len(each))
        for place, split in enumerate((VALIDATION, TEST)):
            for number, y_pred in enumerate(each):
                rows = piece.labels == split
                if split == VALIDATION and self._folds_validate:
                    rows = folds == number
                if rows.any():
                    sums.members[2 * number + place] += add_up(piece.y[rows], y_pred[rows])

    @property
    def _folds_validate(self) -> bool:
        return self.folds is not None and not self.table.num_split_rows(VALIDATION)

    def _unseen_folds(self, sums: PredictionSums, piece: Piece) -> npt.NDArray[np.int32]:
        """Of each row of the next piece the member that it alone did not train; -1 of others."""
        folds, trains = np.full(len(piece.y), -1, np.int32), piece.labels == TRAIN
        if self.folds is not None:
            folds[trains] = self.folds[sums.num_trains :][: int(trains.sum())]
        return folds

    def _linear_inputs(self, piece: Piece, x: Floats, rows: npt.NDArray[np.bool_]) -> Doubles:
        if not self._is_plain:
            return linear_inputs(self.encoding, x[rows]).astype(np.float64)
        # Deviations: sums of squares of large numbers would lose the small differences.
        means = [self.table.train_mean(column.name) for column in self.encoding.columns]
        return _raw_numbers(piece, self.encoding)[rows] - means

    def _draw(self, sums: PredictionSums, piece: Piece) -> npt.NDArray[np.bool_]:
        """Which rows of the next piece to keep: of all rows, of test and of validation rows."""
        every = -(-self.table.num_rows // _SAMPLE_ROWS)
        drawn = piece.row_ids % every == 0
        for split, before in ((TEST, sums.num_tests), (VALIDATION, sums.num_validations)):
            every = max(1, -(-self.table.num_split_rows(split) // _SAMPLE_ROWS))
            rows = piece.labels == split
            ranks = before + np.cumsum(rows) - 1
            drawn = drawn | (rows & (ranks % every == 0))
        return np.asarray(drawn)

    def _write(self, sums: PredictionSums, part: pa.Table, first: int) -> bool:
        """Leaves what is predicted for a later attempt; False where it cannot be written."""
        path, journal = self.parts.path(first), self.parts.attempt.journal
        journal.recheck()
        predictions, side = io.BytesIO(), io.BytesIO()
        pq.write_table(part, predictions, compression="zstd")
        checksum = np.array(zlib.crc32(predictions.getbuffer()))
        np.savez(side, **sums.dump(), checksum=checksum)
        try:
            write_bytes(_side(path), side.getbuffer())
            # Written last: its presence means that both are whole.
            write_bytes(path, predictions.getbuffer())
        except OSError as error:
            logger.warning("The predictions so far could not be kept: %s.", error)
            return False
        sums.num_written = len(sums.sample["y"])
        journal.mark_reached(self.parts.position(sums.num_rows))
        return True


def _predictions_of(piece: Piece, y_pred: Doubles, each: Doubles) -> pa.Table:
    return make_predictions(
        row_id=piece.row_ids,
        split=piece.labels,
        y_true=piece.y,
        y_pred=y_pred,
        y_std=each.std(axis=0) if len(each) > 1 else None,
        ids=piece.ids,
    )


def _side(path: Path) -> Path:
    return path.with_suffix(".npz")


def join_parts(
    parts: Sequence[Part], paths: RunPaths, *, intervals: Intervals | None, tests_alone: bool
) -> None:
    """Joins predictions to the file of the run."""

    def read(part: Part) -> pa.Table:
        table = add_bounds(pq.read_table(part) if isinstance(part, Path) else part, intervals)
        if not tests_alone:
            return table
        codes = table["split"].combine_chunks().indices
        return table.filter(pa.compute.equal(codes, TEST))

    write_file(paths.predictions, lambda file: fill_parquet(file, map(read, parts)))


def _raw_numbers(piece: Piece, encoding: Encoding) -> Doubles:
    columns = [piece.block[column.name] for column in encoding.number_columns]
    numbers = [np.asarray(one, np.float64) for one in columns if not isinstance(one, Texts)]
    return np.stack(numbers, axis=1) if numbers else np.zeros((len(piece.y), 0))
