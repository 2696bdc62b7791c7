"""What a screen shows of runs, of settings, and of two runs.

print(render_table(make_view(table), width=120).text)
print(describe_comparison(comparison, width=120))
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from dnnjob.collect.collected_table import varying_keys
from dnnjob.collect.compare import Comparison, MetricPair
from dnnjob.collect.terminal import DASH, Column, escape, render_table, to_cell
from dnnjob.results.notation import format_change, format_number, format_seconds

Cell = Callable[[dict[str, Any]], str]
VIEWED = (
    "run_id",
    "name",
    "state",
    "reason",
    "test_mse",
    "baseline_linear_mse",
    "seed",
    "train_s",
    "host",
)


def make_view(table: pa.Table) -> list[Column]:
    """What tells runs apart: name, state, the keys that vary, errors, seed, time and host."""
    keys = varying_keys(table)
    lines = table.select([*VIEWED, *keys]).to_pylist()
    # A name that all share tells nothing apart.
    name_rank = 2 if len({line["name"] for line in lines} - {None}) > 1 else 9
    column = partial(_make_column, lines)
    view = [
        column("name", lambda line: to_cell(line["name"]), rank=name_rank, flexible=True),
        column("run_id", lambda line: to_cell(line["run_id"]), rank=1),
        column("state", lambda line: to_cell(line["state"]), rank=0),
        *(
            column(title, partial(_show_value, key), rank=2, side="right", flexible=True)
            for key, title in _short_titles(keys).items()
        ),
        column("test_mse", lambda line: format_number(line["test_mse"]), rank=0, side="right"),
        column("vs linear", _show_gain, rank=4, side="right"),
        column("seed", lambda line: to_cell(line["seed"]), rank=5, side="right"),
        column("train", _show_time, rank=6, side="right"),
        column("host", lambda line: to_cell(line["host"]), rank=7, flexible=True),
        column("reason", lambda line: to_cell(line["reason"], none=""), rank=3, flexible=True),
    ]
    return [shown for shown in view if shown.title != "reason" or any(shown.cells)]


def make_settings_view(settings: pa.Table, keys: Sequence[str]) -> list[Column]:
    """Seeds together: the keys, mean and spread, counts, and the difference to the next."""
    lines = settings.to_pylist()
    column = partial(_make_column, lines, side="right")

    return [
        column("", lambda line: "*" if line["best"] else "", rank=0),
        *(
            column(title, partial(_show_value, key), rank=0, flexible=True)
            for key, title in _short_titles(keys).items()
        ),
        column("mean test_mse", lambda line: format_number(line["test_mse_mean"]), rank=0),
        column("std", lambda line: format_number(line["test_mse_std"]), rank=1),
        column("min", lambda line: format_number(line["test_mse_min"]), rank=4),
        column("runs", partial(_show_value, "num_runs"), rank=2),
        column("failed", partial(_show_value, "num_failed"), rank=2),
        column("unfinished", partial(_show_value, "num_unfinished"), rank=5),
        column("to the next", _show_difference, rank=3),
    ]


def describe_comparison(comparison: Comparison, *, width: int | None) -> str:
    """Two runs side by side as text: differences, metrics, and the paired difference."""
    parts = [
        f"A  {escape(comparison.first)}\nB  {escape(comparison.second)}",
        _describe_differences(comparison, width=width),
        _describe_metrics(comparison, width=width),
        _describe_paired(comparison),
    ]
    return "\n\n".join(parts)


def make_plain_view(table: pa.Table) -> list[Column]:
    """Every column of a table under its own name."""
    return [
        Column(
            name,
            tuple(to_cell(value) for value in table[name].to_pylist()),
            side="right" if _is_number(table.schema.field(name).type) else "left",
            rank=place,
            flexible=not _is_number(table.schema.field(name).type),
        )
        for place, name in enumerate(table.column_names)
    ]


def _make_column(
    lines: Sequence[dict[str, Any]],
    title: str,
    cell: Cell,
    *,
    rank: int,
    side: Literal["left", "right"] = "left",
    flexible: bool = False,
) -> Column:
    cells = tuple(cell(line) for line in lines)
    return Column(title, cells, side=side, rank=rank, flexible=flexible)


def _short_titles(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, or all of it where two would read alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    times = Counter(last.values())
    return {key: escape(last[key] if times[last[key]] == 1 else key) for key in keys}


def _describe_differences(comparison: Comparison, *, width: int | None) -> str:
    found = comparison.differences
    if not found:
        return "Nothing differs in job, data, versions and machine."
    columns = [
        Column("part", tuple(fact.part for fact in found)),
        Column("key", tuple(escape(fact.key) for fact in found)),
        Column("A", tuple(_show_fact(fact.first) for fact in found), flexible=True),
        Column("B", tuple(_show_fact(fact.second) for fact in found), flexible=True),
    ]
    return render_table(columns, width=width).text


def _describe_metrics(comparison: Comparison, *, width: int | None) -> str:
    pairs = comparison.metrics
    columns = [
        Column("metric", tuple(pair.name for pair in pairs)),
        Column("A", tuple(format_number(pair.first) for pair in pairs), side="right"),
        Column("B", tuple(format_number(pair.second) for pair in pairs), side="right"),
        Column("B against A", tuple(map(_show_change, pairs)), side="right", rank=1),
    ]
    return render_table(columns, width=width).text


def _describe_paired(comparison: Comparison) -> str:
    paired = comparison.paired
    if paired is None:
        return f"No paired difference: {comparison.unpaired_because}."
    if paired.low is None or paired.high is None:
        return f"Squared error of A minus B on the one common test row: {paired.mean:.6g}."
    verdict = "which leaves open which is better"
    if paired.high < 0:
        verdict = "so A is better"
    elif paired.low > 0:
        verdict = "so B is better"
    return (
        f"Squared error of A minus B on {paired.num_pairs:,} common test rows: {paired.mean:.6g}, "
        f"95 % interval {paired.low:.6g} to {paired.high:.6g}, {verdict}."
    )


def _show_change(pair: MetricPair) -> str:
    if pair.first is None or pair.second is None or pair.first <= 0 or pair.second < 0:
        return DASH
    return format_change(pair.second, pair.first)


def _show_fact(value: object) -> str:
    is_plain = value is None or isinstance(value, str | int | float)
    return to_cell(value) if is_plain else escape(json.dumps(value, ensure_ascii=False))


def _show_difference(line: dict[str, Any]) -> str:
    if not line["next_num_pairs"]:
        return DASH
    low, high = line["next_difference_low"], line["next_difference_high"]
    interval = "" if low is None else f" ({format_number(low)} to {format_number(high)})"
    return f"{format_number(line['next_difference'])}{interval} on {line['next_num_pairs']}"


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _show_value(key: str, line: dict[str, Any]) -> str:
    return to_cell(line[key])


def _show_gain(line: dict[str, Any]) -> str:
    mse, linear = line["test_mse"], line["baseline_linear_mse"]
    return format_change(mse, linear) if mse is not None and linear else DASH


def _show_time(line: dict[str, Any]) -> str:
    seconds = line["train_s"]
    return DASH if seconds is None else format_seconds(seconds)
