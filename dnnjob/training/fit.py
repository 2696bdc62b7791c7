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
from typing import cast

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from dnnjob.clock import Stopwatch
from dnnjob.config import JobConfig, TrainConfig
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.folds import Folds, choose_folds
from dnnjob.data.order import Plan, StepPlan
from dnnjob.data.raw_columns import FloatArray
from dnnjob.data.windows import Window, make_windows
from dnnjob.errors import NonFiniteError, PausedError, StoppedError
from dnnjob.machine import trim_heap
from dnnjob.runs import Position
from dnnjob.tasks import Beside, TaskAttempt
from dnnjob.training.checkpoint import CheckpointStore
from dnnjob.training.evaluate import RowPredictor, make_predictor
from dnnjob.training.history import EpochLog, History
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
from dnnjob.training.network import Network, Stack, guest_kind, make_stack
from dnnjob.training.point_stack import PointTraining
from dnnjob.training.progress import open_progress
from dnnjob.training.resume import Keeper, identify
from dnnjob.training.stacked_members import Axis, next_group, present
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
    history: History
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
        losses = self.history.val_loss
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
            its own; a single one with those of the runs beside it.

    Raises:
        NonFiniteError: If more than half of the networks diverge; a checkpoint holds the last
            finite weights.
        StoppedError: If a signal asked for it; a checkpoint holds the state.
        PeerLostError: If another task is lost.
    """
    watch = attempt.watch
    is_guest = on_axis and attempt.beside is not None
    with watch.time("compile"):
        stack, members, prepared = _prepare(job, rows, devices, attempt=attempt, is_guest=is_guest)
    is_fed = prepared.make_feed is not None
    plan, summary = members[0].plan, stack.summary
    logger.info("%s", summary)
    with watch.time("compile"):
        if not on_axis:
            stack.trace()
        meanwhile()
    axis = lanes if on_axis else 0
    keeper = _restore(job, rows.fingerprint, devices, members=members, attempt=attempt, axis=axis)
    own_axis, lanes = 0 if is_guest else axis, 1 if is_guest else lanes
    loop = _make_loop(job, stack, keeper, lanes=lanes, is_fed=is_fed, axis=own_axis)
    if not is_guest:
        with watch.time("compile"):
            _compile(stack, members, loop, is_fed=is_fed)
    _announce(job, plan, devices, width=axis or loop.width, on_axis=on_axis)
    guest = None
    if is_guest:
        kind = guest_kind(job, plan, prepared.data, encoding=rows.encoding, devices=devices)
        narrow = partial(_narrow, keeper, attempt)
        guest = PointTraining(loop, members[0], stack.stacked, kind, axis, narrow)
    pace = _train(loop, members, keeper, attempt, guest)
    _pause(job.train, remaining(members), attempt, pace)
    _keep_best(job.train, remaining(members))
    fitted = _summed_up(job, loop, members, keeper, summary=summary, pace=pace)
    return replace(fitted, width=guest.width, on_axis=guest.width > 1) if guest else fitted


def _make_loop(
    job: JobConfig, stack: Stack, keeper: Keeper, *, lanes: int, is_fed: bool, axis: int
) -> TrainingLoop:
    """What trains members, `lanes` at a time, or `axis` of them in one call."""
    return TrainingLoop(
        stack.step,
        job,
        keep=keeper.keep,
        crew=keeper.crew,
        lanes=1 if is_fed or axis else lanes,
        axis=Axis(stack.stacked, axis, keeper.narrow) if axis else None,
        takes_turns=not is_fed,
    )


def _narrow(keeper: Keeper, attempt: TaskAttempt, width: int) -> None:
    keeper.narrow(width)
    if attempt.beside is not None:
        attempt.beside.company.narrow(width)


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
        history=History.mean([one.state.log for one in left.values()], width=loop.width),
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
    job: JobConfig,
    rows: WindowedRows,
    devices: Devices,
    *,
    attempt: TaskAttempt,
    is_guest: bool,
) -> tuple[Stack, list[Member], Prepared]:
    """The networks at their start, and what they train on.

    The rows stay with the step alone: zeros that stand for a window are as large as one.
    """
    rank = attempt.crew.task.rank
    prepared = rows.prepare(job, devices, first_replica=rank * len(devices.names))
    stack = make_stack(
        job,
        prepared.plan,
        prepared.data,
        encoding=rows.encoding,
        devices=devices,
        is_guest=is_guest,
    )
    return stack, _make_members(prepared, stack), prepared


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


def _restore(
    job: JobConfig,
    table: Fingerprint,
    devices: Devices,
    *,
    members: Sequence[Member],
    attempt: TaskAttempt,
    axis: int,
) -> Keeper:
    """What keeps the members, which go on from the newest checkpoint."""
    journal, crew = attempt.journal, attempt.crew
    keeper = Keeper(
        store=CheckpointStore(journal.paths.checkpoints),
        journal=journal,
        members=members,
        identity=identify(job, table, devices, crew=crew, threads=job.devices.threads, axis=axis),
        every_s=job.train.checkpoint_every_s,
        crew=crew,
    )
    keeper.restore()
    for member in members:
        member.stop_at(attempt.until)
    return keeper


def _compile(stack: Stack, members: Sequence[Member], loop: TrainingLoop, *, is_fed: bool) -> None:
    """Compiles the call; returns once all tasks are there."""
    if is_fed:
        # The first window is filled while the network compiles.
        for member in unfinished(members)[:1]:
            member.windows = with_first_ahead(member.make_windows(member.state.log.num_steps))
    if loop.axis is None:
        stack.compile()
    else:
        _compile_axis(loop.axis, members)
    if not stack.is_compiled:
        trim_heap()
    if is_fed:
        stack.step.forget_rows()
    # From here on standing still counts: for all from the same moment.
    loop.crew.gather(None)


def _compile_axis(axis: Axis, members: Sequence[Member]) -> None:
    while axis.width > 1 and (group := next_group(members, width=axis.width)):
        try:
            with ExitStack() as seats:
                axis.stacked.compile(present(group, seats))
            return
        except tf.errors.ResourceExhaustedError:
            if not axis.halve():
                raise


def _train(
    loop: TrainingLoop,
    members: Sequence[Member],
    keeper: Keeper,
    attempt: TaskAttempt,
    guest: PointTraining | None,
) -> Pace:
    """Trains to the job's end; what training ended with is in the newest checkpoint."""
    with open_progress(epochs=members[0].plan.epochs) as show:
        loop = replace(loop, shows=(attempt.journal.show_progress, show))
        try:
            if guest is not None and attempt.beside is not None and unfinished(members):
                guest.loop = loop
                pace = _train_beside(guest, attempt.beside, attempt.watch)
            else:
                with attempt.watch.time("train"), attempt.crew.training():
                    pace = loop.train(members)
        except (NonFiniteError, StoppedError):
            keeper.write()
            raise
        keeper.write()
    return pace


def _train_beside(guest: PointTraining, beside: Beside, watch: Stopwatch) -> Pace:
    """Trains with others, as long as there is memory for any."""
    try:
        if guest.width > 1 and (pace := beside.meet(guest)) is not None:
            return cast(Pace, pace)
    finally:
        watch.add("compile", guest.compile_s)
        watch.add("train", guest.pace.seconds)
    with watch.time("train"):
        return guest.loop.train([guest.member])


def _pause(train: TrainConfig, members: Sequence[Member], attempt: TaskAttempt, pace: Pace) -> None:
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
    attempt.journal.show_progress(overall_progress(members, train), pace.steps_per_s, 0.0)


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
    if num_members == 1 and on_axis:
        logger.info("Runs beside it: up to %d networks in one call.", width)
    elif num_members > 1:
        logger.info(
            "%d members, %d at the same moment %s.",
            *(num_members, width),
            "in one call" if on_axis else f"with {job.devices.threads} thread(s) each",
        )
