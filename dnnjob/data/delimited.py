"""Tables of text larger than memory: looked over once, then rewritten as Parquet in scratch space.

outlines = outline_files(job.data, found, crew=crew)            # rows and kinds, chunk by chunk
found = rewrite(job.data, found, outlines, scratch=scratch)     # Parquet files of small row groups
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dnnjob.config.job import DataConfig
from dnnjob.data.block import Texts
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import (
    ReadAs,
    arrow_kind,
    infer_series,
    parse_date,
    parse_decimal_comma,
    parse_texts,
)
from dnnjob.data.reading import reading_file
from dnnjob.data.schema import Column, ColumnData, carried, common_kind
from dnnjob.data.scratch import Copy, CopyPlan, Scratch, refuse_full_disk
from dnnjob.data.sources import (
    JobFiles,
    TableFile,
    csv_options,
    open_bytes,
    open_text,
)
from dnnjob.data.unify import as_arrow, wanted_columns
from dnnjob.tasks import Crew

if TYPE_CHECKING:
    import pandas as pd

_CHUNK_ROWS, _CHUNK_BYTES = 2**16, 2**26
_READ_BYTES = 2**22
# The first texts of each chunk tell how long they are.
_MEASURED_TEXTS = 1000
# What all texts of a column may be, in this order of preference.
_BOOLEAN, _COMMA, _NUMERIC, _DATE = "boolean", "decimal comma", "numeric", "datetime"
Check = Callable[[], object]


@dataclass(frozen=True)
class TextColumn:
    """A column of a file of text.

    Attributes:
        dtype: What it becomes; of ids what pandas takes them for, dates as text.
        holds: The type of what it holds, of ids that split the rows, too.
        as_written: Whether it is read as text: numbers would lose leading zeros.
        has_commas: Whether its texts are numbers with decimal commas.
        width: Bytes of its texts, at a guess.
    """

    dtype: pa.DataType
    holds: pa.DataType
    as_written: bool
    has_commas: bool
    width: float


@dataclass(frozen=True)
class Outline:
    """What one look at a file of text tells.

    Attributes:
        num_rows: Its rows.
        columns: Those that the job reads, by name.
    """

    num_rows: int
    columns: Mapping[str, TextColumn]

    @property
    def schema(self) -> pa.Schema:
        """The columns' types."""
        return pa.schema([(name, column.dtype) for name, column in self.columns.items()])

    def dump(self) -> dict[str, Any]:
        """A JSON value that tells another process all of it."""
        types = [
            pa.schema([(name, getattr(column, which)) for name, column in self.columns.items()])
            for which in ("dtype", "holds")
        ]
        return {
            "num_rows": self.num_rows,
            "types": [base64.b64encode(each.serialize()).decode() for each in types],
            "rest": [
                (column.as_written, column.has_commas, column.width)
                for column in self.columns.values()
            ],
        }

    @classmethod
    def parse(cls, dumped: Mapping[str, Any]) -> "Outline":
        """What another process has dumped."""
        buffers = [pa.py_buffer(base64.b64decode(each)) for each in dumped["types"]]
        dtypes, holds = map(pa.ipc.read_schema, buffers)
        columns = {
            name: TextColumn(dtypes.field(name).type, holds.field(name).type, *rest)
            for name, rest in zip(dtypes.names, dumped["rest"], strict=True)
        }
        return cls(dumped["num_rows"], columns)


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


def outline_files(data: DataConfig, found: JobFiles, *, crew: Crew) -> tuple[Outline, ...]:
    """Rows and columns of each file, as the chief of the tasks finds them.

    Args:
        data: What the job says.
        found: Its files.
        crew: The tasks of the run.

    Raises:
        DataError: If a file cannot be read, or files differ in what a column holds.
    """
    names = wanted_columns(data, found.features)
    outlines = tuple(_share_outlines(data, found, names, crew))
    said = ReadAs.of(data).kinds
    for name in names:
        if said.get(name) is None and (name not in data.id_columns or name == data.split_column):
            _common_kind(data, found, outlines, name)
    return outlines


def _share_outlines(
    data: DataConfig, found: JobFiles, names: Sequence[str], crew: Crew
) -> Iterator[Outline]:
    if not crew.is_chief:
        yield from map(Outline.parse, crew.share(None))
        return
    outlines = [outline_file(data, file, names, check=crew.check) for file in found.files]
    crew.share([outline.dump() for outline in outlines])
    yield from outlines


def text_kinds(
    data: DataConfig, found: JobFiles, outlines: Sequence[Outline]
) -> dict[str, FeatureKind]:
    """What the features of these files hold, together.

    Raises:
        DataError: If files differ.
    """
    said = ReadAs.of(data).kinds
    return {
        name: said.get(name) or _common_kind(data, found, outlines, name) for name in found.features
    }


def key_kind(data: DataConfig, found: JobFiles, outlines: Sequence[Outline]) -> FeatureKind | None:
    """What the split column of these files holds, together; None where the split goes by none.

    Raises:
        DataError: If files differ.
    """
    name = data.split_column
    if name is None:
        return None
    return ReadAs.of(data).kinds.get(name) or _common_kind(data, found, outlines, name)


def rewrite(
    data: DataConfig,
    found: JobFiles,
    outlines: Sequence[Outline],
    *,
    scratch: Scratch,
    block_rows: int | None,
    crew: Crew,
) -> JobFiles:
    """The same table as Parquet files of small row groups, written by one of the tasks that share.

    Args:
        data: What the job says.
        found: Its files.
        outlines: Of each.
        scratch: For the Parquet files.
        block_rows: Training rows that are read together, in any order; None where all are read
            in theirs.
        crew: The tasks of the run, which wait for each other's copies.

    Raises:
        DataError: If a file cannot be read.
        JobError: If there is no room.
    """
    plans = [
        _plan_copy(outline, scratch.folder / f"text-{number:06d}", block_rows=block_rows)
        for number, outline in enumerate(outlines)
    ]
    if scratch.is_mine:
        num_bytes = sum(plan.num_bytes for plan in plans)
        refuse_full_disk(scratch.folder, num_bytes, copies=scratch.copies)
        for file, outline, plan in zip(found.files, outlines, plans, strict=True):
            _rewrite_file(data, file, outline, plan, check=crew.check)
    crew.gather(None)
    rewritten = [
        [TableFile(path, "parquet", tuple(outline.columns)) for path in plan.paths]
        for outline, plan in zip(outlines, plans, strict=True)
    ]
    ends = np.cumsum((0, *found.part_files))
    counts = [sum(map(len, rewritten[first:stop])) for first, stop in pairwise(ends)]
    files = tuple(file for files in rewritten for file in files)
    return JobFiles(files, (counts[0], counts[1], counts[2]), found.features)


def outline_file(
    data: DataConfig, file: TableFile, names: Sequence[str], *, check: Check
) -> Outline:
    """Rows of a file, and its columns of these names.

    Raises:
        DataError: If it cannot be read.
    """
    looks = {name: _Look(name, data, file) for name in names}
    written = {name: str for name, look in looks.items() if look.is_written}
    num_rows = 0
    for frame in _chunks(file, names, data, written):
        check()
        num_rows += len(frame)
        for name, look in looks.items():
            look.add(frame[name])
    return Outline(num_rows, {name: look.found() for name, look in looks.items()})


def read_outlined(data: DataConfig, file: TableFile, outline: Outline) -> Iterator[pa.Table]:
    """The rows of a file, chunk by chunk, in the types that the outline has.

    Raises:
        DataError: If it cannot be read.
    """
    schema = outline.schema
    written = {name: str for name, column in outline.columns.items() if column.as_written}
    for frame in _chunks(file, schema.names, data, written):
        columns = [
            _as_column(frame[name], column, data) for name, column in outline.columns.items()
        ]
        yield pa.Table.from_arrays(columns, schema=schema)


def _plan_copy(outline: Outline, folder: Path, *, block_rows: int | None) -> CopyPlan:
    return CopyPlan.make(
        outline.schema,
        folder,
        num_rows=outline.num_rows,
        block_rows=block_rows or outline.num_rows,
        widths={name: column.width for name, column in outline.columns.items()},
    )


def _rewrite_file(
    data: DataConfig, file: TableFile, outline: Outline, plan: CopyPlan, *, check: Check
) -> None:
    plan.folder.mkdir()
    copy = Copy(plan)
    for table in read_outlined(data, file, outline):
        check()
        copy.write(table)
    copy.close()


def _chunks(
    file: TableFile, names: Sequence[str], data: DataConfig, written: Mapping[str, type]
) -> "Iterator[pd.DataFrame]":
    import pandas as pd

    rows = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (8 * len(file.names))))
    with reading_file(file.path), open_text(file.path) as text:
        options = csv_options(file, data.missing)
        # Not `usecols`, which lets rows pass that are longer than the header.
        for frame in pd.read_csv(text, **options, dtype=dict(written), chunksize=rows):
            yield frame[list(names)]


class _Look:
    """What a column of one file may be, as more of it comes."""

    def __init__(self, name: str, data: DataConfig, file: TableFile) -> None:
        self._name, self._data = name, data
        self._is_id = name in data.id_columns
        self._has_decimals = file.delimiter != ","
        self._is_key = name == data.split_column
        self.is_written = ReadAs.of(data).as_text(name)
        self._may_be = {_BOOLEAN, _COMMA, _NUMERIC, _DATE}
        self._types: set[pa.DataType] = set()
        self._has_comma = False
        self._is_empty = True
        self._width = 0.0

    def add(self, series: "pd.Series[Any]") -> None:
        """Looks at more rows."""
        if not _are_numbers(series):
            lengths = series.head(_MEASURED_TEXTS).astype(str).str.len()
            self._width = max(self._width, float(lengths.mean()))
        if self._is_id:
            self._types.add(carried(series).type)
        if not self.is_written and (self._is_key or not self._is_id):
            self._narrow(series)

    def _narrow(self, series: "pd.Series[Any]") -> None:
        found = infer_series(self._name, series, missing=self._data.missing)
        if found.column.num_missing == found.num_rows:
            return
        self._is_empty = False
        if found.column.kind == "boolean":
            self._may_be &= {_BOOLEAN}
        elif not _are_numbers(series):
            self._narrow_texts(_texts_of(series, self._data))
        else:
            # What pandas takes for numbers with a point has no comma.
            whole = bool(np.equal(np.mod(found.numbers[np.isfinite(found.numbers)], 1), 0).all())
            self._may_be &= {_NUMERIC, _COMMA} if whole else {_NUMERIC}

    def _narrow_texts(self, texts: Texts) -> None:
        self._has_comma |= any("," in text for text in texts.values)
        parsers: dict[str, Callable[[str], float]] = {
            _NUMERIC: float,
            _COMMA: parse_decimal_comma,
            _DATE: parse_date,
        }
        self._may_be &= {
            name
            for name, parse in parsers.items()
            if name in self._may_be and parse_texts(texts, parse) is not None
        }

    def found(self) -> TextColumn:
        """What all of it is."""
        holds, has_commas = self._type_of_values(), self._are_commas
        if not self._is_id:
            as_written = has_commas or pa.types.is_string(holds)
            return TextColumn(holds, holds, as_written, has_commas, self._width)
        dtype = _type_of_ids(self._types)
        return TextColumn(dtype, holds, pa.types.is_string(dtype), False, self._width)

    @property
    def _are_commas(self) -> bool:
        """Whether they are numbers with decimal commas."""
        if self.is_written or self._is_empty or _BOOLEAN in self._may_be:
            return False
        return self._has_decimals and self._has_comma and _COMMA in self._may_be

    def _type_of_values(self) -> pa.DataType:
        if self.is_written:
            return pa.string()
        if self._is_empty:
            return pa.null()
        if _BOOLEAN in self._may_be:
            return pa.bool_()
        if self._are_commas or _NUMERIC in self._may_be:
            return pa.float64()
        return pa.timestamp("s") if _DATE in self._may_be else pa.string()


def _are_numbers(series: "pd.Series[Any]") -> bool:
    """Whether pandas took a chunk for numbers or booleans without gaps."""
    import pandas as pd

    return pd.api.types.is_numeric_dtype(series.dtype)


def _type_of_ids(types: set[pa.DataType]) -> pa.DataType:
    """The type that pandas would give the whole column."""
    known = {dtype for dtype in types if not pa.types.is_null(dtype)}
    if len(known) == 1 and known == types:
        return known.pop()
    if known <= {pa.int64(), pa.float64()}:
        return pa.float64()
    return known.pop() if known == {pa.bool_()} else pa.string()


def _as_column(series: "pd.Series[Any]", column: TextColumn, data: DataConfig) -> "pa.Array[Any]":
    """A chunk of a column as the type that all of it has."""
    name, dtype = str(series.name), column.dtype
    if pa.types.is_null(dtype):
        return pa.nulls(len(series))
    if pa.types.is_string(dtype) or name in data.id_columns:
        return carried(series).cast(dtype)
    if column.has_commas:
        found = parse_texts(_texts_of(series, data), parse_decimal_comma)
    else:
        found = infer_series(name, series, missing=data.missing).numbers
    return as_arrow(np.asarray(found, np.float64), dtype)


def _texts_of(series: "pd.Series[Any]", data: DataConfig) -> Texts:
    found = infer_series(str(series.name), series, missing=data.missing, as_text=True)
    if not isinstance(found.values, Texts):
        raise TypeError(f"{series.name!r} was not read as texts.")
    return found.values


def _common_kind(
    data: DataConfig, found: JobFiles, outlines: Sequence[Outline], name: str
) -> FeatureKind:
    parts = []
    for outline in outlines:
        holds = outline.columns[name].holds
        column = Column(name, arrow_kind(holds), num_missing=int(pa.types.is_null(holds)))
        parts.append(ColumnData(column, num_rows=1))
    agreed = common_kind(parts, source=data.source, files=[str(path) for path in found.paths])
    return "text" if agreed == "other" else agreed
