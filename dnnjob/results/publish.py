"""Everything a reader of the run folder finds, in the order in which it must appear.

report = publish(facts, yardstick)
"""

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from dnnjob.data.scratch import temporary_files
from dnnjob.machine import trim_heap
from dnnjob.results.assemble import Facts, assemble_report
from dnnjob.results.report import Report, write_history, write_report
from dnnjob.results.trees import Yardstick
from dnnjob.runs import write_bytes, write_text

if TYPE_CHECKING:
    from dnnjob.training.export import SavedModel


def publish(facts: Facts, yardstick: Yardstick) -> Report:
    """Writes everything a reader of the run folder finds, the report last.

    Args:
        facts: What the phases of the run left.
        yardstick: The trees of the run, which may still be at work.

    Raises:
        StoppedError: If a signal asked for it; the next attempt writes the rest.
        SupersededError: If a later attempt has been claimed.
    """
    # Its template engine is for the end of a run alone.
    from dnnjob.results.report_page import render_page

    attempt, output = facts.attempt, facts.job.output
    journal, paths = attempt.journal, attempt.journal.paths
    if attempt.beside is None:
        trim_heap()
    journal.recheck()
    with attempt.watch.time("report"):
        _write_tables(facts)
        if output.tensorboard:
            journal.recheck()
            _write_events(facts)
        attempt.check()
        if output.plots:
            journal.recheck()
            _draw_plots(facts)
        attempt.check()
        if output.model:
            journal.recheck()
            facts = replace(facts, saved=_save_model(facts))
    attempt.check()
    # Last of what takes long: nothing else waits for the trees.
    with attempt.watch.time("evaluate"):
        facts = replace(facts, trees=yardstick.measure(check=attempt.check))
    attempt.check()
    report = assemble_report(facts, environ=os.environ)
    journal.recheck()
    write_text(paths.page, render_page(report, paths.plots))
    journal.recheck()
    write_report(paths, report)
    return report


def _write_tables(facts: Facts) -> None:
    write_history(facts.attempt.journal.paths, facts.fitted.history)
    if facts.job.output.predictions != "none":
        facts.attempt.journal.recheck()
        facts.evaluated.write_predictions(facts.attempt.journal.paths)


def _write_events(facts: Facts) -> None:
    """Leaves the history for TensorBoard."""
    from dnnjob.training.tensorboard import encode_events

    history, members = facts.fitted.history, facts.fitted.members
    num_rows = members[0].log.plan.num_rows * len(members)
    scalars = {
        "loss": history.loss,
        **({} if history.val_loss is None else {"val_loss": history.val_loss}),
        "learning_rate": history.learning_rate,
        "rows_per_s": num_rows / np.maximum(history.seconds, 1e-9),
    }
    paths, attempt = facts.attempt.journal.paths, facts.attempt.journal.number
    with temporary_files(paths.run_id, attempt=attempt):
        content = encode_events(scalars, seconds=history.seconds, ended_at=time.time())
    write_bytes(paths.tensorboard, content)


def _draw_plots(facts: Facts) -> None:
    from dnnjob.results.plots import PlotData, draw_plots

    drawn, encoding = facts.evaluated.drawn, facts.encoding
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
        history=facts.fitted.history,
        importance=facts.evaluated.importance,
        intervals=facts.evaluated.intervals,
        seed=facts.job.seed,
    )
    draw_plots(facts.attempt.journal.paths.plots, data)


def _save_model(facts: Facts) -> "SavedModel":
    from dnnjob.training.export import build_next_export, save_model

    job = facts.job
    model = build_next_export(
        job.model,
        encoding=facts.encoding,
        weights=[member.weights for member in facts.fitted.members],
        precision=job.devices.precision,
    )
    paths, attempt = facts.attempt.journal.paths, facts.attempt.journal.number
    with temporary_files(paths.run_id, attempt=attempt):
        return save_model(paths.model, model, is_to_be_loaded=len(facts.fitted.members) > 1)
