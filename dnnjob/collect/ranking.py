"""By what runs are ranked, and whether their figures compare.

ranking = choose_ranking(table)        # validation_mse where runs have it, else test_mse
table = rank_lines(table)
"""

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.collect.collected_table import sort_lines
from dnnjob.text import counted

RANKINGS = ("validation_mse", "test_mse")
# Two runs hold out the same rows of one table where these agree.
HELD_OUT = (
    "data_fingerprint",
    "job.data.target",
    "job.data.split",
    "job.data.split_column",
    "job.data.split_seed",
    "job.data.test_fraction",
    "job.data.validation_fraction",
    "job.data.test_source",
    "job.data.validation_source",
    "job.data.folds",
    "job.data.fold",
)


def choose_ranking(table: pa.Table) -> str:
    """The column to rank by: test rows that choose among runs cannot judge the chosen one."""
    has_validation = table["validation_mse"].null_count < table.num_rows
    return "validation_mse" if has_validation else "test_mse"


def rank_lines(table: pa.Table) -> pa.Table:
    """The lines by validation MSE, then those without by test MSE, then those with neither."""
    ranked = sort_lines(table, "test_mse")
    return ranked.take(pc.sort_indices(ranked, sort_keys=[(choose_ranking(table), "ascending")]))


def describe_ranking(table: pa.Table) -> str | None:
    """By what the lines are ranked, and what follows from it; None where none has an error."""
    by_validation = table.num_rows - table["validation_mse"].null_count
    others = pc.and_(pc.is_null(table["validation_mse"]), pc.is_valid(table["test_mse"]))
    by_test = pc.sum(others).as_py() or 0
    if by_validation and by_test:
        return (
            f"Ranked by validation_mse; after that, by test_mse, {counted(by_test, 'run')} without "
            "validation rows."
        )
    if by_validation:
        return "Ranked by validation_mse."
    if by_test > 1:
        return (
            "Ranked by test_mse, since no run has validation rows: where it chooses a run, that "
            "run's test_mse flatters it (data.validation_fraction gives rows to choose by)."
        )
    return None


def describe_unequal_rows(table: pa.Table) -> str | None:
    """That runs with an error hold out different rows; None where they hold out the same."""
    scored = pc.or_(*(pc.is_valid(table[name]) for name in RANKINGS))
    splits = table.filter(scored).select(HELD_OUT).group_by(HELD_OUT).aggregate([])
    # Rows of different tables are another matter.
    most = max(Counter(splits["data_fingerprint"].to_pylist()).values(), default=0)
    if most < 2:
        return None
    return (
        f"These runs hold out {most:,} different sets of rows of one table: figures differ by "
        "that alone (--by auto sets runs on the same rows against each other)."
    )


def describe_unjudged(table: pa.Table) -> str | None:
    """How many complete runs have no test rows; None where all have some."""
    is_complete = pc.equal(table["state"], "COMPLETED")
    unjudged = pc.sum(pc.and_(is_complete, pc.is_null(table["test_mse"]))).as_py() or 0
    match unjudged:
        case 0:
            return None
        case 1:
            return "One complete run has no test rows: nothing judges it."
        case _:
            return f"{unjudged:,} complete runs have no test rows: nothing judges them."
