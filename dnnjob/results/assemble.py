"""The report of a finished run, from what its phases left.

report = assemble_report(facts, environ=os.environ)
"""

import math
import platform
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dnnjob
from dnnjob import machine
from dnnjob.config import JobConfig
from dnnjob.data.encoding import CategoryColumn, Encoding
from dnnjob.data.table import Table
from dnnjob.image import read_image
from dnnjob.results import report as parts
from dnnjob.results.baselines import TreesBaseline
from dnnjob.results.evaluation import Evaluated
from dnnjob.tasks import TaskAttempt

if TYPE_CHECKING:
    from dnnjob.training.export import SavedModel
    from dnnjob.training.fit import Fitted
    from dnnjob.training.strategy import Devices


@dataclass(frozen=True)
class Facts:
    """All that a report is made of."""

    job: JobConfig
    attempt: TaskAttempt
    table: Table
    encoding: Encoding
    fitted: "Fitted"
    devices: "Devices"
    evaluated: Evaluated
    trees: TreesBaseline | None = None
    saved: "SavedModel | None" = None


def assemble_report(facts: Facts, *, environ: Mapping[str, str]) -> parts.Report:
    """The report; its times end now."""
    journal, job = facts.attempt.journal, facts.job
    return parts.Report(
        run_id=journal.paths.run_id,
        name=job.name,
        state="COMPLETED",
        job=job.model_dump(mode="json", exclude={"sweep"}),
        metrics=facts.evaluated.metrics,
        baselines=_baselines(facts),
        importance=facts.evaluated.importance,
        members=_members(facts),
        intervals=facts.evaluated.intervals,
        training=_training(facts),
        model=_model(facts),
        data=_data(facts),
        strategy=_strategy(facts),
        timing_s=_timing(facts),
        throughput=_throughput(facts),
        resources=parts.Resources(
            peak_rss_mb=machine.peak_rss_mb(),
            cpu_s=facts.attempt.watch.cpu_s,
            gpu_peak_mb=facts.devices.gpu_peak_mb(),
        ),
        provenance=_provenance(facts, environ),
    )


def _baselines(facts: Facts) -> parts.SplitBaselines:
    test = facts.evaluated.baselines.test
    trees = {"trees": facts.trees}
    return parts.SplitBaselines(test=None if test is None else test.model_copy(update=trees))


def _training(facts: Facts) -> parts.Training:
    fitted = facts.fitted
    return parts.Training(
        epochs=len(fitted.history.loss),
        steps=fitted.num_steps,
        final_loss=fitted.final_loss,
        best_epoch=fitted.best_epoch,
        stop_reason=fitted.stop_reason,
        warnings=fitted.warnings,
    )


def _members(facts: Facts) -> tuple[parts.Member, ...]:
    """Each network of several; a single one is the model itself."""
    errors = facts.evaluated.members
    if not errors:
        return ()
    return tuple(
        parts.Member(
            seed=member.seed,
            best_epoch=member.best_epoch,
            validation_mse=validation,
            test_mse=test,
        )
        for member, (validation, test) in zip(facts.fitted.members, errors, strict=True)
    )


def _model(facts: Facts) -> parts.Model:
    encoding = facts.encoding
    return parts.Model(
        num_trainable_params=encoding.count_params(facts.job.model) * len(facts.fitted.members),
        summary="\n".join(filter(None, [facts.fitted.summary, encoding.description])),
        inputs={column.name: column.input_dtype for column in encoding.columns},
        num_inputs={column.name: column.num_inputs for column in encoding.columns},
        file_mb=facts.saved.file_mb if facts.saved else None,
        load_s=facts.saved.load_s if facts.saved else None,
    )


def _data(facts: Facts) -> parts.Data:
    table = facts.table
    fingerprint = parts.Fingerprint(method=table.fingerprint.method, value=table.fingerprint.value)
    return parts.Data(
        source=table.data.source,
        num_rows=table.num_rows,
        num_features=len(table.features),
        columns=(*table.features, table.data.target),
        trained=_trained(facts.encoding),
        fingerprint=fingerprint,
        warnings=table.warnings,
    )


def _trained(encoding: Encoding) -> dict[str, parts.TrainedColumn]:
    found = {}
    for column in encoding.columns:
        seen = encoding.statistics[column.name]
        is_known = math.isfinite(seen.minimum) and math.isfinite(seen.maximum)
        found[column.name] = parts.TrainedColumn(
            num_missing=seen.num_missing,
            minimum=seen.minimum if is_known else None,
            maximum=seen.maximum if is_known else None,
            categories=column.values if isinstance(column, CategoryColumn) else None,
        )
    return found


def _strategy(facts: Facts) -> parts.Strategy:
    devices, job = facts.devices, facts.job
    return parts.Strategy(
        kind=devices.strategy_name,
        num_replicas=devices.num_replicas,
        num_tasks=job.devices.tasks,
        devices=devices.all_names,
        threads=job.devices.threads,
        xla="on" if devices.xla else "off",
        stack=facts.fitted.width,
        stacked=_way(facts),
    )


def _way(facts: Facts) -> Literal["axis", "lanes"] | None:
    if facts.fitted.on_axis:
        return "axis"
    return None if facts.job.model.members == 1 else "lanes"


def _timing(facts: Facts) -> parts.Timing:
    watch = facts.attempt.watch
    phases = ("import", "load", "compile", "train", "evaluate", "predict", "report")
    earlier = [
        (attempt.ended_at or attempt.started_at) - attempt.started_at
        for attempt in facts.attempt.journal.status.attempts[:-1]
    ]
    total = watch.total
    return parts.Timing(
        **{phase: watch.seconds.get(phase, 0.0) for phase in phases},
        total=total,
        total_all_attempts=total + sum(spent.total_seconds() for spent in earlier),
    )


def _throughput(facts: Facts) -> parts.Throughput:
    pace, log = facts.fitted.pace, facts.fitted.members[0].log
    steps_per_s = pace.steps_per_s
    rows_per_step = log.plan.num_rows / log.plan.steps_per_epoch
    return parts.Throughput(steps_per_s=steps_per_s, rows_per_s=steps_per_s * rows_per_step)


def _provenance(facts: Facts, environ: Mapping[str, str]) -> parts.Provenance:
    commit, dirty = machine.git_state(Path.cwd())
    attempts = facts.attempt.journal.status.attempts
    slurm = {key: value for key, value in environ.items() if key.startswith("SLURM_JOB")}
    return parts.Provenance(
        dnnjob=dnnjob.__version__,
        python=platform.python_version(),
        tensorflow=machine.tensorflow_version() or "",
        keras=machine.package_version("keras") or "",
        host=socket.gethostname(),
        cpu=machine.cpu_name(),
        gpus=machine.list_gpus() if facts.devices.kind == "gpu" else (),
        git_commit=commit,
        git_dirty=dirty,
        image=None if (image := read_image()) is None else parts.Image.model_validate(image),
        slurm=slurm or None,
        command=shlex.join(["dnnjob", *sys.argv[1:]]),
        started_at=attempts[0].started_at,
        ended_at=datetime.now(UTC),
        attempts=attempts,
        bit_exact=facts.fitted.inexact is None,
        bit_exact_reason=facts.fitted.inexact,
    )
