"""The tables of a job's points, each read once: most sweeps have one.

tables = PointTables()
found = tables.read(point.job.data)        # all rows, or some of one that a run reads in pieces
tables.key(point.job.data)                 # what points share that have the same table
measure_rows(point.job, found)             # the rows at hand, as a job splits them
"""

from typing import TYPE_CHECKING, Union

from dnnjob.config import DataConfig, JobConfig
from dnnjob.data.rows import TypedTable
from dnnjob.data.sources import find_pieces, hold_table

if TYPE_CHECKING:
    from dnnjob.data.heads import TextPlan
    from dnnjob.data.sample import SampledTable
    from dnnjob.data.table import Table
    from dnnjob.data.table_loading import PiecesPlan

AnyTable = Union[TypedTable, "SampledTable"]
"""All rows of a table, or some of one that a run reads in pieces."""

Plan = Union["PiecesPlan", "TextPlan"]
"""How a run reads a table in pieces."""

# What changes neither the files nor how they are read.
_AFTERWARDS = {"split_seed", "fold", "standardize", "memory_budget_gb", "scratch"}


class PointTables:
    """The tables of some points."""

    def __init__(self) -> None:
        self._plans: dict[str, Plan | None] = {}
        self._tables: dict[str, AnyTable] = {}

    def read(self, data: DataConfig) -> AnyTable:
        """A table, read unless it was: all rows, or some of one that a run reads in pieces.

        Raises:
            DataError: If it cannot be read, or a column is of a kind that the job has no use for.
        """
        key = self.key(data)
        if key not in self._tables:
            self._tables[key] = _read(data, self._plan(data))
        return self._tables[key]

    def key(self, data: DataConfig) -> str:
        """What jobs share that read the same table in the same way.

        Raises:
            DataError: If a file cannot be read, files differ, or target or features are not there.
        """
        # What only says how rows are split and encoded does not change what is read of a table in
        # memory.
        pieces = "" if self._plan(data) is None else "in pieces "
        return pieces + data.model_dump_json(
            include={
                *("source", "validation_source", "test_source", "split_column"),
                *("target", "features", "id_columns", "weight_column"),
                *("target_transform", "missing", "columns"),
            }
        )

    def _plan(self, data: DataConfig) -> Plan | None:
        """Found once: every file is opened for it."""
        key = data.model_dump_json(exclude=_AFTERWARDS)
        if key not in self._plans:
            self._plans[key] = _make_plan(data)
        return self._plans[key]


def measure_rows(job: JobConfig, found: AnyTable) -> "Table":
    """The rows at hand after a pass over them, as a job splits them; of a sample all train.

    Raises:
        DataError: If they cannot be trained on as the job asks.
    """
    from dnnjob.data.measurement import measure_sample, measure_table

    if isinstance(found, TypedTable):
        return measure_table(job, found)
    return measure_sample(found.table)


def _make_plan(data: DataConfig) -> Plan | None:
    found = find_pieces(data)
    if found is None:
        return None
    # pyarrow takes a third of a second, which submissions of CSV files need not wait for.
    if found.are_text:
        from dnnjob.data.heads import plan_text

        return plan_text(data, found)
    from dnnjob.data.table_loading import plan_pieces

    return plan_pieces(data, found)


def _read(data: DataConfig, plan: Plan | None) -> AnyTable:
    if plan is None:
        return hold_table(data)
    from dnnjob.data.heads import TextPlan
    from dnnjob.data.sample import sample_table, sample_text

    if isinstance(plan, TextPlan):
        return sample_text(data, plan)
    return sample_table(data, plan.found, plan.files)
