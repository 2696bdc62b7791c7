"""A small training, without a run folder around it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.config import JobConfig, resolve_job
from dnnjob.data.encoding import Encoding, NumberColumn, TargetEncoding
from dnnjob.data.order import StepPlan
from dnnjob.runs import Journal, RunPaths

# While tests are collected TensorFlow has not started yet: afterwards a CPU can no longer be
# split. A job takes one of the devices unless DNNJOB_LOGICAL_CPUS asks for more.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


@dataclass
class SmallTraining:
    """One network on one table of random rows, and what training it left."""

    job: JobConfig
    plan: StepPlan
    x: np.ndarray
    y: np.ndarray
    x_validation: np.ndarray
    y_validation: np.ndarray
    embeddings: tuple[tuple[int, int], ...] = ()
    devices: Any = field(init=False)
    dnn: Any = field(init=False)
    network: Any = field(init=False)
    step: Any = field(init=False)

    def __post_init__(self) -> None:
        from dnnjob.tasks import Crew, StopFlag
        from dnnjob.training.model import build_dnn
        from dnnjob.training.network import Network, Seat
        from dnnjob.training.network_state import make_state
        from dnnjob.training.step import CompiledStep, ResidentData
        from dnnjob.training.strategy import make_devices

        job = self.job
        # Keeps apart the collectives of strategies over different devices in one process; outside
        # of tests a process has one.
        tf.distribute.MirroredStrategy._collective_key_base += 100
        devices = self.devices = make_devices(job.devices, Crew(StopFlag()))
        with devices.strategy.scope():
            self.dnn = build_dnn(
                job.model,
                num_inputs=self.x.shape[1],
                embeddings=self.embeddings,
                seed=job.seed,
                precision=job.devices.precision,
            )
        self.plan = replace(self.plan, num_replicas=devices.num_replicas)
        data = ResidentData(
            devices.place(lambda: tf.constant(self.x)),
            devices.place(lambda: tf.constant(self.y)),
            devices.place(lambda: tf.constant(self.x_validation)),
            devices.place(lambda: tf.constant(self.y_validation)),
            len(self.y_validation),
        )
        self.step = CompiledStep(self.dnn, data, job=job, plan=self.plan, devices=devices)
        state = make_state(self.dnn, job.train, devices.strategy)
        self.network = Network(job.seed, Seat(self.dnn, state))

    @property
    def state(self) -> Any:
        """The network's variables."""
        return self.network.seat.state

    def train(self) -> Any:
        """Trains to the end and returns the state."""
        from dnnjob.tasks import Crew, StopFlag
        from dnnjob.training.train import TrainingLoop

        member = self.make_member()
        loop = TrainingLoop(self.step, self.job, keep=lambda: None, crew=Crew(StopFlag()))
        loop.train([member])
        return member.state

    def make_member(self) -> Any:
        """The network at the start of its training."""
        from dnnjob.data.windows import make_windows
        from dnnjob.training.member import Member, TrainingState

        def windows(first_step: int) -> Any:
            return make_windows(self.plan, seed=self.job.seed, first_step=first_step)

        return Member(self.network, TrainingState.begin(self.plan), windows)


MakeTraining = Callable[..., SmallTraining]


def build_training(
    *,
    num_rows: int = 100,
    num_validation_rows: int = 0,
    table: tuple[np.ndarray, np.ndarray] | None = None,
    embeddings: tuple[tuple[int, int], ...] = (),
    seed: int = 0,
    **sections: dict[str, Any],
) -> SmallTraining:
    """A training of 100 rows of 5 features; sections of the job as keywords."""
    x, y = table or random_table(num_rows + num_validation_rows)
    x, y = x.astype(np.float32), y.astype(np.float32)
    num_rows = len(y) - num_validation_rows
    sections = {"data": {"source": "x.csv", "target": "y"}, **sections}
    if num_validation_rows:
        sections["data"]["validation_fraction"] = 0.5
    sections["devices"] = {"kind": "cpu", "threads": 1, **sections.get("devices", {})}
    sections["model"] = {"hidden_units": (8, 4), **sections.get("model", {})}
    sections["train"] = {"epochs": 3, "global_batch_size": 16, **sections.get("train", {})}
    job = resolve_job({"name": "small", "seed": seed, **sections}, origin="test")
    plan = StepPlan(
        num_rows=num_rows,
        global_batch_size=job.train.global_batch_size,
        num_replicas=1,
        epochs=job.train.epochs,
    )
    rows = x[:num_rows], y[:num_rows], x[num_rows:], y[num_rows:]
    return SmallTraining(job, plan, *rows, embeddings)


@pytest.fixture
def make_training() -> MakeTraining:
    """`build_training`."""
    return build_training


def random_table(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Five standard normal features and a smooth function of two of them."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(num_rows, 5))
    return x, np.tanh(x[:, 0]) + 0.5 * x[:, 1] + 0.1 * rng.normal(size=num_rows)


def plain_encoding(num_columns: int) -> Encoding:
    """Of so many numbers, each one input, and an unscaled target."""
    columns = tuple(NumberColumn(f"x{n}", 0.0, False, 0.0, 1.0) for n in range(num_columns))
    return Encoding(columns, TargetEncoding("y", "none", 0.0, 1.0, None), "none")


def predict_rows(dnn: Any, x: np.ndarray) -> np.ndarray:
    """Standardized predictions of one network, `(num_rows,)`."""
    from dnnjob.config import TrainConfig
    from dnnjob.training.evaluate import make_predictor
    from dnnjob.training.network import Network, Seat
    from dnnjob.training.network_state import make_state

    network = Network(0, Seat(dnn, make_state(dnn, TrainConfig(), tf.distribute.get_strategy())))
    predicted: np.ndarray = make_predictor([network])(x)[0]
    return predicted


def make_keeper(paths: RunPaths, members: Sequence[Any]) -> Any:
    """What keeps members in the folder of a run, of a job and table always the same."""
    from dnnjob.tasks import Crew, StopFlag
    from dnnjob.training.checkpoint import CheckpointStore
    from dnnjob.training.resume import Identity, Keeper

    return Keeper(
        store=CheckpointStore(paths.checkpoints),
        journal=Journal(paths),
        members=members,
        identity=Identity({"job": {"seed": 0}, "table": "abc"}, {}),
        every_s=30.0,
        crew=Crew(StopFlag()),
    )
