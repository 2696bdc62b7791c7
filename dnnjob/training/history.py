"""What training leaves behind, epoch by epoch.

log = EpochLog(plan)
log.add(errors, start=0, seconds=0.4, rates=rates)
log.losses                         # one float a whole epoch
History.mean([log, other], width=2).loss
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dnnjob.data.order import Plan

Floats = npt.NDArray[np.float64]


@dataclass
class EpochLog:
    """Loss, learning rate and seconds of each whole epoch, from the errors of its steps.

    Sums are float64 over an epoch's steps in their order, so how the steps were cut into calls
    and attempts does not show.
    """

    plan: "Plan"
    losses: list[float] = field(default_factory=list)
    validation_losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    pending_errors: list[float] = field(default_factory=list)
    pending_seconds: float = 0.0

    @property
    def num_epochs(self) -> int:
        """Whole epochs so far."""
        return len(self.losses)

    @property
    def num_steps(self) -> int:
        """Steps so far."""
        return self.num_epochs * self.plan.steps_per_epoch + len(self.pending_errors)

    def add(
        self,
        squared_errors: npt.NDArray[np.float32],
        rates: npt.NDArray[np.float32],
        validation_losses: npt.NDArray[np.float32] | None,
        *,
        seconds: float,
    ) -> None:
        """Adds the steps of one call.

        Args:
            squared_errors: Sum of squared errors of each step, `(num_steps,)`.
            rates: Learning rate of each step, likewise.
            validation_losses: Loss after each epoch the call completes, None without any rows.
            seconds: Wall time of the call.
        """
        each = seconds / max(1, len(squared_errors))
        completed = 0
        for error, rate in zip(squared_errors.tolist(), rates.tolist(), strict=True):
            self.pending_errors.append(error)
            self.pending_seconds += each
            if len(self.pending_errors) == self.plan.steps_per_epoch:
                self._complete_epoch(rate)
                if validation_losses is not None:
                    self.validation_losses.append(float(validation_losses[completed]))
                completed += 1

    def _complete_epoch(self, rate: float) -> None:
        self.losses.append(float(np.sum(np.array(self.pending_errors))) / self.plan.num_rows)
        self.learning_rates.append(rate)
        self.seconds.append(self.pending_seconds)
        self.pending_errors, self.pending_seconds = [], 0.0

    def to_arrays(self) -> dict[str, Floats]:
        """Everything as float64 arrays, for a checkpoint."""
        return {
            "history_loss": np.array(self.losses),
            "history_val_loss": np.array(self.validation_losses),
            "history_learning_rate": np.array(self.learning_rates),
            "history_seconds": np.array(self.seconds),
            "history_pending": np.array([*self.pending_errors, self.pending_seconds]),
        }

    @classmethod
    def from_arrays(cls, plan: "Plan", arrays: Mapping[str, npt.NDArray[np.float64]]) -> "EpochLog":
        """The log that `to_arrays` described."""
        *errors, seconds = arrays["history_pending"].tolist()
        return cls(
            plan,
            losses=arrays["history_loss"].tolist(),
            validation_losses=arrays["history_val_loss"].tolist(),
            learning_rates=arrays["history_learning_rate"].tolist(),
            seconds=arrays["history_seconds"].tolist(),
            pending_errors=errors,
            pending_seconds=seconds,
        )


@dataclass(frozen=True, eq=False)
class History:
    """Training epoch by epoch, of several networks in the mean, each over those that trained it.

    Attributes:
        loss: Mean squared error, on the trained scale, `(num_epochs,)`.
        val_loss: The same of the validation rows; None without any, NaN where not computed.
        learning_rate: Rate of the epoch's last step.
        seconds: Wall time, where so many networks trained at the same moment as there were lanes.
    """

    loss: Floats
    val_loss: Floats | None
    learning_rate: Floats
    seconds: Floats

    @classmethod
    def mean(cls, logs: Sequence[EpochLog], *, width: int) -> "History":
        """The mean of some logs, of networks `width` of which trained at the same moment."""
        most = max(logs, key=lambda log: log.num_epochs)
        validates = any(log.validation_losses for log in logs)
        return cls(
            loss=_mean([log.losses for log in logs]),
            val_loss=_mean([log.validation_losses for log in logs]) if validates else None,
            learning_rate=np.array(most.learning_rates),
            seconds=np.sum([_padded(log.seconds, most.num_epochs, 0.0) for log in logs], 0) / width,
        )


def _mean(columns: Sequence[Sequence[float]]) -> Floats:
    most = max(map(len, columns))
    padded = np.stack([_padded(column, most, np.nan) for column in columns])
    mean: Floats = np.nanmean(padded, axis=0)
    return mean


def _padded(column: Sequence[float], size: int, fill: float) -> Floats:
    return np.array([*column, *[fill] * (size - len(column))], dtype=np.float64)
