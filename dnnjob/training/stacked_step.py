"""The compiled call over several networks of one kind, side by side on a leading axis.

stacked = StackedStep(step)
outcomes = stacked(states, calls, ended=[False, False, True])

A small network leaves most of a GPU idle: its steps are bound by the launches of kernels, of which
a step has as many for all networks as for one (docs/decisions/stack.md).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnjob.training.network_state import NetworkState
from dnnjob.training.step import (
    Call,
    Carry,
    CompiledStep,
    Outcome,
    Rows,
    Steps,
    Stopping,
    Validation,
    put,
)


class Variables(NamedTuple):
    """What training changes in the networks, as values with a leading axis.

    Attributes:
        weights: As `NetworkState` has them, like what follows.
        slots: See there.
        updates: Its `iterations`.
        best: See there.
    """

    weights: list[Any]
    slots: list[list[Any]]
    updates: Any
    best: list[Any]

    @classmethod
    def of(cls, state: NetworkState) -> "Variables":
        """Those of one network."""
        return cls(state.weights, state.slots, state.iterations, state.best)


class StackedStep:
    """Steps of several networks, each with rows, rates, masks and an end of its own.

    The arithmetic is that of `CompiledStep`, which TensorFlow maps over a leading axis. A network
    that has ended is frozen by a choice between old and new, so that no bit of it changes, nor, by
    whatever it computes, one of another.
    """

    def __init__(self, step: CompiledStep) -> None:
        """Takes what computes one network."""
        self.step = step
        self._sums, self._update = step.sums_for_stack(), step.update
        self._calls: dict[int, Any] = {}
        self._indices: tuple[list[tf.Tensor], tf.Tensor] | None = None

    def __call__(
        self, states: Sequence[NetworkState], calls: Sequence[Call], *, ended: Sequence[bool]
    ) -> list[Outcome]:
        """Takes the steps of all calls, fewer where one fails or patience ends.

        All end early as soon as patience has ended half of them, so that the others go on in a
        narrower call, from a step that no clock chooses.

        Args:
            states: The networks, changed in place.
            calls: Of each, equally many steps or none.
            ended: Which of them patience has ended before.
        """
        variables = tf.nest.map_structure(_stack, *map(Variables.of, states))
        given = variables, *self._inputs(calls, ended)
        if len(states) not in self._calls:
            self._calls[len(states)] = _compiled(self._train_ranges, given)
        variables, carry = self._calls[len(states)](*given)
        self._give_back(states, variables)
        values = Carry(*(value.numpy() for value in carry))
        return [Outcome.of(Carry(*(value[n] for value in values))) for n in range(len(states))]

    def compile(self, states: Sequence[NetworkState]) -> None:
        """Traces and compiles the call for so many networks; trains nothing."""
        calls = [self._nothing()] * len(states)
        self(states, calls, ended=[False] * len(states))

    def release(self) -> None:
        """Lets go of all rows and of their order, until the step's next restart."""
        self._indices = None
        self.step.release()

    def describe(self, states: Sequence[NetworkState]) -> str:
        """What XLA makes of the call for so many networks, as HLO."""
        self.compile(states)
        variables = tf.nest.map_structure(_stack, *map(Variables.of, states))
        given = variables, *self._inputs([self._nothing()] * len(states), [False] * len(states))
        call = self._calls[len(states)]
        text: str = call.experimental_get_compiler_ir(*given)(stage="optimized_hlo")
        return text

    def _nothing(self) -> Call:
        """A call of no step."""
        shape = self.step.plan.block_shape
        return Call(
            tf.zeros(shape, tf.int32),
            seed=0,
            rates=np.zeros(shape[0], np.float32),
            first_step=0,
            start=0,
            stop=0,
            stopping=Stopping.begin(),
        )

    def _inputs(
        self, calls: Sequence[Call], ended: Sequence[bool]
    ) -> tuple[Rows, Validation, Steps, Stopping, tf.Tensor]:
        rows = [self.step.rows_of(call) for call in calls]
        steps = [self.step.steps_of(call) for call in calls]
        stopping = Stopping(
            tf.constant([call.stopping.best_loss for call in calls], tf.float32),
            tf.constant([call.stopping.best_epoch for call in calls], tf.int32),
        )
        # The index tensors are the largest of what enters, and serve many calls.
        indices = [one.indices for one in steps]
        if self._indices is None or not _are_same(self._indices[0], indices):
            self._indices = indices, tf.stack(indices)
        others = [one._replace(indices=one.start) for one in steps]
        stacked = tf.nest.map_structure(_stack, *others)._replace(indices=self._indices[1])
        validation = tf.nest.map_structure(_stack, *(one.validation for one in rows))
        return rows[0], validation, stacked, stopping, tf.constant(ended)

    @staticmethod
    def _give_back(states: Sequence[NetworkState], variables: Variables) -> None:
        for stacked, *own in zip(
            tf.nest.flatten(variables),
            *(tf.nest.flatten(Variables.of(state)) for state in states),
            strict=True,
        ):
            for variable, value in zip(own, tf.unstack(stacked), strict=True):
                variable.assign(value)

    def _train_ranges(
        self,
        variables: Variables,
        rows: Rows,
        validation: Validation,
        steps: Steps,
        stopping: Stopping,
        ended: tf.Tensor,
    ) -> tuple[Variables, Carry]:
        num_steps = int(steps.indices.shape[1])
        self._sums.read_fixed()

        def still(carry: Carry) -> tf.Tensor:
            return (carry.step < steps.stop) & carry.finite & ~carry.patience_ended

        def goes_on(variables: Variables, carry: Carry) -> tf.Tensor:
            num_ended = tf.reduce_sum(tf.cast(carry.patience_ended, tf.int32))
            return tf.reduce_any(still(carry)) & (2 * num_ended < ended.shape[0])

        def take_step(variables: Variables, carry: Carry) -> tuple[Variables, Carry]:
            going = still(carry)
            best = variables.best
            changed, carry, taken = _map(
                lambda given: self._step_of_one(rows, *given),
                (variables._replace(best=[]), carry, steps, going),
            )
            if self.step.validates:
                over = taken & (carry.step % steps.per_epoch == 0)
                carry, best = self._validate(changed, best, carry, steps, rows, validation, over)
            return changed._replace(best=best), carry

        def begin(step: tf.Tensor, stopping: Stopping) -> Carry:
            return self.step.begin(step, stopping, num_steps=num_steps)

        carry = _map(lambda given: begin(*given), (steps.start, stopping))
        carry = carry._replace(patience_ended=ended)
        left: tuple[Variables, Carry] = tf.while_loop(
            goes_on, take_step, (variables, carry), parallel_iterations=1
        )
        return left

    def _step_of_one(
        self, rows: Rows, variables: Variables, carry: Carry, steps: Steps, going: tf.Tensor
    ) -> tuple[Variables, Carry, tf.Tensor]:
        """One step of one network, and whether it was taken; where it is not going, none."""
        at = tf.minimum(carry.step, int(steps.indices.shape[0]) - 1)
        places = tf.gather(steps.indices, at)[0]
        num_rows = tf.reduce_sum(tf.cast(places >= 0, tf.float32))
        stream = tf.stack([steps.seed, tf.cast(steps.first_step + at, tf.int64)])
        gradients, error, finite = self._sums.replica_gradients(
            variables.weights,
            rows.x,
            rows.y,
            places,
            num_rows,
            stream,
            tf.constant(0),
            steps.values,
        )
        taken = going & finite
        weights, slots = self._update.changed(
            variables.weights,
            variables.slots,
            gradients,
            updates=variables.updates,
            rate=tf.gather(steps.rates, at),
            values=steps.values,
            taken=taken,
        )
        updates = variables.updates + tf.cast(taken, tf.int64)
        error = tf.where(going, error, tf.gather(carry.squared_errors, at))
        carry = carry._replace(
            step=carry.step + tf.cast(taken, tf.int32),
            finite=carry.finite & (finite | ~going),
            squared_errors=put(carry.squared_errors, at, error),
        )
        return Variables(weights, slots, updates, []), carry, taken

    def _validate(
        self,
        variables: Variables,
        best: list[tf.Tensor],
        carry: Carry,
        steps: Steps,
        rows: Rows,
        validation: Validation,
        over: tf.Tensor,
    ) -> tuple[Carry, list[tf.Tensor]]:
        """What the end of an epoch brings to the networks for which one is over."""

        def loss_of_one(weights: list[tf.Tensor], validation: Validation) -> tf.Tensor:
            total = self._sums.replica_squared_errors(
                weights, rows.x_validation, rows.y_validation, validation.places, tf.constant(0)
            )
            return total / validation.num_rows

        losses = tf.cond(
            tf.reduce_any(over),
            lambda: _map(lambda given: loss_of_one(*given), (variables.weights, validation)),
            lambda: tf.zeros_like(carry.best_loss),
        )
        carry, better = _map(lambda given: self.step.judge(*given), (carry, steps, losses, over))
        if best:
            best = tf.cond(
                tf.reduce_any(better),
                lambda: _map(
                    lambda given: [
                        tf.where(given[0], *pair) for pair in zip(*given[1:], strict=True)
                    ],
                    (better, variables.weights, best),
                ),
                lambda: best,
            )
        return carry, best


def _compiled(function: Any, given: Any) -> Any:
    """The function of tensors as what is given, compiled by XLA.

    It is traced before XLA comes in: there TensorFlow has Autograph convert what it maps, which
    leaves a file in the temporary folder.
    """
    traced = tf.function(function, autograph=False).get_concrete_function(*given)
    return tf.function(lambda *given: traced(*given), jit_compile=True, autograph=False)


def _map(function: Any, given: Any) -> Any:
    """The function of each network, all in the kernels of one."""
    own = tf.autograph.experimental.do_not_convert(function)
    return tf.vectorized_map(own, given, fallback_to_while_loop=False)


def _stack(*values: Any) -> tf.Tensor:
    return tf.stack(values)


def _are_same(some: Sequence[tf.Tensor], others: Sequence[tf.Tensor]) -> bool:
    return len(some) == len(others) and all(
        one is other for one, other in zip(some, others, strict=True)
    )
