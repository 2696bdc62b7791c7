"""The whole story of a run: load, build, train, predict, report.

report = run_job(Journal(paths), crew=Crew(StopFlag()), watch=Stopwatch())
"""

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnjob.clock import Stopwatch
from dnnjob.config import DataConfig, JobConfig, load_job, resolve_job, to_toml
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.order import default_window_rows
from dnnjob.data.sources import Table, open_table
from dnnjob.data.split import Split, split_labelled
from dnnjob.data.statistics import fit_encoding
from dnnjob.errors import JobError
from dnnjob.imports import hidden
from dnnjob.results.assemble import (
    Facts,
    assemble_report,
    make_history,
    measure_baselines,
    measure_columns,
    measure_splits,
)
from dnnjob.results.report import Report, write_history, write_predictions, write_report
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
    table, split = _load(job, watch)
    with ThreadPoolExecutor(max_workers=1) as background:
        crew.check()
        with watch.time("import"), hidden("sklearn", "matplotlib"):
            from dnnjob.training.fit import encode_rows, fit_dnn
            from dnnjob.training.strategy import make_devices

        def import_plots() -> None:
            if job.output.plots and crew.is_chief:
                background.submit(import_module, "dnnjob.results.plots")

        encoding = fit_encoding(table, split, job.data)
        devices = make_devices(job.devices, crew)
        num_tasks = crew.task.num_tasks
        job = _complete(job, table, split, num_tasks=num_tasks, threads=threads, devices=devices)
        if crew.is_chief:
            write_text(journal.paths.job, to_toml(job))

        crew.check()
        rows = encode_rows(table, split, encoding)
        fitted = fit_dnn(
            job,
            rows,
            devices=devices,
            journal=journal,
            watch=watch,
            crew=crew,
            # Two seconds of imports, which pass while the network compiles and trains.
            meanwhile=import_plots,
        )
        if not crew.is_chief:
            return None
        crew.release()
        crew.check()
        with watch.time("predict"):
            y_pred = encoding.target.restore(fitted.predict(rows.x))
        with watch.time("evaluate"):
            metrics = measure_splits(table, split, encoding, y_pred)
            baselines = measure_baselines(table, split, encoding, rows.x)
            importance = measure_columns(job, table, split, encoding, rows.x, fitted)
    return _publish(
        Facts(
            job=job,
            journal=journal,
            table=table,
            split=split,
            encoding=encoding,
            fitted=fitted,
            devices=devices,
            y_pred=y_pred,
            metrics=metrics,
            baselines=baselines,
            importance=importance,
            watch=watch,
        )
    )


def _load(job: JobConfig, watch: Stopwatch) -> tuple[Table, Split]:
    with watch.time("load"):
        table = open_table(job.data)
        split = split_labelled(
            table.y,
            test_fraction=job.data.test_fraction,
            validation_fraction=job.data.validation_fraction,
            seed=job.split_seed,
            folds=job.data.folds,
            fold=job.data.fold,
        )
    return table, split


def _complete(
    job: JobConfig,
    table: Table,
    split: Split,
    *,
    num_tasks: int,
    threads: int,
    devices: "Devices",
) -> JobConfig:
    """The job with every default filled in."""
    default = max(default_window_rows(len(table.features)), len(split.train))
    window_rows = job.data.window_rows or default
    if window_rows < len(split.train):
        raise JobError(
            f"data.window_rows must hold the {len(split.train)} training rows of a table in "
            f"memory, but it is {window_rows}. Leave it out, or raise it."
        )
    values = job.model_dump()
    values["data"] |= {
        "features": table.features,
        "split_seed": job.split_seed,
        "window_rows": window_rows,
        "columns": resolve_columns(job.data, table.kinds),
    }
    values["train"] |= {"weight_decay": job.train.decay}
    values["devices"] |= {
        "tasks": num_tasks,
        "threads": threads,
        "xla": "on" if devices.xla else "off",
    }
    return resolve_job(values, origin="The resolved job")


def resolve_columns(data: DataConfig, kinds: Mapping[str, FeatureKind]) -> dict[str, Any]:
    """What the job says of its columns, with the kind of each feature that is no number."""
    columns = {name: column.model_dump() for name, column in data.columns.items()}
    for name, kind in kinds.items():
        if kind != "numeric" or name in columns:
            columns.setdefault(name, {})["kind"] = kind
    return columns


def _publish(facts: Facts) -> Report:
    """Writes everything a reader of the run folder finds, the report last."""
    from dnnjob.results.page import render_page

    paths, output = facts.journal.paths, facts.job.output
    facts.journal.recheck()
    with facts.watch.time("report"):
        _write_tables(facts)
        if output.plots:
            facts.journal.recheck()
            _draw_plots(facts)
        if output.model:
            facts.journal.recheck()
            _save_model(facts)
    report = assemble_report(facts, environ=os.environ)
    facts.journal.recheck()
    write_text(paths.page, render_page(report, paths.plots))
    write_report(paths, report)
    return report


def _write_tables(facts: Facts) -> None:
    paths, log, table = facts.journal.paths, facts.fitted.log, facts.table
    write_history(paths, make_history(log))
    if facts.job.output.predictions == "none":
        return
    ids = np.arange(table.num_rows)
    kept = facts.split.test if facts.job.output.predictions == "test" else ids
    write_predictions(
        paths,
        row_id=ids[kept],
        split=facts.split.labels[kept],
        y_true=table.y[kept],
        y_pred=facts.y_pred[kept],
        ids={name: column.take(kept) for name, column in table.ids.items()},
    )


def _draw_plots(facts: Facts) -> None:
    from dnnjob.results.plots import PlotData, draw_plots

    table, encoding, log = facts.table, facts.encoding, facts.fitted.log
    columns, target = encoding.number_columns, encoding.target
    drawn = [table.number(column.name) for column in columns]
    standardized = encoding.mode != "none" and target.transform == "none"
    data = PlotData(
        target=table.target,
        features=tuple(column.name for column in columns),
        x=np.stack(drawn, axis=1) if drawn else np.zeros((table.num_rows, 0)),
        y=table.y,
        mean=np.array([*(c.mean for c in columns), target.mean]) if standardized else None,
        std=np.array([*(c.std for c in columns), target.std]) if standardized else None,
        y_pred=facts.y_pred,
        is_test=facts.split.labels == "test",
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
