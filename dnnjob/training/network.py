"""A network with its compiled call; the runs of a sweep take it over from each other.

network = make_network(job, plan, data, encoding=encoding, devices=devices)
network.is_compiled          # True where the run before in this process had one of its kind
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.order import Plan
from dnnjob.training.model import build_encoded_dnn
from dnnjob.training.optimizer import build_optimizer
from dnnjob.training.step import CompiledStep, ResidentData
from dnnjob.training.strategy import Devices

logger = logging.getLogger(__name__)

# What reaches the compiled call as tensors, or does not reach it.
_TENSORS = {"learning_rate", "schedule", "warmup_steps", "checkpoint_every_s"}


@dataclass(frozen=True)
class Network:
    """What a training changes, and what changes it.

    Attributes:
        dnn: The network, its first weights in place.
        optimizer: The optimizer, as new.
        step: The compiled call over both.
        is_compiled: Whether the call was compiled for an earlier run.
    """

    dnn: keras.Sequential
    optimizer: keras.Optimizer
    step: CompiledStep
    is_compiled: bool = False

    def trace(self) -> None:
        """Traces the call, where no earlier run has."""
        if not self.is_compiled:
            self.step.trace()

    def compile(self) -> None:
        """Compiles the traced call, where no earlier run has."""
        if not self.is_compiled:
            self.step.compile()


_latest: tuple[Any, Network] | None = None


def make_network(
    job: JobConfig,
    plan: Plan,
    data: ResidentData,
    *,
    encoding: Encoding,
    devices: Devices,
) -> Network:
    """The job's network: that of the latest run in this process where it is of the same kind.

    One takes the place of the other, so there is no more than one at a time.

    Args:
        job: The job.
        plan: Its steps.
        data: Its rows.
        encoding: What its inputs are.
        devices: What it computes on.
    """
    global _latest
    with devices.strategy.scope():
        dnn = build_encoded_dnn(job.model, encoding, seed=job.seed, precision=job.devices.precision)
        optimizer = build_optimizer(job.train, dnn)
    kind = _kind(job, plan, data, encoding=encoding, devices=devices)
    if devices.num_replicas == 1 and _latest is not None and _latest[0] == kind:
        network = replace(_latest[1], is_compiled=True)
        _copy(dnn.variables, network.dnn.variables)
        _copy(optimizer.variables, network.optimizer.variables)
        network.step.restart(data, seed=job.seed)
        return network
    # The old one goes before the new one takes its memory.
    _latest = None
    step = CompiledStep(dnn, optimizer, data, job=job, plan=plan, devices=devices)
    network = Network(dnn, optimizer, step)
    _latest = kind, network
    return network


def _kind(
    job: JobConfig,
    plan: Plan,
    data: ResidentData,
    *,
    encoding: Encoding,
    devices: Devices,
) -> Any:
    """What two runs must share to share a compiled call."""
    if devices.num_replicas > 1:
        return None
    numbers = encoding.numeric_embedding(job.model)
    tensors = data.x, data.y, data.x_validation, data.y_validation
    return (
        job.model.model_dump(),
        job.train.model_dump(exclude=_TENSORS),
        job.devices.model_dump(),
        plan,
        [None if tensor is None else tuple(tensor.shape) for tensor in tensors],
        data.num_validation_rows,
        encoding.num_inputs,
        encoding.embedding_shapes,
        # The edges of bins are weights; how many a column has is not.
        None if numbers is None else (numbers.places, tuple(map(len, numbers.edges))),
        devices.names,
    )


def _copy(sources: Sequence[Any], targets: Sequence[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.assign(np.asarray(tf.convert_to_tensor(source)))
