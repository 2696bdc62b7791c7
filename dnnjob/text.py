r"""Columns of text for a screen.

print("\n".join(align([["runs", "12"], ["rows", "506"]])))
"""

import shlex
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta


def align(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> Iterator[str]:
    """A line a row, whose cells stand below each other, two spaces apart.

    Args:
        rows: Cells, equally many a row.
        right: Places of the columns that end below each other, such as numbers.
    """
    printable = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
    for row in printable:
        cells = [
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _printable(text: str) -> str:
    """Without characters that act on a terminal: names come from other people's tables."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def counted(number: int, noun: str) -> str:
    """So many of a thing, as "1 run", "2,000 runs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def shown(value: object) -> str:
    """A value as people read it, "-" where there is none."""
    return "-" if value is None else str(value)


def spanned(numbers: Collection[int]) -> str:
    """The least and the largest of numbers, as "3" or "3 to 7"."""
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least} to {most}"


def describe_time(span: timedelta) -> str:
    """A span of time in its largest unit that has at least two of it, as "90 s", "3 h", "5 d"."""
    seconds = max(0.0, span.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def quote_command(*words: object) -> str:
    """A command of dnnjob in backticks, to be pasted as it is: paths may hold blanks and quotes."""
    return f"`{shlex.join(['dnnjob', *map(str, words)])}`"
