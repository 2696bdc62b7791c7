"""Tables for a screen: as many columns as its width holds, and text that cannot act on it.

print(render_table(make_view(table), width=120, bold=True))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa
from rich.cells import cell_len, set_cell_size

from dnnjob.collect.table import varying_keys
from dnnjob.results.page import format_change, format_number, format_seconds

GAP = "  "
# Text beyond this gives way before a column does.
LEAST_WIDTH = 12
MAX_WIDTH = 60
SHORT_KEYS = 3


@dataclass(frozen=True)
class Column:
    """A column of a screen."""

    title: str
    cells: tuple[str, ...]
    side: Literal["left", "right"] = "left"
    rank: int = 0
    """Columns of higher rank go first where the width does not hold all."""
    keep: Literal["start", "end"] = "start"
    """Which end of a text stays where it is cut."""

    @property
    def width(self) -> int:
        """Cells that the longest text takes."""
        return max((cell_len(text) for text in (self.title, *self.cells)), default=0)


@dataclass(frozen=True)
class Screen:
    """A rendered table, and the columns for which there was no room."""

    text: str
    dropped: tuple[str, ...] = ()


def make_view(table: pa.Table) -> list[Column]:
    """What tells runs apart: name, state, the keys that vary, errors, seed, time and host."""
    keys = varying_keys(table)
    lines = table.select(
        ["run_id", "name", "state", "reason", "test_mse", "baseline_linear_mse", "seed"]
        + ["train_s", "host", *keys]
    ).to_pylist()

    def column(
        title: str, cell: Callable[[dict[str, Any]], str], *, rank: int, right: bool = False
    ) -> Column:
        cells = tuple(cell(line) for line in lines)
        return Column(title, cells, side="right" if right else "left", rank=rank)

    view = [
        column("name", lambda line: to_cell(line["name"]), rank=4),
        column("run_id", lambda line: to_cell(line["run_id"]), rank=1),
        column("state", lambda line: to_cell(line["state"]), rank=0),
        *(
            column(_short_key(key), lambda line, key=key: to_cell(line[key]), rank=3, right=True)
            for key in keys
        ),
        column("test_mse", lambda line: format_number(line["test_mse"]), rank=0, right=True),
        column("vs linear", _format_gain, rank=2, right=True),
        column("seed", lambda line: to_cell(line["seed"]), rank=5, right=True),
        column("train", lambda line: _format_time(line["train_s"]), rank=6, right=True),
        column("host", lambda line: to_cell(line["host"]), rank=7),
        column("reason", lambda line: to_cell(line["reason"], none=""), rank=2),
    ]
    return [shown for shown in view if shown.title != "reason" or any(shown.cells)]


def make_plain_view(table: pa.Table) -> list[Column]:
    """Every column of a table under its own name."""
    return [
        Column(
            name,
            tuple(to_cell(value) for value in table[name].to_pylist()),
            side="right" if _is_number(table.schema.field(name).type) else "left",
            rank=place,
        )
        for place, name in enumerate(table.column_names)
    ]


def render_table(columns: Sequence[Column], *, width: int | None, bold: bool = False) -> Screen:
    """The columns as lines of text.

    Args:
        columns: What to show; the last gives way last among those of one rank.
        width: Cells a line may take; None for as many as needed.
        bold: Whether the head is bold.
    """
    shown, widths = fit_columns(columns, width)
    head = _join([(column, column.title) for column in shown], widths)
    body = [
        _join(list(zip(shown, cells, strict=True)), widths)
        for cells in zip(*(column.cells for column in shown), strict=True)
    ]
    lines = [f"\x1b[1m{head}\x1b[0m" if bold else head, *body]
    dropped = tuple(column.title for column in columns if column not in shown)
    return Screen("\n".join(lines), dropped)


def fit_columns(
    columns: Sequence[Column], width: int | None
) -> tuple[list[Column], list[int]]:
    """The columns that fit a width, and theirs: long texts give way first, then whole columns."""
    shown = list(columns)
    if width is None:
        return shown, [column.width for column in shown]
    widths = {id(column): min(column.width, MAX_WIDTH) for column in columns}
    while (excess := _total(shown, widths) - width) > 0:
        cuttable = [
            column
            for column in shown
            if column.side == "left" and widths[id(column)] > LEAST_WIDTH and column.rank
        ]
        if cuttable:
            widest = max(cuttable, key=lambda column: widths[id(column)])
            widths[id(widest)] -= min(excess, widths[id(widest)] - LEAST_WIDTH)
        elif len(shown) > 1:
            shown.remove(max(shown, key=lambda column: column.rank))
        else:
            widths[id(shown[0])] = max(width, 1)
            break
    return shown, [widths[id(column)] for column in shown]


def to_cell(value: Any, *, none: str = "–") -> str:
    """A value as one line of printable text."""
    match value:
        case None:
            return none
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
        case _:
            return escape(str(value))


def escape(text: str) -> str:
    """The text with control characters spelled out: a name must not move the cursor."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )


def _total(columns: Sequence[Column], widths: dict[int, int]) -> int:
    return sum(widths[id(column)] for column in columns) + len(GAP) * (len(columns) - 1)


def _join(cells: Sequence[tuple[Column, str]], widths: Sequence[int]) -> str:
    texts = [_pad(text, column, width) for (column, text), width in zip(cells, widths, strict=True)]
    return GAP.join(texts).rstrip()


def _pad(text: str, column: Column, width: int) -> str:
    room = width - cell_len(text)
    if room < 0:
        return set_cell_size(text, max(width - 1, 0)) + "…"
    return " " * room + text if column.side == "right" else text + " " * room


def _short_key(key: str) -> str:
    return escape(key.rpartition(".")[2])


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _format_gain(line: dict[str, Any]) -> str:
    mse, linear = line["test_mse"], line["baseline_linear_mse"]
    return format_change(mse, linear) if mse is not None and linear else "–"


def _format_time(seconds: float | None) -> str:
    return "–" if seconds is None else format_seconds(seconds)
