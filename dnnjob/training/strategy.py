"""Devices and the distribution strategy over them.

devices = make_devices(job.devices, crew)
with devices.strategy.scope(): ...
"""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.client.device_lib import list_local_devices
from tensorflow.python.eager import context

from dnnjob.config import DevicesConfig
from dnnjob.errors import MissingError
from dnnjob.tasks import Crew, logical_cpus

logger = logging.getLogger(__name__)

# All tasks are there by then, and need but start their servers, and on GPUs their contexts.
_CONNECT_S = {"cpu": 60.0, "gpu": 300.0}
_DAY_MS = 24 * 60 * 60 * 1000

Placed = Any
"""A tensor, or one tensor a replica where there are several: TensorFlow has no common type."""


@dataclass(frozen=True)
class Devices:
    """What a run computes on.

    Attributes:
        kind: Kind of its devices.
        names: One name a local device, as TensorFlow has them.
        all_names: Those of all tasks, by rank.
        models: What each local device is, as its maker calls it; nothing for CPUs.
        strategy: TensorFlow's strategy over the devices of all tasks.
        xla: Whether the training function is compiled with XLA.
    """

    kind: Literal["cpu", "gpu"]
    names: tuple[str, ...]
    all_names: tuple[str, ...]
    strategy: tf.distribute.Strategy
    xla: bool
    models: tuple[str, ...] = ()

    @property
    def strategy_name(self) -> str:
        """The public name of the strategy."""
        name = type(self.strategy).__name__
        # MultiWorkerMirroredStrategy is another name of this class.
        return "MultiWorkerMirroredStrategy" if name == "CollectiveAllReduceStrategy" else name

    @property
    def num_replicas(self) -> int:
        """Replicas over all tasks."""
        return int(self.strategy.num_replicas_in_sync)

    def place(self, make: Callable[[], tf.Tensor]) -> Placed:
        """A tensor that every local device holds, to be passed to the compiled function."""
        if self.num_replicas == 1:
            return make()
        return self._distribute([self._on(name, make) for name in self.names])

    def place_each(self, tensors: Sequence[tf.Tensor]) -> Placed:
        """One tensor a local device, to be passed to the compiled function."""
        placed = [
            self._on(name, partial(tf.identity, tensor))
            for name, tensor in zip(self.names, tensors, strict=True)
        ]
        return placed[0] if self.num_replicas == 1 else self._distribute(placed)

    @staticmethod
    def _on(name: str, make: Callable[[], tf.Tensor]) -> tf.Tensor:
        with tf.device(name):
            return make()

    def _distribute(self, placed: Sequence[tf.Tensor]) -> Placed:
        remaining = iter(placed)
        return self.strategy.experimental_distribute_values_from_function(lambda _: next(remaining))

    def memory_bytes(self) -> float:
        """What TensorFlow may take of the memory of a local device, of the one that has least."""
        kind = f"/device:{self.kind.upper()}:"
        # What asks makes the devices once more: without growth they would take all memory.
        growing = tf.compat.v1.ConfigProto()
        growing.gpu_options.allow_growth = True
        found = [one.memory_limit for one in list_local_devices(growing) if kind in one.name]
        return float(min(found))

    def gpu_peak_mb(self) -> float | None:
        """Largest memory in use on any local GPU so far, in MiB; None on CPUs."""
        if self.kind == "cpu":
            return None
        peaks = [
            tf.config.experimental.get_memory_info(name.rpartition("/device:")[2])["peak"]
            for name in self.names
        ]
        return float(max(peaks)) / 2**20


def choose_xla(devices: DevicesConfig) -> bool:
    """Whether to compile with XLA: as asked; auto is always, as docs/decisions/xla.md measured."""
    return devices.xla != "off"


def make_devices(devices: DevicesConfig, crew: Crew) -> Devices:
    """The devices of this process and the strategy over those of all tasks.

    With several tasks it waits until TensorFlow has started in all of them.

    Raises:
        MissingError: If a GPU is asked for and there is none.
    """
    tf.config.experimental.enable_tensor_float_32_execution(devices.precision == "tf32")
    gpus = [] if devices.kind == "cpu" else tf.config.list_physical_devices("GPU")
    if not gpus and devices.needs_gpu:
        raise MissingError(
            "The job asks for a GPU, but TensorFlow sees none. Run `dnnjob doctor` to see why, "
            'or set devices.kind = "cpu" and devices.require_gpu = false.'
        )
    _refuse_unequal_tasks(crew, len(gpus))
    kind: Literal["cpu", "gpu"] = "gpu" if gpus else "cpu"
    if gpus:
        # Sums in an order that threads of a GPU settle among themselves differ from run to run.
        tf.config.experimental.enable_op_determinism()
    else:
        _split_cpu()
    if crew.task.num_tasks > 1:
        strategy: tf.distribute.Strategy = _join_strategy(kind, crew)
        names = tuple(strategy.extended.worker_devices)
        all_names = tuple(_names_everywhere(names, crew))
    else:
        local = tf.config.list_logical_devices(kind.upper())
        names = tuple(device.name for device in (local if gpus else local[: logical_cpus()]))
        strategy, all_names = _local_strategy(names), names
    models = tuple(map(_model, gpus))
    logger.info("Devices: asked for %s, got %s.", devices.kind, _describe(names, models))
    return Devices(
        kind=kind,
        names=names,
        all_names=all_names,
        strategy=strategy,
        xla=choose_xla(devices),
        models=models,
    )


def _describe(names: Sequence[str], models: Sequence[str]) -> str:
    """Devices in words: as `2 x NVIDIA H100 a task`, the number that each task has."""
    return f"{len(names)} x {', '.join(sorted(set(models))) or 'CPU'} a task"


def _model(gpu: Any) -> str:
    return str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))


def _refuse_unequal_tasks(crew: Crew, num_gpus: int) -> None:
    """Ends a run whose tasks would wait for each other over connections of different kinds."""
    counts = crew.gather(num_gpus)
    if all(count == num_gpus for count in counts):
        return
    told = ", ".join(
        f"{peer} {count or 'none'}" for peer, count in zip(crew.peers, counts, strict=True)
    )
    raise MissingError(
        "The tasks of a run need equally many GPUs each, but they have: "
        f'{told}. Ask for nodes that are alike, or set devices.kind = "cpu".'
    )


def _names_everywhere(names: tuple[str, ...], crew: Crew) -> Iterator[str]:
    """The devices of every task: TensorFlow's strategy has all tasks bring the same."""
    for rank in range(crew.task.num_tasks):
        for name in names:
            yield name.replace(f"/task:{crew.task.rank}/", f"/task:{rank}/")


@cache
def _local_strategy(names: tuple[str, ...]) -> tf.distribute.Strategy:
    # One for all runs of a process: two that hand out the same keys for their collectives mix up
    # each other's.
    if len(names) == 1:
        return tf.distribute.OneDeviceStrategy(names[0])
    return tf.distribute.MirroredStrategy(list(names))


def _join_strategy(kind: Literal["cpu", "gpu"], crew: Crew) -> tf.distribute.Strategy:
    _leave_watching_to_crew(crew)
    implementation = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=implementation.NCCL if kind == "gpu" else implementation.RING
    )
    crew.assemble()
    logger.info("Waiting for TensorFlow of all tasks, at most %d s.", _CONNECT_S[kind])
    with ending_within(_CONNECT_S[kind]):
        strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    crew.connected()
    return strategy


@contextmanager
def ending_within(seconds: float) -> Iterator[None]:
    """Ends this process by SIGALRM if what is inside takes longer.

    TensorFlow waits for the servers of the other tasks with Python at a standstill, for an hour: of
    a task that is killed in this moment nothing else could free the others. Time in which this
    process is suspended counts. The first process of a container is not ended: the kernel gives it
    only the signals that it has taken.
    """
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    outer, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, outer)
        # None is a handler that was not set from Python.
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)


def _leave_watching_to_crew(crew: Crew) -> None:
    """Keeps TensorFlow from ending a run whose tasks are merely suspended.

    Its coordination service counts a task as dead ten seconds after its last heartbeat, and waits
    an hour for one that never comes. It has no public setting (TensorFlow 2.21).
    """
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/replica:0/task:0",
        heartbeat_timeout_in_ms=_DAY_MS,
        cluster_register_timeout_in_ms=_DAY_MS,
        coordinated_jobs=[
            coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=crew.task.num_tasks)
        ],
    )


def _split_cpu() -> None:
    """Makes the CPU several devices where a test asks for it, to have replicas without GPUs."""
    wanted = logical_cpus()
    (cpu,) = tf.config.list_physical_devices("CPU")
    if wanted > 1 and tf.config.get_logical_device_configuration(cpu) is None:
        logical = [tf.config.LogicalDeviceConfiguration() for _ in range(wanted)]
        tf.config.set_logical_device_configuration(cpu, logical)
