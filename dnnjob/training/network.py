"""The networks of a run with the compiled call over them; runs of a sweep share the call.

stack = make_stack(job, plan, data, encoding=encoding, devices=devices)
stack.is_compiled            # True where an earlier run in this process had a call of its kind
with stack.networks[0].present() as state: stack.step(state, ...)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.order import Plan, member_seeds
from dnnjob.latest import Latest
from dnnjob.training.hyperparameters import MOST_CALLS, describe_kind
from dnnjob.training.model import build_encoded_dnn, forward, summarize
from dnnjob.training.network_state import NetworkState, make_state
from dnnjob.training.stacked_step import StackedStep, validation_kind
from dnnjob.training.step import CompiledStep, ResidentData
from dnnjob.training.strategy import Devices


@dataclass(eq=False)
class Seat:
    """Variables, and whose values they hold."""

    dnn: keras.Sequential
    state: NetworkState
    occupant: "Network | None" = None

    @cached_property
    def summary(self) -> str:
        """Keras's summary of the network."""
        return summarize(self.dnn)

    @cached_property
    def predict(self) -> Callable[[Sequence[tf.Variable], tf.Tensor], tf.Tensor]:
        """Standardized predictions, from weights and rows of inputs; traced once."""
        dnn = self.dnn

        def predict(weights: Sequence[tf.Variable], rows: tf.Tensor) -> tf.Tensor:
            with keras.StatelessScope(
                state_mapping=list(zip(dnn.trainable_variables, weights, strict=True))
            ):
                return forward(dnn, rows)

        traced: Callable[[Sequence[tf.Variable], tf.Tensor], tf.Tensor]
        traced = tf.function(predict, autograph=False).get_concrete_function(
            self.state.weights, tf.TensorSpec((None, dnn.input_shape[-1]), tf.float32)
        )
        return traced


@dataclass(eq=False)
class Network:
    """One network of a run: on one device it has variables of its own.

    On several replicas networks take turns in those of the first: TensorFlow takes mirrored
    variables of equal shapes for each other where they enter a function (TensorFlow 2.21,
    `DistributedVariableTraceType`).

    Attributes:
        seed: Of its first weights, order of rows and dropout masks.
        seat: Where it takes place.
        values: Those of its variables while another has its seat.
    """

    seed: int
    seat: Seat
    values: Sequence[np.ndarray] = field(default_factory=list)

    @contextmanager
    def present(self) -> Iterator[NetworkState]:
        """Its variables, with its values in them."""
        seat = self.seat
        if seat.occupant not in (None, self):
            seat.occupant.values = seat.state.values()
            seat.state.assign(self.values)
        seat.occupant = self
        yield seat.state

    def get_weights(self) -> list[np.ndarray]:
        """Weights as Keras's `get_weights` has them."""
        with self.present():
            weights: list[np.ndarray] = self.seat.dnn.get_weights()
        return weights

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Takes weights as `get_weights` gives them."""
        with self.present():
            self.seat.dnn.set_weights(weights)


@dataclass(frozen=True)
class Stack:
    """The networks of a run, and the call that changes them.

    Attributes:
        networks: The members, their first weights in place.
        stacked: The compiled call over several of them at once.
        is_compiled: Whether the call was compiled for an earlier run.
    """

    networks: tuple[Network, ...]
    stacked: StackedStep
    is_compiled: bool = False

    @property
    def step(self) -> CompiledStep:
        """The compiled call over any of them."""
        return self.stacked.step

    @property
    def summary(self) -> str:
        """Keras's summary of one network."""
        return self.networks[0].seat.summary

    def trace(self) -> None:
        """Traces the call, where no earlier run has."""
        if not self.is_compiled:
            with self.networks[0].present() as state:
                self.step.trace(state)

    def compile(self) -> None:
        """Compiles the traced call, where no earlier run has."""
        if not self.is_compiled:
            with self.networks[0].present() as state:
                self.step.compile(state)


@dataclass(eq=False)
class _CompiledKind:
    """What a run leaves for the next of its kind.

    Attributes:
        kind: What they share.
        stacked: The compiled call.
        encoding: What the inputs of the networks are.
        networks: Those of the latest run; none, where they are large.
        first_weights: Of each of them.
    """

    kind: Any
    stacked: StackedStep
    encoding: Encoding | None = None
    networks: tuple[Network, ...] = ()
    first_weights: tuple[list[np.ndarray], ...] = ()

    def keep(self, networks: tuple[Network, ...], encoding: Encoding) -> None:
        """Keeps networks that nothing has trained."""
        states = [network.seat.state for network in networks]
        self.encoding, self.networks, self.first_weights = encoding, (), ()
        if sum(state.num_bytes for state in states) <= _MOST_KEPT_BYTES:
            self.networks = networks
            self.first_weights = tuple([w.numpy() for w in state.weights] for state in states)

    def find_networks(self, job: JobConfig, encoding: Encoding) -> tuple[Network, ...]:
        """The networks, at their start again, if those of a job have the same; else none."""
        seeds = tuple(member_seeds(job.seed, count=job.model.members))
        if tuple(one.seed for one in self.networks) != seeds or self.encoding != encoding:
            return ()
        for network, weights in zip(self.networks, self.first_weights, strict=True):
            with network.present() as state:
                state.assign(state.at_start(weights))
        return self.networks


_calls = Latest[_CompiledKind](most=MOST_CALLS)
# Larger networks are built anew: that takes little of their training, and they much memory.
_MOST_KEPT_BYTES = 2**23


def make_stack(
    job: JobConfig,
    plan: Plan,
    data: ResidentData,
    *,
    encoding: Encoding,
    devices: Devices,
    is_guest: bool = False,
) -> Stack:
    """The job's networks, with the call of an earlier run in this process if one was of the kind.

    Calls of other kinds wait without rows.

    Args:
        job: The job.
        plan: Its steps.
        data: Its rows.
        encoding: What its inputs are.
        devices: What it computes on.
        is_guest: Whether it trains in a call with other runs: what those have stays as it is.
    """
    if is_guest or devices.num_replicas > 1:
        if not is_guest:
            _calls.clear()
        networks = tuple(_make_networks(job, encoding, devices))
        step = CompiledStep(networks[0].seat.dnn, data, job=job, plan=plan, devices=devices)
        return Stack(networks, StackedStep(step))
    for one in _calls:
        one.stacked.release()
    kind = _kind(job, plan, data, encoding=encoding, devices=devices)
    compiled = _calls.find(lambda one: one.kind == kind)
    if compiled is None:
        networks = tuple(_make_networks(job, encoding, devices))
        step = CompiledStep(networks[0].seat.dnn, data, job=job, plan=plan, devices=devices)
        compiled = _calls.keep(_CompiledKind(kind, StackedStep(step)))
        compiled.keep(networks, encoding)
        return Stack(networks, compiled.stacked)
    networks = compiled.find_networks(job, encoding)
    if not networks:
        networks = tuple(_make_networks(job, encoding, devices))
        compiled.keep(networks, encoding)
    compiled.stacked.step.restart(job, data, networks[0].seat.dnn)
    return Stack(networks, compiled.stacked, is_compiled=True)


def _make_networks(job: JobConfig, encoding: Encoding, devices: Devices) -> Iterator[Network]:
    shared: Seat | None = None
    for seed in member_seeds(job.seed, count=job.model.members):
        if shared is not None:
            weights = [value.numpy() for value in _build(job, encoding, seed).trainable_variables]
            yield Network(seed, shared, shared.state.at_start(weights))
            continue
        with devices.strategy.scope():
            dnn = _build(job, encoding, seed)
        seat = Seat(dnn, make_state(dnn, job.train, devices.strategy))
        network = Network(seed, seat)
        seat.occupant = network
        if devices.num_replicas > 1:
            shared = seat
        yield network


def _build(job: JobConfig, encoding: Encoding, seed: int) -> keras.Sequential:
    return build_encoded_dnn(job.model, encoding, seed=seed, precision=job.devices.precision)


def _kind(
    job: JobConfig,
    plan: Plan,
    data: ResidentData,
    *,
    encoding: Encoding,
    devices: Devices,
) -> Any:
    """What two runs must share to share a compiled call, one after the other."""
    tensors = data.x, data.y, data.x_validation, data.y_validation
    return (
        _network_kind(job, encoding, devices),
        plan,
        [None if tensor is None else tuple(tensor.shape) for tensor in tensors],
        data.num_validation_rows,
    )


def guest_kind(
    job: JobConfig, plan: Plan, data: ResidentData, *, encoding: Encoding, devices: Devices
) -> str:
    """What runs must share to train in one call at the same moment; each has its own rows."""
    kind = (
        _network_kind(job, encoding, devices),
        plan.rows_per_replica,
        data.y.shape[1:],
        validation_kind(data.num_validation_rows),
    )
    return repr(kind)


def _network_kind(job: JobConfig, encoding: Encoding, devices: Devices) -> Any:
    numbers = encoding.numeric_embedding(job.model)
    return (
        describe_kind(job),
        job.devices.model_dump(exclude={"stack"}),
        encoding.num_inputs,
        encoding.embedding_shapes,
        # The edges of bins are weights; how many a column has is not.
        None if numbers is None else (numbers.places, tuple(map(len, numbers.edges))),
        devices.names,
    )
