"""The pass over a job's table: what its columns hold in each split, and the checks of it.

table = measure_table(job, hold_table(job.data))
table = measure_table(job, typed, block_rows=50_000, get_scratch=get_scratch, threads=2)
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dnnjob.config.job import JobConfig
from dnnjob.data.checks import check_totals
from dnnjob.data.kinds import arrow_kind
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.raw_columns import FloatArray, RawColumn
from dnnjob.data.rows import TypedTable
from dnnjob.data.running_statistics import join_totals
from dnnjob.data.split import TRAIN, UNLABELLED, Labels
from dnnjob.data.splitter import (
    SCAN_ROWS,
    SplitFacts,
    make_splitter,
    refuse_empty_splits,
    scan_rows,
)
from dnnjob.data.spool import LEAST_GROUP_ROWS, Copy, CopyPlan, Scratch, copied_schema
from dnnjob.data.statistics_cache import KeptPass, PassKeeper, key_of_pass
from dnnjob.data.statistics_pass import (
    RowSplitter,
    Survey,
    copy_rows,
    key_block,
    read_target,
    survey_rows,
)
from dnnjob.data.table import Table
from dnnjob.errors import DataError
from dnnjob.tasks import Crew, StopFlag


def measure_table(
    job: JobConfig,
    typed: TypedTable,
    *,
    block_rows: int | None = None,
    get_scratch: Callable[[], Scratch] | None = None,
    threads: int = 1,
    crew: Crew | None = None,
    kept: Path | None = None,
) -> Table:
    """A table after one pass over it, which is kept for whoever needs it again.

    Args:
        job: The job.
        typed: Its rows.
        block_rows: Training rows that are read together, in any order; None where all are read
            once, in theirs.
        get_scratch: Gives the place of a copy, where the files cannot be read in small pieces.
        threads: Threads to measure with.
        crew: The tasks of the run: the chief passes over the table, and those that make a copy;
            the others take what it found.
        kept: Folder of what passes found; None keeps nothing.

    Raises:
        DataError: If the table cannot be read, or not be trained on as the job asks.
        JobError: If there is no room for a copy.
        StoppedError: If a signal asked for it.
    """
    crew = crew or Crew(StopFlag())
    source, scratch, plan = typed.rows, None, None
    if block_rows is not None and isinstance(source, ParquetRows):
        if get_scratch is not None and _has_large_groups(source, block_rows):
            scratch = get_scratch()
            plan = _plan_copy(source, typed, scratch.folder, block_rows=block_rows)
    starts = source.starts if plan is None else plan.starts
    made = _Pass(
        job,
        typed,
        starts,
        copy=_make_copy(plan, scratch),
        awaits_copy=scratch is not None and not scratch.is_mine,
        threads=threads,
    )
    passed = made.find(PassKeeper(kept, made.key), crew)
    survey = passed.kept.survey
    warnings = check_survey(typed, survey)
    refuse_empty_splits(job, survey.group_counts.sum(axis=0))
    return Table(
        typed=typed,
        warnings=warnings,
        rows=source if plan is None else plan.open(),
        splitter=passed.splitter,
        totals=survey.totals,
        group_counts=survey.group_counts,
        by_windows=block_rows is not None,
    )


def measure_sample(typed: TypedTable) -> Table:
    """Rows of a table that has more: all that have a target train.

    Raises:
        DataError: If they cannot be trained on as the job asks.
    """
    knows_some = not np.isnan(typed.targets_and_keys()[0]).all()
    # Further rows may have what none of these has.
    splitter = label_targets if knows_some else label_all
    survey = survey_rows(
        typed.rows,
        typed.data,
        typed.kinds,
        splitter,
        starts=typed.rows.starts,
        copy=None,
        threads=1,
        check=lambda: None,
    )
    return Table(
        typed=typed,
        warnings=check_survey(typed, survey),
        rows=typed.rows,
        splitter=splitter,
        totals=survey.totals,
        group_counts=survey.group_counts,
        by_windows=False,
    )


def check_survey(typed: TypedTable, survey: Survey) -> tuple[str, ...]:
    """Checks that a job can train on a table; returns its warnings.

    Raises:
        DataError: If it cannot.
    """
    columns = join_totals([dict(part) for part in survey.totals.values()])
    return check_totals(
        typed.data,
        typed.kinds,
        columns,
        survey,
        is_sample=typed.is_sample,
        doubts=typed.doubts,
    )


@dataclass(frozen=True, eq=False)
class _Passed:
    """What a pass found, and the split of each row that follows from it."""

    kept: KeptPass
    splitter: RowSplitter


@dataclass(frozen=True, eq=False)
class _Pass:
    """The pass over a table: made, or one that was kept.

    Attributes:
        job: The job.
        typed: The table.
        starts: First rows of the row groups that are counted, and the number of rows.
        copy: What takes the rows, too.
        awaits_copy: Whether another task makes the copy that this one will read.
        threads: Threads to measure with.
    """

    job: JobConfig
    typed: TypedTable
    starts: npt.NDArray[np.int64]
    copy: Copy | None
    awaits_copy: bool
    threads: int

    @property
    def key(self) -> str:
        """Names what it finds: another table, split or counting has another."""
        typed = self.typed
        return key_of_pass(
            self.job.data,
            typed.kinds,
            np.diff(self.starts),
            typed.fingerprint,
            part_rows=typed.part_rows,
            seed=self.job.split_seed,
        )

    def find(self, keeper: PassKeeper, crew: Crew) -> _Passed:
        """What a pass finds, and the copy, if one is needed.

        The chief goes first, and whoever makes a copy: the other tasks need not read the table.
        """
        leads = crew.is_chief or self.copy is not None
        waits = self.awaits_copy or (not leads and keeper.folder is not None)
        if waits:
            crew.gather(None)
        kept = keeper.load()
        if kept is None:
            found = self._make(crew.check)
            if crew.is_chief:
                keeper.save(found.kept)
        else:
            found = _Passed(kept, self._make_splitter(kept.facts))
            if self.copy is not None:
                copy_rows(self.typed.rows, self.copy, check=crew.check)
        if not waits:
            crew.gather(None)
        return found

    def _make_splitter(self, facts: SplitFacts) -> RowSplitter:
        data, key_kind = self.job.data, self.typed.key_kind
        deal = make_splitter(data, self.typed.part_rows, facts, seed=self.job.split_seed)

        def label(first: int, y: FloatArray, table: pa.Table) -> Labels:
            return deal(first, y, key_block(table, data, key_kind))

        return label

    def _make(self, check: Callable[[], object]) -> _Passed:
        try:
            facts = self._scan(check)
            splitter = self._make_splitter(facts)
            survey = self._survey(splitter, check, copy=self.copy)
        except DataError:
            # What is wrong with a column explains what is wrong with its split.
            check_survey(self.typed, self._survey(label_targets, check, copy=None))
            raise
        return _Passed(KeptPass(survey, facts), splitter)

    def _survey(
        self, splitter: RowSplitter, check: Callable[[], object], *, copy: Copy | None
    ) -> Survey:
        typed = self.typed
        return survey_rows(
            typed.rows,
            typed.data,
            typed.kinds,
            splitter,
            starts=self.starts,
            copy=copy,
            threads=self.threads,
            check=check,
        )

    def _scan(self, check: Callable[[], object]) -> SplitFacts:
        """What the job's split must know of all rows."""
        data, key_kind = self.job.data, self.typed.key_kind
        names = [data.target] if data.split_column is None else [data.target, data.split_column]

        def blocks() -> Iterator[tuple[FloatArray, RawColumn | None]]:
            for _, table in self.typed.rows.select(names).batches(size=SCAN_ROWS):
                check()
                yield read_target(table, data), key_block(table, data, key_kind)

        return scan_rows(data, self.typed.num_rows, blocks())


def label_targets(first: int, y: FloatArray, table: pa.Table) -> Labels:
    """A split of rows of which nothing more is known: those with a target train."""
    del first, table
    return np.where(np.isnan(y), np.int8(UNLABELLED), np.int8(TRAIN))


def label_all(first: int, y: FloatArray, table: pa.Table) -> Labels:
    """A split in which all rows train, whether they have a target or not."""
    del first, table
    return np.full(len(y), TRAIN, np.int8)


def _has_large_groups(source: ParquetRows, block_rows: int) -> bool:
    most = max((group.num_rows for group in source.groups), default=0)
    return most > max(block_rows // 2, LEAST_GROUP_ROWS)


def _plan_copy(
    source: ParquetRows, typed: TypedTable, folder: Path, *, block_rows: int
) -> CopyPlan:
    numeric = {
        name
        for name, kind in typed.kinds.items()
        # What splits the rows stays as it is, so that it splits them alike.
        if kind == arrow_kind(source.schema.field(name).type) == "numeric"
        and name != typed.data.split_column
    }
    return CopyPlan.make(
        copied_schema(source.schema, frozenset(numeric)),
        folder,
        num_rows=source.num_rows,
        block_rows=block_rows,
        widths=source.widths(),
    )


def _make_copy(plan: CopyPlan | None, scratch: Scratch | None) -> Copy | None:
    if plan is None or scratch is None or not scratch.is_mine:
        return None
    return Copy(plan, copies=scratch.copies)
