"""The members of a run on their way: where each stands, and what its next steps train on.

member = Member(network, plan, TrainingState.begin(plan), make_windows)
num_steps = member.train(step, job.train, size=100)
overall_progress([member], job.train)
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dnnjob.config import TrainConfig
from dnnjob.data.order import Plan, WindowPlan
from dnnjob.data.windows import Window
from dnnjob.errors import NonFiniteError
from dnnjob.runs import Position, Progress
from dnnjob.tasks import Until
from dnnjob.text import spanned
from dnnjob.training.history import EpochLog
from dnnjob.training.network import Network
from dnnjob.training.schedule import learning_rates
from dnnjob.training.step import Call, CompiledStep, Outcome, Stopping, Validation
from dnnjob.training.strategy import Placed

logger = logging.getLogger(__name__)

EPOCHS_DONE, PATIENCE_ENDED, HALVED, DIVERGED = "epochs", "patience", "halved", "nan"


@dataclass
class TrainingState:
    """Where a network stands between two calls: what a checkpoint holds beside its variables."""

    log: EpochLog
    stopping: Stopping
    stop_reason: str | None = None
    """Why training ended, `epochs`, `patience`, `halved` or `nan`; None while it goes on."""

    @classmethod
    def begin(cls, plan: Plan) -> "TrainingState":
        """Nothing trained yet."""
        return cls(EpochLog(plan), Stopping.begin())

    @property
    def position(self) -> Position:
        """The next batch to train."""
        plan, batch = self.log.plan, len(self.log.pending_errors)
        window = 0
        if isinstance(plan, WindowPlan):
            window = min(batch // plan.steps_per_window, plan.windows_per_epoch - 1)
            batch -= window * plan.steps_per_window
        return Position(epoch=self.log.num_epochs, window=window, batch=batch)

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the least validation loss, from 1; None without validation rows."""
        best = int(self.stopping.best_epoch)
        return best + 1 if best >= 0 else None

    def kept_epoch(self, train: TrainConfig) -> int:
        """Epoch whose weights training leaves, from 1: with patience the best, else the last."""
        return (train.patience and self.best_epoch) or self.log.num_epochs


@dataclass(eq=False)
class Member:
    """One network on its way.

    Attributes:
        name: What errors call it; empty where it is alone.
        network: Its variables.
        state: Where it stands.
        make_windows: Its windows from that of a step on.
        validation: The rows that validate it; None is all validation rows.
        validate: Validation loss of its present weights, where calls do not validate; tells what it
            is given that it gets on.
        windows: Those that come next, once they are being filled.
        until: Where it stops short of its last epoch; None is nowhere.
    """

    network: Network
    state: TrainingState
    make_windows: Callable[[int], Iterator[Window]]
    name: str = ""
    validation: Validation | None = None
    validate: Callable[[Callable[[], None]], float] | None = None
    windows: Iterator[Window] | None = None
    until: Until | None = None
    _window: Window | None = None
    _rows: tuple[Placed, Placed] | None = None

    @property
    def plan(self) -> Plan:
        """Its steps."""
        return self.state.log.plan

    def stop_at(self, until: Until | None) -> None:
        """Has it stop short of its last epoch, or at once where it has come so far."""
        self.until = until
        if self.state.stop_reason is None and self.state.log.num_steps >= self._num_steps:
            self.state.stop_reason = HALVED

    def comparable_loss(self, train: TrainConfig) -> float:
        """Validation loss by which points are compared: the last; with patience the best so far."""
        if train.patience and self.state.best_epoch:
            return float(self.state.stopping.best_loss)
        losses = self.state.log.validation_losses
        return losses[-1] if losses else math.inf

    @property
    def _num_steps(self) -> int:
        """Steps to where it stops."""
        if self.until is None:
            return self.plan.num_steps
        return min(self.plan.num_steps, self.until.epoch * self.plan.steps_per_epoch)

    def train(
        self, step: CompiledStep, train: TrainConfig, *, size: int, advance: Callable[[], None]
    ) -> int:
        """Takes at most `size` steps, none beyond a window's end; returns how many it took.

        Where a loss or gradient is not finite it ends as `nan`; the weights are the last finite.
        """
        call, began = self.next_call(step, train, size=size), time.perf_counter()
        with self.network.present() as variables:
            outcome = step(variables, call)
        seconds = time.perf_counter() - began
        self.take(outcome, call, step, train, seconds=seconds, advance=advance)
        return outcome.stop - call.start

    def next_call(self, step: CompiledStep, train: TrainConfig, *, size: int) -> Call:
        """Its next steps, at most `size`, none beyond a window's end."""
        window, start = self._next_window(step), self._step_in_window
        return Call(
            window.indices,
            seed=self.network.seed,
            rates=self._rates(window, train),
            first_step=window.first_step,
            start=start,
            stop=min(start + size, window.num_steps, self._num_steps - window.first_step),
            stopping=self.state.stopping,
            per_epoch=self.plan.steps_per_epoch,
            rows=self._rows,
            validation=self.validation,
        )

    def take(
        self,
        outcome: Outcome,
        call: Call,
        step: CompiledStep,
        train: TrainConfig,
        *,
        seconds: float,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes what a call has come to, and ends where it should.

        Args:
            outcome: Of the call.
            call: The last of `next_call`.
            step: What computed it.
            train: `[train]` of the job.
            seconds: Wall time that its steps took.
            advance: Called while it validates, where calls do not.
        """
        self._record(outcome, call, seconds=seconds, validates=step.validates)
        if not outcome.finite:
            self.state.stop_reason = DIVERGED
            if self.name:
                logger.warning("%s", self.describe_divergence(train, but=": the others train on"))
        elif self._validate(train, advance) or outcome.patience_ended:
            self.state.stop_reason = PATIENCE_ENDED
        elif self.state.log.num_steps == self.plan.num_steps:
            self.state.stop_reason = EPOCHS_DONE
        elif self.state.log.num_steps == self._num_steps:
            self.state.stop_reason = HALVED
        if self.state.stop_reason or self._step_in_window == self._window_steps:
            # Its memory is wanted for the one after the next, which is filled from here on.
            self._window = self._rows = None
        if self.state.stop_reason:
            if self.state.stop_reason == EPOCHS_DONE and self.windows is not None:
                # There is none left; what fills them tells what it has read.
                next(self.windows, None)
            self.windows = None

    def _next_window(self, step: CompiledStep) -> Window:
        if self._window is None:
            if self.windows is None:
                self.windows = self.make_windows(self.state.log.num_steps)
            self._window = next(self.windows)
            rows = self._window.rows
            self._rows = None if rows is None else step.place(rows)
        return self._window

    @property
    def _step_in_window(self) -> int:
        return self.state.log.num_steps - (self._window.first_step if self._window else 0)

    @property
    def _window_steps(self) -> int:
        return self._window.num_steps if self._window else 0

    def _rates(self, window: Window, train: TrainConfig) -> np.ndarray:
        steps = np.arange(window.first_step, window.first_step + len(window.indices))
        return learning_rates(train, steps=steps, num_steps=self.plan.num_steps)

    def _record(self, outcome: Outcome, call: Call, *, seconds: float, validates: bool) -> None:
        state, done = self.state, slice(call.start, outcome.stop)
        completed = state.log.num_epochs - call.first_step // self.plan.steps_per_epoch
        state.log.add(
            outcome.squared_errors[done],
            call.rates[done],
            outcome.validation_losses[completed:] if validates else None,
            seconds=seconds,
        )
        state.stopping = outcome.stopping

    def _validate(self, train: TrainConfig, advance: Callable[[], None]) -> bool:
        """Validates at the end of an epoch where calls do not; whether patience has ended."""
        state = self.state
        if self.validate is None or state.log.pending_errors:
            return False
        loss, epoch = self.validate(advance), state.log.num_epochs - 1
        state.log.validation_losses.append(loss)
        if np.float32(loss) < state.stopping.best_loss - np.float32(train.min_delta):
            state.stopping = Stopping(np.float32(loss), np.int32(epoch))
            with self.network.present() as variables:
                variables.keep_best()
        patience = train.patience
        return patience is not None and epoch - int(state.stopping.best_epoch) >= patience

    def describe_divergence(self, train: TrainConfig, *, but: str = "") -> str:
        """Where it diverged, what comes of it beside others, and the way out."""
        log = self.state.log
        whose = f" of {self.name} (seed {self.network.seed})" if self.name else ""
        return (
            f"Loss and gradients must stay finite, but they{whose} did not in epoch "
            f"{log.num_epochs + 1}, batch {len(log.pending_errors) + 1}{but}. "
            f"Lower train.learning_rate ({train.learning_rate}), set "
            "train.clip_norm, or look for extreme values in the table."
        )


def remaining(members: Sequence[Member]) -> list[Member]:
    """Those that have not diverged: the model is their mean."""
    return [member for member in members if member.state.stop_reason != DIVERGED]


def refuse_divergence(members: Sequence[Member], train: TrainConfig) -> None:
    """Ends a run of which less than half of the members remain.

    Raises:
        NonFiniteError: If so; it names the first that diverged.
    """
    diverged = [member for member in members if member.state.stop_reason == DIVERGED]
    if 2 * len(diverged) <= len(members):
        return
    count = f", nor did those of {len(diverged) - 1} other(s) of {len(members)} members"
    raise NonFiniteError(
        diverged[0].describe_divergence(train, but=count if len(diverged) > 1 else "")
    )


def unfinished(members: Sequence[Member]) -> list[Member]:
    """Those that train on, in their order."""
    return [member for member in members if member.state.stop_reason is None]


def mean_position(members: Sequence[Member]) -> Position:
    """Where the members stand in their mean; of a single one, its next batch."""
    if len(members) == 1:
        return members[0].state.position
    plan = members[0].plan
    steps = sum(member.state.log.num_steps for member in members) // len(members)
    epoch, batch = divmod(steps, plan.steps_per_epoch)
    return Position(epoch=epoch, batch=batch)


def overall_progress(members: Sequence[Member], train: TrainConfig) -> Progress:
    """What `status.json` shows: the mean of the members, at the epoch of the last of them."""
    members = remaining(members)
    logs = [member.state.log for member in members]
    epoch = min(log.num_epochs for log in (m.state.log for m in unfinished(members) or members))
    return Progress(
        epoch=epoch,
        epochs=logs[0].plan.epochs,
        loss=_mean_last([log.losses for log in logs]),
        val_loss=_mean_last([log.validation_losses for log in logs]),
        end=describe_end(members, train),
    )


def describe_end(members: Sequence[Member], train: TrainConfig) -> str | None:
    """Where training ended and which epoch is kept; None where it is the last of the job."""
    members = remaining(members)
    states = [member.state for member in members]
    if any(state.stop_reason is None for state in states):
        return None
    epochs = [state.log.num_epochs for state in states]
    kept = [state.kept_epoch(train) for state in states]
    most = states[0].log.plan.epochs
    stopped = sum(state.stop_reason == PATIENCE_ENDED for state in states)
    who = "" if len(members) == 1 else f"{stopped} of {len(members)} members "
    if stopped:
        where = f"{who}stopped at epoch {spanned(epochs)} of {most}"
        return f"{where} (patience {train.patience}), epoch {spanned(kept)} kept"
    if any(one.until and one.until.ends and one.state.stop_reason == HALVED for one in members):
        return f"stopped at epoch {spanned(epochs)} of {most}: better points of its search went on"
    if kept < epochs:
        return f"epoch {spanned(kept)} of {most} kept, whose validation loss is least"
    return None


def _mean_last(losses: Sequence[Sequence[float]]) -> float | None:
    # A loss can overflow in the sum over an epoch's finite batches.
    last = [one[-1] for one in losses if one]
    return float(np.mean(last)) if last and np.isfinite(last).all() else None
