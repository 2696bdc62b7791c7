"""The collected runs as one self-contained page for people.

html = render_page(runs, table, place=Path("table.html"), root=Path("runs"))
"""

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
from jinja2 import Environment
from markupsafe import Markup

from dnnjob.collect.collected_table import (
    GAINS,
    JOB,
    LINE_SCHEMA,
    add_gains,
    resolve_column,
    varying_keys,
)
from dnnjob.collect.ranking import (
    RANKINGS,
    choose_ranking,
    describe_unequal_rows,
    describe_unjudged,
)
from dnnjob.collect.record import Run
from dnnjob.collect.seeds import make_settings, setting_keys
from dnnjob.collect.terminal import to_cell
from dnnjob.collect.views import describe_next
from dnnjob.errors import DnnJobError
from dnnjob.results.notation import split_against
from dnnjob.results.report import read_predictions
from dnnjob.results.report_page import page_environment
from dnnjob.results.verdict import BASELINE_NAMES
from dnnjob.runs import RunPaths

MAX_POINTS = 2000
MAX_TROUBLED = 200
MAX_SETTINGS = 200
# What needs a person stands first.
TROUBLES = ("FAILED", None, "COMPLETED", "RUNNING", "REQUEUED", "CREATED", "CANCELLED")
# What a page shows before all columns are asked for; the keys that vary stand after the errors.
SHORT = ("name", "run_id", "state", *RANKINGS, *GAINS, "test_r2", "seed", "train_s", "host")


@dataclass(frozen=True)
class Winner:
    """The run that ranks first, and its test rows."""

    run_id: str
    name: str
    validation_mse: float | None
    """None where runs are ranked by test MSE."""
    test_mse: float | None
    against: tuple[str, str, str] | None
    """How its test MSE compares with the strongest baseline's: `30 %`, `better than`, a name."""
    target: str | None
    href: str | None
    points: tuple[tuple[float, float], ...]
    """Actual and predicted values, at most `MAX_POINTS`, evenly spread over the rows."""
    num_rows: int
    """Test rows with a known target."""


@dataclass(frozen=True)
class Trouble:
    """A run that is not complete."""

    run_id: str
    name: str | None
    state: str | None
    text: str
    since: datetime | None


def render_page(
    runs: Sequence[Run], table: pa.Table, *, place: Path, root: Path, sort: str, by: str = ""
) -> str:
    """The page as HTML that needs no other file and no network.

    Args:
        runs: The runs by path.
        table: Their lines, filtered and sorted.
        place: Where the page will be, from which links start.
        root: What was collected.
        sort: The column the lines are sorted by, as `sort_lines` takes it.
        by: Columns that make a setting, comma-separated; none for all that vary but the seeds.
    """
    by_path = {run.line.path: run for run in runs}
    shown = [by_path[path] for path in table["path"].to_pylist()]
    links = [_link(run, place) for run in shown]
    ranking = choose_ranking(table)
    winner = _find_winner(shown, links, ranking)
    troubles = sorted(
        (_describe_trouble(run) for run in shown if run.line.state != "COMPLETED" or run.fault),
        key=lambda trouble: TROUBLES.index(trouble.state),
    )
    island = {
        **_make_island(table, links),
        "sort": _column_sorted_by(table, sort),
        "ranking": ranking,
        "winner": winner and asdict(winner),
    }
    return (
        _environment()
        .get_template("collect.html.j2")
        .render(
            root=str(root),
            made_at=datetime.now(UTC),
            states=Counter(run.line.state or "unreadable" for run in shown),
            num_runs=len(shown),
            names=sorted({run.line.name for run in shown if run.line.name}),
            num_tables=len({run.line.data_fingerprint for run in shown} - {None}),
            winner=winner,
            ranking=ranking,
            notes=[*filter(None, [describe_unequal_rows(table)])],
            unjudged=describe_unjudged(table),
            num_scored=table.num_rows - table["test_mse"].null_count,
            troubles=troubles[:MAX_TROUBLED],
            num_hidden_troubles=max(len(troubles) - MAX_TROUBLED, 0),
            settings=_describe_settings(table, by),
            island=_to_island(island),
            style=_load_asset("collect.css"),
            script=_load_asset("collect.js"),
        )
    )


def _column_sorted_by(table: pa.Table, sort: str) -> str:
    sign = "-" if sort.startswith("-") else ""
    return sign + resolve_column(add_gains(table), sort.removeprefix("-"))


def _make_island(table: pa.Table, links: Sequence[str | None]) -> dict[str, Any]:
    """The data of the page's script: columns, rows, links, and the keys that vary."""
    keys = varying_keys(table)
    table = add_gains(table)
    names = [name for name in (*LINE_SCHEMA.names, *GAINS) if table[name].null_count < len(table)]
    short = [name for name in SHORT if name in names]
    after = 1 + max(
        (short.index(name) for name in ("state", *RANKINGS) if name in short), default=-1
    )
    order = [*short[:after], *keys, *short[after:]]
    order += [name for name in names if name not in order]
    return {
        "columns": [
            {
                "name": name,
                "label": name.removeprefix(JOB),
                "kind": _kind(table.schema.field(name).type),
                "whole": pa.types.is_integer(table.schema.field(name).type),
                "gain": name in GAINS,
                "short": name in short or name in keys or name == "reason",
            }
            for name in order
        ],
        "rows": [list(line.values()) for line in table.select(order).to_pylist()],
        "links": list(links),
        "keys": keys,
    }


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return "time"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "text"


def _link(run: Run, place: Path) -> str | None:
    """The way from the page to the run's own, None where it has none."""
    if run.line.state != "COMPLETED" or run.fault:
        return None
    way = os.path.relpath(RunPaths(run.folder).page, place.absolute().parent)
    return quote(os.fsencode(way), safe="/")


def _find_winner(runs: Sequence[Run], links: Sequence[str | None], ranking: str) -> Winner | None:
    scored = [
        (getattr(run.line, ranking), run, link)
        for run, link in zip(runs, links, strict=True)
        if getattr(run.line, ranking) is not None
    ]
    if not scored:
        return None
    error, run, link = min(scored, key=lambda one: one[0])
    points = _load_points(RunPaths(run.folder))
    # Ceiling, so that an even stride never yields more than the page is meant to hold.
    stride = max(math.ceil(len(points) / MAX_POINTS), 1)
    target = run.job.get("data.target")
    return Winner(
        run_id=run.line.run_id,
        name=run.line.name or "",
        validation_mse=error if ranking == "validation_mse" else None,
        test_mse=run.line.test_mse,
        against=_compare_with_baseline(run),
        target=target if isinstance(target, str) else None,
        href=link,
        points=tuple((float(y), float(p)) for y, p in points[::stride]),
        num_rows=len(points),
    )


def _compare_with_baseline(run: Run) -> tuple[str, str, str] | None:
    error = run.line.test_mse
    for name, baseline in (
        (BASELINE_NAMES["trees"], run.line.baseline_trees_mse),
        (BASELINE_NAMES["linear"], run.line.baseline_linear_mse),
    ):
        if error is not None and baseline:
            return (*split_against(error, baseline), name)
    return None


def _load_points(paths: RunPaths) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Actual and predicted values of the test rows, shape `(num_rows, 2)`; none if unreadable."""
    try:
        table = read_predictions(paths.predictions)
    except DnnJobError:
        return np.empty((0, 2))
    y_true, y_pred = table["y_true"].to_numpy(), table["y_pred"].to_numpy()
    split = table["split"].cast(pa.string()).to_numpy(zero_copy_only=False)
    held_out = (split == "test") & np.isfinite(y_true) & np.isfinite(y_pred)
    return np.column_stack([y_true[held_out], y_pred[held_out]])


def _describe_trouble(run: Run) -> Trouble:
    line = run.line
    said = dict.fromkeys(text for text in (line.reason, run.error, run.progress) if text)
    since = line.ended_at or line.started_at
    return Trouble(line.run_id, line.name, line.state, " · ".join(said), since)


def _describe_settings(table: pa.Table, by: str) -> Mapping[str, Any] | None:
    """Keys and lines of the seeds put together; None where every setting has but one run."""
    keys = setting_keys(table, by)
    settings = make_settings(table, keys)
    lines = settings.to_pylist()
    if not by and all(line["num_runs"] < 2 for line in lines):
        return None
    return {
        "keys": keys,
        "by_validation": choose_ranking(table) == "validation_mse",
        "lines": lines[:MAX_SETTINGS],
        "num_hidden": max(len(lines) - MAX_SETTINGS, 0),
    }


def _to_island(value: Mapping[str, Any]) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_encode_time)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _encode_time(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S")


def _load_asset(name: str) -> Markup:
    return Markup(files("dnnjob.collect").joinpath("templates", name).read_text("utf-8"))


@functools.cache
def _environment() -> Environment:
    environment = page_environment("dnnjob.collect")
    environment.filters |= {"cell": to_cell, "next": describe_next}
    return environment
