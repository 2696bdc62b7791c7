"""The long text of a job: looked over once, then rewritten as Parquet in scratch space.

look = look_over_job(job.data, found, crew=crew)            # rows and types of every file
found = rewrite(job.data, found, look, scratch=scratch)     # Parquet files of small row groups
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from dnnjob.config.data_section import DataConfig
from dnnjob.data.csv_files import Outline, TextLook, look_over, read_typed
from dnnjob.data.csv_reader import TableFile
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.kinds import ReadAs, arrow_kind
from dnnjob.data.schema import Column, ColumnData
from dnnjob.data.schema_merge import common_kind
from dnnjob.data.sources import JobFiles
from dnnjob.data.spool import Copy, CopyPlan, Scratch, refuse_full_disk
from dnnjob.data.unify import wanted_columns
from dnnjob.tasks import Crew


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
