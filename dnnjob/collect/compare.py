"""Two runs side by side: what differs between them, and whether their errors do.

comparison = compare_runs(Path("runs/housing/..."), Path("runs/housing/..."))
comparison.differences, comparison.metrics, comparison.paired
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dnnjob.collect.collected_runs import printable_path
from dnnjob.collect.paired import Array, PairedDifference, measure_difference
from dnnjob.config.section import flatten
from dnnjob.data.split import SPLITS
from dnnjob.errors import DataError
from dnnjob.results.report import Report, read_predictions, read_report
from dnnjob.runs import RunPaths, open_run

Part = Literal["job", "data", "versions", "machine"]
VERSIONS = ("dnnjob", "python", "tensorflow", "keras", "git_commit", "git_dirty")
MACHINE = ("host", "cpu", "gpus", "slurm")


@dataclass(frozen=True)
class Difference:
    """A fact in which the two runs differ."""

    part: Part
    key: str
    first: Any
    second: Any


@dataclass(frozen=True)
class MetricPair:
    """A number of both runs; None where one has none."""

    name: str
    first: float | None
    second: float | None


@dataclass(frozen=True)
class Comparison:
    """All that `dnnjob compare` says."""

    first: str
    """Folder of the first run."""
    second: str
    differences: tuple[Difference, ...]
    metrics: tuple[MetricPair, ...]
    paired: PairedDifference | None
    """Squared error of the first run minus that of the second, row by row over the test rows of
    both, squared target units."""
    unpaired_because: str | None = None
    """Why there is no paired difference."""

    def __str__(self) -> str:
        """As `dnnjob compare` prints it."""
        from dnnjob.collect.views import describe_comparison

        return describe_comparison(self, width=None)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


def compare_runs(first: Path, second: Path) -> Comparison:
    """What differs between two finished runs, and the paired difference of their errors.

    Raises:
        JobError: If one is no run folder, or has no report.
        DataError: If a report or a table of predictions cannot be read.
    """
    ours, theirs = open_run(first), open_run(second)
    mine, other = read_report(ours.report), read_report(theirs.report)
    paired, unpaired_because = _pair_errors(ours, theirs, mine, other)
    return Comparison(
        first=printable_path(ours.root),
        second=printable_path(theirs.root),
        differences=tuple(_differ(_describe(mine), _describe(other))),
        metrics=tuple(_pair_metrics(mine, other)),
        paired=paired,
        unpaired_because=unpaired_because,
    )


def pair_squared_errors(ours: pa.Table, theirs: pa.Table) -> Array:
    """Squared error of the first minus the second on each row that both hold out, by `row_id`.

    Args:
        ours: Predictions with `row_id`, `split`, `y_true` and `y_pred`.
        theirs: The same of the other run.

    Raises:
        DataError: If the two disagree on what was observed in a row.
    """
    mine, other = _test_rows(ours), _test_rows(theirs)
    _, here, there = np.intersect1d(
        mine["row_id"].to_numpy(), other["row_id"].to_numpy(), return_indices=True
    )
    observed, expected = mine["y_true"].to_numpy()[here], other["y_true"].to_numpy()[there]
    if changed := int((observed != expected).sum()):
        raise DataError(
            f"A pair needs one observed value a row, but {changed} of {len(here)} common test "
            "rows have two. Compare runs on the same table."
        )
    first = mine["y_pred"].to_numpy()[here] - observed
    second = other["y_pred"].to_numpy()[there] - observed
    return np.asarray(np.square(first) - np.square(second))


def _test_rows(predictions: pa.Table) -> pa.Table:
    held_out = pc.equal(predictions["split"].cast(pa.string()), "test")
    return predictions.filter(pc.and_(held_out, pc.is_valid(predictions["y_true"])))


def _pair_errors(
    ours: RunPaths, theirs: RunPaths, mine: Report, other: Report
) -> tuple[PairedDifference | None, str | None]:
    """The paired difference, or why there is none."""
    if mine.data.fingerprint != other.data.fingerprint:
        return None, "the tables differ"
    # The target is the last of the columns.
    if mine.data.columns[-1:] != other.data.columns[-1:]:
        return None, "the targets differ"
    for paths, report in ((ours, mine), (theirs, other)):
        if report.metrics.test is None:
            return None, f"{printable_path(paths.root)} has no test rows, and nothing judges it"
        if not paths.predictions.is_file():
            return None, f"{printable_path(paths.root)} has no {paths.predictions.name}"
    tables = (read_predictions(ours.predictions), read_predictions(theirs.predictions))
    paired = measure_difference(pair_squared_errors(*tables))
    return paired, None if paired else "no row is a test row of both"


def _describe(report: Report) -> dict[tuple[Part, str], Any]:
    """Every fact in which runs may differ, by its part and key."""
    origin, strategy = report.provenance.model_dump(mode="json"), report.strategy
    # What the training rows hold follows from the table and the split: lines for every column.
    data = report.data.model_dump(mode="json", exclude={"trained"})
    facts: dict[tuple[Part, str], Any] = {("job", key): v for key, v in flatten(report.job)}
    facts |= {("data", key): value for key, value in flatten(data)}
    facts |= {("versions", key): origin[key] for key in VERSIONS}
    facts |= {("machine", key): origin[key] for key in MACHINE}
    return facts | {("machine", key): v for key, v in flatten(strategy.model_dump(mode="json"))}


def _differ(
    mine: Mapping[tuple[Part, str], Any], other: Mapping[tuple[Part, str], Any]
) -> Iterator[Difference]:
    for part, key in dict.fromkeys([*mine, *other]):
        first, second = mine.get((part, key)), other.get((part, key))
        if first != second:
            yield Difference(part, key, first, second)


def _pair_metrics(mine: Report, other: Report) -> Iterator[MetricPair]:
    ours, theirs = _measures(mine), _measures(other)
    for name in dict.fromkeys([*ours, *theirs]):
        yield MetricPair(name, ours.get(name), theirs.get(name))


def _measures(report: Report) -> dict[str, float | None]:
    splits, baselines = report.metrics, report.baselines.test
    found = {
        f"{split}_{name}": value
        for split in SPLITS
        if (metrics := getattr(splits, split, None)) is not None
        for name, value in metrics.model_dump(exclude={"mape_num_rows"}).items()
    }
    return found | {
        "baseline_mean_mse": baselines.mean.mse if baselines else None,
        "baseline_linear_mse": baselines.linear.mse if baselines else None,
        "baseline_trees_mse": baselines.trees.mse if baselines and baselines.trees else None,
        "training_final_loss": report.training.final_loss,
        "train_s": report.timing_s.train,
        "total_s": report.timing_s.total,
        "rows_per_s": report.throughput.rows_per_s,
        "peak_rss_mb": report.resources.peak_rss_mb,
    }
