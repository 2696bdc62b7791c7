"""How many networks one call trains side by side on a leading axis, and where.

width = stack_width(job, encoding, devices)    # of members; 0: each has calls of its own
room = point_room(job, encoding, devices, num_rows=506, host_bytes=4e9)      # of runs of a sweep
"""

import math

from dnnjob.config import JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.order import StepPlan
from dnnjob.training.optimizer import count_slots
from dnnjob.training.row_chunks import chunk_rows
from dnnjob.training.strategy import Devices

_FLOAT_BYTES = 4
# What enters a call and what leaves it are there at the same moment.
_COPIES = 2
# Inputs, outputs and their gradients of each unit and row.
_ACTIVATIONS = 4
# Of the device's memory: rows, index tensors and what XLA needs besides have the rest.
_SHARE = 0.5
# What a run keeps in the machine's memory until it has its report: the values of its table, and, at
# a guess, what libraries have of a network.
_HOST_BYTES_A_VALUE, _HOST_BYTES_A_NETWORK = 8, 2**24


def stack_width(job: JobConfig, encoding: Encoding, devices: Devices) -> int:
    """Members on one leading axis, at least two, or 0 where each has calls of its own.

    One GPU that XLA compiles for has a leading axis: a step of it is bound by launches. CPUs have
    lanes of threads, and several devices take turns (docs/decisions/stack.md).

    Args:
        job: The job, of several members or one.
        encoding: What its inputs are.
        devices: What it computes on.
    """
    if job.model.members == 1 or not has_axis(devices):
        return 0
    each = network_bytes(job, encoding, rows=chunk_rows(devices, threads=job.devices.threads))
    fitting = int(_SHARE * devices.memory_bytes() / each)
    width = min(job.devices.stack or fitting, job.model.members)
    # One at a time gains nothing by an axis, and a checkpoint of its own calls keeps its bits.
    return width if width > 1 else 0


def has_axis(devices: Devices) -> bool:
    """Whether a call over a leading axis is worth it."""
    return devices.kind == "gpu" and devices.xla and devices.num_replicas == 1


def point_room(
    job: JobConfig, encoding: Encoding, devices: Devices, *, num_rows: int, host_bytes: float
) -> int:
    """Runs like this one that device and machine hold side by side, each with its own rows.

    Args:
        job: A job of one network.
        encoding: What its inputs are.
        devices: What it computes on.
        num_rows: Rows that it trains on or is validated by.
        host_bytes: What all of them may take of the machine's memory.

    Returns:
        At least 1; 0 where each has calls of its own.
    """
    if job.model.members > 1 or not has_axis(devices):
        return 0
    each = network_bytes(job, encoding, rows=chunk_rows(devices, threads=job.devices.threads))
    plan = StepPlan(num_rows, job.train.global_batch_size, 1, job.train.epochs)
    # The target, and perhaps the root of its weight.
    numbers = num_rows * (encoding.num_inputs + 2) + math.prod(plan.block_shape)
    each += _COPIES * _FLOAT_BYTES * numbers
    on_host = _HOST_BYTES_A_NETWORK + _HOST_BYTES_A_VALUE * num_rows * encoding.num_inputs
    return max(1, int(min(_SHARE * devices.memory_bytes() / each, host_bytes / on_host)))


def network_bytes(job: JobConfig, encoding: Encoding, *, rows: int) -> int:
    """What a network of a stack takes of its device's memory, at most.

    Args:
        job: The job.
        encoding: What its inputs are.
        rows: The most rows of one product.
    """
    kept = 1 + count_slots(job.train) + bool(job.train.patience)
    # The gradient, and what an update makes of it.
    params = encoding.count_params(job.model) * (_COPIES * kept + 2)
    units = encoding.num_inputs + encoding.count_network_inputs(job.model)
    if (numbers := encoding.numeric_embedding(job.model)) is not None:
        units += len(numbers.places) * max(map(len, numbers.edges))
    units += sum(job.model.hidden_units)
    return _FLOAT_BYTES * (params + _ACTIVATIONS * units * min(rows, job.train.global_batch_size))
