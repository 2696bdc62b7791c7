"""Where the runs are: run folders, sweeps, and what only looks like them, under any folder.

found = find_runs(Path("runs"), pool=pool)
found.runs, found.sweeps, found.oddities
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from dnnjob.errors import JobError
from dnnjob.runs.run_paths import RUN_ID, SWEEP_FILE, SWEEPS, RunPaths

# TEAM/USER/ROOT/<name>/<run id>: deeper than that nobody keeps a root.
MAX_DEPTH = 5


@dataclass(frozen=True)
class Oddity:
    """A folder or link that is no run, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What a search came upon, each in the order of its path."""

    runs: tuple[Path, ...] = ()
    sweeps: tuple[Path, ...] = ()
    oddities: tuple[Oddity, ...] = ()


@dataclass(frozen=True)
class _Listing:
    """The entries of one folder that matter."""

    folder: Path
    names: frozenset[str] = frozenset()
    folders: tuple[Path, ...] = ()
    links: tuple[Path, ...] = ()
    fault: str | None = None

    @property
    def is_sweep(self) -> bool:
        return SWEEP_FILE in self.names

    @property
    def is_run(self) -> bool:
        """Whether it holds a run's files, whatever its name."""
        paths = RunPaths(self.folder)
        return paths.job.name in self.names and bool(
            self.names & {paths.status.name, paths.report.name}
        )


@dataclass
class _Search:
    """A search under way."""

    root: Path
    real_root: Path
    runs: list[Path] = field(default_factory=list)
    sweeps: list[Path] = field(default_factory=list)
    oddities: list[Oddity] = field(default_factory=list)
    barren: list[Path] = field(default_factory=list)
    """Folders that are no run and list none."""
    followed: set[Path] = field(default_factory=set)
    """Real folders outside the root that links led to."""


def find_runs(root: Path, *, pool: Executor) -> Found:
    """All run folders at and under `root`: a root, a job's folder, one run, or one sweep.

    A link within the root is not followed, since what it leads to is found by its own name; one
    that leads outside is, once. Names that begin with a dot are passed over.

    Raises:
        JobError: If `root` is no folder or cannot be listed.
    """
    root = root.absolute()
    first = _list_folder(root)
    if first.fault is not None:
        raise JobError(
            f"Runs are sought in a folder, but {root} is {first.fault}. "
            "Give the root, a job's folder, a run or a sweep."
        )
    if first.is_sweep:
        return Found(sweeps=(root,))
    if first.is_run or RUN_ID.match(root.name):
        return Found(runs=(root,), sweeps=tuple(_sweeps_beside(root)))
    search = _Search(root, root.resolve())
    level = _take(search, first)
    for _ in range(MAX_DEPTH - 1):
        level = [
            folder for listing in pool.map(_list_folder, level) for folder in _take(search, listing)
        ]
    return _conclude(search)


def _take(search: _Search, listing: _Listing) -> list[Path]:
    """Notes what a listing shows; the folders to list next."""
    if listing.fault is not None:
        search.oddities.append(Oddity(listing.folder, listing.fault))
        return []
    if listing.is_sweep:
        search.sweeps.append(listing.folder)
        return []
    if listing.is_run:
        search.runs.append(listing.folder)
        return []
    search.barren.append(listing.folder)
    folders = [*listing.folders, *_follow(search, listing)]
    # A job may be called "sweeps", so what lies in such a folder is told by its files.
    runs = [path for path in folders if RUN_ID.match(path.name) and listing.folder.name != SWEEPS]
    search.runs += runs
    return sorted(set(folders) - set(runs))


def _follow(search: _Search, listing: _Listing) -> Iterator[Path]:
    """The links of a folder that lead to folders outside the root; the broken ones are noted."""
    for link in listing.links:
        try:
            real = link.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            # Before Python 3.13 a loop is a RuntimeError.
            broken = isinstance(error, FileNotFoundError)
            reason = "a link that leads nowhere" if broken else "a link that leads to itself"
            search.oddities.append(Oddity(link, reason))
            continue
        if not real.is_dir() or real in search.followed:
            continue
        if listing.folder.resolve().is_relative_to(real):
            search.oddities.append(Oddity(link, "a link that loops back to a folder it lies in"))
        elif not real.is_relative_to(search.real_root):
            search.followed.add(real)
            yield link


def _conclude(search: _Search) -> Found:
    fruitful = set(_ancestors([*search.runs, *search.sweeps], until=search.root))
    foreign = [
        Oddity(folder, "a folder without runs")
        for folder in search.barren
        if folder not in fruitful
        and folder != search.root
        and (folder.parent in fruitful or folder.parent == search.root)
        and folder.name != SWEEPS
    ]
    return Found(
        runs=tuple(sorted(search.runs)),
        sweeps=tuple(sorted(search.sweeps)),
        oddities=tuple(sorted([*search.oddities, *foreign], key=lambda oddity: oddity.path)),
    )


def _ancestors(paths: Iterable[Path], *, until: Path) -> Iterator[Path]:
    for folder in {path.parent for path in paths}:
        yield folder
        for above in folder.parents:
            yield above
            if above == until:
                break


def _sweeps_beside(run: Path) -> Iterator[Path]:
    """The sweeps of a run's job, which alone know the run's sweep."""
    for folder in _list_folder(run.parent / SWEEPS).folders:
        if _list_folder(folder).is_sweep:
            yield folder


def _list_folder(folder: Path) -> _Listing:
    names, folders, links = set(), [], []
    try:
        with os.scandir(folder) as entries:  # its entries know their kind without a further call
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                names.add(entry.name)
                if entry.is_symlink():
                    links.append(folder / entry.name)
                elif entry.is_dir():
                    folders.append(folder / entry.name)
    except OSError as error:
        return _Listing(folder, fault=f"unreadable: {error.strerror}")
    return _Listing(folder, frozenset(names), tuple(sorted(folders)), tuple(sorted(links)))
