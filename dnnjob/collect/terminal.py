"""Tables for a screen: as many columns as its width holds, and text that cannot act on it.

    print(render_table([Column("name", ("housing", "diabetes"))], width=120, bold=True).text)

rich measures the text; its own tables take 13 s for 10,000 lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rich.cells import cell_len, set_cell_size

from dnnjob.results.notation import format_number

GAP = "  "
# Text beyond this gives way before a column does.
LEAST_WIDTH = 12
MAX_WIDTH = 60
# What no text exceeds where the width is free, in a pipe: a name of a megabyte is no name.
MAX_FREE_WIDTH = 500
DASH = format_number(None)


@dataclass(frozen=True)
class Column:
    """A column of a screen."""

    title: str
    cells: tuple[str, ...]
    side: Literal["left", "right"] = "left"
    rank: int = 0
    """Columns of higher rank go first where the width does not hold all."""
    flexible: bool = False
    """Whether its texts may be cut."""

    @property
    def width(self) -> int:
        """Cells that the longest text takes."""
        return max(map(_measure, {self.title, *self.cells}))


@dataclass(frozen=True)
class Screen:
    """A rendered table, and the columns for which there was no room."""

    text: str
    dropped: tuple[str, ...] = ()


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


def fit_columns(columns: Sequence[Column], width: int | None) -> tuple[list[Column], list[int]]:
    """The columns that fit a width, and theirs: long texts give way first, then whole columns."""
    shown = list(columns)
    if width is None:
        return shown, [
            min(column.width, MAX_FREE_WIDTH) if column.flexible else column.width
            for column in shown
        ]
    widths = {id(column): min(column.width, MAX_WIDTH) for column in columns}
    while (excess := _total(shown, widths) - width) > 0:
        cuttable = [
            column for column in shown if column.flexible and widths[id(column)] > LEAST_WIDTH
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


def to_cell(value: object, *, none: str = DASH) -> str:
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


def _measure(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def _total(columns: Sequence[Column], widths: dict[int, int]) -> int:
    return sum(widths[id(column)] for column in columns) + len(GAP) * (len(columns) - 1)


def _join(cells: Sequence[tuple[Column, str]], widths: Sequence[int]) -> str:
    texts = [_pad(text, column, width) for (column, text), width in zip(cells, widths, strict=True)]
    return GAP.join(texts).rstrip()


def _pad(text: str, column: Column, width: int) -> str:
    room = width - _measure(text)
    if room < 0:
        return set_cell_size(text, max(width - 1, 0)) + "…"
    return " " * room + text if column.side == "right" else text + " " * room
