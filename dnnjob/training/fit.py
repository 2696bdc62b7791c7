"""From standardized rows to a trained network: build, compile, train, keep.

fitted = fit_dnn(job, rows, devices=devices, journal=journal, watch=watch, crew=crew)
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

from dnnjob.clock import Stopwatch
from dnnjob.config import JobConfig
from dnnjob.data.order import Plan
from dnnjob.data.raw_columns import FloatArray
from dnnjob.errors import NonFiniteError, StoppedError
from dnnjob.runs import Journal, Position
from dnnjob.tasks import Crew
from dnnjob.training.checkpoint import CheckpointStore
from dnnjob.training.evaluate import RowPredictor, make_predictor
from dnnjob.training.history import EpochLog
from dnnjob.training.model import summarize
from dnnjob.training.network import make_network
from dnnjob.training.progress import open_progress
from dnnjob.training.resume import Keeper, identify
from dnnjob.training.step import ResidentData
from dnnjob.training.strategy import Devices
from dnnjob.training.train import Pace, TrainingLoop, TrainingState
from dnnjob.training.windowed import WindowedRows

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
    *,
    devices: Devices,
    journal: Journal,
    watch: Stopwatch,
    crew: Crew,
    threads: int,
    meanwhile: Callable[[], object],
) -> Fitted:
    """Trains the job's network from its newest checkpoint, or from the start.

    `meanwhile` is called once the interpreter is free, since the network compiles and trains.

    Raises:
        NonFiniteError: If training diverges; a checkpoint holds the last finite weights.
        StoppedError: If a signal asked for it; a checkpoint holds the state.
        PeerLostError: If another task is lost.
    """
    with watch.time("compile"):
        first_replica = crew.task.rank * len(devices.names)
        prepared = rows.prepare(job, devices, first_replica=first_replica)
        plan = prepared.plan
        network = make_network(
            job,
            plan,
            prepared.data,
            encoding=rows.encoding,
            devices=devices,
        )
    dnn, optimizer, step = network.dnn, network.optimizer, network.step
    # The zeros that stand for a window are as large as one.
    prepared = replace(prepared, data=ResidentData(None, None))
    summary = summarize(dnn)
    logger.info("%s", summary)
    with watch.time("compile"):
        if not network.is_compiled:
            step.trace()
        meanwhile()
    keeper = Keeper(
        store=CheckpointStore(journal.paths.checkpoints),
        journal=journal,
        dnn=dnn,
        optimizer=optimizer,
        step=step,
        identity=identify(job, rows.fingerprint, devices, crew=crew, threads=threads),
        every_s=job.train.checkpoint_every_s,
        crew=crew,
    )
    state = keeper.restore(plan) or TrainingState.begin(plan)
    feed = prepared.make_feed(step)
    # The first window is filled while the network compiles.
    windows = None if state.stop_reason else feed.begin(state.log.num_steps)
    with watch.time("compile"):
        if not network.is_compiled:
            step.compile()
        if feed.windows is not None:
            step.forget_rows()
        # From here on standing still counts: for all from the same moment.
        crew.gather(None)
    _announce(plan, devices, warmup_steps=job.train.warmup_steps)
    with open_progress(epochs=plan.epochs) as show:
        shows = (journal.show_progress, show)
        loop = TrainingLoop(
            step,
            plan,
            job,
            keep=keeper.keep,
            crew=crew,
            shows=shows,
            windows=windows,
            validate=feed.validate,
        )
        pace = _train(loop, keeper, state, watch)
    if (end := state.describe_end(job.train)) is not None:
        logger.info("%s.", end[0].upper() + end[1:])
    if job.train.patience and state.stopping.best_epoch >= 0:
        step.restore_best()
    return Fitted(
        dnn=dnn,
        summary=summary,
        log=state.log,
        pace=pace,
        stop_reason=str(state.stop_reason),
        best_epoch=state.best_epoch,
        kept_epoch=state.kept_epoch(job.train),
        inexact=keeper.inexact,
        trained=state.position,
    )


def _train(loop: TrainingLoop, keeper: Keeper, state: TrainingState, watch: Stopwatch) -> Pace:
    try:
        with watch.time("train"), loop.crew.training():
            pace = loop.train(state)
    except (NonFiniteError, StoppedError):
        keeper.write(state)
        raise
    keeper.write(state)
    return pace


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
