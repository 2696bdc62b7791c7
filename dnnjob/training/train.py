"""The training loop: decides how far each call goes and when to stop, and computes nothing.

loop = TrainingLoop(step, network, plan, job, keep=keep, crew=crew, shows=shows)
pace = loop.train(state)
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dnnjob.config import JobConfig, TrainConfig
from dnnjob.data.order import Plan, StepPlan, WindowPlan
from dnnjob.data.windows import Window, make_windows
from dnnjob.errors import NonFiniteError
from dnnjob.runs import Position, Progress
from dnnjob.tasks import Crew
from dnnjob.training.history import EpochLog
from dnnjob.training.network import Network
from dnnjob.training.progress import Show
from dnnjob.training.schedule import learning_rates
from dnnjob.training.step import CompiledStep, Outcome, Stopping
from dnnjob.training.strategy import Placed

# A call this long costs nothing in speed and lets a bar, a checkpoint or a stop come in time.
_SECONDS_A_CALL = 0.5
_MAX_GROWTH = 8

EPOCHS_DONE, PATIENCE_ENDED = "epochs", "patience"


@dataclass
class TrainingState:
    """Where training stands between two calls: what a checkpoint holds beside the weights."""

    log: EpochLog
    stopping: Stopping
    stop_reason: str | None = None
    """Why training ended, `epochs` or `patience`; None while it goes on."""

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

    def describe_end(self, train: TrainConfig) -> str | None:
        """Where training ended and which epoch is kept; None where it is the last of the job."""
        epoch, epochs, kept = self.log.num_epochs, self.log.plan.epochs, self.kept_epoch(train)
        if self.stop_reason == PATIENCE_ENDED:
            where = f"stopped at epoch {epoch} of {epochs}"
            return f"{where} (patience {train.patience}), epoch {kept} kept"
        if self.stop_reason == EPOCHS_DONE and kept < epoch:
            return f"epoch {kept} of {epochs} kept, whose validation loss is least"
        return None

    def progress(self, train: TrainConfig) -> Progress:
        """What `status.json` shows."""
        return Progress(
            epoch=self.log.num_epochs,
            epochs=self.log.plan.epochs,
            loss=_last_finite(self.log.losses),
            val_loss=_last_finite(self.log.validation_losses),
            end=self.describe_end(train),
        )


@dataclass(frozen=True)
class Pace:
    """Steps that an attempt has taken, and the seconds they took."""

    steps: int = 0
    seconds: float = 0.0

    @property
    def steps_per_s(self) -> float:
        """Speed of this attempt so far, 0 before its first step."""
        return self.steps / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class TrainingLoop:
    """What a training needs besides its state.

    Attributes:
        step: The compiled call.
        network: What it changes.
        plan: Steps of the job.
        job: The job.
        keep: Called after every call to write a checkpoint where one is due.
        crew: The tasks of the run: agrees on the length of each call, or to stop.
        shows: Told after every call.
        windows: The windows from that of the state on; those of a resident table, if None.
        validate: Validation loss of the present weights, where calls do not validate; tells what it
            is given that it gets on.
    """

    step: CompiledStep
    network: Network
    plan: Plan
    job: JobConfig
    keep: Callable[[TrainingState], None]
    crew: Crew
    shows: tuple[Show, ...] = ()
    windows: Iterator[Window] | None = None
    validate: Callable[[Callable[[], None]], float] | None = None

    def train(self, state: TrainingState) -> Pace:
        """Trains from `state` to the job's end; the weights and `state` change in place.

        Raises:
            NonFiniteError: If a loss or gradient is not finite; the weights are the last finite.
            StoppedError: If a signal asked for it.
            PeerLostError: If another task is lost.
        """
        pace = Pace()
        if state.stop_reason is not None:
            self._show(state, pace)
            return pace
        size = 1
        for window in self._windows(state):
            rows = None if window.rows is None else self.step.place(window.rows)
            while (start := state.log.num_steps - window.first_step) < window.num_steps:
                size = self.crew.agree(size)
                began = time.perf_counter()
                outcome = self._call(window, state, rows=rows, start=start, size=size)
                seconds = time.perf_counter() - began
                self._record(window, state, outcome, start=start, seconds=seconds)
                if self._validate(state) or outcome.patience_ended:
                    state.stop_reason = PATIENCE_ENDED
                elif state.log.num_steps == self.plan.num_steps:
                    state.stop_reason = EPOCHS_DONE
                pace = Pace(pace.steps + outcome.stop - start, pace.seconds + seconds)
                size = _next_size(size, seconds)
                self._show(state, pace)
                if state.stop_reason == PATIENCE_ENDED:
                    return pace
                self.keep(state)
            # Its memory is wanted for the one after the next, which is filled from here on.
            del window, rows
        return pace

    def _show(self, state: TrainingState, pace: Pace) -> None:
        for show in self.shows:
            show(state.progress(self.job.train), pace.steps_per_s, self._seconds_left(state, pace))

    def _windows(self, state: TrainingState) -> Iterator[Window]:
        if self.windows is not None:
            return self.windows
        if not isinstance(self.plan, StepPlan):
            raise TypeError("A table of several windows needs a source of windows.")
        return make_windows(self.plan, seed=self.network.seed, first_step=state.log.num_steps)

    def _call(
        self,
        window: Window,
        state: TrainingState,
        *,
        rows: tuple[Placed, Placed] | None,
        start: int,
        size: int,
    ) -> Outcome:
        with self.network.present() as variables:
            return self.step(
                variables,
                window.indices,
                seed=self.network.seed,
                rows=rows,
                rates=self._rates(window),
                first_step=window.first_step,
                start=start,
                stop=min(start + size, window.num_steps),
                stopping=state.stopping,
            )

    def _rates(self, window: Window) -> np.ndarray:
        steps = np.arange(window.first_step, window.first_step + len(window.indices))
        return learning_rates(self.job.train, steps=steps, num_steps=self.plan.num_steps)

    def _record(
        self, window: Window, state: TrainingState, outcome: Outcome, *, start: int, seconds: float
    ) -> None:
        done = slice(start, outcome.stop)
        completed = state.log.num_epochs - window.first_step // self.plan.steps_per_epoch
        state.log.add(
            outcome.squared_errors[done],
            self._rates(window)[done],
            outcome.validation_losses[completed:] if self.step.validates else None,
            seconds=seconds,
        )
        state.stopping = outcome.stopping
        if not outcome.finite:
            raise NonFiniteError(
                "Loss and gradients must stay finite, but they did not in epoch "
                f"{state.log.num_epochs + 1}, batch {len(state.log.pending_errors) + 1}. "
                f"Lower train.learning_rate ({self.job.train.learning_rate}), set "
                "train.clip_norm, or look for extreme values in the table."
            )

    def _validate(self, state: TrainingState) -> bool:
        """Validates at the end of an epoch where calls do not; whether patience has ended."""
        if self.validate is None or state.log.pending_errors:
            return False
        loss, epoch = self.validate(self.crew.advance), state.log.num_epochs - 1
        state.log.validation_losses.append(loss)
        if np.float32(loss) < state.stopping.best_loss - np.float32(self.job.train.min_delta):
            state.stopping = Stopping(np.float32(loss), np.int32(epoch))
            with self.network.present() as variables:
                variables.keep_best()
        patience = self.job.train.patience
        return patience is not None and epoch - int(state.stopping.best_epoch) >= patience

    def _seconds_left(self, state: TrainingState, pace: Pace) -> float:
        steps = 0 if state.stop_reason else self.plan.num_steps - state.log.num_steps
        return steps / (pace.steps_per_s or 1.0)


def _last_finite(losses: Sequence[float]) -> float | None:
    # A loss can overflow in the sum over an epoch's finite batches.
    return losses[-1] if losses and np.isfinite(losses[-1]) else None


def _next_size(size: int, seconds: float) -> int:
    wanted = size * _SECONDS_A_CALL / max(seconds, 1e-6)
    return max(1, round(min(wanted, size * _MAX_GROWTH)))
