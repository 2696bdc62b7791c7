"""The whole story of a run: load, build, train, predict, report.

report = run_job(Journal(paths), crew=Crew(StopFlag()), watch=Stopwatch())
"""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnjob.clock import Stopwatch
from dnnjob.config import DataConfig, JobConfig, load_job, resolve_job, to_toml
from dnnjob.data.block import FloatArray
from dnnjob.data.encoding import Encoding, FeatureKind
from dnnjob.data.order import default_window_rows, refuse_short_window, window_rows
from dnnjob.data.pieces import open_pieces
from dnnjob.data.scratch import scratch_folder
from dnnjob.data.sources import Table, find_pieces, open_table
from dnnjob.data.split import TRAIN, Split, choose_split
from dnnjob.data.splitter import split_table
from dnnjob.data.statistics import fit_encoding
from dnnjob.data.stream import StreamedTable
from dnnjob.imports import importing_tensorflow
from dnnjob.machine import memory_share_bytes
from dnnjob.results.assemble import (
    Facts,
    assemble_report,
    count_params,
    make_history,
    measure_baselines,
    measure_columns,
    measure_splits,
)
from dnnjob.results.report import Report, write_history, write_predictions, write_report
from dnnjob.results.streamed import Drawn, evaluate_stream
from dnnjob.runs import Journal, write_text
from dnnjob.tasks import Crew, configure_process

if TYPE_CHECKING:
    from dnnjob.training.strategy import Devices

logger = logging.getLogger(__name__)


def run_job(journal: Journal, *, crew: Crew, watch: Stopwatch) -> Report | None:
    """Trains, predicts and reports the job of a run folder into that folder.

    Every task trains. The chief alone predicts and reports, and returns a report: predicting the
    table once costs a fraction of an epoch, and each row is predicted as a single task would.

    Args:
        journal: The claimed attempt.
        crew: The tasks of the run.
        watch: Started when the run was.

    Raises:
        DnnJobError: If the job, the table or the machine is unfit, or training diverges.
        StoppedError: If a signal asked for it; `dnnjob resume` goes on.
        PeerLostError: If another task is lost while it is needed.
    """
    job = load_job(journal.paths.job)
    threads = configure_process(job.devices, crew)
    with ExitStack() as stack:
        with watch.time("load"):
            streamed = _open_stream(job, journal, stack, crew=crew, threads=threads)
        if streamed is not None:
            return _run_stream(job, streamed, journal, crew=crew, watch=watch, threads=threads)
    table, split = _load(job, watch)
    with ThreadPoolExecutor(max_workers=1) as background:
        crew.check()
        with watch.time("import"), importing_tensorflow():
            from dnnjob.training.fit import encode_rows, fit_dnn
            from dnnjob.training.strategy import make_devices

        def import_plots() -> None:
            if job.output.plots and crew.is_chief:
                background.submit(import_module, "dnnjob.results.plots")

        encoding = fit_encoding(table, split, job.data)
        devices = make_devices(job.devices, crew)
        num_tasks = crew.task.num_tasks
        if find_pieces(job.data) is None:
            refuse_short_window(job.data, len(split.train))
        window = job.data.window_rows or max(
            default_window_rows(job.data, table.kinds), len(split.train)
        )
        job = _complete(job, table, window, num_tasks=num_tasks, threads=threads, devices=devices)
        if crew.is_chief:
            journal.recheck()
            write_text(journal.paths.job, to_toml(job))
            _tell(encoding)

        crew.check()
        rows = encode_rows(table, split, encoding)
        fitted = fit_dnn(
            job,
            rows,
            devices=devices,
            journal=journal,
            watch=watch,
            crew=crew,
            threads=threads,
            # Two seconds of imports, which pass while the network compiles and trains.
            meanwhile=import_plots,
        )
        if not crew.is_chief:
            return None
        crew.release()
        crew.check()
        with watch.time("predict"):
            y_pred = encoding.target.restore(fitted.predict_table(rows.x))
        crew.check()
        with watch.time("evaluate"):
            metrics = measure_splits(table, split, encoding, y_pred)
            baselines = measure_baselines(table, split, encoding, rows.x)
            importance = measure_columns(job, table, split, encoding, rows.x, fitted)
    return _publish(
        Facts(
            job=job,
            journal=journal,
            table=table,
            encoding=encoding,
            fitted=fitted,
            devices=devices,
            drawn=_draw_rows(table, split, encoding, y_pred),
            write_predictions=partial(_write_predictions, job, journal, table, split, y_pred),
            metrics=metrics,
            baselines=baselines,
            importance=importance,
            watch=watch,
        ),
        crew,
    )


def _open_stream(
    job: JobConfig, journal: Journal, stack: ExitStack, *, crew: Crew, threads: int
) -> StreamedTable | None:
    """The job's table, if it is one that is read in pieces."""

    def make_scratch() -> Path:
        folder = scratch_folder(job.data, journal.paths.run_id, attempt=journal.number)
        return stack.enter_context(folder)

    return open_pieces(
        job,
        make_scratch=make_scratch,
        threads=threads,
        crew=crew,
        kept=journal.paths.statistics,
    )


def _run_stream(
    job: JobConfig,
    table: StreamedTable,
    journal: Journal,
    *,
    crew: Crew,
    watch: Stopwatch,
    threads: int,
) -> Report | None:
    """The same story for a table that is read in pieces."""
    with ThreadPoolExecutor(max_workers=1) as background:
        crew.check()
        with watch.time("import"), importing_tensorflow():
            from dnnjob.training.fit import fit_dnn
            from dnnjob.training.strategy import make_devices
            from dnnjob.training.windowed import WindowedRows

        def import_plots() -> None:
            if job.output.plots and crew.is_chief:
                background.submit(import_module, "dnnjob.results.plots")

        encoding = table.fit_encoding()
        devices = make_devices(job.devices, crew)
        job = _complete(
            job,
            table,
            _stream_window(job.data, table),
            num_tasks=crew.task.num_tasks,
            threads=threads,
            devices=devices,
        )
        if crew.is_chief:
            journal.recheck()
            write_text(journal.paths.job, to_toml(job))
            _tell(encoding)
        crew.check()
        rows = WindowedRows.of(
            table,
            encoding,
            budget_bytes=_memory_budget(job, crew),
            threads=threads,
        )
        fitted = fit_dnn(
            job,
            rows,
            devices=devices,
            journal=journal,
            watch=watch,
            crew=crew,
            threads=threads,
            meanwhile=import_plots,
        )
        if not crew.is_chief:
            return None
        crew.release()
        with watch.time("predict"):
            evaluated = evaluate_stream(
                table,
                encoding,
                rows.encode,
                fitted.predict,
                job=job,
                num_params=count_params(job, encoding),
                folder=journal.paths.checkpoints,
                key=fitted.digest,
                check=partial(_check, crew, journal),
            )
    return _publish(
        Facts(
            job=job,
            journal=journal,
            table=table,
            encoding=encoding,
            fitted=fitted,
            devices=devices,
            drawn=evaluated.drawn,
            write_predictions=partial(
                evaluated.write_predictions,
                journal.paths.predictions,
                tests_alone=job.output.predictions == "test",
            ),
            metrics=evaluated.metrics,
            baselines=evaluated.baselines,
            importance=evaluated.importance,
            watch=watch,
        ),
        crew,
    )


def _stream_window(data: DataConfig, table: StreamedTable) -> int:
    """Rows of a window of a table that is read in pieces; all, where it goes by none."""
    rows = window_rows(data, table.kinds)
    return rows if table.by_windows else max(rows, table.num_split_rows(TRAIN))


def _check(crew: Crew, journal: Journal) -> None:
    """Raises where the run shall stop, or another attempt has taken it over."""
    crew.check()
    journal.recheck()


def _memory_budget(job: JobConfig, crew: Crew) -> float:
    if job.data.memory_budget_gb is not None:
        return job.data.memory_budget_gb * 1e9
    return memory_share_bytes(len(crew.local_peers))


def _load(job: JobConfig, watch: Stopwatch) -> tuple[Table, Split]:
    with watch.time("load"):
        table = open_table(job.data)
        split = split_table(table, job)
    return table, split


def _complete(
    job: JobConfig,
    table: Table | StreamedTable,
    window: int,
    *,
    num_tasks: int,
    threads: int,
    devices: "Devices",
) -> JobConfig:
    """The job with every default filled in."""
    values = job.model_dump()
    values["data"] |= {
        "features": table.features,
        "split_seed": job.split_seed,
        "split": choose_split(job.data.split, table.num_rows),
        "window_rows": window,
        "columns": resolve_columns(job.data, table.kinds),
    }
    values["train"] |= {"weight_decay": job.train.decay}
    values["devices"] |= {
        "tasks": num_tasks,
        "threads": threads,
        "xla": "on" if devices.xla else "off",
    }
    return resolve_job(values, origin="The resolved job")


def _tell(encoding: Encoding) -> None:
    if encoding.description:
        logger.info("%s", encoding.description)


def resolve_columns(data: DataConfig, kinds: Mapping[str, FeatureKind]) -> dict[str, Any]:
    """What the job says of its columns, with the kind of each feature that is no number."""
    columns = {name: column.model_dump() for name, column in data.columns.items()}
    for name, kind in kinds.items():
        if kind != "numeric" or name in columns:
            columns.setdefault(name, {})["kind"] = kind
    return columns


def _publish(facts: Facts, crew: Crew) -> Report:
    """Writes everything a reader of the run folder finds, the report last.

    Asked to stop, it leaves the rest to the next attempt, which repeats the prediction.
    """
    from dnnjob.results.page import render_page

    paths, output = facts.journal.paths, facts.job.output
    facts.journal.recheck()
    with facts.watch.time("report"):
        _write_tables(facts)
        crew.check()
        if output.plots:
            facts.journal.recheck()
            _draw_plots(facts)
        crew.check()
        if output.model:
            facts.journal.recheck()
            _save_model(facts)
    crew.check()
    report = assemble_report(facts, environ=os.environ)
    facts.journal.recheck()
    write_text(paths.page, render_page(report, paths.plots))
    facts.journal.recheck()
    write_report(paths, report)
    return report


def _write_tables(facts: Facts) -> None:
    write_history(facts.journal.paths, make_history(facts.fitted.log))
    if facts.job.output.predictions != "none":
        facts.journal.recheck()
        facts.write_predictions()


def _write_predictions(
    job: JobConfig, journal: Journal, table: Table, split: Split, y_pred: FloatArray
) -> None:
    ids = np.arange(table.num_rows)
    kept = split.test if job.output.predictions == "test" else ids
    write_predictions(
        journal.paths,
        row_id=ids[kept],
        split=split.labels[kept],
        y_true=table.y[kept],
        y_pred=y_pred[kept],
        ids={name: column.take(kept) for name, column in table.ids.items()},
    )


def _draw_rows(table: Table, split: Split, encoding: Encoding, y_pred: FloatArray) -> Drawn:
    raw = [table.number(column.name) for column in encoding.number_columns]
    return Drawn(
        raw=np.stack(raw, axis=1) if raw else np.zeros((table.num_rows, 0)),
        y=table.y,
        y_pred=y_pred,
        is_test=split.labels == "test",
    )


def _draw_plots(facts: Facts) -> None:
    from dnnjob.results.plots import PlotData, draw_plots

    drawn, encoding, log = facts.drawn, facts.encoding, facts.fitted.log
    columns, target = encoding.number_columns, encoding.target
    standardized = encoding.mode != "none" and target.transform == "none"
    data = PlotData(
        target=target.name,
        features=tuple(column.name for column in columns),
        x=drawn.raw,
        y=drawn.y,
        mean=np.array([*(c.mean for c in columns), target.mean]) if standardized else None,
        std=np.array([*(c.std for c in columns), target.std]) if standardized else None,
        y_pred=drawn.y_pred,
        is_test=drawn.is_test,
        history=make_history(log),
        importance=facts.importance,
        seed=facts.job.seed,
    )
    draw_plots(facts.journal.paths.plots, data)


def _save_model(facts: Facts) -> None:
    from dnnjob.training.export import build_export, save_model

    job = facts.job
    model = build_export(
        job.model,
        encoding=facts.encoding,
        weights=facts.fitted.dnn.get_weights(),
        precision=job.devices.precision,
    )
    save_model(facts.journal.paths.model, model)
