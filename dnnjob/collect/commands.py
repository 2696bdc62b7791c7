"""The two verbs of this room: `dnnjob collect` and `dnnjob compare`.

code = collect_command(Path("runs"), out=Path("table.html"), where=["name=housing"])
code = compare_command(Path("runs/housing/..."), Path("runs/housing/..."))
code = compare_command(Path("runs/housing/sweeps/..."), None)
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from dnnjob.collect.collected_runs import printable_path, read_runs
from dnnjob.collect.compare import compare_runs
from dnnjob.collect.predictions import join_predictions
from dnnjob.collect.ranking import (
    choose_ranking,
    describe_ranking,
    describe_unequal_rows,
    describe_unjudged,
)
from dnnjob.collect.record import Run
from dnnjob.collect.seeds import setting_keys
from dnnjob.collect.selection import choose_lines, order_lines, shape_lines
from dnnjob.collect.terminal import Column, render_table
from dnnjob.collect.views import (
    describe_comparison,
    make_plain_view,
    make_ranked_view,
    make_settings_view,
    make_view,
)
from dnnjob.collect.write import (
    check_place,
    check_suffix,
    publish,
    to_json,
    to_parquet,
    write_table,
)
from dnnjob.errors import ExitCode, JobError
from dnnjob.outputs import refuse_overwriting
from dnnjob.runs import RunPaths
from dnnjob.text import counted

logger = logging.getLogger(__name__)


def collect_command(
    root: Path,
    *,
    out: Path | None = None,
    sort: str | None = None,
    where: Sequence[str] = (),
    by: str | None = None,
    columns: str | None = None,
    predictions: Path | None = None,
    as_json: bool = False,
) -> ExitCode:
    """Collects the runs under `root` into one table, on stdout or in a file.

    Args:
        root: A root, a job's folder, one run, or one sweep.
        out: File for the table instead of stdout: .parquet, .csv, .json or .html.
        sort: Column to sort by, largest first with a leading `-`. Default: by validation MSE
            where runs have it, else by test MSE.
        where: Conditions `COLUMN=VALUE`, `COLUMN<VALUE`, `COLUMN>VALUE` that every line meets.
        by: Columns, comma-separated, whose values make a setting: a line for each setting
            instead of each run. Empty for all that vary but the seeds; None for a line a run.
        columns: Columns to show or write, comma-separated, in this order.
        predictions: Parquet file for the predictions of all lines, joined by row.
        as_json: Whether stdout gets JSON.

    Returns:
        DONE, or DATA where there are folders and nothing could be read of any.

    Raises:
        JobError: If `root` or an option is wrong.
        DataError: If predictions cannot be joined.
        MissingError: If a file cannot be written.
    """
    _check_options(out, columns)
    runs = read_runs(root)
    _refuse_overwriting(out, predictions, runs)
    lines = choose_lines(runs, where)
    if predictions is not None:
        _publish_predictions(runs, lines, predictions, as_json=as_json)
    if out is not None and out.suffix.lower() == ".html":
        _publish_page(out, runs, lines, root=root, sort=sort, by=by)
    elif out is not None:
        write_table(out, shape_lines(lines, sort=sort, by=by, columns=columns))
        print(str(out))
    elif predictions is None:
        shown = shape_lines(lines, sort=sort, by=by, columns=columns)
        print(to_json(shown).rstrip("\n") if as_json else _draw(shown, lines, by, columns))
    _talk(runs, lines, root, sort=sort)
    is_unread = bool(runs) and all(run.line.state is None for run in runs)
    return ExitCode.DATA if is_unread else ExitCode.DONE


def compare_command(first: Path, second: Path | None, *, as_json: bool = False) -> ExitCode:
    """Says on stdout what differs between two finished runs, and whether their errors do.

    Of a sweep, or of all runs under a root: what they vary beside their errors, the best first.

    Args:
        first: A run; without a second a sweep or a root.
        second: Another run.
        as_json: Whether stdout gets JSON.

    Raises:
        JobError: If one is no run folder, or has no report, or there is but one run.
        DataError: If a report or predictions cannot be read.
    """
    if second is None:
        return _compare_points(first, as_json=as_json)
    comparison = compare_runs(first, second)
    if as_json:
        print(json.dumps(asdict(comparison), ensure_ascii=False, indent=1))
    else:
        print(describe_comparison(comparison, width=_screen_width()))
    return ExitCode.DONE


def _compare_points(place: Path, *, as_json: bool) -> ExitCode:
    runs = read_runs(place)
    if len(runs) < 2:
        raise JobError(
            f"Two runs are compared, or those of a sweep or a root, but {printable_path(place)} "
            f"has {len(runs)}. Give another run beside it."
        )
    lines = order_lines(choose_lines(runs, ()), None)
    print(to_json(lines).rstrip("\n") if as_json else _render(make_ranked_view(lines)))
    _talk(runs, lines, place, sort=None)
    return ExitCode.DONE


def describe_count(runs: Sequence[Run], root: Path) -> str:
    """How many runs there are, by state, and how many could not be read."""
    if not runs:
        return f"No runs under {printable_path(root)}."
    states = Counter(run.line.state for run in runs)
    parts = [f"{count:,} {state}" for state, count in states.most_common() if state is not None]
    if states[None]:
        parts.append(f"{states[None]:,} unreadable or no runs")
    if broken := sum(run.line.state is not None and run.fault is not None for run in runs):
        parts.append(f"{broken:,} of them with a broken or missing file")
    return f"{counted(len(runs), 'folder')} under {printable_path(root)}: {', '.join(parts)}."


def _check_options(out: Path | None, columns: str | None) -> None:
    if out is None:
        return
    check_suffix(out)
    check_place(out)
    if columns is not None and out.suffix.lower() == ".html":
        raise JobError(
            "--columns is for tables, and a page holds all columns, but got both --columns and "
            f"{out.name!r}. Drop --columns, or write .csv, .json or .parquet."
        )


def _refuse_overwriting(out: Path | None, predictions: Path | None, runs: Sequence[Run]) -> None:
    folders = [run.folder for run in runs]
    for option, place in (("--out", out), ("--predictions", predictions)):
        if place is not None:
            refuse_overwriting(place, option=option, runs=folders)
    if out is not None and predictions is not None and out.resolve() == predictions.resolve():
        raise JobError(f"--out and --predictions both name {out}. Give each a file of its own.")


def _draw(shown: pa.Table, lines: pa.Table, by: str | None, columns: str | None) -> str:
    """The table for a screen."""
    view: list[Column]
    if columns is not None:
        view = make_plain_view(shown)
    elif by is not None:
        view = make_settings_view(shown, setting_keys(lines, by))
    else:
        view = make_view(shown)
    return _render(view)


def _render(view: Sequence[Column]) -> str:
    screen = render_table(view, width=_screen_width(), bold=_is_terminal())
    if screen.dropped:
        logger.info(
            "Without room for %s. A wider screen, --columns or --out shows all.",
            ", ".join(screen.dropped),
        )
    return screen.text


def _publish_page(
    out: Path, runs: Sequence[Run], lines: pa.Table, *, root: Path, sort: str | None, by: str | None
) -> None:
    from dnnjob.collect.collected_page import render_page

    lines = order_lines(lines, sort)
    page = render_page(
        runs, lines, place=out, root=root, sort=sort or choose_ranking(lines), by=by or ""
    )
    publish(out, page.encode())
    print(str(out))


def _publish_predictions(runs: Sequence[Run], lines: pa.Table, out: Path, *, as_json: bool) -> None:
    folders = _folders_with_predictions(runs, lines)
    joined = join_predictions(folders)
    publish(out, to_parquet(joined.table))
    facts = {
        "predictions": str(out),
        "num_runs": len(folders),
        "num_rows": joined.num_rows,
        "mse": joined.mse,
    }
    print(json.dumps(facts, ensure_ascii=False) if as_json else str(out))
    mse = "unknown, without test rows" if joined.mse is None else f"{joined.mse:.6g}"
    logger.info(
        "Mean prediction of %s: test MSE %s over %s; %s without predictions.",
        counted(len(folders), "run"), mse, counted(joined.num_rows, "row"),
        counted(lines.num_rows - len(folders), "line"),
    )  # fmt: skip


def _folders_with_predictions(runs: Sequence[Run], lines: pa.Table) -> list[Path]:
    paths = set(lines["path"].to_pylist())
    return [
        run.folder
        for run in runs
        if run.line.path in paths
        and run.line.state == "COMPLETED"
        and run.fault is None
        and RunPaths(run.folder).predictions.is_file()
    ]


def _talk(runs: Sequence[Run], lines: pa.Table, root: Path, *, sort: str | None) -> None:
    num_tables = len(lines["data_fingerprint"].combine_chunks().drop_null().unique())
    if num_tables > 1:
        logger.info(
            "These runs read %d different tables; errors compare only within one "
            "(--where data_fingerprint=...).",
            num_tables,
        )
    ranking = None if sort else describe_ranking(lines)
    for sentence in (ranking, describe_unequal_rows(lines), describe_unjudged(lines)):
        if sentence is not None:
            logger.info("%s", sentence)
    if lines.num_rows < len(runs):
        logger.info("%s of %s shown.", f"{lines.num_rows:,}", counted(len(runs), "line"))
    logger.info("%s", describe_count(runs, root))


def _is_terminal() -> bool:
    return Console(file=sys.stdout).is_terminal


def _screen_width() -> int | None:
    """Cells of the terminal; None where stdout is a file or a pipe, which any width suits."""
    console = Console(file=sys.stdout)
    return console.width if console.is_terminal else None
