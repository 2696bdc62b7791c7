"""From standardized rows to trained networks: build, compile, train, keep.

fitted = fit_dnn(job, rows, devices, attempt=attempt, meanwhile=import_plots)
y_pred = fitted.predict(x)         # (num_members, num_rows)
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig, TrainConfig
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.folds import Folds, choose_folds
from dnnjob.data.order import Plan, StepPlan
from dnnjob.data.raw_columns import FloatArray
from dnnjob.data.windows import Window, make_windows
from dnnjob.errors import NonFiniteError, PausedError, StoppedError
from dnnjob.runs import Position
from dnnjob.tasks import TaskAttempt
from dnnjob.training.checkpoint import CheckpointStore
from dnnjob.training.evaluate import RowPredictor, make_predictor
from dnnjob.training.history import EpochLog, MeanHistory
from dnnjob.training.member import (
    HALVED,
    PATIENCE_ENDED,
    Member,
    TrainingState,
    describe_end,
    mean_position,
    overall_progress,
    remaining,
    unfinished,
)
from dnnjob.training.model import summarize
from dnnjob.training.network import Network, Stack, make_stack
from dnnjob.training.progress import open_progress
from dnnjob.training.resume import Keeper, identify
from dnnjob.training.stacked_members import next_group, present
from dnnjob.training.step import CompiledStep
from dnnjob.training.strategy import Devices
from dnnjob.training.train import Pace, TrainingLoop
from dnnjob.training.windowed import Prepared, WindowedRows, with_first_ahead

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FittedMember:
    """A trained network of several.

    Attributes:
        number: Its place among all members of the job.
        seed: Its seed.
        weights: Its weights, as Keras's `get_weights` has them.
        log: What its epochs left.
        stop_reason: Why its training ended.
        best_epoch: Epoch with the least validation loss, from 1; None without validation rows.
        kept_epoch: Epoch whose weights it has, from 1.
    """

    number: int
    seed: int
    weights: list[np.ndarray]
    log: EpochLog
    stop_reason: str
    best_epoch: int | None
    kept_epoch: int


@dataclass(frozen=True, eq=False)
class Fitted:
    """The trained networks and how they came to be.

    Attributes:
        members: The networks, without those that diverged.
        summary: Keras's summary of one of them.
        history: Their epochs, in the mean.
        pace: Steps of this attempt.
        inexact: Why the weights may differ in bits from a run never interrupted.
        trained: Where training ended.
        width: Members that trained at the same moment.
        predictor: Predicts with all of them.
        on_axis: Whether one call trained them, rather than each its own.
        warnings: What its user should know, such as of members that diverged.
    """

    members: tuple[FittedMember, ...]
    summary: str
    history: MeanHistory
    pace: Pace
    inexact: str | None
    trained: Position
    width: int
    predictor: RowPredictor
    on_axis: bool = False
    warnings: tuple[str, ...] = ()

    def predict(self, x: npt.NDArray[np.float32]) -> FloatArray:
        """Standardized predictions of standardized rows, `(num_members, num_rows)`."""
        return self.predictor(x)

    def left_out_by(self, folds: Folds | None) -> Folds | None:
        """Of each training row the place of the member that left it out; -1 where it diverged."""
        return None if folds is None else choose_folds(folds, [one.number for one in self.members])

    @cached_property
    def digest(self) -> str:
        """What tells the trained weights from others."""
        weights = (one for member in self.members for one in member.weights)
        content = b"".join(np.ascontiguousarray(one).tobytes() for one in weights)
        return hashlib.sha256(content).hexdigest()[:16]

    @property
    def stop_reason(self) -> str:
        """Why training ended: by patience where it ended any member."""
        reasons = {member.stop_reason for member in self.members}
        return PATIENCE_ENDED if PATIENCE_ENDED in reasons else reasons.pop()

    @property
    def num_steps(self) -> int:
        """Steps of all members."""
        return sum(member.log.num_steps for member in self.members)

    @property
    def final_loss(self) -> float:
        """Loss of the epochs whose weights are kept, in the mean of the members."""
        return float(np.mean([one.log.losses[one.kept_epoch - 1] for one in self.members]))

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the least validation loss, from 1; of several members that of their mean.

        Of the epochs that all have trained: the mean of those that went on is another figure.
        """
        if len(self.members) == 1:
            return self.members[0].best_epoch
        losses = self.history.validation_losses
        shared = min(len(member.log.validation_losses) for member in self.members)
        return None if losses is None or not shared else int(np.argmin(losses[:shared])) + 1


def fit_dnn(
    job: JobConfig,
    rows: WindowedRows,
    devices: Devices,
    *,
    attempt: TaskAttempt,
    meanwhile: Callable[[], object],
    lanes: int = 1,
    on_axis: bool = False,
) -> Fitted:
    """Trains the job's networks from their newest checkpoint, or from the start.

    Args:
        job: The resolved job.
        rows: What they train on.
        devices: What they compute on.
        attempt: This task's part in the attempt.
        meanwhile: Called once the interpreter is free, since the network compiles and trains.
        lanes: Members that train at the same moment, where the rows are resident.
        on_axis: Whether one call trains these, which XLA compiles for one device, rather than each
            its own.

    Raises:
        NonFiniteError: If more than half of the networks diverge; a checkpoint holds the last
            finite weights.
        StoppedError: If a signal asked for it; a checkpoint holds the state.
        PeerLostError: If another task is lost.
    """
    watch = attempt.watch
    with watch.time("compile"):
        stack, members, is_fed = _prepare(job, rows, devices, rank=attempt.crew.task.rank)
    plan, summary = members[0].plan, summarize(stack.dnn)
    logger.info("%s", summary)
    with watch.time("compile"):
        if not on_axis:
            stack.trace()
        meanwhile()
    axis = lanes if on_axis else 0
    keeper = _make_keeper(
        job, rows.fingerprint, devices, members=members, attempt=attempt, axis=axis
    )
    keeper.restore()
    for member in members:
        member.stop_at(attempt.until)
    with watch.time("compile"):
        _compile(stack, members, keeper, is_fed=is_fed, axis=axis)
    _announce(job, plan, devices, width=1 if is_fed else lanes, on_axis=on_axis)
    loop = TrainingLoop(
        stack.step,
        job,
        keep=keeper.keep,
        crew=keeper.crew,
        width=1 if is_fed else lanes,
        stacked=stack.stacked if on_axis else None,
        takes_turns=not is_fed,
    )
    pace = _train(loop, members, keeper, attempt)
    _pause(job.train, remaining(members), attempt)
    _keep_best(job.train, remaining(members))
    return _summed_up(job, loop, members, keeper, summary=summary, pace=pace)


def _summed_up(
    job: JobConfig,
    loop: TrainingLoop,
    members: Sequence[Member],
    keeper: Keeper,
    *,
    summary: str,
    pace: Pace,
) -> Fitted:
    left = {number: one for number, one in enumerate(members) if one in remaining(members)}
    return Fitted(
        members=tuple(_fitted(number, member, job.train) for number, member in left.items()),
        summary=summary,
        history=MeanHistory.of([one.state.log for one in left.values()], width=loop.width),
        pace=pace,
        inexact=keeper.inexact,
        trained=mean_position(members),
        width=loop.width,
        on_axis=loop.stacked is not None,
        predictor=make_predictor([one.network for one in left.values()]),
        warnings=tuple(
            one.describe_divergence(job.train, but=": the model is the mean of the others")
            for one in members
            if one not in left.values()
        ),
    )


def _fitted(number: int, member: Member, train: TrainConfig) -> FittedMember:
    state = member.state
    return FittedMember(
        number=number,
        seed=member.network.seed,
        weights=member.network.get_weights(),
        log=state.log,
        stop_reason=str(state.stop_reason),
        best_epoch=state.best_epoch,
        kept_epoch=state.kept_epoch(train),
    )


def _prepare(
    job: JobConfig, rows: WindowedRows, devices: Devices, *, rank: int
) -> tuple[Stack, list[Member], bool]:
    """The networks at their start, and whether windows feed them.

    The rows stay with the step alone: zeros that stand for a window are as large as one.
    """
    prepared = rows.prepare(job, devices, first_replica=rank * len(devices.names))
    stack = make_stack(job, prepared.plan, prepared.data, encoding=rows.encoding, devices=devices)
    return stack, _make_members(prepared, stack), prepared.make_feed is not None


def _make_members(prepared: Prepared, stack: Stack) -> list[Member]:
    feed = None if prepared.make_feed is None else prepared.make_feed(stack.step)
    members = []
    for number, network in enumerate(stack.networks):
        name = f"member {number}" if len(stack.networks) > 1 else ""
        if feed is None:
            member = _resident_member(network, prepared, stack.step, number=number, name=name)
        else:
            member = Member(
                network,
                TrainingState.begin(prepared.plan),
                partial(feed.windows, network.seed),
                name=name,
                validate=None if feed.validate is None else partial(feed.validate, network),
            )
        members.append(member)
    return members


def _resident_member(
    network: Network, prepared: Prepared, step: CompiledStep, *, number: int, name: str
) -> Member:
    plan, folds, rows = prepared.plan, prepared.folds, None
    if not isinstance(plan, StepPlan):
        raise TypeError("A table of several windows needs what feeds them.")
    validation = None
    if folds is not None:
        rows = np.flatnonzero(folds != number).astype(np.int32)
        plan = replace(plan, num_rows=len(rows), room=plan.num_rows)
        if prepared.stops_on_folds:
            validation = step.validate_on(np.flatnonzero(folds == number).astype(np.int32))

    def make(first_step: int) -> Iterator[Window]:
        return make_windows(plan, seed=network.seed, first_step=first_step, rows=rows)

    return Member(network, TrainingState.begin(plan), make, name=name, validation=validation)


def _make_keeper(
    job: JobConfig,
    table: Fingerprint,
    devices: Devices,
    *,
    members: Sequence[Member],
    attempt: TaskAttempt,
    axis: int,
) -> Keeper:
    journal, crew = attempt.journal, attempt.crew
    return Keeper(
        store=CheckpointStore(journal.paths.checkpoints),
        journal=journal,
        members=members,
        identity=identify(job, table, devices, crew=crew, threads=job.devices.threads, axis=axis),
        every_s=job.train.checkpoint_every_s,
        crew=crew,
    )


def _compile(
    stack: Stack, members: Sequence[Member], keeper: Keeper, *, is_fed: bool, axis: int
) -> None:
    """Compiles the call; returns once all tasks are there."""
    if is_fed:
        # The first window is filled while the network compiles.
        for member in unfinished(members)[:1]:
            member.windows = with_first_ahead(member.make_windows(member.state.log.num_steps))
    if axis:
        if group := next_group(members, width=axis):
            with ExitStack() as seats:
                stack.stacked.compile(present(group, seats))
    else:
        stack.compile()
    if is_fed:
        stack.step.forget_rows()
    # From here on standing still counts: for all from the same moment.
    keeper.crew.gather(None)


def _train(
    loop: TrainingLoop, members: Sequence[Member], keeper: Keeper, attempt: TaskAttempt
) -> Pace:
    """Trains to the job's end; what training ended with is in the newest checkpoint."""
    with open_progress(epochs=members[0].plan.epochs) as show:
        loop = replace(loop, shows=(attempt.journal.show_progress, show))
        try:
            with attempt.watch.time("train"), attempt.crew.training():
                pace = loop.train(members)
        except (NonFiniteError, StoppedError):
            keeper.write()
            raise
        keeper.write()
    return pace


def _pause(train: TrainConfig, members: Sequence[Member], attempt: TaskAttempt) -> None:
    """Leaves the rest for later where a run waits for other points of its search.

    Raises:
        PausedError: If it does.
    """
    until = attempt.until
    if until is None or until.ends:
        return
    loss = float(np.mean([member.comparable_loss(train) for member in members]))
    is_halved = any(one.state.stop_reason == HALVED for one in members)
    if is_halved and not until.leaves_behind(loss):
        raise PausedError(until.epoch, loss)
    # It is left behind, or its patience has ended before: it waits for nobody, and is compared all
    # the same.
    attempt.journal.mark_rung(until.epoch, loss)
    for member in members:
        member.until = replace(until, ends=is_halved)
    attempt.journal.show_progress(overall_progress(members, train))


def _keep_best(train: TrainConfig, members: Sequence[Member]) -> None:
    """Leaves the weights that the job asks for: with patience those of the best epoch."""
    if (end := describe_end(members, train)) is not None:
        logger.info("%s.", end[0].upper() + end[1:])
    for member in members:
        if train.patience and member.state.stopping.best_epoch >= 0:
            with member.network.present() as variables:
                variables.restore_best()


def _announce(job: JobConfig, plan: Plan, devices: Devices, *, width: int, on_axis: bool) -> None:
    warmup_steps, num_members = job.train.warmup_steps, job.model.members
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
    if num_members > 1:
        logger.info(
            "%d members, %d at the same moment %s.",
            *(num_members, width),
            "in one call" if on_axis else f"with {job.devices.threads} thread(s) each",
        )
