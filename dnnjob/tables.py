"""A job's table as a run takes it: held in memory, or read in pieces while it trains.

table = open_run_table(job, journal, stack=stack, crew=crew, threads=threads)
encoding = table.fit_encoding(job.data)
rows = table.make_rows(encoding, budget_bytes=budget_bytes, threads=threads)
evaluated = table.evaluate(encoding, rows, fitted, job=job, ...)
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dnnjob.clock import Stopwatch
from dnnjob.config import DataConfig, JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.order import default_window_rows, refuse_short_window, window_rows
from dnnjob.data.pieces import open_pieces
from dnnjob.data.scratch import scratch_folder
from dnnjob.data.sources import Table, find_pieces, open_table
from dnnjob.data.split import TRAIN, Split
from dnnjob.data.splitter import split_table
from dnnjob.data.statistics import fit_encoding
from dnnjob.data.stream import StreamedTable
from dnnjob.results.evaluated import Evaluated
from dnnjob.results.held import evaluate_table
from dnnjob.results.streamed import evaluate_stream
from dnnjob.runs import Journal
from dnnjob.tasks import Crew

if TYPE_CHECKING:
    from dnnjob.training.fit import Fitted, Rows
    from dnnjob.training.windowed import WindowedRows


class RunTable(Protocol):
    """What the story of a run asks of its table, however it is read."""

    @property
    def content(self) -> Table | StreamedTable:
        """The table itself."""
        ...

    @property
    def window_rows(self) -> int:
        """Training rows of a window, as the resolved job holds them."""
        ...

    def fit_encoding(self, data: DataConfig) -> Encoding:
        """How columns become inputs, from the training rows."""
        ...

    def make_rows(
        self, encoding: Encoding, *, budget_bytes: float, threads: int
    ) -> "Rows | WindowedRows":
        """The rows as training takes them; TensorFlow has been imported."""
        ...

    def evaluate(
        self,
        encoding: Encoding,
        rows: Any,
        fitted: "Fitted",
        *,
        job: JobConfig,
        parts: Path,
        watch: Stopwatch,
        check: Callable[[], None],
    ) -> Evaluated:
        """Predicts and measures all rows.

        Args:
            encoding: How columns became inputs.
            rows: What `make_rows` gave.
            fitted: The trained network.
            job: The resolved job.
            parts: Folder of what a later attempt need not predict again.
            watch: Times the phases.
            check: Called in between; raises where the run shall stop.
        """
        ...


@dataclass(frozen=True, eq=False)
class HeldTable:
    """A table in memory: one window, permuted whole."""

    content: Table
    split: Split
    window_rows: int

    @classmethod
    def open(cls, job: JobConfig) -> "HeldTable":
        """Reads it.

        Raises:
            DataError: If it cannot be trained on as the job asks.
            JobError: If the job asks for windows of which it would take several.
        """
        table = open_table(job.data)
        split = split_table(table, job)
        if job.data.window_rows is not None and find_pieces(job.data) is None:
            refuse_short_window(job.data, len(split.train))
        rows = max(default_window_rows(job.data, table.kinds), len(split.train))
        return cls(table, split, job.data.window_rows or rows)

    def fit_encoding(self, data: DataConfig) -> Encoding:
        """As `RunTable` has it."""
        return fit_encoding(self.content, self.split, data)

    def make_rows(self, encoding: Encoding, *, budget_bytes: float, threads: int) -> "Rows":
        """As `RunTable` has it; the table is in memory whatever the budget."""
        from dnnjob.training.fit import encode_rows

        del budget_bytes, threads
        return encode_rows(self.content, self.split, encoding)

    def evaluate(
        self,
        encoding: Encoding,
        rows: "Rows",
        fitted: "Fitted",
        *,
        job: JobConfig,
        parts: Path,
        watch: Stopwatch,
        check: Callable[[], None],
    ) -> Evaluated:
        """As `RunTable` has it; the network keeps its predictions itself."""
        del parts
        with watch.time("predict"):
            y_pred = encoding.target.restore(fitted.predict_table(rows.x))
        check()
        with watch.time("evaluate"):
            return evaluate_table(
                self.content,
                self.split,
                encoding,
                rows.x,
                fitted.predict,
                y_pred=y_pred,
                job=job,
            )


@dataclass(frozen=True, eq=False)
class PiecedTable:
    """A table that is read window by window, and predicted part by part."""

    content: StreamedTable
    window_rows: int

    @classmethod
    def of(cls, table: StreamedTable, data: DataConfig) -> "PiecedTable":
        """With the rows of a window; all training rows, where it goes by none."""
        rows = window_rows(data, table.kinds)
        return cls(table, rows if table.by_windows else max(rows, table.num_split_rows(TRAIN)))

    def fit_encoding(self, data: DataConfig) -> Encoding:
        """As `RunTable` has it; the pass over the table has measured it."""
        del data
        return self.content.fit_encoding()

    def make_rows(self, encoding: Encoding, *, budget_bytes: float, threads: int) -> "WindowedRows":
        """As `RunTable` has it."""
        from dnnjob.training.windowed import WindowedRows

        return WindowedRows.of(self.content, encoding, budget_bytes=budget_bytes, threads=threads)

    def evaluate(
        self,
        encoding: Encoding,
        rows: "WindowedRows",
        fitted: "Fitted",
        *,
        job: JobConfig,
        parts: Path,
        watch: Stopwatch,
        check: Callable[[], None],
    ) -> Evaluated:
        """As `RunTable` has it; one pass predicts and measures."""
        with watch.time("predict"):
            return evaluate_stream(
                self.content,
                encoding,
                rows.encode,
                fitted.predict,
                job=job,
                folder=parts,
                key=fitted.digest,
                check=check,
            )


def open_run_table(
    job: JobConfig, journal: Journal, *, stack: ExitStack, crew: Crew, threads: int
) -> RunTable:
    """The job's table: read in pieces where it is too long for memory.

    Args:
        job: The job.
        journal: Of the attempt that a copy of the table would be for.
        stack: Clears that copy away.
        crew: The tasks of the run, which share what a pass over the table finds.
        threads: That may read.

    Raises:
        DataError: If it cannot be trained on as the job asks.
    """

    def make_scratch() -> Path:
        folder = scratch_folder(job.data, journal.paths.run_id, attempt=journal.number)
        return stack.enter_context(folder)

    kept = journal.paths.statistics
    streamed = open_pieces(job, make_scratch=make_scratch, threads=threads, crew=crew, kept=kept)
    return HeldTable.open(job) if streamed is None else PiecedTable.of(streamed, job.data)
