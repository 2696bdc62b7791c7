"""What a screen shows of runs, of settings, and of two runs.

print(render_table(make_view(table), width=120).text)
print(describe_comparison(comparison, width=120))
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from dnnjob.collect.collected_table import GAINS, add_gains, varying_keys
from dnnjob.collect.compare import Comparison, MetricPair
from dnnjob.collect.ranking import RANKINGS, choose_ranking
from dnnjob.collect.terminal import DASH, Column, escape, render_table, to_cell
from dnnjob.results.notation import format_change, format_number, format_seconds, say_against
from dnnjob.text import counted

Cell = Callable[[dict[str, Any]], str]
VIEWED = (
    "run_id",
    "name",
    "state",
    "reason",
    "validation_mse",
    "test_mse",
    "seed",
    "train_s",
    "host",
    *GAINS,
)
MAX_LIST_LETTERS = 40


def make_view(table: pa.Table) -> list[Column]:
    """What tells runs apart: name, state, the keys that vary, errors, seed, time and host."""
    keys = varying_keys(table)
    lines = add_gains(table).select([*VIEWED, *keys]).to_pylist()
    # A name that all share tells nothing apart.
    name_rank = 2 if len({line["name"] for line in lines} - {None}) > 1 else 9
    column = partial(_make_column, lines)
    view = [
        column("name", lambda line: to_cell(line["name"]), rank=name_rank, flexible=True),
        column("run_id", lambda line: to_cell(line["run_id"]), rank=1),
        column("state", lambda line: to_cell(line["state"]), rank=0),
        *(
            column(title, partial(_show_value, key), rank=2, side="right", flexible=True)
            for key, title in _short_titles(table, keys).items()
        ),
        *(
            column(name, partial(_show_number, name), rank=0, side="right")
            for name in RANKINGS
            if name == "test_mse" or choose_ranking(table) == name
        ),
        *(
            column(name, partial(_show_gain, name), rank=4, side="right")
            for name in GAINS
            if name == "vs_linear" or any(line[name] is not None for line in lines)
        ),
        column("seed", lambda line: to_cell(line["seed"]), rank=5, side="right"),
        column("train_s", _show_time, rank=6, side="right"),
        column("host", lambda line: to_cell(line["host"]), rank=7, flexible=True),
        column("reason", lambda line: to_cell(line["reason"], none=""), rank=3, flexible=True),
    ]
    return [shown for shown in view if shown.title != "reason" or any(shown.cells)]


def make_ranked_view(table: pa.Table) -> list[Column]:
    """What runs varied beside their errors, and which run it was."""
    shown = {column.title: column for column in make_view(table)}
    keys = _short_titles(table, varying_keys(table)).values()
    # What tells the runs apart gives way last of all.
    ranked = [shown[name] for name in RANKINGS if name in shown]
    ranked += [replace(shown[title], rank=1) for title in keys]
    if len(set(shown["seed"].cells)) > 1:
        ranked.append(replace(shown["seed"], rank=1))
    return [*ranked, replace(shown["run_id"], rank=2), replace(shown["state"], rank=3)]


def make_settings_view(settings: pa.Table, keys: Sequence[str]) -> list[Column]:
    """Seeds together: the keys, mean and spread, counts, and the difference to the next."""
    lines = settings.to_pylist()
    column = partial(_make_column, lines, side="right")
    judged_by_validation = any(line["validation_mse_mean"] is not None for line in lines)

    return [
        column("best", lambda line: "*" if line["best"] else "", rank=6),
        *(
            column(title, partial(_show_value, key), rank=1, flexible=True)
            for key, title in _short_titles(settings, keys).items()
        ),
        *(
            column(f"{metric}_{measure}", partial(_show_number, f"{metric}_{measure}"), rank=rank)
            for metric in RANKINGS
            if metric == "test_mse" or judged_by_validation
            for measure, rank in (("mean", 0), ("std", 3))
        ),
        column("test_mse_min", partial(_show_number, "test_mse_min"), rank=7),
        column("num_runs", partial(_show_value, "num_runs"), rank=4),
        *(
            column(name, partial(_show_value, name), rank=5)
            for name in ("num_failed", "num_unfinished")
            if any(line[name] for line in lines)
        ),
        column("next_difference", describe_next, rank=2),
    ]


def describe_next(line: dict[str, Any]) -> str:
    """How a setting compares with the next one, in words: by how much, or that it is open."""
    if not (num_pairs := line["next_num_pairs"]):
        return DASH
    low, high = line["next_difference_low"], line["next_difference_high"]
    difference = format_number(abs(line["next_difference"]))
    splits = counted(num_pairs, "split")
    if low is None or high is None:
        return f"{difference} less on {splits}"
    if low < 0 < high:
        return f"open: {format_number(low)} to {format_number(high)} on {splits}"
    word = "less" if high <= 0 else "more"
    ends = sorted(map(abs, (low, high)))
    return f"{difference} {word} ({' to '.join(map(format_number, ends))}) on {splits}"


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


def _short_titles(table: pa.Table, keys: Sequence[str]) -> dict[str, str]:
    """The shortest end of each key that names it, so that a heading can be typed back."""
    return {key: escape(_shortest_name(table.column_names, key)) for key in keys}


def _shortest_name(names: Sequence[str], key: str) -> str:
    parts = key.split(".")
    for start in range(len(parts) - 1, 0, -1):
        end = ".".join(parts[start:])
        if end not in names and sum(name.endswith(f".{end}") for name in names) == 1:
            return end
    return key


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
    rows = counted(paired.num_pairs, "common test row")
    return (
        f"Squared error of A minus B on {rows}: {paired.mean:.6g}, "
        f"95 % interval {paired.low:.6g} to {paired.high:.6g}, {verdict}."
    )


def _show_change(pair: MetricPair) -> str:
    if pair.first is None or pair.second is None or pair.first <= 0 or pair.second < 0:
        return DASH
    return format_change(pair.second, pair.first)


def _show_fact(value: object) -> str:
    is_plain = value is None or isinstance(value, str | int | float)
    return to_cell(value) if is_plain else escape(json.dumps(value, ensure_ascii=False))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _show_value(key: str, line: dict[str, Any]) -> str:
    value = line[key]
    if isinstance(value, str) and value.startswith("[") and len(value) > MAX_LIST_LETTERS:
        return _abridge_list(value)
    return to_cell(value)


def _abridge_list(text: str) -> str:
    """A long list, such as the features, by its ends and its length."""
    try:
        entries = [str(entry) for entry in json.loads(text)]
    except ValueError:
        return escape(text)
    first, last = (escape(entry)[:12] for entry in (entries[0], entries[-1]))
    return f"[{first}, …, {last}] of {len(entries):,}"


def _show_number(name: str, line: dict[str, Any]) -> str:
    return format_number(line[name])


def _show_gain(name: str, line: dict[str, Any]) -> str:
    return DASH if line[name] is None else say_against(1 + line[name], 1)


def _show_time(line: dict[str, Any]) -> str:
    seconds = line["train_s"]
    return DASH if seconds is None else format_seconds(seconds)
