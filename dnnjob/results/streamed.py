"""Predictions, metrics and baselines of a table larger than memory, part by part.

evaluated = evaluate_stream(table, encoding, encode, predict, job=job, folder=folder)
evaluated.metrics.test.mse
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.config import JobConfig
from dnnjob.data.block import FloatArray, Texts
from dnnjob.data.encoding import Encoding
from dnnjob.data.split import SPLITS, TEST, TRAIN
from dnnjob.data.stream import Piece, StreamedTable, piece_rows, take_piece
from dnnjob.results.baselines import Baseline, Baselines
from dnnjob.results.evaluated import Drawn, Evaluated, count_params
from dnnjob.results.importance import measure_importance
from dnnjob.results.metrics import Totals, add_up, pack_totals, unpack_totals
from dnnjob.results.report import (
    SplitBaselines,
    SplitMetrics,
    make_predictions,
)
from dnnjob.runs import RunPaths, write_file

# Rows of the table in a part: a minute of work at most, and a gigabyte of nothing.
PART_ROWS = 2**20
# Rows drawn of the table, and again of its test rows, for plots and the worth of columns.
_SAMPLE_ROWS = 20_000
MAX_LINEAR_CATEGORIES = 64

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Part:
    """What a part of the table leaves, beside its predictions.

    Attributes:
        totals: Errors of train, validation and test rows, packed.
        moments: Of the training and of the test rows: sums of products of the linear model's
            inputs, a one, and the target, `(2, num, num)`.
        inputs: The network's inputs of a sample of its rows, of few test rows all.
        raw: Raw numbers of the same rows.
        y: Their targets.
        y_pred: Their predictions.
        labels: Their splits.
    """

    totals: Doubles
    moments: Doubles
    inputs: Floats
    raw: Doubles
    y: Doubles
    y_pred: Doubles
    labels: npt.NDArray[np.int8]


@dataclass
class _Sums:
    """What adds up over the pieces of a part."""

    totals: list[Totals] = field(default_factory=lambda: [Totals()] * 3)
    moments: Any = 0.0
    tables: list[pa.Table] = field(default_factory=list)
    samples: list[tuple[Any, ...]] = field(default_factory=list)
    num_tests: int = 0

    def draw(self, piece: Piece, *, every: int, every_test: int) -> npt.NDArray[np.bool_]:
        """Which rows of the part's next piece to keep: of all rows and of the test rows."""
        tests = piece.labels == TEST
        ranks = self.num_tests + np.cumsum(tests) - 1
        self.num_tests += int(tests.sum())
        return np.asarray((piece.row_ids % every == 0) | (tests & (ranks % every_test == 0)))


def evaluate_stream(
    table: StreamedTable,
    encoding: Encoding,
    encode: Callable[[Floats], Floats],
    predict: Callable[[Floats], FloatArray],
    *,
    job: JobConfig,
    folder: Path,
    key: str,
    check: Callable[[], None],
) -> Evaluated:
    """Predicts every row, or finds what an earlier attempt has predicted.

    Args:
        table: The rows.
        encoding: How they become inputs.
        encode: The encoder.
        predict: From inputs to predictions of the scaled target.
        job: The resolved job.
        folder: Where parts stand until the run is complete.
        key: Names the trained weights: parts of others do not count.
        check: Called between parts; raises where the run shall stop.
    """
    parts: list[_Part] = []
    paths: list[Path] = []
    moments: Any = 0.0
    for number, first in enumerate(range(0, table.num_rows, PART_ROWS)):
        check()
        path = folder / f"predicted-{key}-{number:06d}.parquet"
        # Written last: its presence means that both are whole.
        if not path.is_file():
            _predict_part(table, encoding, encode, predict, first=first, path=path)
        part = _read_part(_side(path))
        moments = moments + part.moments
        # Of hundreds of inputs a part's moments take megabytes.
        parts.append(replace(part, moments=np.zeros(0)))
        paths.append(path)
    sample = _join_samples(parts)
    by_part = [unpack_totals(one.totals) for one in parts]
    totals = [sum((of_part[at] for of_part in by_part), Totals()) for at in range(3)]
    target_std = encoding.target.raw_std
    named = zip(SPLITS, totals, strict=False)
    is_test = sample.labels == TEST
    return Evaluated(
        metrics=SplitMetrics(**{name: one.metrics(target_std=target_std) for name, one in named}),
        baselines=SplitBaselines(test=_solve(moments)),
        importance=measure_importance(
            lambda x: encoding.target.restore(predict(x)),
            sample.inputs[is_test],
            sample.y[is_test],
            places=encoding.places,
            num_params=count_params(job, encoding),
            seed=job.seed,
        ),
        drawn=Drawn(sample.raw, sample.y, sample.y_pred, is_test),
        write_predictions=partial(_join_parts, paths, tests_alone=job.output.predictions == "test"),
    )


def _join_parts(parts: Sequence[Path], paths: RunPaths, *, tests_alone: bool) -> None:
    """Joins files of predictions to that of the run."""

    def join(file: BinaryIO) -> None:
        with pq.ParquetWriter(file, pq.read_schema(parts[0]), compression="zstd") as writer:
            for part in parts:
                table = pq.read_table(part)
                if tests_alone:
                    codes = table["split"].combine_chunks().indices
                    table = table.filter(pa.compute.equal(codes, TEST))
                writer.write_table(table)

    write_file(paths.predictions, join)


def _predict_part(
    table: StreamedTable,
    encoding: Encoding,
    encode: Callable[[Floats], Floats],
    predict: Callable[[Floats], FloatArray],
    *,
    first: int,
    path: Path,
) -> None:
    sums = _Sums()
    for piece in _pieces_of_part(table, first, size=piece_rows(encoding.num_inputs)):
        x = encode(encoding.numbers(piece.block))
        y_pred = encoding.target.restore(predict(x))
        sums.tables.append(
            make_predictions(
                row_id=piece.row_ids,
                split=piece.labels,
                y_true=piece.y,
                y_pred=y_pred,
                ids=piece.ids,
            )
        )
        drawn = sums.draw(
            piece,
            every=-(-table.num_rows // _SAMPLE_ROWS),
            every_test=max(1, -(-table.num_split_rows(TEST) // _SAMPLE_ROWS)),
        )
        _add_piece(sums, piece, x, y_pred, encoding, drawn=drawn)
    part = _Part(
        totals=pack_totals(sums.totals),
        moments=sums.moments,
        **{
            name: np.concatenate(each)
            for name, each in zip(
                ("inputs", "raw", "y", "y_pred", "labels"),
                zip(*sums.samples, strict=True),
                strict=True,
            )
        },
    )
    content = io.BytesIO()
    np.savez(content, **vars(part))
    write_file(_side(path), lambda file: file.write(content.getvalue()))
    joined = pa.concat_tables(sums.tables)
    write_file(path, lambda file: pq.write_table(joined, file, compression="zstd"))


def _pieces_of_part(table: StreamedTable, first: int, *, size: int) -> Iterator[Piece]:
    for piece in table.pieces(size=size, first=first):
        left = first + PART_ROWS - int(piece.row_ids[0])
        if left <= 0:
            return
        yield piece if left >= len(piece.y) else take_piece(piece, np.arange(left))


def _add_piece(
    sums: _Sums,
    piece: Piece,
    x: Floats,
    y_pred: FloatArray,
    encoding: Encoding,
    *,
    drawn: npt.NDArray[np.bool_],
) -> None:
    for at in range(3):
        rows = piece.labels == at
        if rows.any():
            sums.totals[at] = sums.totals[at] + add_up(piece.y[rows], y_pred[rows])
    # Deviations: sums of squares of large targets would lose the small differences.
    origin = encoding.target.mean if encoding.target.transform == "none" else 0.0
    inputs = linear_inputs(encoding, x).astype(np.float64)
    whole = np.column_stack([inputs, np.ones(len(inputs)), piece.y - origin])
    moments = [whole[piece.labels == at].T @ whole[piece.labels == at] for at in (TRAIN, TEST)]
    sums.moments = sums.moments + np.stack(moments)
    sums.samples.append(
        (
            x[drawn],
            _raw_numbers(piece, encoding)[drawn],
            piece.y[drawn],
            y_pred[drawn],
            piece.labels[drawn],
        )
    )


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


def _raw_numbers(piece: Piece, encoding: Encoding) -> Doubles:
    columns = [piece.block[column.name] for column in encoding.number_columns]
    numbers = [np.asarray(one, np.float64) for one in columns if not isinstance(one, Texts)]
    return np.stack(numbers, axis=1) if numbers else np.zeros((len(piece.y), 0))


def _solve(moments: Doubles) -> Baselines | None:
    """Least squares on the training rows and its error on the test rows, from sums of products.

    None without test rows.
    """
    train, test = moments
    num_train, num_test = train[-2, -2], test[-2, -2]
    if not num_test:
        return None
    # Around the training means, so that the intercept is the mean of the target.
    means = train[-2] / num_train
    around = [_centred(one, means) for one in (train, test)]
    gram, products = around[0][:-2, :-2], around[0][:-2, -1]
    scale = np.sqrt(np.diag(gram))
    scale[scale == 0] = math.inf
    cutoff = 100 * len(gram) * np.finfo(np.float64).eps
    weights, *_ = np.linalg.lstsq(gram / np.outer(scale, scale), products / scale, rcond=cutoff)
    error = np.append(-weights / scale, 1.0)
    kept = np.r_[np.arange(len(gram)), -1]
    squared = float(error @ around[1][np.ix_(kept, kept)] @ error)
    return Baselines(
        mean=Baseline(mse=float(around[1][-1, -1]) / num_test),
        linear=Baseline(mse=max(0.0, squared) / num_test),
    )


def _centred(moments: Doubles, means: Doubles) -> Doubles:
    """Sums of products of the same rows' deviations from these means."""
    sums, count = moments[-2], moments[-2, -2]
    shifted = moments - np.outer(means, sums) - np.outer(sums, means)
    return np.asarray(shifted + count * np.outer(means, means), np.float64)


def _side(path: Path) -> Path:
    return path.with_suffix(".npz")


def _read_part(path: Path) -> _Part:
    with np.load(path, allow_pickle=False) as stored:
        return _Part(**{name: stored[name] for name in stored.files})


def _join_samples(parts: list[_Part]) -> _Part:
    joined = {
        name: np.concatenate([getattr(one, name) for one in parts])
        for name in ("inputs", "raw", "y", "y_pred", "labels")
    }
    return _Part(totals=parts[0].totals, moments=parts[0].moments, **joined)
