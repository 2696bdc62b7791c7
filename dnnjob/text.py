r"""Columns of text for a screen.

print("\n".join(align([["runs", "12"], ["rows", "506"]])))
"""

from collections.abc import Collection, Iterator, Sequence


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
