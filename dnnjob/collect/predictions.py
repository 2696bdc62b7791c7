"""The predictions of many runs side by side, with their mean and its error.

joined = join_predictions(folders)
joined.table, joined.mse, joined.num_rows
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dnnjob.collect.collected_runs import printable_path
from dnnjob.errors import DataError
from dnnjob.results.report import read_predictions, read_report
from dnnjob.runs import RunPaths

MAX_SHOWN = 5
# Columns that tell runs on other rows apart, in the order in which a person would choose.
_TELLING = (
    "name",
    "data.source",
    "data.target",
    "data.split",
    "data.split_seed",
    "data.test_fraction",
    "data.validation_fraction",
    "data.folds",
    "data.fold",
)
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Joined:
    """Predictions of many runs by row."""

    table: pa.Table
    """`row_id, split, y_true, y_pred_mean`, then `y_pred.<name>/<run id>` of every run; `fold`
    takes the place of `split` where runs of several folds are joined."""
    num_rows: int
    """Rows that are test rows in every run, or in one of the folds, and have a known target."""
    mse: float | None
    """Mean squared error of the mean prediction over those rows; None without any."""


@dataclass(frozen=True)
class _Member:
    """What one run predicts of which rows."""

    folder: Path
    target: str
    fingerprint: str
    row_id: Array
    split: Array
    y_true: Array
    """NaN where unlabelled."""
    y_pred: Array = field(repr=False)
    folds: int | None = None
    """Parts that its rows were cut into; None for a share held out."""
    fold: int = 0
    """Which of them is its test split."""
    traits: Mapping[str, Any] = field(default_factory=dict)
    """Values of the columns in `_TELLING`."""

    @property
    def label(self) -> str:
        """The run's folder below the root, as it reads in names of columns and messages."""
        return printable_path(f"{self.folder.parent.name}/{self.folder.name}")

    @property
    def test_rows(self) -> Array:
        """Ids of its test rows."""
        return np.asarray(self.row_id[self.split == "test"])


def join_predictions(folders: Sequence[Path]) -> Joined:
    """Joins the predictions of runs by `row_id`, over the rows that all of them have.

    Runs of several folds are joined over the rows that are a test row of one of them: each row has
    the mean prediction of the runs that did not see it.

    Args:
        folders: Run folders with a report and predictions.

    Raises:
        DataError: If there is no run, or tables, targets or splits differ.
    """
    if not folders:
        raise DataError(
            "--predictions joins runs with predictions.parquet, but none was found. "
            'Widen --where, or run with output.predictions = "all".'
        )
    first, *others = members = [_read_member(folder) for folder in folders]
    if None not in {member.folds for member in members} and len({m.fold for m in members}) > 1:
        return _join_folds(members)
    row_id = first.row_id
    for other in others:
        _refuse_other_table(first, other)
        _refuse_other_test_rows(first, other)
        row_id = np.intersect1d(row_id, other.row_id, assume_unique=True)
    first, *others = aligned = [_align(member, row_id) for member in members]
    for other in others:
        _refuse_other_rows(first, other)
    return _combine(aligned)


def _join_folds(members: Sequence[_Member]) -> Joined:
    """The out-of-fold predictions of runs that differ in their fold."""
    by_fold: dict[int, list[_Member]] = {}
    for member in sorted(members, key=lambda member: member.fold):
        _refuse_other_table(members[0], member)
        by_fold.setdefault(member.fold, []).append(member)
    held_out = []
    for first, *others in by_fold.values():
        for other in others:
            _refuse_other_test_rows(first, other)
        held_out += [_align(member, first.test_rows) for member in (first, *others)]
    row_id = np.unique(np.concatenate([member.row_id for member in held_out]))
    totals, y_true = np.zeros(len(row_id)), np.full(len(row_id), np.nan)
    counts, folds = np.zeros(len(row_id), dtype=np.int64), np.full(len(row_id), -1)
    columns = {}
    for member in held_out:
        at = np.searchsorted(row_id, member.row_id)
        twice = np.flatnonzero((folds[at] >= 0) & (folds[at] != member.fold))
        if len(twice):
            raise DataError(
                "--predictions joins the folds of one split, but row "
                f"{member.row_id[twice[0]]} is a test row of fold {folds[at][twice[0]]} and of "
                f"fold {member.fold}. {_propose_filter(members[0], member, but='data.fold')}"
            )
        folds[at], y_true[at] = member.fold, member.y_true
        totals[at] += member.y_pred
        counts[at] += 1
        own = np.full(len(row_id), np.nan)
        own[at] = member.y_pred
        columns[f"y_pred.{member.label}"] = pa.array(own, from_pandas=True)
    mean = totals / counts
    scored = ~np.isnan(y_true)
    mse = float(np.square(mean - y_true)[scored].mean()) if scored.any() else None
    facts = {
        "row_id": pa.array(row_id),
        "fold": pa.array(folds),
        "y_true": pa.array(y_true, from_pandas=True),
        "y_pred_mean": pa.array(mean),
    }
    table = pa.table(facts | columns).replace_schema_metadata(_metadata(mse))
    return Joined(table=table, num_rows=int(scored.sum()), mse=mse)


def _metadata(mse: float | None) -> dict[str, str]:
    return {"dnnjob.mean_mse": "" if mse is None else repr(mse)}


def _read_member(folder: Path) -> _Member:
    paths = RunPaths(folder)
    report, table = read_report(paths.report), read_predictions(paths.predictions)
    row_id = table["row_id"].to_numpy()
    if len(row_id) > 1 and not (np.diff(row_id) > 0).all():
        raise DataError(
            f"{paths.predictions} must list every row once, in order, but does not. "
            "Restore the file, or run the job again."
        )
    data = report.job.get("data", {})
    return _Member(
        folder=folder,
        # The target is the last of the columns.
        target="".join(report.data.columns[-1:]),
        fingerprint=report.data.fingerprint.value,
        row_id=row_id,
        split=table["split"].cast(pa.string()).to_numpy(zero_copy_only=False),
        y_true=table["y_true"].to_numpy(),
        y_pred=table["y_pred"].to_numpy(),
        folds=data.get("folds"),
        fold=data.get("fold", 0),
        traits={"name": report.name, **{f"data.{key}": value for key, value in data.items()}},
    )


def _align(member: _Member, row_id: Array) -> _Member:
    if np.array_equal(member.row_id, row_id):
        return member
    at = np.searchsorted(member.row_id, row_id)
    return replace(
        member,
        row_id=row_id,
        split=member.split[at],
        y_true=member.y_true[at],
        y_pred=member.y_pred[at],
    )


def _refuse_other_table(first: _Member, other: _Member) -> None:
    for what, mine, theirs in (
        ("table", first.fingerprint, other.fingerprint),
        ("target", first.target, other.target),
    ):
        if mine != theirs:
            raise DataError(
                f"--predictions joins runs on one {what}, but {first.label} has {mine} and "
                f"{other.label} has {theirs}. {_propose_filter(first, other)}"
            )


def _refuse_other_test_rows(first: _Member, other: _Member) -> None:
    """Refuses runs that hold out other rows, also those that list no row but these."""
    alone = np.setxor1d(first.test_rows, other.test_rows, assume_unique=True)
    if not len(alone):
        return
    mine = set(first.test_rows.tolist())
    shown = "; ".join(
        f"row {row} only in {(first if row in mine else other).label}" for row in alone[:MAX_SHOWN]
    )
    raise DataError(
        f"--predictions joins runs with equal splits, but {len(alone)} rows are test rows of "
        f"{first.label} or {other.label} alone: {shown}. {_propose_filter(first, other)}"
    )


def _propose_filter(first: _Member, other: _Member, *, but: str = "") -> str:
    """The condition that keeps the first run and leaves the other out, on no column `but` one."""
    for column in _TELLING:
        value = first.traits.get(column)
        if column != but and value is not None and value != other.traits.get(column):
            return f"Choose with --where {shlex.quote(f'{column}={value}')}."
    return "--where run_id=... chooses single runs."


def _refuse_other_rows(first: _Member, other: _Member) -> None:
    """Refuses aligned runs that disagree on the split or the observed value of a row."""
    moved = np.flatnonzero(first.split != other.split)
    if len(moved):
        row = moved[0]
        raise DataError(
            f"--predictions joins runs with equal splits, but {len(moved)} rows differ: row "
            f"{first.row_id[row]} is {first.split[row]} in {first.label} and {other.split[row]} "
            f"in {other.label}. {_propose_filter(first, other)}"
        )
    changed = ~((first.y_true == other.y_true) | (np.isnan(first.y_true) & np.isnan(other.y_true)))
    if changed.any():
        row = int(np.flatnonzero(changed)[0])
        raise DataError(
            f"--predictions joins runs on one table, but {int(changed.sum())} observed values "
            f"differ: row {first.row_id[row]} is {first.y_true[row]} in {first.label} and "
            f"{other.y_true[row]} in {other.label}. {_propose_filter(first, other)}"
        )


def _combine(members: Sequence[_Member]) -> Joined:
    first = members[0]
    mean = np.zeros(len(first.row_id))
    for member in members:
        mean += member.y_pred
    mean /= len(members)
    scored = (first.split == "test") & ~np.isnan(first.y_true)
    squared = np.square(mean[scored] - first.y_true[scored])
    mse = float(squared.mean()) if scored.any() else None
    columns = {
        "row_id": pa.array(first.row_id),
        "split": pa.array(first.split, pa.string()),
        "y_true": pa.array(first.y_true, from_pandas=True),
        "y_pred_mean": pa.array(mean),
    }
    columns |= {f"y_pred.{member.label}": pa.array(member.y_pred) for member in members}
    table = pa.table(columns).replace_schema_metadata(_metadata(mse))
    return Joined(table=table, num_rows=int(scored.sum()), mse=mse)
