"""The table of a job that is too long for memory, opened to be read in pieces.

table = open_pieces(job, scratch=partial(scratch_folder, ...), threads=2, crew=crew, kept=None)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from dnnjob.config.job import DataConfig, JobConfig
from dnnjob.data.csv_files import most_rows
from dnnjob.data.encoding import FeatureKind, most_inputs
from dnnjob.data.kinds import ReadAs
from dnnjob.data.order import WindowPlan, default_window_rows, window_rows
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.scratch import Scratch
from dnnjob.data.sources import JobFiles, find_pieces
from dnnjob.data.splitter import PartRows
from dnnjob.data.stream import StreamedTable, goes_by_windows, open_stream, streams
from dnnjob.data.text_copy import key_kind, look_over_job, rewrite, text_kinds
from dnnjob.data.unify import agree_on_kinds
from dnnjob.tasks import Crew


@dataclass(frozen=True, eq=False)
class PiecesPlan:
    """A table of Parquet files that is read in pieces, before a row of it is read.

    Attributes:
        found: The files and features.
        part_rows: Rows of the sources of each split.
        window_rows: Rows of a window.
    """

    found: JobFiles
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
    if not streams(data, part_rows, window_rows=window_rows(data, least), kinds=least):
        return None
    # As the resolved job will have them, so that it is read alike when it is run again.
    agreed = agree_on_kinds(data, files, found.features)
    kinds = {name: agreed[name] for name in found.features}
    rows = window_rows(data, kinds)
    if not streams(data, part_rows, window_rows=rows, kinds=kinds):
        return None
    return PiecesPlan(found, part_rows, rows)


def _least_kinds(data: DataConfig, found: JobFiles) -> dict[str, FeatureKind]:
    """What makes the smallest windows, before a value is read: texts, or dates of many cycles."""
    said = ReadAs.of(data).kinds
    most: tuple[FeatureKind, ...] = ("text", "datetime")
    return {
        name: said.get(name, max(most, key=partial(most_inputs, data, name)))
        for name in found.features
    }


def open_pieces(
    job: JobConfig,
    *,
    make_scratch: Callable[[], Path],
    threads: int,
    crew: Crew,
    kept: Path | None,
) -> StreamedTable | None:
    """The job's table, if it is one that is read in pieces.

    Args:
        job: The job.
        make_scratch: Makes a folder of this run.
        threads: Threads to measure with.
        crew: The tasks of the run.
        kept: Folder of what passes over tables found; None keeps nothing.

    Raises:
        DataError: If the table cannot be read, or not be trained on as the job asks.
        JobError: If there is no room for a copy.
        StoppedError: If a signal asked for it.
    """
    found = find_pieces(job.data)
    if found is None:
        return None
    get_scratch = cache(lambda: Scratch.share(make_scratch(), crew))
    open_as = partial(
        open_stream, job, get_scratch=get_scratch, threads=threads, crew=crew, kept=kept
    )
    if found.are_text:
        return _open_text(job, found, open_as, get_scratch=get_scratch, crew=crew)
    plan = plan_pieces(job.data, found)
    if plan is None:
        return None
    block_rows = _block_rows(job, plan.part_rows, plan.window_rows)
    return open_as(found, block_rows=block_rows)


def _open_text(
    job: JobConfig,
    found: JobFiles,
    open_as: Callable[..., StreamedTable],
    *,
    get_scratch: Callable[[], Scratch],
    crew: Crew,
) -> StreamedTable | None:
    """Files of text, rewritten where they have more rows than a window."""
    data = job.data
    least = _least_kinds(data, found)
    enough = min(default_window_rows(data, least), window_rows(data, least))
    if most_rows(found.files, enough=enough) <= enough:
        return None
    look = look_over_job(data, found, crew=crew)
    part_rows = found.part_rows(look.file_rows)
    kinds = text_kinds(data, found, look)
    rows = window_rows(data, kinds)
    fits = sum(part_rows) <= default_window_rows(data, kinds)
    if fits and not goes_by_windows(data, part_rows, window_rows=rows):
        return None
    block_rows = _block_rows(job, part_rows, rows)
    rewritten = rewrite(data, found, look, scratch=get_scratch(), block_rows=block_rows, crew=crew)
    return open_as(
        rewritten,
        block_rows=block_rows,
        originals=found.paths,
        key_kind=key_kind(data, found, look),
        text_format=look.format,
    )


def _block_rows(job: JobConfig, part_rows: PartRows, rows: int) -> int | None:
    """Training rows that are read together; None of a table that goes by no windows."""
    if not goes_by_windows(job.data, part_rows, window_rows=rows):
        return None
    batch, epochs = job.train.global_batch_size, job.train.epochs
    return WindowPlan(sum(part_rows), batch, 1, epochs, window_rows=rows).block_rows
