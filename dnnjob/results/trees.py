"""What gradient-boosted trees reach on the test rows: the yardstick of tables.

yardstick = Yardstick(job, table, has_idle_core=True)
yardstick.begin(background)                 # beside training, where a core is idle
trees = yardstick.measure(check=check)      # or now
trees.mse, trees.num_rows
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig
from dnnjob.data.raw_columns import Block, RawColumn, Texts, join_texts, take_rows
from dnnjob.data.split import TEST, TRAIN
from dnnjob.data.table import Piece, Table, piece_rows
from dnnjob.latest import Latest
from dnnjob.results.baselines import TreesBaseline

logger = logging.getLogger(__name__)

MAX_ROWS = 200_000
# Values that the trees are fitted to: 160 MB, of wide tables fewer rows.
MAX_VALUES = 20_000_000
# Values that are worked through beside training: seconds, for which a run told to stop waits.
MAX_VALUES_BESIDE = 2_000_000
# Trees of more training rows depend on a seed.
MAX_ROWS_WITHOUT_SEED = 10_000
# scikit-learn's trees take 255 categories a column; the last stands for all rarer ones.
MAX_CATEGORIES = 254
Doubles = npt.NDArray[np.float64]


# What tells the trees fitted last from others, and their figure.
_fitted = Latest[tuple[tuple[object, ...], TreesBaseline | None]](most=1)


@dataclass(frozen=True, eq=False)
class _Codes:
    """The columns as the trees take them.

    Attributes:
        categories: For each column of texts, the number of each frequent one.
    """

    categories: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, block: Block) -> "_Codes":
        """With the categories of these rows, the most frequent first."""
        return cls(
            {
                name: _number_categories(column)
                for name, column in block.items()
                if isinstance(column, Texts)
            }
        )

    def encode(self, block: Block) -> Doubles:
        """Rows as numbers, `(num_rows, num_features)`; NaN where missing."""
        return np.column_stack([self._encode_column(name, block[name]) for name in block])

    def _encode_column(self, name: str, column: RawColumn) -> Any:
        if isinstance(column, Texts):
            numbers = self.categories[name]
            return column.translated(numbers, other=float(MAX_CATEGORIES), missing=np.nan)
        return column


ReadPieces = Callable[[], Iterable[Piece]]
"""All rows of a table in their order, piece by piece, as often as it is called."""


@dataclass(eq=False)
class Yardstick:
    """The trees of a run: fitted beside its training, or after it."""

    job: JobConfig
    table: Table
    has_idle_core: bool
    begun: "Future[TreesBaseline | None] | None" = None

    def begin(self, background: Executor) -> None:
        """Begins now, with one thread, if a core is idle and the table small."""
        num_values = self.table.num_rows * len(self.table.features)
        is_small = num_values <= MAX_VALUES_BESIDE and not self.table.by_windows
        if self.job.output.trees and self.has_idle_core and is_small:
            self.begun = background.submit(self._measure, threads=1, check=lambda: None)

    def measure(self, *, check: Callable[[], None]) -> TreesBaseline | None:
        """The figure, None where the job or the rows have none.

        Args:
            check: Called between pieces of the table; raises where the run shall stop.
        """
        if not self.job.output.trees:
            return None
        if self.begun is not None:
            return self.begun.result()
        return self._measure(threads=self.job.devices.threads, check=check)

    def _measure(self, *, threads: int, check: Callable[[], None]) -> TreesBaseline | None:
        kind = self._kind
        if (before := _fitted.find(lambda one: one[0] == kind)) is not None:
            return before[1]
        trees = measure_trees(
            partial(self._read_pieces, check),
            num_train=self.table.num_split_rows(TRAIN),
            num_features=len(self.table.features),
            seed=self.job.seed,
            threads=threads,
        )
        _fitted.keep((kind, trees))
        return trees

    @property
    def _kind(self) -> tuple[object, ...]:
        """What runs of one process must share to share their trees, as points of a sweep do."""
        job, table = self.job, self.table
        # Of fewer rows scikit-learn draws none to stop by, nor any to find its bins.
        unseeded = min(MAX_ROWS_WITHOUT_SEED, _most_rows(len(table.features)))
        seed = job.seed if table.num_split_rows(TRAIN) > unseeded else None
        return (
            table.fingerprint,
            table.num_rows,
            job.data.model_dump_json(exclude={"standardize"}),
            job.split_seed,
            seed,
            job.devices.threads,
        )

    def _read_pieces(self, check: Callable[[], None]) -> Iterator[Piece]:
        for piece in self.table.pieces(size=piece_rows(len(self.table.features))):
            check()
            yield piece


def measure_trees(
    read_pieces: ReadPieces, *, num_train: int, num_features: int, seed: int, threads: int
) -> TreesBaseline | None:
    """Test error of scikit-learn's histogram gradient boosting on the raw columns.

    Categories enter as categories, gaps as gaps. It is fitted to all training rows, or to a sample
    of them, and judged on all test rows.

    Args:
        read_pieces: Reads the table.
        num_train: Its training rows.
        num_features: Its features.
        seed: Of the sample, and of the trees' own.
        threads: That the trees may use.

    Returns:
        None where there are no training or test rows, or where the trees cannot be fitted, which
        is logged.
    """
    if not (num_train and num_features):
        return None
    most = _most_rows(num_features)
    is_taken = np.ones(num_train, dtype=bool)
    if num_train > most:
        is_taken[:] = False
        is_taken[np.random.default_rng(seed).choice(num_train, most, replace=False)] = True
    block, y = _take_training_rows(read_pieces(), is_taken)
    codes, names = _Codes.of(block), tuple(block)
    # A second of imports, which only a run that fits trees has to bear.
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    trees = HistGradientBoostingRegressor(
        categorical_features=[name in codes.categories for name in names], random_state=seed
    )
    # More threads than cores wait for each other: 30 times the time was seen.
    with threadpool_limits(limits=threads, user_api="openmp"):
        try:
            x = codes.encode(block)
            del block
            trees.fit(x, y)
        except (ValueError, MemoryError) as error:
            logger.warning("The baseline of gradient-boosted trees is left out: %s", error)
            return None
        squared_error, num_tests = 0.0, 0
        for piece in read_pieces():
            rows = np.flatnonzero(piece.labels == TEST)
            if len(rows):
                predicted = trees.predict(codes.encode(take_rows(piece.block, rows)))
                squared_error += float(np.square(predicted - piece.y[rows]).sum())
                num_tests += len(rows)
    return TreesBaseline(mse=squared_error / num_tests, num_rows=len(y)) if num_tests else None


def _most_rows(num_features: int) -> int:
    """Rows that trees are fitted to: of more, a seed draws a sample."""
    return min(MAX_ROWS, max(MAX_VALUES // max(num_features, 1), 1))


def _take_training_rows(
    pieces: Iterable[Piece], is_taken: npt.NDArray[np.bool_]
) -> tuple[dict[str, RawColumn], Doubles]:
    """Raw columns and targets of those training rows that are taken, in their order."""
    blocks, targets, num_seen = [], [], 0
    for piece in pieces:
        rows = np.flatnonzero(piece.labels == TRAIN)
        rows, num_seen = rows[is_taken[num_seen : num_seen + len(rows)]], num_seen + len(rows)
        blocks.append(take_rows(piece.block, rows))
        targets.append(piece.y[rows])
    return _join_blocks(blocks), np.concatenate(targets)


def _join_blocks(blocks: list[dict[str, RawColumn]]) -> dict[str, RawColumn]:
    joined: dict[str, RawColumn] = {}
    for name in blocks[0]:
        parts = [block[name] for block in blocks]
        texts = [part for part in parts if isinstance(part, Texts)]
        joined[name] = join_texts(texts) if texts else np.concatenate(parts)  # type: ignore[arg-type]
    return joined


def _number_categories(texts: Texts) -> dict[str, float]:
    counts = texts.counts()
    frequent = sorted(counts, key=lambda text: (-counts[text], text))[:MAX_CATEGORIES]
    return {text: float(number) for number, text in enumerate(frequent)}
