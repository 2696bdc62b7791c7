"""The table of a job after one pass over it, read in pieces.

table = measure_table(job, hold_table(job.data))
table.num_split_rows(TRAIN), table.fit_encoding(job.data), table.warnings
piece = table.read_split(TRAIN, 50_000, 100_000)    # training rows by their number
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import Encoding, FeatureKind
from dnnjob.data.encoding_fit import fit_columns, fit_target
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.order import window_rows
from dnnjob.data.raw_columns import Block, FloatArray, RawColumn, take_rows
from dnnjob.data.rows import ArrowRows, Rows, TypedTable, carried_columns
from dnnjob.data.running_statistics import NumberTotals, Totals, join_totals
from dnnjob.data.schema_merge import raw_kinds
from dnnjob.data.split import SPLITS, TRAIN, UNLABELLED, Labels
from dnnjob.data.statistics_pass import TRANSFORMED, RowSplitter, key_block, raw_block, read_target
from dnnjob.errors import DataError

_PIECE_ROWS, _PIECE_BYTES = 2**16, 2**26
_ROWS_OF = ("training", "validation", "test", "unlabelled")


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of a table, one after the other.

    Attributes:
        row_ids: Their numbers in the source, int64 `(num_rows,)`.
        labels: Their splits, places in `SPLITS`.
        block: Raw values of the features.
        y: Targets, NaN where unlabelled.
        weights: Of the rows in the loss; None where all weigh the same.
        ids: Columns carried into the predictions, as the files have them.
    """

    row_ids: np.ndarray
    labels: Labels
    block: Block
    y: FloatArray
    weights: FloatArray | None
    ids: Mapping[str, "pa.ChunkedArray[Any]"]


@dataclass(frozen=True, eq=False)
class Table:
    """A table that passed every check and is read in pieces.

    Attributes:
        typed: What its columns hold.
        warnings: What training can live with and a person should know.
        rows: Where it is read from: the source's rows, or a copy in small row groups.
        splitter: The split of each row that has a target.
        totals: Of each split's columns, by the name of the split.
        group_counts: Rows of each split in each row group, int64 `(num_groups, 4)`.
        by_windows: Whether it is trained window by window; else its training rows are read once.
    """

    typed: TypedTable
    warnings: tuple[str, ...]
    rows: Rows
    splitter: RowSplitter
    totals: Mapping[str, Mapping[str, Totals]]
    group_counts: np.ndarray
    by_windows: bool

    @property
    def data(self) -> DataConfig:
        """What the job says."""
        return self.typed.data

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns that are predicted from."""
        return self.typed.features

    @property
    def kinds(self) -> Mapping[str, FeatureKind]:
        """What the features hold, in their order."""
        return self.typed.kinds

    @property
    def fingerprint(self) -> Fingerprint:
        """What tells it from another table."""
        return self.typed.fingerprint

    @property
    def is_in_memory(self) -> bool:
        """Whether no file is read any more."""
        return isinstance(self.rows, ArrowRows)

    @property
    def num_rows(self) -> int:
        """Rows of the source."""
        return self.rows.num_rows

    @property
    def window_rows(self) -> int:
        """Training rows of a window: all, where it goes by none and the job does not say."""
        rows = window_rows(self.data, self.kinds)
        if self.by_windows or self.data.window_rows is not None:
            return rows
        return max(rows, self.num_split_rows(TRAIN))

    def num_split_rows(self, split: int) -> int:
        """Rows of a split, a place in `SPLITS`."""
        return int(self.group_counts[:, split].sum())

    def num_missing(self, name: str, splits: Sequence[int]) -> int:
        """Rows of some splits, places in `SPLITS`, without a value of a column."""
        parts = [self.totals[SPLITS[split]] for split in splits if SPLITS[split] in self.totals]
        return sum(part[name].num_missing for part in parts)

    def train_mean(self, name: str) -> float:
        """Mean of a column of numbers in the training rows; 0 where none of them has one."""
        found = self.totals[SPLITS[TRAIN]][name]
        return found.mean if isinstance(found, NumberTotals) else 0.0

    def fit_encoding(self, data: DataConfig) -> Encoding:
        """How the columns become inputs, from the rows that `data.standardize` names.

        Those are the training rows, or all rows of the table; "none" scales nothing, and takes what
        fills gaps and which categories there are from the training rows.
        """
        uses_all = data.standardize == "table"
        parts = [
            self.totals[name]
            for name in (SPLITS if uses_all else SPLITS[:1])
            if name in self.totals
        ]
        features = join_totals([dict(part) for part in parts])
        labelled = join_totals(
            [
                dict(self.totals[name])
                for name in (SPLITS[:UNLABELLED] if uses_all else SPLITS[:1])
                if name in self.totals
            ]
        )
        target = fit_target(
            data,
            raw=labelled[data.target].statistics(),
            transformed=labelled[TRANSFORMED].statistics(),
            trained=self.totals[SPLITS[TRAIN]][data.target].statistics(),
        )
        statistics = {name: features[name].statistics() for name in self.features}
        columns = fit_columns(data, self.kinds, statistics)
        return Encoding(columns, target, data.standardize, statistics)

    def mean_weight(self, split: int) -> float:
        """Mean weight of the rows of a split; 1 without weights.

        Raises:
            DataError: If all are zero.
        """
        if self.data.weight_column is None:
            return 1.0
        weights = self.totals[SPLITS[split]][self.data.weight_column]
        mean = weights.mean if isinstance(weights, NumberTotals) else 0.0
        if not mean:
            raise DataError(
                f"Each split needs a row of a weight above 0, but none of the "
                f"{self.num_split_rows(split)} {_ROWS_OF[split]} rows has one. Set "
                "data.weight_column, or split the rows otherwise."
            )
        return mean

    def read_split(self, split: int, first: int, stop: int) -> Piece:
        """Rows `first` to `stop` of a split, counted in the order of the table."""
        ends = self._split_ends[split]
        groups = range(
            int(np.searchsorted(ends, first, side="right")),
            int(np.searchsorted(ends, stop, side="left")) + 1,
        )
        before = int(ends[groups.start - 1]) if groups.start else 0
        piece = self._read_groups(groups)
        rows = np.flatnonzero(piece.labels == split)[first - before : stop - before]
        return take_piece(piece, rows)

    @cached_property
    def _split_ends(self) -> list[np.ndarray]:
        """For each split, its rows up to the end of each row group."""
        return list(np.cumsum(self.group_counts, axis=0).T)

    def _read_groups(self, groups: range) -> Piece:
        table = self.rows.read(groups)
        return self._make_piece(int(self.rows.starts[groups.start]), table)

    def pieces(self, *, size: int, first: int = 0) -> Iterator[Piece]:
        """All rows from `first` on in their order, `size` at a time."""
        for start, table in self.rows.batches(size=size, first=first):
            yield self._make_piece(start, table)

    def _make_piece(self, first: int, table: pa.Table) -> Piece:
        block = raw_block(table, self._raw_kinds, self.data, source=self.data.source)
        y = np.asarray(block[self.data.target], dtype=np.float64)
        weight_column = self.data.weight_column
        return Piece(
            row_ids=np.arange(first, first + len(y), dtype=np.int64),
            labels=self.splitter(first, y, table),
            block={name: block[name] for name in self.features},
            y=y,
            weights=None if weight_column is None else np.asarray(block[weight_column]),
            ids=carried_columns(table, self.data),
        )

    def split_keys(self, first: int, table: pa.Table) -> tuple[RawColumn | None, Labels]:
        """What the split of some rows goes by, and what it made of them.

        Args:
            first: Number of the first of them.
            table: The rows, as `rows` has them.
        """
        keys = key_block(table, self.data, self.typed.key_kind)
        y = np.asarray(read_target(table, self.data), dtype=np.float64)
        return keys, self.splitter(first, y, table)

    @cached_property
    def _raw_kinds(self) -> dict[str, FeatureKind]:
        return raw_kinds(self.data, self.kinds)


def take_piece(piece: Piece, rows: Any) -> Piece:
    """Some rows of a piece, by number."""
    return Piece(
        row_ids=piece.row_ids[rows],
        labels=piece.labels[rows],
        block=take_rows(piece.block, rows),
        y=piece.y[rows],
        weights=None if piece.weights is None else piece.weights[rows],
        ids={name: column.take(pa.array(rows)) for name, column in piece.ids.items()},
    )


def piece_rows(num_inputs: int) -> int:
    """Rows that are read and encoded together: of many inputs fewer."""
    return max(1, min(_PIECE_ROWS, _PIECE_BYTES // (4 * num_inputs)))
