"""Predictions of every row of a table, kept on the way, and what they give.

evaluated = evaluate(table, encoding, encode, predict, job=job, parts=parts)
evaluated.metrics.test.mse
evaluated.write_predictions(paths)
"""

import io
import logging
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.config import JobConfig
from dnnjob.data.encoding import Encoding, NumberColumn
from dnnjob.data.folds import Folds
from dnnjob.data.raw_columns import FloatArray, Texts
from dnnjob.data.split import SPLITS, TEST, TRAIN, VALIDATION
from dnnjob.data.table import Piece, Table, piece_rows
from dnnjob.errors import StoppedError
from dnnjob.results.baselines import LinearSums
from dnnjob.results.importance import Importance, measure_importance
from dnnjob.results.intervals import Intervals, calibrate, describe_too_few
from dnnjob.results.metrics import Totals, add_up, pack_totals, unpack_totals
from dnnjob.results.report import SplitBaselines, SplitMetrics, add_bounds, make_predictions
from dnnjob.runs import Position, RunPaths, write_file
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
MAX_LINEAR_CATEGORIES = 64
# What a cut or foreign file makes its reader raise.
_DAMAGE = (*(OSError, ValueError, KeyError, EOFError), zipfile.BadZipFile, pa.ArrowException)

_SAMPLED = ("raw", "y", "y_pred", "y_unseen", "y_std", "labels", "inputs")

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_Part: TypeAlias = "Path | pa.Table"
"""Consecutive predictions: a file, or what could not be written."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows for plots: all of a table, of a long one a sample.

    Attributes:
        raw: Numbers, `(num_rows, num_number_columns)`, as the table has them.
        y: Targets, `(num_rows,)`, NaN where unlabelled.
        y_pred: Predictions, same shape, target units.
        is_test: Which are test rows, same shape.
    """

    raw: FloatArray
    y: FloatArray
    y_pred: FloatArray
    is_test: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What the predictions of all rows give.

    Attributes:
        metrics: Of each split.
        baselines: On the test rows.
        importance: What each column is worth.
        intervals: How far targets lie from predictions; None where no rows tell.
        members: Of each network of several, the mean squared errors of its validation and of the
            test rows, target units squared; None without such rows.
        drawn: Rows for plots.
        write_predictions: Writes them into a run folder, as `output.predictions` wants them.
    """

    metrics: SplitMetrics
    baselines: SplitBaselines
    importance: tuple[Importance, ...]
    intervals: Intervals | None
    members: tuple[tuple[float | None, float | None], ...]
    drawn: Drawn
    write_predictions: Callable[[RunPaths], None]


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
class _Sums:
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
            member that left them out, NaN where there is none), the standard deviation of all
            members' predictions (`y_std`, 0 of a single one), splits, and the network's inputs of
            the test rows among them.
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
        values = {name: stored[name] for name in (*self.sample, "errors", "train", "test")}
        totals = unpack_totals(values["errors"])
        self.errors, self.members = totals[:3], totals[3:]
        self.linear = replace(self.linear, train=values["train"], test=values["test"])
        counts = map(int, stored["counts"])
        self.num_rows, self.num_tests, self.num_validations, self.num_trains = counts
        for name, each in self.sample.items():
            each.append(values[name])
        self.num_written = len(self.sample["y"])


def evaluate(
    table: Table,
    encoding: Encoding,
    encode: Callable[[Floats], Floats],
    predict: Callable[[Floats], FloatArray],
    *,
    job: JobConfig,
    parts: PredictedParts,
    folds: Folds | None = None,
) -> Evaluated:
    """Predicts every row, or finds what an earlier attempt has predicted, and measures the errors.

    Args:
        table: The rows.
        encoding: How they become inputs.
        encode: The encoder.
        predict: From inputs to predictions of the scaled target, `(num_members, num_rows)`; the
            model's is their mean in target units.
        job: The resolved job.
        parts: Keeps what is predicted for a later attempt.
        folds: Of each training row the member that did not train on it; None where all did.
            Without validation rows these members' predictions are the validation.

    Raises:
        StoppedError: If a signal asked for it; a later attempt predicts the rest.
    """
    num_params = encoding.count_params(job.model) * job.model.members
    pass_ = _PredictionPass(table, encoding, encode, predict, parts, num_params, folds)
    sums, predictions = pass_.run()
    parts.attempt.check()
    with parts.attempt.watch.time("evaluate"):
        labels, target_std = sums.joined("labels"), encoding.target.raw_std
        is_test = labels == TEST
        named = zip(SPLITS, sums.errors, strict=False)
        intervals = _make_intervals(job, sums)
        return Evaluated(
            metrics=SplitMetrics(
                **{name: one.metrics(target_std=target_std) for name, one in named}
            ),
            baselines=SplitBaselines(test=sums.linear.solve() if is_test.any() else None),
            importance=measure_importance(
                lambda x: encoding.target.restore(predict(x)).mean(axis=0),
                sums.joined("inputs"),
                sums.joined("y")[is_test],
                places=encoding.places,
                num_params=num_params,
                seed=job.seed,
            )
            if is_test.any()
            else (),
            intervals=intervals,
            members=_member_errors(sums.members),
            drawn=Drawn(sums.joined("raw"), sums.joined("y"), sums.joined("y_pred"), is_test),
            write_predictions=partial(
                _join_parts,
                predictions,
                intervals=intervals,
                tests_alone=job.output.predictions == "test",
            ),
        )


def _member_errors(totals: Sequence[Totals]) -> tuple[tuple[float | None, float | None], ...]:
    """Mean squared errors of pairs of totals."""
    mse = [one.squared_error / one.num_rows if one.num_rows else None for one in totals]
    return tuple(zip(mse[::2], mse[1::2], strict=True))


def _make_intervals(job: JobConfig, sums: _Sums) -> Intervals | None:
    """Intervals by the validation rows or the folds, of a long table by a sample of them."""
    level = job.interval_level
    if not level or job.calibration is None:
        return None
    labels, y, y_pred = (sums.joined(name) for name in ("labels", "y", "y_pred"))
    unseen, tests = labels == VALIDATION, labels == TEST
    method: Literal["split", "cross"] = "split"
    # A column that deals the rows may name none of them for validation.
    if not unseen.any() and job.model.bagging == "folds" and job.train.patience is None:
        unseen, method = labels == TRAIN, "cross"
    transform = job.data.target_transform
    y_unseen = sums.joined("y_unseen")[unseen]
    found = calibrate(y[unseen], y_unseen, level=level, method=method, transform=transform)
    if found is None:
        logger.warning("%s", describe_too_few(level, int(unseen.sum())))
        return None
    found = found.judged(y[tests], y_pred[tests])
    if found.coverage_test is not None:
        logger.info(
            "Intervals of level %g, from %d rows held out, hold the target of %.1f %% of the test "
            "rows; their mean width is %.4g.",
            *(level, found.num_rows, 100 * found.coverage_test, found.mean_width),
        )
    return found


@dataclass(frozen=True, eq=False)
class _PredictionPass:
    """The pass over a table that predicts it, part by part."""

    table: Table
    encoding: Encoding
    encode: Callable[[Floats], Floats]
    predict: Callable[[Floats], FloatArray]
    parts: PredictedParts
    num_params: int
    folds: Folds | None = None

    def run(self) -> tuple[_Sums, list[_Part]]:
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
                self._add(sums, piece, x, each)
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

    def _restore(self) -> tuple[_Sums, list[_Part]]:
        """What an earlier attempt has left of these weights."""
        sums = self._begin()
        parts: list[_Part] = []
        while (path := self.parts.path(sums.num_rows)).is_file():
            try:
                pq.read_metadata(path)
                # From memory: of a damaged file NumPy leaves the handle open.
                content = io.BytesIO(_side(path).read_bytes())
                with np.load(content, allow_pickle=False) as stored:
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

    def _begin(self) -> _Sums:
        columns, table = self.encoding.columns, self.table
        num_inputs = len(columns) if self._is_plain else _count_linear_inputs(self.encoding)
        num_rows = table.num_split_rows(TRAIN) + table.num_split_rows(TEST)
        return _Sums(LinearSums.of(num_rows=num_rows, num_inputs=num_inputs))

    @property
    def _is_plain(self) -> bool:
        """Whether a linear model takes the columns as they are: all are numbers without gaps."""
        return all(
            isinstance(column, NumberColumn)
            and not column.indicator
            and not self.table.num_missing(column.name, (TRAIN, TEST))
            for column in self.encoding.columns
        )

    def _add(self, sums: _Sums, piece: Piece, x: Floats, each: Doubles) -> None:
        y_pred, y_unseen, y_std = each.mean(axis=0), self._unseen(sums, piece, each), each.std(0)
        for place in range(3):
            rows = piece.labels == place
            if rows.any():
                sums.errors[place] += add_up(piece.y[rows], y_pred[rows])
        trains = piece.labels == TRAIN
        if self._folds_validate and trains.any():
            sums.errors[VALIDATION] += add_up(piece.y[trains], y_unseen[trains])
        self._add_members(sums, piece, each)
        rows = (piece.labels == TRAIN) | (piece.labels == TEST)
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
            y_std[drawn],
            piece.labels[drawn],
            x[drawn & is_test],
        )
        for kept, values in zip(sums.sample.values(), sample, strict=True):
            kept.append(values)

    def _add_members(self, sums: _Sums, piece: Piece, each: Doubles) -> None:
        """Adds up the errors of each network of several."""
        if len(each) == 1:
            return
        sums.members = sums.members or [Totals()] * (2 * len(each))
        unseen = self._unseen_folds(sums, piece)
        for place, split in enumerate((VALIDATION, TEST)):
            for number, y_pred in enumerate(each):
                rows = piece.labels == split
                if split == VALIDATION and self._folds_validate:
                    rows = unseen == number
                if rows.any():
                    sums.members[2 * number + place] += add_up(piece.y[rows], y_pred[rows])

    @property
    def _folds_validate(self) -> bool:
        return self.folds is not None and not self.table.num_split_rows(VALIDATION)

    def _unseen_folds(self, sums: _Sums, piece: Piece) -> npt.NDArray[np.int32]:
        """Of each row of the next piece the member that it alone did not train; -1 of others."""
        folds, trains = np.full(len(piece.y), -1, np.int32), piece.labels == TRAIN
        if self.folds is not None:
            folds[trains] = self.folds[sums.num_trains :][: int(trains.sum())]
        return folds

    def _unseen(self, sums: _Sums, piece: Piece, each: Doubles) -> Doubles:
        """Predictions of the next piece by networks that its rows did not train, or NaN."""
        folds = self._unseen_folds(sums, piece)
        left_out = each[folds, np.arange(len(folds))]
        seen = np.where(piece.labels == TRAIN, np.nan, each.mean(axis=0))
        return np.where(folds >= 0, left_out, seen)

    def _linear_inputs(self, piece: Piece, x: Floats, rows: npt.NDArray[np.bool_]) -> Doubles:
        if not self._is_plain:
            return linear_inputs(self.encoding, x[rows]).astype(np.float64)
        # Deviations: sums of squares of large numbers would lose the small differences.
        means = [self.table.train_mean(column.name) for column in self.encoding.columns]
        return _raw_numbers(piece, self.encoding)[rows] - means

    def _draw(self, sums: _Sums, piece: Piece) -> npt.NDArray[np.bool_]:
        """Which rows of the next piece to keep: of all rows, of test and of validation rows."""
        every = -(-self.table.num_rows // _SAMPLE_ROWS)
        drawn = piece.row_ids % every == 0
        for split, before in ((TEST, sums.num_tests), (VALIDATION, sums.num_validations)):
            every = max(1, -(-self.table.num_split_rows(split) // _SAMPLE_ROWS))
            rows = piece.labels == split
            ranks = before + np.cumsum(rows) - 1
            drawn = drawn | (rows & (ranks % every == 0))
        return np.asarray(drawn)

    def _write(self, sums: _Sums, part: pa.Table, first: int) -> bool:
        """Leaves what is predicted for a later attempt; False where it cannot be written."""
        path, journal = self.parts.path(first), self.parts.attempt.journal
        journal.recheck()
        content = io.BytesIO()
        np.savez(content, **sums.dump())
        try:
            write_file(_side(path), lambda file: file.write(content.getvalue()))
            # Written last: its presence means that both are whole.
            write_file(path, lambda file: pq.write_table(part, file, compression="zstd"))
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


def _join_parts(
    parts: Sequence[_Part], paths: RunPaths, *, intervals: Intervals | None, tests_alone: bool
) -> None:
    """Joins predictions to the file of the run."""

    def read(part: _Part) -> pa.Table:
        table = pq.read_table(part) if isinstance(part, Path) else part
        return add_bounds(table, intervals)

    def join(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, read(parts[0]).schema, compression="zstd") as writer:
            for part in parts:
                table = read(part)
                if tests_alone:
                    codes = table["split"].combine_chunks().indices
                    table = table.filter(pa.compute.equal(codes, TEST))
                writer.write_table(table)

    write_file(paths.predictions, join)


def _raw_numbers(piece: Piece, encoding: Encoding) -> Doubles:
    columns = [piece.block[column.name] for column in encoding.number_columns]
    numbers = [np.asarray(one, np.float64) for one in columns if not isinstance(one, Texts)]
    return np.stack(numbers, axis=1) if numbers else np.zeros((len(piece.y), 0))


def linear_inputs(encoding: Encoding, inputs: Floats) -> Floats:
    """What a linear model takes instead of the network's inputs.

    It has no embeddings: the most frequent categories as one-hot inputs instead.
    """
    embedded = len(encoding.embedded_columns)
    if not embedded:
        return inputs
    codes = inputs[:, -embedded:]
    shown = [
        codes[:, [place]] == np.arange(1, min(len(column.values), MAX_LINEAR_CATEGORIES) + 1)
        for place, column in enumerate(encoding.embedded_columns)
    ]
    return np.concatenate([inputs[:, :-embedded], *shown], axis=1, dtype=np.float32)


def _count_linear_inputs(encoding: Encoding) -> int:
    inputs = np.zeros((1, encoding.num_inputs), np.float32)
    return int(linear_inputs(encoding, inputs).shape[1])
