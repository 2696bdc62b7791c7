"""Text to typed Arrow: read as strings, looked over once, and typed by what all of a table shows.

typed = read_texts(files, wanted)                       # whole files, one Arrow table each
look = look_over(files, wanted, check=crew.check)        # of long files: rows, types, marks
for table in read_typed(files[0], look.outlines[0], look.format, names, missing): ...
"""

import base64
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import pyarrow as pa

from dnnjob.data.csv_reader import TableFile, open_bytes, read_strings
from dnnjob.data.dates import ISO_FORMAT
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import ReadAs, refuse_value
from dnnjob.data.plain_numbers import PlainNumbers
from dnnjob.data.reading import reading_file
from dnnjob.data.text_format import TextFormat, may_be_left_out
from dnnjob.data.text_settling import settle
from dnnjob.data.text_types import (
    GUESSED_DATES,
    Evidence,
    add_rows,
    convert,
    first_other,
    type_of_ids,
    type_of_text,
)
from dnnjob.data.text_values import ArrowArray

_READ_BYTES = 2**22
Check = Callable[[], object]


@dataclass(frozen=True)
class TextColumn:
    """A column of a file of text.

    Attributes:
        dtype: What it becomes; of ids integers, or what is written.
        holds: The type of what it holds, of ids that split the rows, too.
        width: Bytes of its texts, at a guess.
    """

    dtype: pa.DataType
    holds: pa.DataType
    width: float


@dataclass(frozen=True)
class Outline:
    """What one look at a file of text tells.

    Attributes:
        num_rows: Its rows.
        columns: Its columns, by name.
    """

    num_rows: int
    columns: Mapping[str, TextColumn]

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """Types of some columns."""
        return pa.schema([(name, self.columns[name].dtype) for name in names])

    def dump(self) -> dict[str, Any]:
        """A JSON value that tells another process all of it."""
        types = [
            pa.schema([(name, getattr(column, which)) for name, column in self.columns.items()])
            for which in ("dtype", "holds")
        ]
        return {
            "num_rows": self.num_rows,
            "types": [base64.b64encode(each.serialize()).decode() for each in types],
            "widths": [column.width for column in self.columns.values()],
        }

    @classmethod
    def parse(cls, dumped: Mapping[str, Any]) -> "Outline":
        """What another process has dumped."""
        buffers = [pa.py_buffer(base64.b64decode(each)) for each in dumped["types"]]
        dtypes, holds = map(pa.ipc.read_schema, buffers)
        columns = {
            name: TextColumn(dtypes.field(name).type, holds.field(name).type, width)
            for name, width in zip(dtypes.names, dumped["widths"], strict=True)
        }
        return cls(dumped["num_rows"], columns)


@dataclass(frozen=True)
class TextLook:
    """What one look at all files of text tells.

    Attributes:
        outlines: Of each file.
        format: How they write numbers and dates.
    """

    outlines: tuple[Outline, ...]
    format: TextFormat

    @property
    def file_rows(self) -> list[int]:
        """Rows of each file."""
        return [outline.num_rows for outline in self.outlines]

    def dump(self) -> dict[str, Any]:
        """A JSON value that tells another process all of it."""
        return {
            "outlines": [outline.dump() for outline in self.outlines],
            "format": asdict(self.format),
        }

    @classmethod
    def parse(cls, dumped: Mapping[str, Any]) -> "TextLook":
        """What another process has dumped."""
        said = dict(dumped["format"])
        said |= {"dates": tuple(said["dates"]), "warnings": tuple(map(tuple, said["warnings"]))}
        return cls(tuple(map(Outline.parse, dumped["outlines"])), TextFormat(**said))


@dataclass(frozen=True)
class TypedText:
    """A file of text that was read whole.

    Attributes:
        table: Its columns, typed.
        ids: Those that are carried into the predictions, as integers or as they are written.
    """

    table: pa.Table
    ids: Mapping[str, ArrowArray] = field(default_factory=dict)


def read_texts(
    files: Sequence[TableFile], wanted: ReadAs, *, contents: Sequence[IO[bytes]] | None = None
) -> tuple[list[TypedText], TextFormat]:
    """Files of text, whole, and how they write numbers and dates.

    Args:
        files: The files.
        wanted: How columns are read.
        contents: Header and first rows of each, in place of all that they hold.

    Raises:
        DataError: If one cannot be read, or a value is none of the kind that is wanted.
    """
    strings = [
        pa.concat_tables(list(read_strings(file, None if contents is None else contents[place])))
        for place, file in enumerate(files)
    ]
    evidence = [_make_evidence(table.column_names, wanted) for table in strings]
    plain = [
        add_rows(columns, table, wanted.missing)
        for columns, table in zip(evidence, strings, strict=True)
    ]
    found = settle(evidence, wanted.format, wanted.kinds)
    outlines = _outline(files, evidence, wanted, found)
    typed = []
    for file, outline, table, numbers in zip(files, outlines, strings, plain, strict=True):
        with reading_file(file.path):
            typed.append(_type_whole(table, numbers, outline, wanted, found))
    return typed, found


def _type_whole(
    table: pa.Table,
    plain: Mapping[str, PlainNumbers | None],
    outline: Outline,
    wanted: ReadAs,
    found: TextFormat,
) -> TypedText:
    def typed(name: str, dtype: pa.DataType) -> ArrowArray:
        return convert(name, table.column(name), dtype, wanted.missing, found, plain[name])

    arrays = [typed(name, column.holds) for name, column in outline.columns.items()]
    ids = {name: typed(name, outline.columns[name].dtype) for name in {*wanted.ids, *wanted.keys}}
    return TypedText(pa.Table.from_arrays(arrays, table.column_names), ids)


def _make_evidence(names: Sequence[str], wanted: ReadAs) -> dict[str, Evidence]:
    dates = wanted.format.dates
    formats = GUESSED_DATES if dates is None else (ISO_FORMAT, *dates)
    units = wanted.format.units
    return {
        name: Evidence(
            missing=wanted.missing,
            dates=formats,
            unit=units.get(name),
            is_unit_known=name in units and may_be_left_out(units[name]),
        )
        for name in names
    }


def _outline(
    files: Sequence[TableFile],
    evidence: Sequence[Mapping[str, Evidence]],
    wanted: ReadAs,
    found: TextFormat,
) -> list[Outline]:
    """The type of each column of each file."""
    outlines = []
    for file, columns in zip(files, evidence, strict=True):
        typed = {}
        for name, one in columns.items():
            kind = wanted.kind_of(name)
            holds = type_of_text(name, one, kind, found)
            if kind in ("numeric", "datetime") and pa.types.is_string(holds):
                _refuse(file, name, kind, wanted, found)
            dtype = holds
            if name in wanted.ids and not pa.types.is_string(holds):
                dtype = type_of_ids(one)
            elif name in wanted.keys and pa.types.is_floating(holds) and one.is_whole:
                # Beyond 64 bits.
                dtype = pa.string()
            typed[name] = TextColumn(dtype, holds, one.width)
        outlines.append(Outline(next(iter(columns.values())).num_rows, typed))
    return outlines


def _refuse(
    file: TableFile, name: str, kind: FeatureKind, wanted: ReadAs, found: TextFormat
) -> None:
    """Raises for the first value of a file that is none of the kind that a job says."""
    for table in read_strings(file, columns=[name]):
        example = first_other(name, table.column(name), kind, wanted.missing, found)
        if example is not None:
            raise refuse_value(name, kind, source=str(file.path), example=example, found=found)


def most_rows(files: Sequence[TableFile], *, enough: int) -> int:
    """At most how many rows these files have; counting ends beyond `enough`.

    Raises:
        DataError: If a file cannot be read.
    """
    total = 0
    for file in files:
        for num_rows in _count_lines(file):
            total += num_rows
            if total > enough:
                return total
    return total


def _count_lines(file: TableFile) -> Iterator[int]:
    """Ends of lines of a file, those within quotes too, and one for a last line without."""
    with reading_file(file.path), open_bytes(file.path) as content:
        while block := content.read(_READ_BYTES):
            yield max(block.count(b"\n"), block.count(b"\r"))
    yield 1


def look_over(files: Sequence[TableFile], wanted: ReadAs, *, check: Check) -> TextLook:
    """Rows of some files, and their columns.

    Args:
        files: The files.
        wanted: How columns are read.
        check: Called between chunks; raises where the run shall stop.

    Raises:
        DataError: If one cannot be read, or a value is none of the kind that is wanted.
    """
    evidence = []
    for file in files:
        columns = _make_evidence(file.names, wanted)
        for table in read_strings(file):
            check()
            add_rows(columns, table, wanted.missing)
        evidence.append(columns)
    found = settle(evidence, wanted.format, wanted.kinds)
    return TextLook(tuple(_outline(files, evidence, wanted, found)), found)


def read_typed(
    file: TableFile,
    outline: Outline,
    found: TextFormat,
    names: Sequence[str],
    missing: Collection[str],
) -> Iterator[pa.Table]:
    """The rows of a file, chunk by chunk, in the types that the outline has.

    Args:
        file: The file.
        outline: Of it.
        found: How the table writes numbers and dates.
        names: The columns wanted.
        missing: Texts that stand for a missing value.

    Raises:
        DataError: If it cannot be read.
    """
    schema = outline.schema(names)
    for table in read_strings(file, columns=names):
        with reading_file(file.path):
            arrays = [
                convert(name, table.column(name), schema.field(name).type, missing, found)
                for name in names
            ]
        yield pa.Table.from_arrays(arrays, schema=schema)
