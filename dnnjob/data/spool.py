"""The copy of a table in scratch whose files cannot be cut at will.

with scratch_folder(data, run_id, attempt=1) as folder:
    scratch = Scratch.share(folder, crew)               # of several tasks, one makes the copy
    plan = CopyPlan.make(schema, scratch.folder, num_rows=10_000_000, block_rows=50_000, widths={})
    copy = Copy(plan)
    copy.write(table)                                   # rows, in order
    copy.close()
    rows = plan.open()

look = look_over_job(job.data, found, crew=crew)          # long text: rows and types of every file
found = rewrite(job.data, found, look, scratch=scratch)   # Parquet files of small row groups
"""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.config.data_section import DataConfig
from dnnjob.data.csv_files import Outline, TextLook, look_over, read_typed
from dnnjob.data.csv_reader import TableFile
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import ReadAs, arrow_kind
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.schema import Column, ColumnData
from dnnjob.data.schema_merge import CommonColumns, common_kind, wanted_columns
from dnnjob.data.sources import JobFiles
from dnnjob.errors import NO_ROOM, JobError
from dnnjob.tasks import Crew

logger = logging.getLogger(__name__)

# A row group of the copy takes about this many bytes, and its files so many row groups.
_GROUP_BYTES = 2**19
_GROUPS_A_FILE = 128
LEAST_GROUP_ROWS, _MOST_GROUP_ROWS = 64, 2**14
# What the copy may take beyond the plain size of its values.
_ROOM = 1.1
# Of a text of unknown length.
_TEXT_BYTES = 16


@dataclass(frozen=True, eq=False)
class Scratch:
    """Where a task reads its copy of the table: one copy serves all tasks that see its folder.

    Attributes:
        folder: The copy's, the same for all that share it.
        is_mine: Whether this task makes the copy.
        copies: How many the tasks of this machine make.
    """

    folder: Path
    is_mine: bool = True
    copies: int = 1

    @classmethod
    def share(cls, folder: Path, crew: Crew) -> "Scratch":
        """Finds the tasks that see each other's folders; all call it at the same point.

        No task has taken room yet when the others look.

        Args:
            folder: This task's own, of a name that no other has on any machine.
            crew: The tasks of the run.
        """
        folders = [Path(other) for other in crew.gather(str(folder))]
        rank = crew.task.rank
        seen = next((other for other, path in enumerate(folders) if _is_seen(path)), rank)
        makers = set(crew.gather(seen))
        copies = sum(peer.rank in makers for peer in crew.local_peers)
        if rank in makers:
            return cls(folder, copies=max(1, copies))
        logger.info("Reading the copy of the table that task %d makes.", seen)
        return cls(folders[seen], is_mine=False, copies=max(1, copies))


def _is_seen(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:
        # One of another machine, whose like here is closed to this user or broken.
        return False


@dataclass(frozen=True, eq=False)
class CopyPlan:
    """A copy of a table's columns in small row groups, over a few files.

    Attributes:
        schema: Its columns; their rows are cast to these types.
        folder: Of its files.
        num_rows: Its rows.
        group_rows: Rows of its row groups, the last may have fewer.
        num_bytes: What it takes, at a guess.
    """

    schema: pa.Schema
    folder: Path
    num_rows: int
    group_rows: int
    num_bytes: float

    @classmethod
    def make(
        cls,
        schema: pa.Schema,
        folder: Path,
        *,
        num_rows: int,
        block_rows: int,
        widths: Mapping[str, float],
    ) -> "CopyPlan":
        """A plan from what is known of the table before it is read.

        Args:
            schema: Columns of the copy.
            folder: For its files.
            num_rows: Rows that will come.
            block_rows: Rows that are read together.
            widths: Bytes of a text of each column that has them.
        """
        width = row_bytes(schema, widths)
        rows = int(min(_GROUP_BYTES // max(width, 1), block_rows // 4, _MOST_GROUP_ROWS))
        return cls(schema, folder, num_rows, max(LEAST_GROUP_ROWS, rows), width * num_rows)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First row of each row group, and the number of rows."""
        firsts = np.arange(0, self.num_rows, self.group_rows, dtype=np.int64)
        return np.append(firsts, self.num_rows)

    @property
    def paths(self) -> list[Path]:
        """Its files, in order."""
        num_files = -(-(len(self.starts) - 1) // _GROUPS_A_FILE)
        return [self.folder / f"part-{number:06d}.parquet" for number in range(num_files)]

    def open(self) -> ParquetRows:
        """Its rows, once they are written.

        Raises:
            DataError: If a footer cannot be read.
        """
        again = (
            "It is a copy that this attempt has made: `dnnjob resume` makes it anew and goes on."
        )
        rows = ParquetRows.open(self.paths, way_out=again)
        # All its files have the same types: nothing is left to convert.
        return rows.wanting(CommonColumns(next(iter(rows.schemas.values())), {}, ()))


class Copy:
    """Writes a copy as planned."""

    def __init__(self, plan: CopyPlan, *, copies: int = 1) -> None:
        """A copy to be written.

        Args:
            plan: What becomes of it.
            copies: That there must be room for: those of other tasks, too.

        Raises:
            JobError: If there is no room.
        """
        refuse_full_disk(plan.folder, plan.num_bytes, copies=copies)
        self._schema, self._folder, self._group_rows = plan.schema, plan.folder, plan.group_rows
        self._paths = iter(plan.paths)
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._num_groups = 0
        logger.info(
            "Copying the table in row groups of %d rows to %s.", self._group_rows, self._folder
        )

    def write(self, table: pa.Table) -> None:
        """Adds rows.

        Raises:
            JobError: If the disk is full.
        """
        waiting = pa.concat_tables([*self._waiting, self._cast(table)])
        while waiting.num_rows >= self._group_rows:
            self._write_group(waiting.slice(0, self._group_rows))
            waiting = waiting.slice(self._group_rows)
        self._waiting = [waiting]

    def close(self) -> None:
        """Writes what is left.

        Raises:
            JobError: If the disk is full.
        """
        rest = pa.concat_tables(self._waiting) if self._waiting else None
        if rest is not None and rest.num_rows:
            self._write_group(rest)
        self._close_file()

    def _write_group(self, table: pa.Table) -> None:
        if self._writer is None or self._num_groups % _GROUPS_A_FILE == 0:
            self._close_file()
            texts = [one.name for one in self._schema if not _is_plain(one.type)]
            with self._explaining():
                self._writer = pq.ParquetWriter(
                    next(self._paths),
                    self._schema,
                    compression="none",
                    use_dictionary=texts or False,
                    write_statistics=False,
                    # The run reads it again and again: a bit that flips would train unseen.
                    write_page_checksum=True,
                )
        self._num_groups += 1
        with self._explaining():
            self._writer.write_table(table, row_group_size=table.num_rows)

    def _close_file(self) -> None:
        if self._writer is not None:
            with self._explaining():
                self._writer.close()
            self._writer = None

    def _cast(self, table: pa.Table) -> pa.Table:
        columns = []
        for field in self._schema:
            column = table.column(field.name)
            if pa.types.is_float32(field.type) and not pa.types.is_float32(column.type):
                # Through float64, as columns are read; beyond 2**53 and float32 numbers round.
                column = column.cast(pa.float64(), safe=False).cast(pa.float32(), safe=False)
            columns.append(column.cast(field.type))
        return pa.Table.from_arrays(columns, schema=self._schema)

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # A writer that could not write cannot be closed either.
            self._writer = None
            if error.errno not in NO_ROOM:
                raise JobError(
                    f"data.scratch must be a folder that can be written, but {self._folder} "
                    f"cannot ({error}). Set data.scratch to another."
                ) from error
            raise JobError(
                f"The copy of the table found no room in {self._folder}: "
                f"{NO_ROOM[error.errno]}. {_WAY_OUT}"
            ) from error


_WAY_OUT = (
    "Set data.scratch to a folder with room, or write the table as Parquet with row groups of a "
    "few thousand rows."
)


def row_bytes(schema: pa.Schema, widths: Mapping[str, float]) -> float:
    """Bytes of a row of a copy; `widths` are those of a text of each column that has them."""
    return sum(_width(field, widths) for field in schema)


def refuse_full_disk(folder: Path, num_bytes: float, *, copies: int = 1) -> None:
    """Refuses copies of so many bytes each that a folder has no room for.

    Raises:
        JobError: If it has not.
    """
    needed, free = _ROOM * num_bytes * copies, shutil.disk_usage(folder).free
    if needed > free:
        what = "copy of the table needs" if copies == 1 else f"{copies} tasks' copies need"
        raise JobError(
            f"The {what} {needed / 2**30:.1f} GiB, but {folder} has "
            f"{free / 2**30:.1f} GiB left. {_WAY_OUT}"
        )


def copied_schema(schema: pa.Schema, numeric: frozenset[str]) -> pa.Schema:
    """A schema with the `numeric` columns as the float32 in which they enter; all else as it is."""
    return pa.schema(
        pa.field(one.name, pa.float32() if one.name in numeric else one.type) for one in schema
    )


def _is_plain(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(dtype))


def _width(field: pa.Field, widths: Mapping[str, float]) -> float:
    """Bytes of a value."""
    if _is_plain(field.type):
        return field.type.bit_width // 8 or 1
    return max(_TEXT_BYTES, 4 + widths.get(field.name, 0.0))


def look_over_job(data: DataConfig, found: JobFiles, *, crew: Crew) -> TextLook:
    """Rows and columns of each file of a job, as the chief of the tasks finds them.

    Args:
        data: What the job says.
        found: Its files.
        crew: The tasks of the run.

    Raises:
        DataError: If a file cannot be read, or files differ in what a column holds.
    """
    if crew.is_chief:
        look = look_over(found.files, ReadAs.of(data), check=crew.check)
        crew.share(look.dump())
    else:
        look = TextLook.parse(crew.share(None))
    said = ReadAs.of(data)
    for name in wanted_columns(data, found.features):
        is_kept = name in data.id_columns and name != data.split_column
        if said.kind_of(name) is None and not is_kept:
            _common_kind(data, found, look, name)
    return look


def text_kinds(data: DataConfig, found: JobFiles, look: TextLook) -> dict[str, FeatureKind]:
    """What the features of these files hold, together.

    Raises:
        DataError: If files differ.
    """
    said = ReadAs.of(data).kinds
    return {
        name: said.get(name) or _common_kind(data, found, look, name) for name in found.features
    }


def key_kind(data: DataConfig, found: JobFiles, look: TextLook) -> FeatureKind | None:
    """What the split column of these files holds, together; None where the split goes by none.

    Raises:
        DataError: If files differ.
    """
    name = data.split_column
    if name is None:
        return None
    return ReadAs.of(data).kinds.get(name) or _common_kind(data, found, look, name)


def rewrite(
    data: DataConfig,
    found: JobFiles,
    look: TextLook,
    *,
    scratch: Scratch,
    block_rows: int | None,
    crew: Crew,
) -> JobFiles:
    """The same table as Parquet files of small row groups, written by one of the tasks that share.

    Args:
        data: What the job says.
        found: Its files.
        look: What one look at them told.
        scratch: For the Parquet files.
        block_rows: Training rows that are read together, in any order; None where all are read
            in theirs.
        crew: The tasks of the run, which wait for each other's copies.

    Raises:
        DataError: If a file cannot be read.
        JobError: If there is no room.
    """
    names = wanted_columns(data, found.features)
    plans = [
        _plan_copy(outline, names, scratch.folder / f"text-{number:06d}", block_rows=block_rows)
        for number, outline in enumerate(look.outlines)
    ]
    if scratch.is_mine:
        num_bytes = sum(plan.num_bytes for plan in plans)
        refuse_full_disk(scratch.folder, num_bytes, copies=scratch.copies)
        for file, outline, plan in zip(found.files, look.outlines, plans, strict=True):
            plan.folder.mkdir()
            copy = Copy(plan)
            for table in read_typed(file, outline, look.format, names, data.missing):
                crew.check()
                copy.write(table)
            copy.close()
    crew.gather(None)
    rewritten = [
        [TableFile(path, "parquet", tuple(names)) for path in plan.paths] for plan in plans
    ]
    ends = np.cumsum((0, *found.part_files))
    counts = [sum(map(len, rewritten[first:stop])) for first, stop in pairwise(ends)]
    files = tuple(file for files in rewritten for file in files)
    return JobFiles(files, (counts[0], counts[1], counts[2]), found.features)


def _plan_copy(
    outline: Outline, names: Sequence[str], folder: Path, *, block_rows: int | None
) -> CopyPlan:
    return CopyPlan.make(
        outline.schema(names),
        folder,
        num_rows=outline.num_rows,
        block_rows=block_rows or outline.num_rows,
        widths={name: column.width for name, column in outline.columns.items()},
    )


def _common_kind(data: DataConfig, found: JobFiles, look: TextLook, name: str) -> FeatureKind:
    parts = []
    for outline in look.outlines:
        holds = outline.columns[name].holds
        column = Column(name, arrow_kind(holds), num_missing=int(pa.types.is_null(holds)))
        parts.append(ColumnData(column, num_rows=1))
    agreed = common_kind(parts, source=data.source, files=[str(path) for path in found.paths])
    return "text" if agreed == "other" else agreed
