"""The compiled call: a range of training steps without Python between them.

step = CompiledStep(dnn, data, job=job, plan=plan, devices=devices)
outcome = step(state, Call(window.indices, seed=0, rates=rates, first_step=0, start=0, stop=6))
outcome = step(state, Call(window.indices, rows=step.place(parts), ...))    # of several windows
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.data.order import Plan
from dnnjob.training.hyperparameters import Hyperparameters
from dnnjob.training.network_state import NetworkState
from dnnjob.training.philox import philox_uniform
from dnnjob.training.row_chunks import validation_indices
from dnnjob.training.row_sums import RowSums
from dnnjob.training.strategy import Devices, Placed
from dnnjob.training.weight_update import WeightUpdate, known_after


class Stopping(NamedTuple):
    """State of early stopping: scalars that enter and leave every call."""

    best_loss: Any
    best_epoch: Any

    @classmethod
    def begin(cls) -> "Stopping":
        """Nothing seen yet."""
        return cls(best_loss=np.float32(np.inf), best_epoch=np.int32(-1))


@dataclass(frozen=True)
class ResidentData:
    """Standardized rows that every device holds.

    Attributes:
        x: Training inputs, `(num_rows, num_inputs)` float32, one copy a replica.
        y: Standardized training targets, `(num_rows,)`; or, with weights, `(num_rows, 2)`: the
            roots of the weights, whose mean is 1, stand beside them.
        x_validation: Validation inputs, or None without validation rows.
        y_validation: Validation targets, likewise.
        num_validation_rows: Rows of the two above.
    """

    x: Placed
    y: Placed
    x_validation: Placed = None
    y_validation: Placed = None
    num_validation_rows: int = 0


class Outcome(NamedTuple):
    """What a call brings back, as NumPy values.

    Attributes:
        stop: The step after the last that was taken; the failing one where `finite` is false.
        finite: False if a loss or gradient was not finite; its update was not made.
        patience_ended: True if early stopping ended the call.
        squared_errors: Sum of squared errors of each step of the window, `(num_steps,)`.
        validation_losses: Mean squared error after each epoch of the window, `(num_epochs,)`.
        stopping: State of early stopping after the call.
    """

    stop: int
    finite: bool
    patience_ended: bool
    squared_errors: np.ndarray
    validation_losses: np.ndarray
    stopping: Stopping

    @classmethod
    def of(cls, carry: "Carry") -> "Outcome":
        """What the loop variables of a call, as NumPy values, have come to."""
        return cls(
            stop=int(carry.step),
            finite=bool(carry.finite),
            patience_ended=bool(carry.patience_ended),
            squared_errors=carry.squared_errors,
            validation_losses=carry.validation_losses,
            stopping=Stopping(carry.best_loss, carry.best_epoch),
        )


class Validation(NamedTuple):
    """The rows that validate a network.

    Attributes:
        places: Their numbers in chunks, `(num_chunks, num_replicas, rows)`; -1 is padding.
        num_rows: Those that are no padding, a float32 scalar.
    """

    places: Any
    num_rows: Any


@dataclass(frozen=True)
class Call:
    """One execution of the compiled function: which steps of a window it takes.

    Attributes:
        indices: The window's index tensor, `(num_steps, num_replicas, rows_per_replica)`.
        seed: Of the network's dropout masks.
        rates: Learning rate of each step of the window, `(num_steps,)` float32.
        first_step: Number of the window's first step in the whole training.
        start: First step to take, counted within the window.
        stop: Step to stop before.
        stopping: State of early stopping so far.
        per_epoch: Steps of an epoch; None is as the plan has it.
        rows: The window's inputs and targets, as `place` gives them; None where resident.
        validation: The rows that validate; None is all validation rows.
    """

    indices: tf.Tensor
    seed: int
    rates: np.ndarray
    first_step: int
    start: int
    stop: int
    stopping: Stopping
    per_epoch: int | None = None
    rows: tuple[Placed, Placed] | None = None
    validation: Validation | None = None


class Rows(NamedTuple):
    """What a call computes on.

    Attributes:
        x: As `ResidentData` has it, like what follows.
        y: See there.
        x_validation: See there.
        y_validation: See there.
        validation: Which of these two validate.
    """

    x: Placed
    y: Placed
    x_validation: Placed
    y_validation: Placed
    validation: Validation


class Steps(NamedTuple):
    """Which steps a call takes, as tensors, so that one compilation serves all.

    Attributes:
        indices: Row numbers, `(num_steps, num_replicas, rows_per_replica)`.
        rates: Learning rates, `(num_steps,)`.
        per_epoch: Steps of an epoch.
        first_step: Number of the first in the whole training.
        start: The first to take.
        stop: The step to stop before.
        seed: Of the dropout masks.
        values: Dropout rate, penalty, clipping, decay, momentum, patience and least improvement.
    """

    indices: Any
    rates: Any
    per_epoch: Any
    first_step: Any
    start: Any
    stop: Any
    seed: Any
    values: Hyperparameters


class Carry(NamedTuple):
    """Loop variables of the compiled call."""

    step: tf.Tensor
    finite: tf.Tensor
    patience_ended: tf.Tensor
    squared_errors: tf.Tensor
    validation_losses: tf.Tensor
    best_loss: tf.Tensor
    best_epoch: tf.Tensor


class CompiledStep:
    """Training steps of networks of one shape on one table, compiled once.

    A network's variables are arguments of the call, updated in place. The range of steps, learning
    rates, seeds and other values are tensors, so that one compilation serves every call and every
    point of a sweep over them. What a loop variable selects is gathered, never sliced: XLA takes
    the bounds of a slice for constants and would compile anew for every range of steps.
    """

    def __init__(
        self,
        dnn: keras.Sequential,
        data: ResidentData,
        *,
        job: JobConfig,
        plan: Plan,
        devices: Devices,
    ) -> None:
        self._dnn, self._data, self._job = dnn, data, job
        self.plan, self._strategy, self._devices = plan, devices.strategy, devices
        self._values = Hyperparameters.of(job)
        self._has_patience = job.train.patience is not None
        self.validates = data.num_validation_rows > 0
        self._validation = self.validate_on(np.arange(data.num_validation_rows, dtype=np.int32))
        self._is_fused = is_fused = devices.xla and devices.num_replicas == 1
        self.update = WeightUpdate(dnn, job=job, strategy=devices.strategy, is_fused=is_fused)
        self._sums = RowSums(dnn, job=job, devices=devices, update=self.update)
        self._call = tf.function(self._train_range, jit_compile=is_fused, autograph=False)
        self._add_errors = tf.function(
            self._sums.squared_errors, jit_compile=is_fused, autograph=False
        )

    def __call__(self, state: NetworkState, call: Call) -> Outcome:
        """Takes the steps of a call, fewer where one fails or patience ends.

        Args:
            state: The network, changed in place.
            call: The steps.
        """
        loss, epoch = call.stopping
        best = Stopping(tf.constant(loss, tf.float32), tf.constant(epoch, tf.int32))
        carry = self._call(state, self.rows_of(call), self.steps_of(call), best)
        return Outcome.of(Carry(*(value.numpy() for value in carry)))

    def sums_for_stack(self) -> RowSums:
        """Sums over rows that may be traced for several networks at once."""
        return RowSums(
            self._dnn, job=self._job, devices=self._devices, update=self.update, draw=philox_uniform
        )

    def steps_of(self, call: Call) -> Steps:
        """The steps of a call as tensors."""
        steps: Steps = tf.nest.map_structure(tf.convert_to_tensor, self.values_of(call))
        return steps

    def values_of(self, call: Call) -> Steps:
        """The steps of a call as NumPy has them, but for the index tensor: many become one."""
        return Steps(
            indices=call.indices,
            rates=call.rates,
            per_epoch=np.int32(call.per_epoch or self.plan.steps_per_epoch),
            first_step=np.int32(call.first_step),
            start=np.int32(call.start),
            stop=np.int32(call.stop),
            seed=np.int64(call.seed),
            values=self._values,
        )

    def rows_of(self, call: Call) -> Rows:
        """What a call computes on."""
        x, y = call.rows or (self._data.x, self._data.y)
        return self._with_validation(x, y, call.validation or self._validation)

    def fixed(self) -> list[tf.Tensor]:
        """Weights of the network that never train: XLA takes no variable into a mapped loop."""
        return [tf.convert_to_tensor(one.value) for one in self._dnn.non_trainable_variables]

    def validate_on(self, rows: np.ndarray) -> Validation:
        """Some of the validation rows, by number, as a call takes them."""
        places = validation_indices(self._data.num_validation_rows, self._devices.num_replicas)
        numbers = np.full(self._data.num_validation_rows + 1, -1, np.int32)
        numbers[: len(rows)] = rows
        return Validation(tf.constant(numbers[places]), tf.constant(len(rows), tf.float32))

    def place(self, parts: Sequence[tuple[tf.Tensor, tf.Tensor]]) -> tuple[Placed, Placed]:
        """Inputs and targets of each local replica, on its device."""
        x, y = zip(*parts, strict=True)
        return self._devices.place_each(x), self._devices.place_each(y)

    def restart(self, job: JobConfig, data: ResidentData, dnn: keras.Sequential) -> None:
        """Takes a job of the same kind, its rows, and what of its networks never trains."""
        self._values, self._data = Hyperparameters.of(job), data
        for mine, other in zip(
            self._dnn.non_trainable_variables, dnn.non_trainable_variables, strict=True
        ):
            mine.assign(other)

    def release(self) -> None:
        """Lets go of all rows, until the next restart."""
        self._data = ResidentData(None, None)

    def forget_rows(self) -> None:
        """Lets go of the resident rows, which only stood for those of windows."""
        self._data = replace(self._data, x=None, y=None)

    def sum_squared_errors(
        self,
        state: NetworkState,
        parts: Sequence[tuple[tf.Tensor, tf.Tensor]],
        places: np.ndarray,
    ) -> float:
        """Sum of squared errors of the present weights, over all replicas.

        Args:
            state: The network.
            parts: Inputs and targets of each local replica.
            places: Rows of each replica's part, `(num_chunks, num_replicas, rows)`; -1 is padding.
        """
        return float(self._add_errors(state.weights, *self.place(parts), tf.constant(places)))

    def trace(self, state: NetworkState) -> None:
        """Traces the call, which keeps the interpreter busy; compiling it does not."""
        scalar = tf.TensorSpec((), tf.int32)
        steps = Steps(
            indices=tf.TensorSpec(self.plan.block_shape, tf.int32),
            rates=tf.TensorSpec(self.plan.block_shape[:1], tf.float32),
            per_epoch=scalar,
            first_step=scalar,
            start=scalar,
            stop=scalar,
            seed=tf.TensorSpec((), tf.int64),
            values=Hyperparameters(*(tf.TensorSpec((), value.dtype) for value in self._values)),
        )
        rows = self._with_validation(self._data.x, self._data.y, self._validation)
        stopping = Stopping(tf.TensorSpec((), tf.float32), scalar)
        self._call.get_concrete_function(state, rows, steps, stopping)

    def compile(self, state: NetworkState) -> None:
        """Compiles the call, traced or not; trains nothing."""
        # What replicas compile apart is compiled at the first step: one with targets of NaN, which
        # makes no update.
        y, stop = (
            (self._data.y, 0) if not self._sums.compiles_apart else (self._spoil(self._data.y), 1)
        )
        self(state, replace(self.no_steps(), stop=stop, rows=(self._data.x, y)))

    def no_steps(self) -> Call:
        """A call of no step."""
        shape = self.plan.block_shape
        return Call(
            tf.zeros(shape, tf.int32),
            seed=0,
            rates=np.zeros(shape[0], np.float32),
            first_step=0,
            start=0,
            stop=0,
            stopping=Stopping.begin(),
        )

    def _spoil(self, y: Placed) -> Placed:
        def on_replica(y: tf.Tensor) -> tf.Tensor:
            return y * math.nan

        return tf.function(lambda y: self._strategy.run(on_replica, (y,)), autograph=False)(y)

    def _with_validation(self, x: Placed, y: Placed, validation: Validation) -> Rows:
        return Rows(x, y, self._data.x_validation, self._data.y_validation, validation)

    def _train_range(
        self, state: NetworkState, rows: Rows, steps: Steps, stopping: Stopping
    ) -> Carry:
        def goes_on(carry: Carry) -> tf.Tensor:
            return (carry.step < steps.stop) & carry.finite & ~carry.patience_ended

        def take_step(carry: Carry) -> tuple[Carry]:
            stream = tf.stack([steps.seed, tf.cast(steps.first_step + carry.step, tf.int64)])
            indices = tf.gather(steps.indices, carry.step)
            gradients, error, finite = self._sums.gradients(
                state.weights, rows.x, rows.y, indices, stream, steps.values
            )
            rate = tf.gather(steps.rates, carry.step)
            self.update.apply_if(finite, state, gradients, rate, steps.values)
            carry = carry._replace(
                step=carry.step + tf.cast(finite, tf.int32),
                finite=finite,
                squared_errors=put(carry.squared_errors, carry.step, error),
            )
            if self._data.num_validation_rows:
                carry = self._validate_at_epoch_end(carry, state, rows, steps)
            return (carry,)

        num_steps = int(steps.indices.shape[0])
        num_epochs = max(1, num_steps // self.plan.steps_per_epoch)
        carry = self.begin(steps.start, stopping, num_steps=num_steps, num_epochs=num_epochs)
        ended: tuple[Carry] = tf.while_loop(goes_on, take_step, (carry,), parallel_iterations=1)
        return ended[0]

    def _validate_at_epoch_end(
        self, carry: Carry, state: NetworkState, rows: Rows, steps: Steps
    ) -> Carry:
        ended = carry.finite & (tf.truncatemod(carry.step, steps.per_epoch) == 0)
        loss = tf.cond(
            ended,
            lambda: self._validation_loss(state.weights, rows),
            lambda: tf.constant(0.0, tf.float32),
        )
        carry, better = self.judge(carry, steps, loss, ended)
        if state.best and self._is_fused:
            self._choose_best(better, state)
        elif state.best:
            tf.cond(better, lambda: self._keep_best(state), tf.no_op)
        return carry

    def begin(
        self, step: tf.Tensor, stopping: Stopping, *, num_steps: int, num_epochs: int
    ) -> Carry:
        """Loop variables of a call before its first step, of a window of so many at most."""
        return Carry(
            step=step,
            finite=tf.constant(True),
            patience_ended=tf.constant(False),
            squared_errors=tf.zeros((num_steps,)),
            validation_losses=tf.zeros((num_epochs,)),
            best_loss=stopping.best_loss,
            best_epoch=stopping.best_epoch,
        )

    def judge(
        self, carry: Carry, steps: Steps, loss: tf.Tensor, ended: tf.Tensor
    ) -> tuple[Carry, tf.Tensor]:
        """Keeps the validation loss of an epoch; whether it is the best so far.

        Args:
            carry: The loop variables after a step.
            steps: The steps of the call.
            loss: Mean squared error of the validation rows.
            ended: Whether an epoch has; if not, nothing changes.
        """
        place = tf.maximum(tf.truncatediv(carry.step, steps.per_epoch) - 1, 0)
        kept = tf.where(ended, loss, tf.gather(carry.validation_losses, place))
        better = ended & (loss < carry.best_loss - steps.values.min_delta)
        epoch = tf.truncatediv(steps.first_step, steps.per_epoch) + place
        best_epoch = tf.where(better, epoch, carry.best_epoch)
        waited_out = tf.constant(False)
        if self._has_patience:
            waited_out = ended & (epoch - best_epoch >= steps.values.patience)
        carry = carry._replace(
            validation_losses=put(carry.validation_losses, place, kept),
            best_loss=tf.where(better, loss, carry.best_loss),
            best_epoch=best_epoch,
            patience_ended=carry.patience_ended | waited_out,
        )
        return carry, better

    def _validation_loss(self, weights: Sequence[tf.Variable], rows: Rows) -> tf.Tensor:
        places, num_rows = rows.validation
        total = self._sums.squared_errors(weights, rows.x_validation, rows.y_validation, places)
        return total / num_rows

    def _choose_best(self, better: tf.Tensor, state: NetworkState) -> None:
        """The same without a conditional, around which XLA copies what it may change."""
        for best, variable in zip(state.best, state.weights, strict=True):
            kept = tf.where(better, variable, best)
            best.assign(kept)
            better = known_after(kept, better)

    def _keep_best(self, state: NetworkState) -> tf.Operation:
        for best, variable in zip(state.best, state.weights, strict=True):
            self._strategy.extended.update(
                best, lambda best, weights: best.assign(weights), args=(variable,), group=False
            )
        return tf.no_op()


def put(vector: tf.Tensor, at: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """The vector with a value at a place."""
    return tf.tensor_scatter_nd_update(vector, [[at]], [value])
