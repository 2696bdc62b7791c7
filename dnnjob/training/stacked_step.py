"""The compiled call over several networks of one kind, side by side on a leading axis.

stacked = StackedStep(step)
outcomes = stacked(states, calls, ended=[False, False, True])
outcomes = stacked(states, calls, ended=[False, False], steps=own, places=8)     # of several runs

A small network leaves most of a GPU idle: its steps are bound by the launches of kernels, of which
a step has as many for all networks as for one (docs/decisions/stack.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dnnjob.training.network_state import NetworkState
from dnnjob.training.row_chunks import validation_indices
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

# Tables whose validation rows differ by fewer may be validated by one product.
_VALIDATION_STEP = 64


def validation_kind(num_rows: int) -> int:
    """What tables must share whose validation rows one call takes, 0 of those without any."""
    size = validation_indices(num_rows, num_replicas=1).shape[-1] if num_rows else 0
    return -(-size // _VALIDATION_STEP)


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


class Table(NamedTuple):
    """What a network computes on and never changes.

    Attributes:
        x: As `ResidentData` has it, like what follows.
        y: See there.
        x_validation: See there.
        y_validation: See there.
        fixed: Weights of the network that never train.
    """

    x: Any
    y: Any
    x_validation: Any
    y_validation: Any
    fixed: Any

    @classmethod
    def of(cls, rows: Rows, step: CompiledStep) -> "Table":
        """That of a call of a step."""
        return cls(rows.x, rows.y, rows.x_validation, rows.y_validation, step.fixed())


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
        self._calls: dict[Any, Any] = {}
        self._kept: dict[str, tuple[list[tf.Tensor], Any]] = {}

    def __call__(
        self,
        states: Sequence[NetworkState],
        calls: Sequence[Call],
        *,
        ended: Sequence[bool],
        steps: Sequence[CompiledStep] = (),
        places: int = 0,
    ) -> list[Outcome]:
        """Takes the steps of all calls, fewer where one fails or patience ends.

        All end early as soon as patience has ended half of them, so that the others go on in a
        narrower call, from a step that no clock chooses.

        Args:
            states: The networks, changed in place.
            calls: Of each, equally many steps or none.
            ended: Which of them patience has ended before.
            steps: Of networks of several runs that of each, with its rows and values; else this
                stack's own serves all.
            places: Networks that the call has room for, where they are more. A network has the same
                bits whoever has the other places.
        """
        idle = max(0, places - len(states))
        call, given = self._enter(
            [*states, *[states[0]] * idle],
            [*calls, *[replace(calls[0], stop=calls[0].start)] * idle],
            ended=[*ended, *[False] * idle],
            steps=[*steps, *[one for one in steps[:1] for _ in range(idle)]],
        )
        variables, carry = call(*given)
        self._give_back(states, variables)
        values = Carry(*(value.numpy() for value in carry))
        return [Outcome.of(Carry(*(value[n] for value in values))) for n in range(len(states))]

    def compile(self, states: Sequence[NetworkState]) -> None:
        """Traces and compiles the call for so many networks; trains nothing."""
        self(states, [self.step.no_steps()] * len(states), ended=[False] * len(states))

    def release(self) -> None:
        """Lets go of all rows and of their order, until the step's next restart."""
        self._kept = {}
        self.step.release()

    def describe(self, states: Sequence[NetworkState]) -> str:
        """What XLA makes of the call for so many networks, as HLO."""
        calls = [self.step.no_steps()] * len(states)
        call, given = self._enter(states, calls, ended=[False] * len(states), steps=())
        call(*given)
        text: str = call.experimental_get_compiler_ir(*given)(stage="optimized_hlo")
        return text

    def _enter(
        self,
        states: Sequence[NetworkState],
        calls: Sequence[Call],
        *,
        ended: Sequence[bool],
        steps: Sequence[CompiledStep],
    ) -> tuple[Any, tuple[Any, ...]]:
        """The compiled call for some networks, and what enters it."""
        each = steps or [self.step] * len(states)
        rows = [step.rows_of(call) for step, call in zip(each, calls, strict=True)]
        taken = [step.values_of(call) for step, call in zip(each, calls, strict=True)]
        tables = [Table.of(*pair) for pair in zip(rows, each, strict=True)]
        stopping = Stopping(
            tf.constant([call.stopping.best_loss for call in calls], tf.float32),
            tf.constant([call.stopping.best_epoch for call in calls], tf.int32),
        )
        # Rows and index tensors are the largest of what enters, and serve many calls.
        indices = self._stack_once("indices", [one.indices for one in taken], padding=-1)
        table = tables[0]
        if steps:
            keys = [one.x for one in tables]
            table = self._stack_once("table", keys, tables)
        others = [one._replace(indices=one.start) for one in taken]
        given = (
            tf.nest.map_structure(_stack, *map(Variables.of, states)),
            table,
            self._validations([one.validation for one in rows], is_padded=bool(steps)),
            _stacked(others)._replace(indices=indices),
            stopping,
            tf.constant(ended),
        )
        # No call trains more epochs than the network has in its index tensor that has most.
        epochs = max(step.plan.block_shape[0] // step.plan.steps_per_epoch for step in each)
        # What is compiled is kept, and shall not keep the steps, whose rows are large.
        shares = not steps

        def train(*given: Any) -> Any:
            return self._train_ranges(*given, shares=shares, num_epochs=max(1, epochs))

        key = not shares, epochs, *(tuple(one.shape) for one in tf.nest.flatten(given))
        if key not in self._calls:
            self._calls[key] = _compiled(train, given)
        return self._calls[key], given

    def _validations(self, each: Sequence[Validation], *, is_padded: bool) -> Validation:
        """The rows that validate each network; those of other tables padded in steps of their own.

        A product may round as its rows are many: so whoever has the other places makes no odds.
        """
        keys = [one.places for one in each]
        if not is_padded:
            places = self._stack_once("validation", keys)
        else:
            sizes = [int(one.shape[-1]) for one in keys]
            more = [-size % _VALIDATION_STEP for size in sizes]
            padded = [
                tf.pad(one, [(0, 0), (0, 0), (0, n)], constant_values=-1)
                for one, n in zip(keys, more, strict=True)
            ]
            places = self._stack_once("validation", keys, padded, padding=-1)
        return Validation(places, tf.stack([one.num_rows for one in each]))

    def _stack_once(
        self, name: str, keys: list[tf.Tensor], values: Any = None, *, padding: int = 0
    ) -> Any:
        """The values, or the keys themselves, stacked anew only where the keys are others."""
        if not _are_same(self._kept.get(name, ([], None))[0], keys):
            # Its memory is wanted for those that come.
            self._kept.pop(name, None)
            self._kept[name] = keys, _stacked(values or keys, padding=padding)
        return self._kept[name][1]

    @staticmethod
    def _give_back(states: Sequence[NetworkState], variables: Variables) -> None:
        for stacked, *own in zip(
            tf.nest.flatten(variables),
            *(tf.nest.flatten(Variables.of(state)) for state in states),
            strict=True,
        ):
            # Places that nobody has come last.
            for variable, value in zip(own, tf.unstack(stacked), strict=False):
                variable.assign(value)

    def _train_ranges(
        self,
        variables: Variables,
        table: Table,
        validation: Validation,
        steps: Steps,
        stopping: Stopping,
        ended: tf.Tensor,
        *,
        shares: bool,
        num_epochs: int,
    ) -> tuple[Variables, Carry]:
        num_steps = int(steps.indices.shape[1])
        # What all share is not mapped.
        own: Any = () if shares else table

        def still(carry: Carry) -> tf.Tensor:
            return (carry.step < steps.stop) & carry.finite & ~carry.patience_ended

        def goes_on(variables: Variables, carry: Carry) -> tf.Tensor:
            num_ended = tf.reduce_sum(tf.cast(carry.patience_ended, tf.int32))
            return tf.reduce_any(still(carry)) & (2 * num_ended < ended.shape[0])

        def take_step(variables: Variables, carry: Carry) -> tuple[Variables, Carry]:
            going = still(carry)
            best = variables.best
            changed, carry, taken = _map(
                lambda given: self._step_of_one(given[0] or table, *given[1:]),
                (own, variables._replace(best=[]), carry, steps, going),
            )
            if self.step.validates:
                over = taken & (tf.truncatemod(carry.step, steps.per_epoch) == 0)
                losses = self._validation_losses(
                    lambda given: given or table, own, changed.weights, validation, over
                )
                carry, best = self._judge(changed, best, carry, steps, losses, over)
            return changed._replace(best=best), carry

        def begin(step: tf.Tensor, stopping: Stopping) -> Carry:
            return self.step.begin(step, stopping, num_steps=num_steps, num_epochs=num_epochs)

        carry = _map(lambda given: begin(*given), (steps.start, stopping))
        carry = carry._replace(patience_ended=ended)
        left: tuple[Variables, Carry] = tf.while_loop(
            goes_on, take_step, (variables, carry), parallel_iterations=1
        )
        return left

    def _step_of_one(
        self, table: Table, variables: Variables, carry: Carry, steps: Steps, going: tf.Tensor
    ) -> tuple[Variables, Carry, tf.Tensor]:
        """One step of one network, and whether it was taken; where it is not going, none."""
        at = tf.minimum(carry.step, int(steps.indices.shape[0]) - 1)
        places = tf.gather(steps.indices, at)[0]
        num_rows = tf.reduce_sum(tf.cast(places >= 0, tf.float32))
        stream = tf.stack([steps.seed, tf.cast(steps.first_step + at, tf.int64)])
        self._sums.fixed = table.fixed
        gradients, error, finite = self._sums.replica_gradients(
            variables.weights,
            table.x,
            table.y,
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

    def _validation_losses(
        self,
        table_of: Callable[[Any], Table],
        own: Any,
        weights: list[tf.Tensor],
        validation: Validation,
        over: tf.Tensor,
    ) -> tf.Tensor:
        """Validation loss of each network, or zeros where no epoch is over."""

        def loss_of_one(own: Any, weights: list[tf.Tensor], validation: Validation) -> tf.Tensor:
            table = table_of(own)
            self._sums.fixed = table.fixed
            total = self._sums.replica_squared_errors(
                weights, table.x_validation, table.y_validation, validation.places, tf.constant(0)
            )
            return total / validation.num_rows

        return tf.cond(
            tf.reduce_any(over),
            lambda: _map(lambda given: loss_of_one(*given), (own, weights, validation)),
            lambda: tf.zeros_like(validation.num_rows),
        )

    def _judge(
        self,
        variables: Variables,
        best: list[tf.Tensor],
        carry: Carry,
        steps: Steps,
        losses: tf.Tensor,
        over: tf.Tensor,
    ) -> tuple[Carry, list[tf.Tensor]]:
        """What the end of an epoch brings to the networks for which one is over."""
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


def _stacked(values: Sequence[Any], *, padding: int = 0) -> Any:
    """Structures of tensors on a leading axis, padded at their ends to the largest of each."""

    def stack(*tensors: Any) -> tf.Tensor:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        is_alike, is_tensor = len(set(shapes)) == 1, tf.is_tensor(tensors[0])
        most = np.max(shapes, axis=0)
        pad = tf.pad if is_tensor else np.pad
        even = (
            tensors
            if is_alike
            else [
                pad(tensor, [(0, n) for n in most - shape], constant_values=padding)
                for tensor, shape in zip(tensors, shapes, strict=True)
            ]
        )
        return tf.stack(even) if is_tensor else tf.constant(np.stack(even))

    return tf.nest.map_structure(stack, *values)


def _are_same(some: Sequence[tf.Tensor], others: Sequence[tf.Tensor]) -> bool:
    return len(some) == len(others) and all(
        one is other for one, other in zip(some, others, strict=True)
    )
