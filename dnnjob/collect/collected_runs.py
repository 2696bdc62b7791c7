"""Every run under a folder as its files tell it, whatever state they are in.

runs = read_runs(Path("runs"))
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from dnnjob.collect.cache import Cache, Facts, load_cache
from dnnjob.collect.parse import (
    parse_job,
    parse_report,
    parse_status,
    parse_submission,
    parse_sweep,
)
from dnnjob.collect.record import Line, Run
from dnnjob.launch.watch.run_views import look
from dnnjob.launch.watch.slurm_answer import ask_slurm
from dnnjob.runs import OVER, SWEEP_FILE, Oddity, RunPaths, find_runs

T = TypeVar("T")

MAX_READERS = 16
RUNS_PER_TURN = 32


def read_runs(root: Path, *, now: datetime | None = None) -> tuple[Run, ...]:
    """All runs at and under `root`, ordered by path, and what is wrong with those that are none.

    Args:
        root: A root, a job's folder, one run, or one sweep.
        now: The present, against which signs of life are judged.

    Raises:
        JobError: If `root` is no folder or cannot be listed.
    """
    cache = load_cache(root)
    with ThreadPoolExecutor(MAX_READERS) as pool:
        found = find_runs(root, pool=pool)
    sweep_of, swept, odd_sweeps = _read_sweeps(found.sweeps, cache)
    only_a_sweep = bool(found.sweeps) and found.sweeps[0] == root.absolute()
    folders = sorted(sweep_of) if only_a_sweep else found.runs
    facts = read_side_by_side(partial(_read_run, cache=cache, sweep_of=sweep_of), folders)
    cache.save()
    facts_of = dict(zip(folders, facts, strict=True))
    judged = _judge_open(facts_of, now=now or datetime.now(UTC))
    runs = [_assemble(folder, one) for folder, one in judged.items()]
    runs = [replace(run, chosen=run.chosen | swept.get(run.folder, frozenset())) for run in runs]
    odd = [_describe_oddity(oddity) for oddity in (*found.oddities, *odd_sweeps)]
    return tuple(sorted([*runs, *odd], key=lambda run: run.folder))


def read_side_by_side(read: Callable[[Path], T], folders: Sequence[Path]) -> list[T]:
    """`read` of every folder, by as many threads as the disk keeps waiting.

    The first turn shows how long a reader waits for each second that it works. On a local disk
    it hardly does, and more threads would only fight over the interpreter: 16 of them took twice
    as long as one there.
    """
    began, busy = time.perf_counter(), time.thread_time()
    results = [read(folder) for folder in folders[:RUNS_PER_TURN]]
    waited = (time.perf_counter() - began) / max(time.thread_time() - busy, 1e-9)
    starts = range(RUNS_PER_TURN, len(folders), RUNS_PER_TURN)
    turns = [folders[start : start + RUNS_PER_TURN] for start in starts]
    with ThreadPoolExecutor(min(max(round(waited), 1), MAX_READERS)) as pool:
        for turn in pool.map(lambda turn: [read(folder) for folder in turn], turns):
            results += turn
    return results


def _read_run(folder: Path, *, cache: Cache, sweep_of: Mapping[Path, str]) -> Facts:
    paths = RunPaths(folder)
    facts = cache.recall(paths.report)
    try:
        if facts is None or "fault" in facts:
            facts = _read_files(paths, cache=cache)
    except OSError as error:
        facts = {"fault": f"unreadable: {error.strerror}"}
    return {"sweep_id": sweep_of.get(folder), **facts}


def _read_files(paths: RunPaths, *, cache: Cache) -> Facts:
    """What a run's files say that was not known: its report, or else its status and its job."""
    # A listing first: it costs less than asking for each file, and NFS remembers missing names.
    names = set(os.listdir(paths.root))  # noqa: PTH208
    report = cache.read(paths.report, parse_report) if paths.report.name in names else None
    if report is not None and "fault" not in report:
        return report
    files = {
        paths.submission: parse_submission,
        paths.job: parse_job,
        paths.status: parse_status,
    }
    parts = [cache.read(path, parse) for path, parse in files.items() if path.name in names]
    facts = _merge([part for part in (*parts, report) if part is not None])
    if "state" not in facts and "fault" not in facts:
        return {**facts, "fault": _describe_absence(paths, names)}
    if facts.get("state") == "COMPLETED" and report is None:
        return {**facts, "fault": f"no {paths.report.name}, though its status says COMPLETED"}
    return facts


def _merge(parts: Iterable[Facts]) -> Facts:
    """All facts together, later ones first in rank where they have a value; faults add up."""
    merged: Facts = {}
    for part in parts:
        merged |= {key: value for key, value in part.items() if value is not None}
    faults = [part["fault"] for part in parts if "fault" in part]
    return {**merged, "fault": "; ".join(faults)} if faults else merged


def _describe_absence(paths: RunPaths, names: set[str]) -> str:
    if paths.job.name in names:
        return f"no {paths.status.name}: half-written, or being made just now"
    return "no run of dnnjob: it has neither report nor status"


def _judge_open(facts_of: Mapping[Path, Facts], *, now: datetime) -> dict[Path, Facts]:
    """The facts, with how runs stand that have not said themselves how they ended.

    Files and processes of this machine tell, and Slurm, asked once for all.
    """
    undecided = [folder for folder, facts in facts_of.items() if _is_undecided(facts)]
    if not undecided:
        return dict(facts_of)
    views = look(list(map(RunPaths, undecided)), ask=ask_slurm, now=now)
    judged = {}
    for folder, view in zip(undecided, views, strict=True):
        if view.state is not None:
            stands = {"state": view.state, "reason": view.reason or view.note, "error": view.error}
            judged[folder] = {**facts_of[folder], **stands}
    return {**facts_of, **judged}


def _is_undecided(facts: Facts) -> bool:
    """Whether the chief's own word leaves open how a run stands, or it was sent again since."""
    if "fault" in facts or "updated_at" not in facts or facts.get("state") == "COMPLETED":
        return False
    if facts["state"] not in OVER:
        return True
    sent_at, after = facts.get("submitted_at"), facts.get("after_attempt")
    if after is not None:
        return bool(facts["attempt"] <= after)
    return sent_at is not None and sent_at > facts["updated_at"]


def _assemble(folder: Path, facts: Facts) -> Run:
    beside = {"job", "chosen", "error", "progress", "fault"}
    beside |= {"updated_at", "submitted_at", "attempt", "after_attempt"}
    columns = {key: value for key, value in facts.items() if key not in beside}
    for key in ("started_at", "ended_at"):
        if columns.get(key) is not None:
            columns[key] = datetime.fromisoformat(columns[key])
    fault = facts.get("fault")
    columns["name"] = columns.get("name") or printable_path(folder.parent.name)
    columns["reason"] = fault or columns.get("reason")
    line = Line(run_id=printable_path(folder.name), path=printable_path(folder), **columns)
    return Run(
        folder=folder,
        line=line,
        job=facts.get("job", {}),
        chosen=frozenset(facts.get("chosen", ())),
        error=facts.get("error"),
        progress=facts.get("progress"),
        fault=fault,
    )


def _read_sweeps(
    folders: Iterable[Path], cache: Cache
) -> tuple[dict[Path, str], dict[Path, frozenset[str]], list[Oddity]]:
    """The sweep and the swept keys of each run folder that one names; unreadable sweeps."""
    sweep_of: dict[Path, str] = {}
    swept: dict[Path, frozenset[str]] = {}
    odd = []
    for folder in folders:
        facts = cache.read(folder / SWEEP_FILE, parse_sweep) or {"fault": "gone"}
        if "fault" in facts:
            odd.append(Oddity(folder, facts["fault"]))
            continue
        for run in facts["runs"]:
            sweep_of[_place_run(folder, run)] = printable_path(folder.name)
            swept[_place_run(folder, run)] = frozenset(facts["keys"])
    return sweep_of, swept, odd


def _place_run(sweep: Path, run: str) -> Path:
    """The folder of a sweep's run, which `sweep.json` names from the root."""
    # normpath, not resolve: links stay as they are, as in the folders that were found.
    return Path(os.path.normpath(sweep / "../../.." / run))


def _describe_oddity(oddity: Oddity) -> Run:
    path = oddity.path
    line = Line(run_id=printable_path(path.name), reason=oddity.reason, path=printable_path(path))
    return Run(folder=path, line=line, fault=oddity.reason)


def printable_path(path: Path | str) -> str:
    """A path as UTF-8 text; bytes that are none are spelled out in hexadecimal."""
    return os.fsencode(path).decode(errors="backslashreplace")
