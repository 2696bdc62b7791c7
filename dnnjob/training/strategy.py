"""Devices and the distribution strategy over them.

devices = make_devices(job.devices)
with devices.strategy.scope(): ...
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from dnnjob.config import DevicesConfig
from dnnjob.errors import MissingError

Placed = Any
"""A tensor, or one tensor a replica where there are several: TensorFlow has no common type."""


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
        kind: Kind of its devices.
        names: One name a local device, as TensorFlow has them.
        strategy: TensorFlow's strategy over the devices of all tasks.
        xla: Whether the training function is compiled with XLA.
    """

    kind: Literal["cpu", "gpu"]
    names: tuple[str, ...]
    strategy: tf.distribute.Strategy
    xla: bool

    @property
    def num_replicas(self) -> int:
        """Replicas over all tasks."""
        return int(self.strategy.num_replicas_in_sync)

    def place(self, make: Callable[[], tf.Tensor]) -> Placed:
        """A tensor that every local device holds, to be passed to the compiled function."""
        if self.num_replicas == 1:
            return make()
        return self.strategy.experimental_distribute_values_from_function(lambda _: make())

    def gpu_peak_mb(self) -> float | None:
        """Largest memory in use on any local GPU so far, in MiB; None on CPUs."""
        if self.kind == "cpu":
            return None
        peaks = [
            tf.config.experimental.get_memory_info(name.removeprefix("/device:"))["peak"]
            for name in self.names
        ]
        return float(max(peaks)) / 2**20


def choose_xla(devices: DevicesConfig) -> bool:
    """Whether to compile with XLA: as asked; auto is always, as docs/decisions/xla.md measured."""
    return devices.xla != "off"


def make_devices(devices: DevicesConfig) -> Devices:
    """The devices of this process and the strategy over them.

    Raises:
        MissingError: If a GPU is asked for and there is none.
    """
    tf.config.experimental.enable_tensor_float_32_execution(devices.precision == "tf32")
    gpus = [] if devices.kind == "cpu" else tf.config.list_logical_devices("GPU")
    if not gpus and (devices.require_gpu or devices.kind == "gpu"):
        raise MissingError(
            "The job asks for a GPU, but TensorFlow sees none. Run `dnnjob doctor` to see why, "
            'or set devices.kind = "cpu" and devices.require_gpu = false.'
        )
    local = gpus or tf.config.list_logical_devices("CPU")
    kind: Literal["cpu", "gpu"] = "gpu" if gpus else "cpu"
    names = tuple(device.name for device in local)
    xla = choose_xla(devices)
    return Devices(kind=kind, names=names, strategy=_make_strategy(names), xla=xla)


def _make_strategy(names: tuple[str, ...]) -> tf.distribute.Strategy:
    if len(names) == 1:
        return tf.distribute.OneDeviceStrategy(names[0])
    return tf.distribute.MirroredStrategy(list(names))
