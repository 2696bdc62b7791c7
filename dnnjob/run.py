"""The whole story of a run: load, build, train, predict, report.

report = run_job(attempt)       # of this task: journal, crew, stopwatch
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnjob.config import DataConfig, JobConfig, change_devices, load_job, resolve_job, to_toml
from dnnjob.data.encoding import Encoding, FeatureKind
from dnnjob.data.folds import Folds, deal_folds
from dnnjob.data.schema import log_warnings
from dnnjob.data.scratch import scratch_folder
from dnnjob.data.split import TRAIN, VALIDATION, choose_split
from dnnjob.data.splitter import refuse_empty_splits
from dnnjob.data.table import Table
from dnnjob.data.table_loading import fingerprint_table, open_table
from dnnjob.data.text_format import TextFormat
from dnnjob.imports import importing_tensorflow
from dnnjob.latest import Latest
from dnnjob.machine import memory_share_bytes, trim_heap
from dnnjob.results.assemble import Facts
from dnnjob.results.evaluation import Evaluated, evaluate
from dnnjob.results.prediction_pass import PredictedParts
from dnnjob.results.publish import publish
from dnnjob.results.report import Report
from dnnjob.results.trees import Yardstick
from dnnjob.runs import read_resumption, write_text
from dnnjob.tasks import (
    Crew,
    TaskAttempt,
    configure_process,
    count_lanes,
    count_step_flop,
    count_threads,
    limit_threads,
    lower_threads,
)

if TYPE_CHECKING:
    from dnnjob.training.fit import Fitted
    from dnnjob.training.strategy import Devices
    from dnnjob.training.windowed import WindowedRows

logger = logging.getLogger(__name__)


def run_job(attempt: TaskAttempt) -> Report | None:
    """Trains, predicts and reports the job of a run folder into that folder.

    Every task trains. The chief alone predicts and reports, and returns a report: predicting the
    table once costs a fraction of an epoch, and each row is predicted as a single task would.

    Args:
        attempt: This task's part in the claimed attempt.

    Raises:
        DnnJobError: If the job, the table or the machine is unfit, or training diverges.
        StoppedError: If a signal asked for it; `dnnjob resume` goes on.
        PeerLostError: If another task is lost while it is needed.
    """
    crew = attempt.crew
    # Of many points in one process most wait for their turn to begin: a stop may have come first.
    crew.check()
    loaded = _load(attempt)
    table, encoding, folds = loaded.table, loaded.encoding, loaded.folds
    with attempt.watch.time("import"), importing_tensorflow():
        from dnnjob.training.fit import fit_dnn
        from dnnjob.training.strategy import make_devices

    devices = make_devices(loaded.job.devices, crew)
    axis = _choose_axis(loaded.job, table, encoding, devices, attempt)
    lanes = axis or loaded.lanes
    job = _complete(
        loaded.job, table, devices, crew, threads=loaded.threads, lanes=lanes, axis=axis
    )
    _write_complete(job, encoding, attempt)
    rows, cores = _window_rows(loaded, budget_bytes=_memory_budget(job, crew)), loaded.cores
    has_idle_core = devices.kind == "gpu" or cores > loaded.threads * lanes
    yardstick = Yardstick(job, table, has_idle_core=has_idle_core)
    with ThreadPoolExecutor(max_workers=1) as background:
        work_beside = partial(_work_beside, job, attempt, yardstick, background)
        fitted = fit_dnn(
            job,
            rows,
            devices,
            attempt=attempt,
            meanwhile=work_beside,
            lanes=lanes,
            on_axis=axis > 0,
        )
        if not crew.is_chief:
            return None
        crew.release()
        facts = Facts(
            # Memory may have had room for fewer.
            job=change_devices(job, {"stack": fitted.width}) if fitted.width < axis else job,
            attempt=attempt,
            table=table,
            encoding=encoding,
            fitted=fitted,
            devices=devices,
            evaluated=_evaluate(job, table, rows, fitted, attempt=attempt, folds=folds),
        )
        return publish(facts, yardstick)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """What a run knows before TensorFlow is imported.

    Attributes:
        job: As it was asked for.
        table: Its rows.
        encoding: How they become inputs.
        folds: Of each training row, where each member leaves one out.
        cores: Threads that this task may have.
        threads: Of a step.
        lanes: Members that train at the same moment on CPUs.
    """

    job: JobConfig
    table: Table
    encoding: Encoding
    folds: Folds | None
    cores: int
    threads: int
    lanes: int


def _load(attempt: TaskAttempt) -> _Loaded:
    """The job and its table, and what this task may use of the machine."""
    job = _load_fitting(attempt)
    cores = configure_process(job.devices, attempt.crew)
    with attempt.watch.time("load"):
        table = _load_table(job, attempt, threads=cores)
        folds = _deal_folds(job, table)
        encoding = table.fit_encoding(job.data)
    threads, lanes = _limit_threads(job, encoding, attempt.crew, cores=cores)
    return _Loaded(job, table, encoding, folds, cores, threads, lanes)


def _load_fitting(attempt: TaskAttempt) -> JobConfig:
    """The job, with no more threads than this machine gives if an earlier one gave so many."""
    journal, crew = attempt.journal, attempt.crew
    cores = count_threads(crew)
    # What the chief read is asked of all tasks: the file may be gone, or another, by now.
    asked = read_resumption(journal.paths).devices
    chief = crew.share({"cores": cores, "before": journal.cores_before, "devices": asked})
    journal.mark_cores(cores)
    job = change_devices(load_job(journal.paths.job), chief["devices"])
    if "threads" in chief["devices"]:
        return job
    threads = lower_threads(
        job.devices.threads,
        cores=cores,
        before=chief["before"],
        is_alike=cores == chief["cores"],
    )
    devices = job.devices.model_copy(update={"threads": threads})
    return job.model_copy(update={"devices": devices})


@dataclass(eq=False)
class _OpenedTable:
    """A table in memory as a run split it, and the network's rows of it."""

    table: Table
    split_seed: int
    rows: "WindowedRows | None" = None


# That of the latest run of this process: the next one of a sweep has the same.
_opened = Latest[_OpenedTable](most=1)


def _load_table(job: JobConfig, attempt: TaskAttempt, *, threads: int) -> Table:
    """The job's table; the attempt's end clears away the copy that some need."""
    journal, crew = attempt.journal, attempt.crew

    def make_scratch() -> Path:
        folder = scratch_folder(job.data, journal.paths.run_id, attempt=journal.number)
        return attempt.stack.enter_context(folder)

    table = _find_opened(job) if attempt.is_alone else None
    if table is None:
        _opened.clear()
        table = open_table(
            job,
            make_scratch=make_scratch,
            threads=threads,
            crew=crew,
            kept=journal.paths.statistics,
        )
        trim_heap()
        if attempt.is_alone and table.is_in_memory:
            _opened.keep(_OpenedTable(table, job.split_seed))
    if crew.is_chief:
        table = keep_doubts(table, journal.paths.reading_doubts)
    log_warnings(job.data.source, table.warnings)
    crew.check()
    return table


def _find_opened(job: JobConfig) -> Table | None:
    """The table of the run before, where a job says the same of it and the files are the same.

    Raises:
        DataError: If it cannot be read any more, or has not the rows that this job needs.
    """
    said = job.data, job.split_seed
    opened = _opened.find(lambda one: (one.table.data, one.split_seed) == said)
    # Files that hold the same may have changed sides.
    if opened is None or job.data.split == "files":
        return None
    if fingerprint_table(job.data) != opened.table.fingerprint:
        return None
    refuse_empty_splits(job, opened.table.group_counts.sum(axis=0))
    return opened.table


def _window_rows(loaded: _Loaded, *, budget_bytes: float) -> "WindowedRows":
    """The rows as the network takes them, encoded before where the run before had the same."""
    from dnnjob.training.windowed import WindowedRows

    table, encoding, threads, folds = loaded.table, loaded.encoding, loaded.cores, loaded.folds
    opened = _opened.find(lambda one: one.table is table)
    if opened is not None and opened.rows is not None and opened.rows.encoding == encoding:
        rows = opened.rows
        return replace(rows, budget_bytes=budget_bytes, threads=threads, folds=folds)
    rows = WindowedRows.of(table, encoding, budget_bytes=budget_bytes, threads=threads, folds=folds)
    if opened is not None:
        opened.rows = rows = replace(rows, resident={})
    return rows


def keep_doubts(table: Table, path: Path) -> Table:
    """The table with what an earlier attempt doubted, whose job.toml has settled it since."""
    doubts = [told for _, told in table.typed.doubts]
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = []
    if further := [told for told in doubts if told not in kept]:
        path.parent.mkdir(exist_ok=True)
        write_text(path, json.dumps([*kept, *further]))
    if not (settled := [told for told in kept if told not in doubts]):
        return table
    return replace(table, warnings=(*settled, *table.warnings))


def _deal_folds(job: JobConfig, table: Table) -> Folds | None:
    """The fold of each training row, where each member leaves one out."""
    if job.model.bagging == "none":
        return None
    return deal_folds(table, count=job.model.members, seed=job.split_seed)


def _limit_threads(
    job: JobConfig, encoding: Encoding, crew: Crew, *, cores: int
) -> tuple[int, int]:
    """Threads of a step in this task, and members that train at the same moment."""
    num_tasks = crew.task.num_tasks
    members = job.model.members if num_tasks == 1 else 1
    flop = count_step_flop(job, encoding.count_params(job.model), num_tasks=num_tasks)
    given = count_threads(crew)
    threads = limit_threads(cores, job.devices, step_flop=flop, members=members, cores=given)
    return threads, count_lanes(job.devices, members=members, threads=threads, cores=given)


def _choose_axis(
    job: JobConfig, table: Table, encoding: Encoding, devices: "Devices", attempt: TaskAttempt
) -> int:
    """Networks that one call trains side by side; 0 where each has calls of its own."""
    from dnnjob.training.stack_width import point_room, stack_width

    if table.by_windows:
        return 0
    if attempt.beside is None or job.model.members > 1:
        return stack_width(job, encoding, devices)
    num_rows = sum(map(table.num_split_rows, (TRAIN, VALIDATION)))
    host_bytes = _memory_budget(job, attempt.crew)
    room = point_room(job, encoding, devices, num_rows=num_rows, host_bytes=host_bytes)
    return attempt.beside.choose_width(room, asked=job.devices.stack)


def _work_beside(
    job: JobConfig, attempt: TaskAttempt, yardstick: Yardstick, background: ThreadPoolExecutor
) -> None:
    if not attempt.crew.is_chief or (attempt.until and not attempt.until.ends):
        return
    if attempt.beside is not None:
        # Others beside it take their turns, one at a time.
        return
    if job.output.plots:
        background.submit(import_module, "dnnjob.results.plots")
    yardstick.begin(background)


def _evaluate(
    job: JobConfig,
    table: Table,
    rows: "WindowedRows",
    fitted: "Fitted",
    *,
    attempt: TaskAttempt,
    folds: Folds | None,
) -> Evaluated:
    every_s = job.train.checkpoint_every_s
    return evaluate(
        table,
        rows.encoding,
        rows.encode,
        fitted.predict,
        job=job,
        parts=PredictedParts(attempt, fitted.trained, key=fitted.digest, every_s=every_s),
        folds=fitted.left_out_by(folds),
    )


def _memory_budget(job: JobConfig, crew: Crew) -> float:
    if job.data.memory_budget_gb is not None:
        return job.data.memory_budget_gb * 1e9
    return memory_share_bytes(max(len(crew.local_peers), crew.task.local_tasks))


def _complete(
    job: JobConfig,
    table: Table,
    devices: "Devices",
    crew: Crew,
    *,
    threads: int,
    lanes: int,
    axis: int,
) -> JobConfig:
    """The job with every default filled in."""
    values, text_format = job.model_dump(), table.typed.text_format
    values["data"] |= {
        **({} if text_format is None else text_format.keys),
        "features": table.features,
        "exclude": (),
        "split_seed": job.split_seed,
        "split": choose_split(job.data.split, table.num_rows),
        "window_rows": table.window_rows,
        "columns": resolve_columns(job.data, table.kinds, text_format),
    }
    values["train"] |= {"weight_decay": job.train.decay, "huber_delta": job.train.delta}
    values["output"] |= {"interval_level": job.interval_level}
    values["devices"] |= {
        "tasks": crew.task.num_tasks,
        "threads": threads,
        "xla": "on" if devices.xla else "off",
    }
    if job.model.members > 1 or axis:
        values["devices"]["stack"] = job.devices.stack or lanes
    return resolve_job(values, origin="The resolved job")


def _write_complete(job: JobConfig, encoding: Encoding, attempt: TaskAttempt) -> None:
    """Leaves the complete job in the run folder, for whoever comes later."""
    if attempt.crew.is_chief:
        attempt.journal.recheck()
        write_text(attempt.journal.paths.job, to_toml(job))
        for told in (encoding.description, encoding.describe_bins(job.model)):
            if told:
                logger.info("%s", told)
    attempt.crew.check()


def resolve_columns(
    data: DataConfig, kinds: Mapping[str, FeatureKind], text_format: TextFormat | None = None
) -> dict[str, Any]:
    """What the job says of its columns, with the kind of each feature that is no number."""
    columns = {name: column.model_dump() for name, column in data.columns.items()}
    for name, unit in (text_format.units if text_format else {}).items():
        if name in kinds or name == data.target:
            columns.setdefault(name, {})["unit"] = unit
    for name, kind in kinds.items():
        if kind != "numeric" or name in columns:
            columns.setdefault(name, {})["kind"] = kind
    return columns
