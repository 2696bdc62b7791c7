"""From standardized rows to a trained network: build, compile, train, keep.

fitted = fit_dnn(job, rows, devices, attempt=attempt, meanwhile=import_plots)
y_pred = fitted.predict(x)
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import keras
import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig, TrainConfig
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.order import Plan
from dnnjob.data.raw_columns import FloatArray
from dnnjob.errors import NonFiniteError, StoppedError
from dnnjob.runs import Position
from dnnjob.tasks import TaskAttempt
from dnnjob.training.checkpoint import CheckpointStore
from dnnjob.training.evaluate import RowPredictor, make_predictor
from dnnjob.training.history import EpochLog
from dnnjob.training.model import summarize
from dnnjob.training.network import Stack, make_stack
from dnnjob.training.progress import open_progress
from dnnjob.training.resume import Keeper, identify
from dnnjob.training.strategy import Devices
from dnnjob.training.train import Pace, TrainingLoop, TrainingState
from dnnjob.training.windowed import Feed, WindowedRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """A trained network and how it came to be."""

    dnn: keras.Sequential
    summary: str
    log: EpochLog
    pace: Pace
    stop_reason: str
    best_epoch: int | None
    """Epoch with the least validation loss, from 1; None without validation rows."""
    kept_epoch: int
    """Epoch whose weights the network has, from 1."""
    inexact: str | None
    """Why the weights may differ in bits from a run never interrupted."""
    trained: Position
    """Where training ended."""

    def predict(self, x: npt.NDArray[np.float32]) -> FloatArray:
        """Standardized predictions `(num_rows,)` of standardized rows."""
        return self._predictor(x)

    @cached_property
    def digest(self) -> str:
        """What tells the trained weights from others."""
        content = b"".join(np.ascontiguousarray(one).tobytes() for one in self.dnn.get_weights())
        return hashlib.sha256(content).hexdigest()[:16]

    @cached_property
    def _predictor(self) -> RowPredictor:
        return make_predictor(self.dnn)


def fit_dnn(
    job: JobConfig,
    rows: WindowedRows,
    devices: Devices,
    *,
    attempt: TaskAttempt,
    meanwhile: Callable[[], object],
) -> Fitted:
    """Trains the job's network from its newest checkpoint, or from the start.

    Args:
        job: The resolved job.
        rows: What it trains on.
        devices: What it computes on.
        attempt: This task's part in the attempt.
        meanwhile: Called once the interpreter is free, since the network compiles and trains.

    Raises:
        NonFiniteError: If training diverges; a checkpoint holds the last finite weights.
        StoppedError: If a signal asked for it; a checkpoint holds the state.
        PeerLostError: If another task is lost.
    """
    watch = attempt.watch
    with watch.time("compile"):
        untrained = _prepare(job, rows, devices, rank=attempt.crew.task.rank)
    plan, stack = untrained.plan, untrained.stack
    summary = summarize(stack.dnn)
    logger.info("%s", summary)
    with watch.time("compile"):
        stack.trace()
        meanwhile()
    keeper = _make_keeper(job, rows.fingerprint, devices, stack=stack, attempt=attempt)
    state = keeper.restore(plan) or TrainingState.begin(plan)
    with watch.time("compile"):
        loop = _compile(job, untrained, state, keeper)
    _announce(plan, devices, warmup_steps=job.train.warmup_steps)
    pace = _train(loop, state, keeper, attempt)
    _keep_best(job.train, state, stack)
    return Fitted(
        dnn=stack.dnn,
        summary=summary,
        log=state.log,
        pace=pace,
        stop_reason=str(state.stop_reason),
        best_epoch=state.best_epoch,
        kept_epoch=state.kept_epoch(job.train),
        inexact=keeper.inexact,
        trained=state.position,
    )


@dataclass(frozen=True)
class _Untrained:
    """A network and what will feed it."""

    plan: Plan
    stack: Stack
    make_feed: Callable[[Stack], Feed]


def _prepare(job: JobConfig, rows: WindowedRows, devices: Devices, *, rank: int) -> _Untrained:
    # The rows stay with the step alone: the zeros that stand for a window are as large as one.
    prepared = rows.prepare(job, devices, first_replica=rank * len(devices.names))
    stack = make_stack(job, prepared.plan, prepared.data, encoding=rows.encoding, devices=devices)
    return _Untrained(prepared.plan, stack, prepared.make_feed)


def _make_keeper(
    job: JobConfig,
    table: Fingerprint,
    devices: Devices,
    *,
    stack: Stack,
    attempt: TaskAttempt,
) -> Keeper:
    journal, crew = attempt.journal, attempt.crew
    return Keeper(
        store=CheckpointStore(journal.paths.checkpoints),
        journal=journal,
        network=stack.networks[0],
        identity=identify(job, table, devices, crew=crew, threads=job.devices.threads),
        every_s=job.train.checkpoint_every_s,
        crew=crew,
    )


def _compile(
    job: JobConfig, untrained: _Untrained, state: TrainingState, keeper: Keeper
) -> TrainingLoop:
    """The loop over the compiled call; returns once all tasks are there."""
    stack = untrained.stack
    feed = untrained.make_feed(stack)
    # The first window is filled while the network compiles.
    windows = None if state.stop_reason else feed.begin(state.log.num_steps)
    stack.compile()
    if feed.windows is not None:
        stack.step.forget_rows()
    # From here on standing still counts: for all from the same moment.
    keeper.crew.gather(None)
    return TrainingLoop(
        stack.step,
        stack.networks[0],
        untrained.plan,
        job,
        keep=keeper.keep,
        crew=keeper.crew,
        windows=windows,
        validate=feed.validate,
    )


def _train(loop: TrainingLoop, state: TrainingState, keeper: Keeper, attempt: TaskAttempt) -> Pace:
    """Trains to the job's end; what training ended with is in the newest checkpoint."""
    with open_progress(epochs=loop.plan.epochs) as show:
        loop = replace(loop, shows=(attempt.journal.show_progress, show))
        try:
            with attempt.watch.time("train"), attempt.crew.training():
                pace = loop.train(state)
        except (NonFiniteError, StoppedError):
            keeper.write(state)
            raise
        keeper.write(state)
    return pace


def _keep_best(train: TrainConfig, state: TrainingState, stack: Stack) -> None:
    """Leaves the weights that the job asks for: with patience those of the best epoch."""
    if (end := state.describe_end(train)) is not None:
        logger.info("%s.", end[0].upper() + end[1:])
    if train.patience and state.stopping.best_epoch >= 0:
        with stack.networks[0].present() as variables:
            variables.restore_best()


def _announce(plan: Plan, devices: Devices, *, warmup_steps: int) -> None:
    if warmup_steps >= plan.num_steps:
        logger.warning(
            "train.warmup_steps = %d, but the training has %d steps in all: the learning rate "
            "never reaches its peak. Lower it, or train for more epochs.",
            warmup_steps,
            plan.num_steps,
        )
    logger.info(
        "Training on %d %s replica(s)%s: %d rows a step, %d a replica, %d steps an epoch.",
        devices.num_replicas,
        devices.kind.upper(),
        " with XLA" if devices.xla else "",
        plan.global_batch_size,
        plan.rows_per_replica,
        plan.steps_per_epoch,
    )
