"""Where a command may write: never over what it reads, and never into a run folder.

refuse_overwriting(Path("t.parquet"), option="--out", inputs=find_files("t.parquet"))
"""

import os
from collections.abc import Iterable
from pathlib import Path

from dnnjob.errors import JobError
from dnnjob.runs import SWEEP_FILE, RunPaths, statistics_folder


def refuse_overwriting(
    out: Path, *, option: str, inputs: Iterable[Path] = (), runs: Iterable[Path] = ()
) -> None:
    """Makes sure that writing `out` replaces nothing that the command reads or a run owns.

    Links are followed, since whoever names a link means the file behind it.

    Args:
        out: The file to be written.
        option: Of the command line, which names it.
        inputs: Files that the command reads.
        runs: Run folders to which a hard link may lead.

    Raises:
        JobError: If it would.
    """
    for file in inputs:
        if _is_same(out, file):
            raise JobError(
                f"An output never replaces an input, but {option} {out} is {file}, which this "
                "command reads. Choose another file."
            )
    places = (Path(os.path.realpath(out)), Path(os.path.abspath(out)))  # noqa: PTH100
    for folder in dict.fromkeys(parent for place in places for parent in place.parents):
        if (owner := _owner(folder)) is not None:
            raise JobError(
                f"An output never goes into {owner}, whose files are its own, but {option} {out} "
                f"lies in {folder}. Choose another folder."
            )
    if out.exists() and out.stat().st_nlink > 1:
        for run in runs:
            if any(_is_same(out, file) for file in run.rglob("*") if file.is_file()):
                raise JobError(
                    f"An output never replaces a file of a run, but {option} {out} is one of "
                    f"{run}. Choose another file."
                )


def _owner(folder: Path) -> str | None:
    """Whose a folder is: a run's, a sweep's, or the statistics' that a root keeps."""
    paths = RunPaths(folder)
    if paths.job.is_file() and (paths.status.is_file() or paths.report.is_file()):
        return "a run folder"
    if (folder / SWEEP_FILE).is_file():
        return "the folder of a sweep"
    kept = statistics_folder(Path())
    return "what a root keeps of its tables" if folder.name == kept.parts[0] else None


def _is_same(out: Path, file: Path) -> bool:
    try:
        return out.samefile(file)
    except OSError:
        return os.path.realpath(out) == os.path.realpath(file)
