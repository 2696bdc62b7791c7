"""`dnnjob best`: the run folder that a metric chooses.

code = best_command(Path("runs"), where=["name=houses"])     # prints the folder
folder = choose_best(Path("runs"))
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.collect.collected_runs import printable_path, read_runs
from dnnjob.collect.collected_table import (
    add_gains,
    filter_lines,
    make_table,
    resolve_column,
    sort_lines,
)
from dnnjob.collect.ranking import describe_unequal_rows
from dnnjob.collect.record import Run
from dnnjob.errors import ExitCode, JobError
from dnnjob.results.notation import format_number
from dnnjob.text import counted

logger = logging.getLogger(__name__)

DEFAULT_METRIC = "validation_mse"
# Of these more is better, so that no one need say so.
SCORES = ("test_r2", "rows_per_s")


def best_command(
    place: Path, *, metric: str = DEFAULT_METRIC, where: Sequence[str] = ()
) -> ExitCode:
    """Prints the folder that `choose_best` finds on stdout."""
    print(choose_best(place, metric=metric, where=where), flush=True)
    return ExitCode.DONE


def choose_best(place: Path, *, metric: str = DEFAULT_METRIC, where: Sequence[str] = ()) -> Path:
    """The folder of the complete run with the least `metric`; says among how many.

    Args:
        place: A root, a job's folder, or one sweep.
        metric: A column of numbers of the collected table; with a leading `-` the largest wins.
        where: Conditions as `dnnjob collect` takes them.

    Raises:
        JobError: If no complete run has the metric, if runs of several tables or targets are
            among them, or an option is wrong.
    """
    runs = read_runs(place)
    table = add_gains(make_table(runs))
    complete = filter_lines(filter_lines(table, where), ["state=COMPLETED"])
    column = _resolve_metric(table, metric)
    scored = complete.filter(pc.is_valid(complete[column]))
    if not scored.num_rows:
        raise JobError(_describe_want(complete, column, place))
    _refuse_several_tables(scored)
    most_wins = metric.startswith("-") or column in SCORES
    ranked = sort_lines(scored, f"-{column}" if most_wins else column)
    folder = _find_folder(runs, ranked["path"][0].as_py())
    _talk(ranked, complete, column, most_wins=most_wins)
    return folder


def _resolve_metric(table: pa.Table, metric: str) -> str:
    column = resolve_column(table, metric.removeprefix("-"))
    kind = table.schema.field(column).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise JobError(
            f"--metric takes a column of numbers, but {column} holds {kind}. "
            f"Choose one as {DEFAULT_METRIC} or test_mae."
        )
    return column


def _describe_want(complete: pa.Table, column: str, place: Path) -> str:
    if not complete.num_rows:
        return (
            f"The best of complete runs is asked for, but none under {printable_path(place)} is "
            "complete and meets every --where. See `dnnjob status`."
        )
    runs = counted(complete.num_rows, "complete run")
    found = f"none of the {runs} under {printable_path(place)} has"
    if column != DEFAULT_METRIC:
        return f"The best run by {column} is asked for, but {found} one. Choose another --metric."
    return (
        f"Runs are chosen by their validation rows, but {found} any. Set data.validation_fraction "
        "and run again, or let the test rows choose with --metric test_mse."
    )


def _refuse_several_tables(scored: pa.Table) -> None:
    """Errors compare only on one target of one table."""
    for column, what in (("data_fingerprint", "tables"), ("job.data.target", "targets")):
        values = pc.unique(scored[column].drop_null())
        if len(values) > 1:
            raise JobError(
                f"Errors compare only on one target of one table, but these runs have "
                f"{len(values):,} {what}. Choose with --where {column}={values[0].as_py()}, or by "
                "name with --where name=..."
            )


def _find_folder(runs: Sequence[Run], path: str) -> Path:
    return next(run.folder for run in runs if run.line.path == path)


def _talk(ranked: pa.Table, complete: pa.Table, column: str, *, most_wins: bool) -> None:
    word = "largest" if most_wins else "least"
    logger.info(
        "%s %s is the %s of %s.",
        column,
        format_number(ranked[column][0].as_py()),
        word,
        counted(ranked.num_rows, "run"),
    )
    if left_out := complete.num_rows - ranked.num_rows:
        runs = counted(left_out, "complete run")
        logger.info("Left out: %s without %s.", runs, column)
    if ranked.num_rows > 1 and column.startswith(("test_", "vs_")):
        logger.warning(
            "The test rows have chosen among %d runs: they flatter the chosen one. Only rows that "
            "no choice has seen can say how good it is.",
            ranked.num_rows,
        )
    if sentence := describe_unequal_rows(ranked):
        logger.info("%s", sentence)
