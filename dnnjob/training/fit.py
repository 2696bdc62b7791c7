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
import tensorflow as tf

from dnnjob.clock import Stopwatch
from dnnjob.config import JobConfig
from dnnjob.data.block import FloatArray
from dnnjob.data.encoding import Encoding
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.order import Plan, StepPlan
from dnnjob.data.sources import Table
from dnnjob.data.split import Split
from dnnjob.errors import DataError, NonFiniteError, StoppedError
from dnnjob.runs import Journal
from dnnjob.tasks import Crew
from dnnjob.training.checkpoint import CheckpointStore
from dnnjob.training.encoder import build_encoder, encode
from dnnjob.training.evaluate import RowPredictor, make_predictor, predict_rows
from dnnjob.training.history import EpochLog
from dnnjob.training.model import summarize
from dnnjob.training.network import make_network
from dnnjob.training.predicted import PredictionKeeper
from dnnjob.training.progress import open_progress
from dnnjob.training.resume import Keeper, identify
from dnnjob.training.step import ResidentData
from dnnjob.training.strategy import Devices
from dnnjob.training.train import Pace, TrainingLoop, TrainingState
from dnnjob.training.windowed import Feed, Prepared, WindowedRows

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """A table ready for the network.

    Attributes:
        x: Standardized inputs of all rows, `(num_rows, num_inputs)` float32.
        y: Standardized targets of all rows, `(num_rows,)` float32; with weights `(num_rows, 2)`,
            as `ResidentData` has them.
        split: Which rows train and validate.
        fingerprint: What tells this table from another.
        embeddings: Buckets and units of the embeddings that the last inputs are codes for.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    split: Split
    fingerprint: Fingerprint
    embeddings: tuple[tuple[int, int], ...] = ()

    @property
    def num_inputs(self) -> int:
        """Inputs of the network."""
        return int(self.x.shape[1])

    def prepare(self, job: JobConfig, devices: Devices, *, first_replica: int) -> Prepared:
        """What a training of the job takes; every device holds all rows, whichever it is."""
        del first_replica
        plan = StepPlan(
            num_rows=len(self.split.train),
            global_batch_size=job.train.global_batch_size,
            num_replicas=devices.num_replicas,
            epochs=job.train.epochs,
        )
        return Prepared(plan, _place(self, devices), lambda _: Feed())


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
    kept: PredictionKeeper

    def predict(self, x: npt.NDArray[np.float32]) -> FloatArray:
        """Standardized predictions `(num_rows,)` of standardized rows."""
        return self._predictor(x)

    def predict_table(self, x: npt.NDArray[np.float32]) -> FloatArray:
        """The same of a whole table, kept on the way.

        Raises:
            StoppedError: If a signal asked for it; a later attempt predicts the rest.
        """
        return predict_rows(self.dnn, x, kept=self.kept)

    @cached_property
    def digest(self) -> str:
        """What tells the trained weights from others."""
        content = b"".join(np.ascontiguousarray(one).tobytes() for one in self.dnn.get_weights())
        return hashlib.sha256(content).hexdigest()[:16]

    @cached_property
    def _predictor(self) -> RowPredictor:
        return make_predictor(self.dnn)


def encode_rows(table: Table, split: Split, encoding: Encoding) -> Rows:
    """The table's rows through the encoder that the exported model has too."""
    x = encode(build_encoder(encoding), encoding.numbers(table.block))
    y = encoding.target.scale(table.y)
    if table.weights is not None:
        y = np.stack([y, root_weights(table.weights, split)], axis=1)
    return Rows(x, y, split, table.fingerprint, encoding.embedding_shapes)


def root_weights(weights: FloatArray, split: Split) -> npt.NDArray[np.float32]:
    """Roots of the weights, which have the mean 1 in the training and in the validation rows.

    Raises:
        DataError: If all weights of one of these splits are zero.
    """
    scaled = np.array(weights)
    for name, rows in (("training", split.train), ("validation", split.validation)):
        if len(rows) and not scaled[rows].any():
            raise DataError(
                f"Each split needs a row of a weight above 0, but none of the {len(rows)} {name} "
                "rows has one. Set data.weight_column, or split the rows otherwise."
            )
        if len(rows):
            scaled[rows] /= scaled[rows].mean()
    return np.sqrt(scaled).astype(np.float32)


def fit_dnn(
    job: JobConfig,
    rows: Rows | WindowedRows,
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
            num_inputs=rows.num_inputs,
            embeddings=rows.embeddings,
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
        kept=PredictionKeeper(
            path=journal.paths.predicted,
            journal=journal,
            crew=crew,
            trained=state.position,
            every_s=job.train.checkpoint_every_s,
        ),
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


def _place(rows: Rows, devices: Devices) -> ResidentData:
    train, validation = rows.split.train, rows.split.validation
    return ResidentData(
        x=devices.place(lambda: tf.constant(rows.x[train])),
        y=devices.place(lambda: tf.constant(rows.y[train])),
        x_validation=devices.place(lambda: tf.constant(rows.x[validation])),
        y_validation=devices.place(lambda: tf.constant(rows.y[validation])),
        num_validation_rows=len(validation),
    )


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
