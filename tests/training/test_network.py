"""One compiled call for the runs of a sweep."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.config import JobConfig, resolve_job
from dnnjob.data.order import StepPlan
from dnnjob.data.windows import make_windows
from dnnjob.tasks import Crew, StopFlag
from dnnjob.training import network as networks
from dnnjob.training.hyperparameters import describe_kind
from dnnjob.training.member import Member, TrainingState
from dnnjob.training.network import Stack, make_stack
from dnnjob.training.step import ResidentData
from dnnjob.training.strategy import make_devices
from dnnjob.training.train import TrainingLoop
from tests.training.conftest import plain_encoding, random_table


@pytest.fixture(autouse=True)
def no_run_before() -> None:
    """Each test begins as a process does."""
    networks._calls.clear()


def make_job(
    seed: int = 0, units: int = 8, dropout_rate: float = 0.3, l2: float = 0.0, **train: Any
) -> JobConfig:
    """A job with dropout and an optimizer that remembers."""
    values = {
        "name": "shared",
        "seed": seed,
        "data": {"source": "x.csv", "target": "y", "validation_fraction": 0.2},
        "model": {"hidden_units": [units], "dropout_rate": dropout_rate, "l2": l2},
        "train": {"epochs": 6, "global_batch_size": 16, "optimizer": "adam", "patience": 9} | train,
        "devices": {"kind": "cpu", "threads": 1},
    }
    return resolve_job(values, origin="test")


def train(job: JobConfig) -> tuple[Stack, list[np.ndarray], list[float]]:
    """The stack, its network's trained weights, and the loss of each epoch."""
    devices = make_devices(job.devices, Crew(StopFlag()))
    x, y = (part.astype(np.float32) for part in random_table(100 + job.seed % 2))
    parts = [tf.constant(part) for part in (x[:80], y[:80], x[80:100], y[80:100])]
    plan = StepPlan(80, job.train.global_batch_size, 1, job.train.epochs)
    data = ResidentData(*parts, 20)
    stack = make_stack(job, plan, data, encoding=plain_encoding(5), devices=devices)
    member = Member(
        stack.networks[0],
        TrainingState.begin(plan),
        lambda first_step: make_windows(plan, seed=job.seed, first_step=first_step),
    )
    crew = Crew(StopFlag())
    TrainingLoop(stack.step, job, keep=lambda: None, crew=crew).train([member])
    return stack, stack.networks[0].get_weights(), member.state.log.losses


@pytest.mark.long
def test_a_run_after_another_of_its_kind_ends_in_the_bits_of_one_alone() -> None:
    other = make_job(seed=7, learning_rate=0.02, schedule="cosine")
    alone, expected, losses = train(other)
    networks._calls.clear()
    train(make_job())

    after, weights, losses_after = train(other)

    assert after.is_compiled
    assert not alone.is_compiled
    assert losses_after == losses
    for then, now in zip(expected, weights, strict=True):
        np.testing.assert_array_equal(then, now)


def test_runs_of_one_kind_compile_once() -> None:
    first, *_ = train(make_job())
    second, *_ = train(make_job(seed=3, learning_rate=0.5))

    assert second.step is first.step
    assert first.step._call.experimental_get_tracing_count() == 1


@pytest.mark.long
def test_a_run_takes_the_networks_of_one_before_it_that_began_alike() -> None:
    other = make_job(dropout_rate=0.6, learning_rate=0.02, patience=2)
    _, expected, losses = train(other)
    networks._calls.clear()
    first, *_ = train(make_job())

    second, weights, losses_after = train(other)

    assert second.networks[0] is first.networks[0]
    assert losses_after == losses
    for then, now in zip(expected, weights, strict=True):
        np.testing.assert_array_equal(then, now)
    assert train(make_job(seed=2))[0].networks[0] is not first.networks[0]


@pytest.mark.long
def test_large_networks_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_MOST_KEPT_BYTES", 100)
    first, expected, _ = train(make_job())
    second, weights, _ = train(make_job())

    assert second.networks[0] is not first.networks[0]
    assert second.is_compiled
    for then, now in zip(expected, weights, strict=True):
        np.testing.assert_array_equal(then, now)


@pytest.mark.long
def test_a_run_comes_back_to_the_call_of_its_kind_after_another_kind() -> None:
    first, *_ = train(make_job())
    _, expected, _ = train(make_job(units=9))
    third, *_ = train(make_job(seed=3))
    again, weights, _ = train(make_job(units=9))

    assert third.step is first.step
    assert again.step is not first.step
    assert again.is_compiled
    assert first.step._data.x is None
    for then, now in zip(expected, weights, strict=True):
        np.testing.assert_array_equal(then, now)


# Points of one sweep: of each value two that the compiled call must not take for each other.
POINTS: list[dict[str, Any]] = [
    {
        "dropout_rate": dropout_rate,
        "l2": l2,
        "weight_decay": decay,
        "learning_rate": rate,
        "clip_norm": norm,
        "patience": patience,
        "min_delta": min_delta,
        "optimizer": "adamw",
    }
    for dropout_rate, l2, decay, rate, norm, patience, min_delta in (
        (0.1, 0.01, 0.3, 0.03, 0.5, 9, 0.0),
        (0.6, 0.03, 0.001, 0.003, 0.1, 1, 0.2),
    )
]


def test_a_sweep_over_values_is_traced_once_and_each_point_ends_as_it_does_alone() -> None:
    alone = []
    for point in POINTS:
        networks._calls.clear()
        alone.append(train(make_job(**point))[1:])
    networks._calls.clear()

    swept = [train(make_job(**point)) for point in POINTS]

    assert swept[0][0].step._call.experimental_get_tracing_count() == 1
    for (stack, weights, losses), (expected, losses_alone) in zip(swept, alone, strict=True):
        assert stack.step is swept[0][0].step
        assert losses == losses_alone
        for then, now in zip(expected, weights, strict=True):
            np.testing.assert_array_equal(then, now)
    assert [len(losses) for *_, losses in swept] == [6, 2]


@pytest.mark.parametrize(
    "key", ["model.dropout_rate", "model.l2", "train.weight_decay", "train.momentum"]
)
def test_whether_there_is_a_value_is_a_kind_and_how_large_it_is_none(key: str) -> None:
    section, name = key.split(".")
    optimizer = "sgd" if name == "momentum" else "adamw"

    def kind(value: float) -> Any:
        given = {"optimizer": optimizer} | ({name: value} if section == "train" else {})
        model = {name: value} if section == "model" else {}
        values = {
            "name": "x",
            "data": {"source": "x.csv", "target": "y"},
            "model": model,
            "train": given,
        }
        return describe_kind(resolve_job(values, origin="test"))

    assert kind(0.1) == kind(0.2) != kind(0.0)


@pytest.mark.parametrize(
    "other",
    [
        make_job(units=9),
        make_job(optimizer="sgd"),
        make_job(clip_norm=1.0),
        make_job(global_batch_size=20),
    ],
)
def test_what_is_compiled_otherwise_is_another_kind(other: JobConfig) -> None:
    assert describe_kind(other) != describe_kind(make_job())
