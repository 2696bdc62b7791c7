"""Which lines of the collected table are asked for, in which order and shape.

lines = choose_lines(read_runs(Path("runs")), ["state=COMPLETED"])
table = shape_lines(lines, sort=None, by="", columns=None)
"""

from collections.abc import Sequence

import pyarrow as pa

from dnnjob.collect.collected_table import (
    add_gains,
    filter_lines,
    make_table,
    pick_columns,
    sort_lines,
)
from dnnjob.collect.ranking import rank_lines
from dnnjob.collect.record import Run
from dnnjob.collect.seeds import make_settings, setting_keys


def choose_lines(runs: Sequence[Run], where: Sequence[str]) -> pa.Table:
    """The collected table of the runs that meet every condition.

    Raises:
        JobError: If a condition is none, or names no column.
    """
    table = make_table(runs)
    return filter_lines(add_gains(table), where).select(table.column_names)


def shape_lines(
    lines: pa.Table, *, sort: str | None, by: str | None, columns: str | None
) -> pa.Table:
    """The table as asked for: a line for each run or setting, its order and its columns.

    Args:
        lines: A line a run.
        sort: Column to sort by, largest first with a leading `-`; None: the best first.
        by: Columns, comma-separated, that make a setting; empty for all that vary but the seeds;
            None for a line a run.
        columns: Those wanted, comma-separated; None for all.

    Raises:
        JobError: If there is no such column.
    """
    if by is None:
        table = order_lines(lines, sort)
    else:
        table = make_settings(lines, setting_keys(lines, by))
        table = table if sort is None else sort_lines(table, sort)
    if columns is None:
        return table
    return pick_columns(add_gains(table) if by is None else table, columns)


def order_lines(lines: pa.Table, sort: str | None) -> pa.Table:
    """The lines by a column, or the best first.

    Raises:
        JobError: If there is no such column.
    """
    if sort is None:
        return rank_lines(lines)
    names = lines.column_names
    return sort_lines(add_gains(lines), sort).select(names)
