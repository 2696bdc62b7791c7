"""Members of a run: side by side, in turn, broken off, and alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.config import resolve_job
from dnnjob.data.order import StepPlan
from dnnjob.data.windows import make_windows
from dnnjob.errors import NonFiniteError
from dnnjob.runs import create_run
from dnnjob.tasks import LOGICAL_CPUS, Crew, StopFlag
from dnnjob.training import network as networks
from dnnjob.training.member import Member, TrainingState, remaining
from dnnjob.training.network import make_stack
from dnnjob.training.step import CompiledStep, ResidentData
from dnnjob.training.strategy import make_devices
from dnnjob.training.train import TrainingLoop
from tests.training.conftest import make_keeper, plain_encoding, random_table

JOB = {
    "name": "several",
    "data": {"source": "x.csv", "target": "y", "validation_fraction": 0.2},
    "model": {"hidden_units": [8], "dropout_rate": 0.3, "members": 3},
    "train": {"epochs": 40, "global_batch_size": 16, "optimizer": "adam", "patience": 3},
    "devices": {"kind": "cpu", "threads": 1},
}


class Interrupted(Exception):
    """The process is gone."""


def make_members(num_replicas: int) -> tuple[CompiledStep, list[Member]]:
    """Three networks at the start of their training."""
    tf.distribute.MirroredStrategy._collective_key_base += 100
    job = resolve_job(JOB, origin="test")
    devices = make_devices(job.devices, Crew(StopFlag()))
    assert devices.num_replicas == num_replicas
    x, y = (part.astype(np.float32) for part in random_table(100))
    parts = [part[:80] for part in (x, y)] + [part[80:] for part in (x, y)]
    data = ResidentData(*[devices.place(lambda p=part: tf.constant(p)) for part in parts], 20)
    plan = StepPlan(80, 16, num_replicas, job.train.epochs)
    stack = make_stack(job, plan, data, encoding=plain_encoding(5), devices=devices)

    def member(network: Any) -> Member:
        return Member(
            network,
            TrainingState.begin(plan),
            lambda first: make_windows(plan, seed=network.seed, first_step=first),
        )

    return stack.step, [member(network) for network in stack.networks]


def train(
    step: CompiledStep, members: Sequence[Member], *, width: int = 1, keep: Any = lambda: None
) -> list[list[np.ndarray]]:
    """The weights that training leaves, and the losses of each member."""
    job = resolve_job(JOB, origin="test")
    TrainingLoop(step, job, keep=keep, crew=Crew(StopFlag()), lanes=width).train(members)
    return [
        [*one.network.get_weights(), np.array(one.state.log.validation_losses)] for one in members
    ]


def assert_equal(found: Any, expected: Any) -> None:
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture(autouse=True)
def no_run_before() -> None:
    networks._calls.clear()


def test_members_side_by_side_end_in_the_bits_of_members_one_after_the_other() -> None:
    step, members = make_members(1)
    beside = train(step, members, width=3)

    assert step._call.experimental_get_tracing_count() == 1
    assert_equal(beside, train(*make_members(1)))
    assert len({one.state.log.num_epochs for one in members}) > 1


def poison(members: Sequence[Member]) -> None:
    """Lets networks diverge at their first step."""
    for member in members:
        weights = member.network.get_weights()
        member.network.set_weights([np.full_like(one, np.nan) for one in weights])


@pytest.mark.long
def test_a_member_that_diverges_touches_no_bit_of_the_others() -> None:
    expected = train(*make_members(1))
    step, members = make_members(1)
    poison(members[1:2])

    found = train(step, members, width=2)

    assert [one.state.stop_reason == "nan" for one in members] == [False, True, False]
    assert remaining(members) == [members[0], members[2]]
    assert_equal([found[0], found[2]], [expected[0], expected[2]])


@pytest.mark.long
def test_a_run_ends_where_less_than_half_of_its_members_remain() -> None:
    step, members = make_members(1)
    poison(members[1:])

    with pytest.raises(NonFiniteError, match=r"in epoch 1, batch 1, nor did .* 1 other\(s\) of 3"):
        train(step, members)


@pytest.mark.long
@pytest.mark.parametrize("width", [1, 2])
def test_members_get_on_alike_where_a_round_has_no_time_for_all(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    rounds: list[int] = []
    monkeypatch.setattr("dnnjob.training.train.SECONDS_A_ROUND", 0.0)
    step, members = make_members(1)

    def keep() -> None:
        rounds.append(sum(member.state.log.num_steps for member in members))
        if rounds[-1] >= 12:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(step, members, keep=keep, width=width)
    steps = [member.state.log.num_steps for member in members]
    assert max(steps) - min(steps) <= 1
    # Of a call of each there would be three steps in the first.
    assert rounds[0] <= width


@pytest.mark.parametrize(
    ("num_replicas", "width"), [(1, 2), pytest.param(2, 1, marks=pytest.mark.long)]
)
def test_members_broken_off_end_in_the_bits_of_members_that_were_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_replicas: int, width: int
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, str(num_replicas))
    expected = train(*make_members(num_replicas))
    paths = create_run(tmp_path, resolve_job(JOB, origin="test"))

    step, members = make_members(num_replicas)
    keeper = make_keeper(paths, members)

    def keep() -> None:
        if any(member.state.log.num_steps > 20 for member in members):
            keeper.write()
            raise Interrupted

    with pytest.raises(Interrupted):
        train(step, members, keep=keep, width=width)
    step, members = make_members(num_replicas)
    assert make_keeper(paths, members).restore()
    assert any(member.state.log.num_steps for member in members)

    assert_equal(train(step, members, width=width), expected)
