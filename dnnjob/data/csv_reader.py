"""Files of text as Arrow strings: opened, decoded, parted into fields, chunk by chunk.

file = peek_csv(path, encoding="utf-8")            # names and delimiter, from the first lines
for table in read_strings(file): ...                # every value as it is written
"""

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from dnnjob.data.partitions import folder_values
from dnnjob.data.reading import reading_file
from dnnjob.errors import DataError
from dnnjob.text import counted

if TYPE_CHECKING:
    import pyarrow as pa

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_LINES = 20
UTF8 = "utf-8"
BLANKS = r"\s+"
# Some rows must fit into a block, of which a few are held at a time.
_BLOCK_BYTES, _BLOCK_ROWS = 2**22, 8
# Parts the fields of files that are aligned with blanks: no such letter is in a text.
_UNIT_SEPARATOR = "\x1f"
_FIELD = re.compile(r'"(?:[^"]|"")*"|\S+')

# The reader of the first lines; by default a text of 128 KiB is too long for it.
csv.field_size_limit(2**31 - 1)


@dataclass(frozen=True)
class TableFile:
    """A file and what its first lines or its footer say.

    Attributes:
        path: Where it is.
        kind: What it is.
        names: Of its columns.
        delimiter: Between the fields of text; `BLANKS` for any number of them.
        encoding: Of text.
        row_bytes: Of a row of text, at most, as far as its first lines tell.
        has_rows: Whether there is more than a header; without one there are no names either.
        folders: The last of the names, which the file's folders hold in place of the file.
    """

    path: Path
    kind: Literal["csv", "parquet"]
    names: tuple[str, ...]
    delimiter: str = ","
    encoding: str = UTF8
    row_bytes: int = 0
    has_rows: bool = True
    folders: tuple[str, ...] = ()

    @property
    def own_names(self) -> tuple[str, ...]:
        """Names of the columns that stand in the file."""
        return self.names[: len(self.names) - len(self.folders)]


def peek_csv(path: Path, *, encoding: str) -> TableFile:
    """What the first lines of a file of text say.

    Raises:
        DataError: If a row is longer than the header.
    """
    with open_text(path, encoding) as text:
        lines = list(islice((line for line in text if line.strip()), SAMPLE_LINES))
    if not lines:
        return TableFile(path, "csv", (), encoding=encoding, has_rows=False)
    delimiter = _sniff_delimiter(lines)
    header, *rows = _split_lines(lines, delimiter)
    if too_long := [row for row in rows if len(row) > len(header)]:
        raise DataError(
            f"A row must not be longer than the header, but {path} names {len(header)} "
            f"column{'s'[: len(header) > 1]} and has a row of {len(too_long[0])}: "
            f"{delimiter.join(too_long[0])[:80]!r}. Name all columns in the first line, and have "
            "no line before it."
        )
    # As pandas calls them.
    names = tuple(name or f"Unnamed: {number}" for number, name in enumerate(header))
    has_rows = bool(rows) or len(lines) == SAMPLE_LINES
    return TableFile(path, "csv", names, delimiter, encoding, 4 * max(map(len, lines)), has_rows)


def _sniff_delimiter(lines: Sequence[str]) -> str:
    """The delimiter that splits all lines alike; else the one that splits the header most."""
    widths = {}
    for delimiter in (*DELIMITERS, BLANKS):
        rows = _split_lines(lines, delimiter)
        widths[delimiter] = len(rows[0])
        if len(rows[0]) > 1 and len(rows) > 1 and len({len(row) for row in rows}) == 1:
            return delimiter
    # A header of words would count as many columns.
    widths.pop(BLANKS)
    return max(widths, key=lambda delimiter: widths[delimiter])


def _split_lines(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The fields of a sample; its last row is left out where the sample may have cut it."""
    if delimiter == BLANKS:
        rows = [_split_blanks(line) for line in lines]
    else:
        rows = list(csv.reader(lines, delimiter=delimiter))
    return rows[:-1] if len(lines) == SAMPLE_LINES and len(rows) > 1 else rows


def _split_blanks(line: str) -> list[str]:
    if '"' not in line:
        return line.split()
    return [field.strip('"').replace('""', '"') for field in _FIELD.findall(line)]


def read_strings(
    file: TableFile, content: IO[bytes] | None = None, *, columns: Sequence[str] | None = None
) -> "Iterator[pa.Table]":
    """The rows of a file of text, chunk by chunk, every value as the string that is written.

    Args:
        file: The file.
        content: Header and first rows in UTF-8, in place of all that the file holds.
        columns: Those wanted; all, if None.

    Raises:
        DataError: If it cannot be read, or a row has more or fewer fields than the header.
    """
    with reading_file(file.path):
        if content is not None:
            yield from _read_strings(file, content, UTF8, columns)
            return
        with open_bytes(file.path) as stored:
            yield from _read_strings(file, stored, file.encoding, columns)


def _read_strings(
    file: TableFile, content: IO[bytes], encoding: str, columns: Sequence[str] | None
) -> "Iterator[pa.Table]":
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    places = [str(place) for place in range(len(file.own_names))]
    place_of = dict(zip(file.own_names, places, strict=True))
    wanted = file.names if columns is None else tuple(columns)
    # No column at all would be every column to Arrow.
    own = tuple(name for name in wanted if name in place_of) or file.own_names[:1]
    odd = _OddRows()
    delimiter = file.delimiter
    if delimiter == BLANKS:
        content, delimiter, encoding = _joined(content, encoding), _UNIT_SEPARATOR, UTF8
    quotes = _Quotes(content, encoding)
    reader = arrow_csv.open_csv(
        quotes,
        # Names of their own: the header is the first row, wherever it stands.
        arrow_csv.ReadOptions(
            block_size=max(_BLOCK_BYTES, _BLOCK_ROWS * file.row_bytes),
            column_names=places,
            encoding="utf8" if encoding == UTF8 else encoding,
        ),
        arrow_csv.ParseOptions(
            delimiter=delimiter, newlines_in_values=True, invalid_row_handler=odd.add
        ),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(places, pa.string()),
            strings_can_be_null=False,
            include_columns=[place_of[name] for name in own],
        ),
    )
    is_first, last = True, None
    for batch in reader:
        table = pa.Table.from_batches([batch]).rename_columns(list(own))
        if is_first and table.num_rows:
            table, is_first = table.slice(1), False
        last = table if table.num_rows else last
        yield _add_folders(table, file).select(list(wanted)) if file.folders else table
    odd.refuse(file)
    quotes.refuse_open(last)


def _add_folders(table: "pa.Table", file: TableFile) -> "pa.Table":
    """The rows with what the file's folders hold, as if it were written in each."""
    import pyarrow as pa

    values = folder_values(file.path)
    for name in file.folders:
        texts = pa.repeat(pa.scalar(values[name] or "", pa.string()), table.num_rows)
        table = table.append_column(name, texts)
    return table


class _OddRows:
    """Rows with more or fewer fields than the header."""

    def __init__(self) -> None:
        self._first: Any = None
        self._count = 0

    def add(self, row: Any) -> str:
        """Takes note of one; rows of blanks alone are none."""
        if row.text.strip():
            self._first = self._first or row
            self._count += 1
        return "skip"

    def refuse(self, file: TableFile) -> None:
        """Raises DataError if there are any."""
        if self._first is None:
            return
        row, more = self._first, self._count - 1
        line = _line_of(file, row.text) or "a row"
        others = f"; so it is with {counted(more, 'more row')}" if more else ""
        blanks = file.delimiter == BLANKS
        mark = "blanks" if blanks else repr(file.delimiter)
        if row.actual_columns > row.expected_columns:
            cure = f"Put texts that hold {mark} in quotes"
        elif blanks:
            cure = "Write a word for a gap, such as NA, where a value is missing"
        else:
            cure = f"Leave the place between two {mark} empty where a value is missing"
        raise DataError(
            f"A row must have as many fields as the header ({row.expected_columns}), but {line} of "
            f"{file.path} has {row.actual_columns}: {row.text.strip()[:80]!r}{others}. {cure}, or "
            "take such rows out of the file."
        )


def _line_of(file: TableFile, row: str) -> str | None:
    """Where a row begins that is written so."""
    wanted = row.strip().splitlines()[0]
    with open_text(file.path, file.encoding) as text:
        for number, line in enumerate(text, start=1):
            if line.strip() == wanted:
                return f"line {number:,}"
    return None


class _Quotes(io.RawIOBase):
    """Bytes that pass by, and whether they end within quotes."""

    def __init__(self, content: IO[bytes], encoding: str) -> None:
        self._content, self._encoding = content, encoding
        self._is_odd = False
        self._tail = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes."""
        block = self._content.read(-1 if size is None else size)
        if block:
            self._is_odd ^= bool(block.count(b'"') % 2)
            self._tail = (self._tail + block)[-_BLOCK_BYTES:]
        return block

    def refuse_open(self, last: "pa.Table | None") -> None:
        """Raises ValueError if the last text of the last row has no closing quote."""
        if not self._is_odd or last is None or not last.num_columns:
            return
        text = last.column(last.num_columns - 1)[-1].as_py()
        tail = self._tail.decode(self._encoding, "ignore")
        if tail.endswith('"' + text.replace('"', '""')):
            raise ValueError("a text in quotes has no end")


class _Generated(io.RawIOBase):
    """Bytes that are made as they are read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes."""
        block = self._rest or next(self._blocks, b"")
        size = min(len(block), len(buffer))
        buffer[:size], self._rest = block[:size], block[size:]
        return size


def _joined(content: IO[bytes], encoding: str) -> IO[bytes]:
    """Rows that are aligned with blanks, their fields parted by one letter, in UTF-8."""

    def rows() -> Iterator[bytes]:
        with io.TextIOWrapper(content, _with_mark(encoding), newline="") as text:
            for line in text:
                fields = line.split() if '"' not in line else _FIELD.findall(line)
                yield (_UNIT_SEPARATOR.join(fields) + "\n").encode()

    return io.BufferedReader(_Generated(rows()), 2**20)


@contextmanager
def open_text(path: Path, encoding: str = UTF8) -> Iterator[IO[str]]:
    """The text of a file, decompressed by its first bytes, without a byte order mark."""
    with (
        open_bytes(path) as content,
        io.TextIOWrapper(content, _with_mark(encoding), newline="") as text,
    ):
        yield text


def _with_mark(encoding: str) -> str:
    return "utf-8-sig" if encoding == UTF8 else encoding


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file of text, decompressed by its first bytes."""
    with path.open("rb") as file:
        magic = file.read(6)
    match magic:
        case _ if magic.startswith(b"\x1f\x8b"):
            return cast("IO[bytes]", gzip.open(path))
        case _ if magic.startswith(b"BZh"):
            return bz2.open(path)
        case _ if magic.startswith(b"\xfd7zXZ"):
            return lzma.open(path)
        case _ if magic.startswith(b"\x28\xb5\x2f\xfd"):
            return _open_zstandard(path)
        case _ if magic.startswith(b"PK\x03\x04"):
            return _open_zip(path)
        case _:
            return path.open("rb")


def _open_zstandard(path: Path) -> IO[bytes]:
    import pyarrow as pa

    stream: IO[bytes] = pa.input_stream(str(path), compression="zstd")
    return stream


def _open_zip(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    members = archive.namelist()
    if len(members) != 1:
        raise DataError(
            f"A ZIP file must hold one CSV file, but {path} holds {len(members)} files. Unpack it, "
            "or save a spreadsheet as CSV."
        )
    return archive.open(members[0])
