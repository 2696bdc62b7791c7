"""The table of a job, opened: held in memory where it is small, else read from its files.

table = open_table(job, make_scratch=make_scratch, threads=2, crew=crew, kept=None)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from dnnjob.config.data_section import DataConfig
from dnnjob.config.job import JobConfig
from dnnjob.data.builtin import is_builtin
from dnnjob.data.csv_files import most_rows
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.encoding_fit import most_inputs
from dnnjob.data.fingerprint import Fingerprint, fingerprint_files
from dnnjob.data.kinds import ReadAs, arrow_kind
from dnnjob.data.measurement import measure_table
from dnnjob.data.order import (
    WindowPlan,
    default_window_rows,
    goes_by_windows,
    refuse_short_window,
    streams,
    window_rows,
)
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.rows import TypedTable
from dnnjob.data.schema_merge import CommonColumns, agree_on_kinds, raw_kinds, wanted_columns
from dnnjob.data.sources import (
    JobFiles,
    find_pieces,
    fingerprint_builtin,
    hold_table,
    peek_job,
)
from dnnjob.data.split import TRAIN
from dnnjob.data.splitter import PartRows
from dnnjob.data.spool import Scratch, key_kind, look_over_job, rewrite, text_kinds
from dnnjob.data.table import Table
from dnnjob.data.text_format import TextFormat
from dnnjob.tasks import Crew

# A table in memory takes some fifty bytes a number for a while: of more rows than this share of a
# default window, it would take more than one that is read in pieces.
_SHARE_IN_MEMORY = 1 / 4


@dataclass(frozen=True, eq=False)
class PiecesPlan:
    """A table of Parquet files that is read in pieces, before a row of it is read.

    Attributes:
        found: The files and features.
        files: Their row groups.
        agreed: What all files agree that features, target and split column hold.
        part_rows: Rows of the sources of each split.
        window_rows: Rows of a window.
    """

    found: JobFiles
    files: ParquetRows
    agreed: Mapping[str, FeatureKind]
    part_rows: PartRows
    window_rows: int


def plan_pieces(data: DataConfig, found: JobFiles) -> PiecesPlan | None:
    """How a table of Parquet files is read in pieces; None of one that is read whole.

    Raises:
        DataError: If a footer cannot be read, or the files differ in what a column holds.
    """
    files = ParquetRows.open(found.paths)
    part_rows = found.part_rows(files.file_rows(found.paths))
    least = _least_kinds(data, found)
    if not streams(data, part_rows, least, share=_SHARE_IN_MEMORY):
        return None
    # As the resolved job will have them, so that it is read alike when it is run again.
    agreed = agree_on_kinds(data, files, found.features)
    kinds = {name: agreed[name] for name in found.features}
    if not streams(data, part_rows, kinds, share=_SHARE_IN_MEMORY):
        return None
    return PiecesPlan(found, files, agreed, part_rows, window_rows(data, kinds))


def _least_kinds(data: DataConfig, found: JobFiles) -> dict[str, FeatureKind]:
    """What makes the smallest windows, before a value is read: texts, or dates of many cycles."""
    said = ReadAs.of(data).kinds
    most: tuple[FeatureKind, ...] = ("text", "datetime")
    return {
        name: said.get(name, max(most, key=partial(most_inputs, data, name)))
        for name in found.features
    }


def open_table(
    job: JobConfig,
    *,
    make_scratch: Callable[[], Path],
    threads: int,
    crew: Crew,
    kept: Path | None,
) -> Table:
    """The job's table, after one pass over it.

    Args:
        job: The job.
        make_scratch: Makes a folder of this run.
        threads: Threads to measure with.
        crew: The tasks of the run.
        kept: Folder of what passes over tables of files found; None keeps nothing.

    Raises:
        DataError: If the table cannot be read, or not be trained on as the job asks.
        JobError: If there is no room for a copy, or a table in memory would take several windows.
        StoppedError: If a signal asked for it.
    """
    measure = partial(measure_table, job, threads=threads, crew=crew)
    get_scratch = cache(lambda: Scratch.share(make_scratch(), crew))
    found = find_pieces(job.data)
    pieces = None if found is None else _find_pieces(job, found, get_scratch, crew)
    if pieces is not None:
        return measure(
            pieces.typed, block_rows=pieces.block_rows, get_scratch=get_scratch, kept=kept
        )
    table = measure(hold_table(job.data))
    if found is None:
        refuse_short_window(job.data, table.num_split_rows(TRAIN))
    return table


def fingerprint_table(data: DataConfig) -> Fingerprint:
    """What tells a job's table from another, without opening it.

    Raises:
        DataError: If a file cannot be read, files differ, or target or features are not there.
    """
    if is_builtin(data.source):
        return fingerprint_builtin(data.source)
    return fingerprint_files(peek_job(data).paths)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A table that is read from its files, or from their copy as Parquet."""

    typed: TypedTable
    block_rows: int | None


def _find_pieces(
    job: JobConfig, found: JobFiles, get_scratch: Callable[[], Scratch], crew: Crew
) -> _Pieces | None:
    """The table of these files, all Parquet or all text; None of one that is held in memory."""
    if found.are_text:
        return _rewrite_text(job, found, get_scratch, crew)
    plan = plan_pieces(job.data, found)
    if plan is None:
        return None
    block_rows = _block_rows(job, plan.part_rows, plan.window_rows)
    typed = type_parquet(job.data, found, files=plan.files, agreed=plan.agreed)
    return _Pieces(typed, block_rows)


def _rewrite_text(
    job: JobConfig, found: JobFiles, get_scratch: Callable[[], Scratch], crew: Crew
) -> _Pieces | None:
    """Files of text, rewritten where they have more rows than a window."""
    data = job.data
    least = _least_kinds(data, found)
    enough = min(default_window_rows(data, least), window_rows(data, least))
    if most_rows(found.files, enough=enough) <= enough:
        return None
    look = look_over_job(data, found, crew=crew)
    part_rows = found.part_rows(look.file_rows)
    kinds = text_kinds(data, found, look)
    if not streams(data, part_rows, kinds):
        return None
    block_rows = _block_rows(job, part_rows, window_rows(data, kinds))
    rewritten = rewrite(data, found, look, scratch=get_scratch(), block_rows=block_rows, crew=crew)
    files = ParquetRows.open(rewritten.paths)
    typed = type_parquet(
        data,
        rewritten,
        files=files,
        agreed=agree_on_kinds(data, files, found.features, key_kind=key_kind(data, found, look)),
        originals=found.paths,
        text_format=look.format,
    )
    return _Pieces(typed, block_rows)


def _block_rows(job: JobConfig, part_rows: PartRows, rows: int) -> int | None:
    """Training rows that are read together; None of a table that goes by no windows."""
    if not goes_by_windows(job.data, part_rows, window_rows=rows):
        return None
    batch, epochs = job.train.global_batch_size, job.train.epochs
    return WindowPlan(sum(part_rows), batch, 1, epochs, window_rows=rows).block_rows


def type_parquet(
    data: DataConfig,
    found: JobFiles,
    *,
    files: ParquetRows,
    agreed: Mapping[str, FeatureKind],
    originals: Sequence[Path] | None = None,
    text_format: TextFormat | None = None,
) -> TypedTable:
    """A table of Parquet files, of which no row is read.

    Args:
        data: What the job says.
        found: Its files and features.
        files: Their row groups.
        agreed: What features, target and split column hold.
        originals: What these files were made from, in place of themselves for the fingerprint.
        text_format: How the originals write numbers and dates, where they are text.

    Raises:
        DataError: If a file cannot be read.
    """
    key_kind = None if data.split_column is None else agreed[data.split_column]
    names = wanted_columns(data, found.features)
    as_stored = {*data.id_columns, *_stored_keys(data, files, key_kind)}
    reads = {name: kind for name, kind in raw_kinds(data, agreed).items() if name not in as_stored}
    columns = CommonColumns.of(
        files.schemas.values(), names, reads, missing=data.missing, text_format=TextFormat.of(data)
    )
    return TypedTable(
        data=data,
        features=found.features,
        kinds={name: agreed[name] for name in found.features},
        key_kind=key_kind,
        rows=files.wanting(columns),
        part_rows=found.part_rows(files.file_rows(found.paths)),
        fingerprint=fingerprint_files(originals or found.paths),
        text_format=text_format,
    )


def _stored_keys(
    data: DataConfig, files: ParquetRows, key_kind: FeatureKind | None
) -> tuple[str, ...]:
    """The split column, where its numbers are told apart digit by digit."""
    types = [
        one.field(name).type for name in ReadAs.of(data).keys for one in files.schemas.values()
    ]
    is_boolean = any(arrow_kind(dtype) == "boolean" for dtype in types)
    return ReadAs.of(data).keys if key_kind == "numeric" and not is_boolean else ()
