"""The first rows of files of text, and about how many rows the files have.

plan = plan_text(job.data, found)          # None of a table that a run reads whole
heads = read_heads(files)
estimate_rows(files, heads), head_columns(heads, ReadAs.of(job.data), source="big/")
"""

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from dnnjob.config.data_section import DataConfig
from dnnjob.data.csv_reader import BLANKS, TableFile, open_bytes, open_text
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import ReadAs
from dnnjob.data.order import streams
from dnnjob.data.reading import reading_file
from dnnjob.data.rows import feature_kind
from dnnjob.data.schema import ColumnData
from dnnjob.data.schema_merge import join_files
from dnnjob.data.sources import JobFiles, text_columns
from dnnjob.data.splitter import PartRows
from dnnjob.data.text_format import TextFormat

# Files, spread over the table, rows of all their heads, and values: of a wide table fewer rows.
_NUM_FILES = 32
_NUM_ROWS = 2**15
_NUM_VALUES = 2**22
# Of one file; rows of long texts are fewer.
_NUM_LETTERS = 2**24


@dataclass(frozen=True)
class Head:
    """The first rows of a file.

    Attributes:
        file: The file.
        text: Its header and these rows.
        num_rows: How many.
        num_bytes: What they take in the file, where it is packed at a guess.
        is_whole: Whether the file has no more.
    """

    file: TableFile
    text: str
    num_rows: int
    num_bytes: int
    is_whole: bool


@dataclass(frozen=True, eq=False)
class TextPlan:
    """A table of text that is read in pieces, judged by its first rows.

    Attributes:
        found: The files and features.
        heads: Of some of the files.
        part_rows: About how many rows the sources of each split have.
    """

    found: JobFiles
    heads: tuple[Head, ...]
    part_rows: PartRows


def plan_text(data: DataConfig, found: JobFiles) -> TextPlan | None:
    """How a table of text is read in pieces; None of one that is read whole.

    Raises:
        DataError: If a file cannot be read, or files differ in what a column holds.
    """
    heads, wanted = read_heads(found.files), ReadAs.of(data)
    part_rows = found.part_rows(estimate_rows(found.files, heads))
    # Texts become the most inputs, and so make the smallest windows.
    least: dict[str, FeatureKind] = {
        name: wanted.kinds.get(name, "text") for name in found.features
    }
    if not streams(data, part_rows, least):
        return None
    columns = head_columns(heads, wanted, source=data.source)
    kinds = {name: feature_kind(columns[name].column) for name in found.features}
    return TextPlan(found, heads, part_rows) if streams(data, part_rows, kinds) else None


def read_heads(files: Sequence[TableFile]) -> tuple[Head, ...]:
    """The first rows of files at equal distances.

    Raises:
        DataError: If one cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(files) - 1, _NUM_FILES).round().astype(int))
    most = min(_NUM_ROWS, _NUM_VALUES // len(files[0].names)) // len(chosen)
    return tuple(_read_head(files[place], num_rows=max(1, most)) for place in chosen)


def _read_head(file: TableFile, *, num_rows: int) -> Head:
    with reading_file(file.path), open_text(file.path, file.encoding) as text:
        rows = list(islice(_rows_of(text, file), num_rows + 1))
        is_whole = next(text, None) is None
    head = "".join(rows)
    return Head(file, head, len(rows) - 1, _stored_bytes(file, head.encode()), is_whole)


def _rows_of(text: Iterator[str], file: TableFile) -> Iterator[str]:
    """Header and rows as they are written, each with its end of line, until they are many."""
    lines: list[str] = []

    def taken() -> Iterator[str]:
        for line in text:
            lines.append(line)
            yield line

    delimiter = " " if file.delimiter == BLANKS else file.delimiter
    # Not line by line: a quoted text may have several.
    records, num_letters = csv.reader(taken(), delimiter=delimiter), 0
    while num_letters < _NUM_LETTERS:
        record = next(records, None)
        if record is None:
            return
        row = "".join(lines)
        lines.clear()
        num_letters += len(row)
        if record:
            yield row


def _stored_bytes(file: TableFile, content: bytes) -> int:
    """What some bytes of a file take in it."""
    with reading_file(file.path), file.path.open("rb") as stored, open_bytes(file.path) as unpacked:
        is_packed = stored.read(6) != unpacked.read(6)
    return len(zlib.compress(content)) if is_packed else len(content)


def estimate_rows(files: Sequence[TableFile], heads: Sequence[Head]) -> list[int]:
    """About how many rows each file has, by its bytes and those that rows of the heads take.

    Raises:
        DataError: If a file is not there.
    """
    of_file = {head.file.path: head for head in heads}
    rate = sum(head.num_rows for head in heads) / sum(head.num_bytes for head in heads)
    counts = []
    for file in files:
        head = of_file.get(file.path)
        if head is not None and head.is_whole:
            counts.append(head.num_rows)
            continue
        with reading_file(file.path):
            num_bytes = file.path.stat().st_size
        counts.append(round(num_bytes * (head.num_rows / head.num_bytes if head else rate)))
    return counts


def head_columns(heads: Sequence[Head], wanted: ReadAs, *, source: str) -> dict[str, ColumnData]:
    """The columns of these rows.

    Args:
        heads: Of files with the same columns.
        wanted: How columns are read.
        source: Of the table, for messages.

    Raises:
        DataError: If a file cannot be read, or files differ in what a column holds.
    """
    return read_head_columns(heads, wanted, source=source)[0]


def read_head_columns(
    heads: Sequence[Head], wanted: ReadAs, *, source: str
) -> tuple[dict[str, ColumnData], TextFormat]:
    """The columns of these rows, and how they write numbers and dates.

    Args, errors: as for `head_columns`.
    """
    from dnnjob.data.csv_files import read_texts

    files, paths = [head.file for head in heads], [str(head.file.path) for head in heads]
    contents = [io.BytesIO(head.text.encode()) for head in heads]
    typed, found = read_texts(files, wanted, contents=contents)
    parts = []
    for path, one in zip(paths, typed, strict=True):
        columns = text_columns(one, wanted, source=path)
        parts.append({data.column.name: data for data in columns})
    return join_files(parts, heads[0].file.names, source=source, files=paths), found
