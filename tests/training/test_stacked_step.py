"""Several networks in one compiled call, each against its own run and against itself."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.config import JobConfig, resolve_job
from dnnjob.data.encoding import CategoryColumn, Encoding
from dnnjob.data.order import StepPlan
from dnnjob.data.windows import Window, make_windows
from dnnjob.errors import NonFiniteError
from dnnjob.runs import create_run
from dnnjob.tasks import Crew, StopFlag
from dnnjob.training.member import Member, TrainingState
from dnnjob.training.network import Stack, make_stack
from dnnjob.training.stacked_members import Axis, next_group, present
from dnnjob.training.step import ResidentData
from dnnjob.training.strategy import make_devices
from dnnjob.training.train import TrainingLoop
from tests.training.conftest import make_keeper, plain_encoding, random_table

EVERYTHING: dict[str, Any] = {
    "model": {"hidden_units": [8], "dropout_rate": 0.3, "l2": 0.001},
    "train": {
        "epochs": 40,
        "global_batch_size": 16,
        "optimizer": "adamw",
        "weight_decay": 0.1,
        "clip_norm": 0.5,
        "patience": 3,
        "min_delta": 0.001,
        "learning_rate": 0.02,
    },
}
KINDS: dict[str, dict[str, Any]] = {
    # Nobody's patience ends: one width is compiled.
    "patient": {**EVERYTHING, "train": {**EVERYTHING["train"], "patience": 40}},
    "everything": EVERYTHING,
    "sgd": {},
    "nesterov": {"train": {"momentum": 0.9, "nesterov": True, "schedule": "cosine"}},
    "rmsprop": {"train": {"optimizer": "rmsprop", "momentum": 0.5}},
    "huber": {"train": {"optimizer": "adam", "loss": "huber"}},
    "chunks": {"train": {"global_batch_size": 80}, "model": {"dropout_rate": 0.2}},
    "bfloat16": {"devices": {"precision": "bfloat16"}},
    "piecewise": {"model": {"numeric_embedding": "piecewise"}},
    "periodic": {"model": {"numeric_embedding": "periodic", "activation": "gelu"}},
}
SPLIT = 80


class Interrupted(Exception):
    """The process is gone."""


def make_job(*, members: int, **sections: dict[str, Any]) -> JobConfig:
    """A job of several members."""
    given = {
        "data": {"source": "x.csv", "target": "y", "validation_fraction": 0.2},
        "model": {"hidden_units": [8], "members": members},
        "train": {"epochs": 20, "global_batch_size": 16},
        "devices": {"kind": "cpu", "threads": 1},
    }
    for name, values in sections.items():
        given[name] = {**given[name], **values}
    return resolve_job({"name": "stacked", **given}, origin="test")


def make_encoding(job: JobConfig) -> Encoding:
    """Of four numbers, with bins where the job wants them, and a category."""
    plain = plain_encoding(5)
    if job.model.numeric_embedding == "none":
        return plain
    bins = tuple(np.linspace(-2.0, 2.0, 49).tolist())
    numbers = [replace(column, quantiles=bins) for column in plain.columns[:4]]
    category = CategoryColumn("c", "text", ("a", "b"), True, 3)
    return replace(plain, columns=(*numbers, category))


def make_members(job: JobConfig, *, folds: bool = False) -> tuple[Stack, list[Member]]:
    """Networks at the start of their training; with folds each leaves other rows out."""
    devices = make_devices(job.devices, Crew(StopFlag()))
    x, y = (part.astype(np.float32) for part in random_table(100))
    if job.model.numeric_embedding != "none":
        x[:, 4] = np.arange(100) % 3
    rows = [tf.constant(part) for part in (x[:SPLIT], y[:SPLIT], x[SPLIT:], y[SPLIT:])]
    # Of 80 rows 15 or 17 are left out: five steps an epoch, or four.
    left_out = [np.arange(number, number + 15 + 2 * (number % 2)) for number in range(99)]
    num_rows = SPLIT - 15 if folds else SPLIT
    plan = StepPlan(num_rows, job.train.global_batch_size, 1, job.train.epochs)
    data = ResidentData(*rows, 20)
    stack = make_stack(job, plan, data, encoding=make_encoding(job), devices=devices)

    def member(number: int, network: Any) -> Member:
        own, kept = plan, None
        if folds:
            kept = np.setdiff1d(np.arange(SPLIT), left_out[number]).astype(np.int32)
            own = replace(plan, num_rows=len(kept), room=num_rows)

        def windows(first: int) -> Iterator[Window]:
            return make_windows(own, seed=network.seed, first_step=first, rows=kept)

        validation = stack.step.validate_on(np.arange(20 - number, dtype=np.int32))
        return Member(network, TrainingState.begin(own), windows, validation=validation)

    return stack, [member(*one) for one in enumerate(stack.networks)]


def train(
    job: JobConfig,
    made: tuple[Stack, Sequence[Member]],
    *,
    side_by_side: bool = True,
    width: int | None = None,
    keep: Callable[[], None] = lambda: None,
) -> Sequence[Member]:
    """Trains the members to their end."""
    stack, members = made
    loop = TrainingLoop(
        stack.step,
        job,
        keep=keep,
        crew=Crew(StopFlag()),
        axis=Axis(stack.stacked, width or len(members), narrowed=lambda _: None)
        if side_by_side
        else None,
    )
    loop.train(members)
    return members


def bits(members: Sequence[Member]) -> list[Any]:
    """All that training left of each."""
    return [
        [*one.network.seat.state.values(), one.state.log.losses, one.state.log.validation_losses]
        for one in members
    ]


def assert_equal(found: Any, expected: Any) -> None:
    for some, others in zip(found, expected, strict=True):
        for one, other in zip(some, others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "kind",
    ["sgd", *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS if kind != "sgd")],
)
def test_each_network_of_a_stack_trains_as_it_does_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "chunks":
        monkeypatch.setattr("dnnjob.training.row_chunks._LEAST_CHUNK_ROWS", 24)
    job = make_job(members=4, **KINDS[kind])
    alone = train(job, make_members(job), side_by_side=False)

    stacked = train(job, make_members(job))

    for one, other in zip(stacked, alone, strict=True):
        assert one.state.stop_reason == other.state.stop_reason
        assert one.state.best_epoch == other.state.best_epoch
        tolerance = 0.02 if kind == "bfloat16" else 1e-5
        log, expected = one.state.log, other.state.log
        np.testing.assert_allclose(log.losses, expected.losses, rtol=tolerance)
        np.testing.assert_allclose(
            log.validation_losses, expected.validation_losses, rtol=tolerance
        )
        for best, other_best in zip(
            one.network.seat.state.best, other.network.seat.state.best, strict=True
        ):
            np.testing.assert_allclose(best, other_best, rtol=1e-3, atol=1e-5)


@pytest.mark.long
def test_one_that_diverges_keeps_its_last_finite_weights_and_touches_no_bit_of_the_others() -> None:
    job = make_job(members=8, **EVERYTHING)
    results = []
    for rate in (0.02, 1e6):
        stack, members = make_members(job)
        calls = [member.next_call(stack.step, job.train, size=15) for member in members]
        # Decay grows with the rate: the weights overflow after a few steps.
        calls[2] = replace(calls[2], rates=np.full_like(calls[2].rates, rate))
        with ExitStack() as seats:
            outcomes = stack.stacked(present(members, seats), calls, ended=[False] * 8)
        results.append((outcomes, [member.network.seat.state.values() for member in members]))

    (expected, weights), (found, others) = results

    assert [outcome.finite for outcome in found] == [place != 2 for place in range(8)]
    assert 0 < found[2].stop < 15
    assert all(np.isfinite(value).all() for value in others[2])
    del weights[2], others[2]
    assert_equal(others, weights)
    for place in {*range(8)} - {2}:
        np.testing.assert_array_equal(found[place].squared_errors, expected[place].squared_errors)


@pytest.mark.long
def test_those_that_patience_has_not_ended_go_on_in_narrower_calls() -> None:
    job = make_job(members=8, **EVERYTHING)
    made = make_members(job)
    widths = list[int]()

    def keep() -> None:
        widths.append(len(next_group(made[1], width=8)))

    train(job, made, keep=keep)

    assert len({one.state.log.num_epochs for one in made[1]}) > 2
    assert widths == sorted(widths, reverse=True)
    assert any(0 < width <= 4 for width in widths)


@pytest.mark.long
def test_members_of_folds_train_as_they_do_alone_whatever_their_steps_an_epoch() -> None:
    job = make_job(members=3, train={"epochs": 6})
    alone = train(job, make_members(job, folds=True), side_by_side=False)

    stacked = train(job, make_members(job, folds=True))

    assert len({one.state.log.num_steps for one in stacked}) == 2
    for one, other in zip(stacked, alone, strict=True):
        assert one.state.log.num_epochs == 6
        np.testing.assert_allclose(one.state.log.losses, other.state.log.losses, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("after", [12, 60])
def test_a_stack_broken_off_ends_in_the_bits_of_one_that_was_not(
    tmp_path: Path, after: int
) -> None:
    job = make_job(members=8, **EVERYTHING)
    expected = bits(train(job, make_members(job)))
    paths = create_run(tmp_path, job)

    made = make_members(job)
    keeper = make_keeper(paths, made[1])

    def keep() -> None:
        if max(member.state.log.num_steps for member in made[1]) > after:
            keeper.write()
            raise Interrupted

    with pytest.raises(Interrupted):
        train(job, made, keep=keep)
    again = make_members(job)
    assert make_keeper(paths, again[1]).restore()

    assert_equal(bits(train(job, again)), expected)


@pytest.mark.long
def test_members_that_do_not_fit_side_by_side_follow_in_further_stacks() -> None:
    job = make_job(members=3, train={"epochs": 6})
    alone = train(job, make_members(job), side_by_side=False)

    stacked = train(job, make_members(job), width=2)

    for one, other in zip(stacked, alone, strict=True):
        np.testing.assert_allclose(one.state.log.losses, other.state.log.losses, rtol=1e-5)


@pytest.mark.long
def test_a_stack_ends_where_less_than_half_of_its_members_remain() -> None:
    job = make_job(members=3, train={"epochs": 6})
    made = make_members(job)
    for member in made[1][1:]:
        weights = member.network.get_weights()
        member.network.set_weights([np.full_like(one, np.nan) for one in weights])

    with pytest.raises(NonFiniteError, match=r"in epoch 1, batch 1, nor did .* 1 other\(s\) of 3"):
        train(job, made)


def ops_of_a_step(stack: Stack, members: Sequence[Member], job: JobConfig) -> list[str]:
    """What XLA runs in the loop over the steps, one kernel or library call each."""
    with ExitStack() as seats:
        text = stack.stacked.describe(present(members, seats))
    bodies = [
        body
        for body in re.findall(r"^%[^\n]* \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
        if re.search(r"= \S+ (fusion|dot|custom-call)\(", body)
    ]
    body = max(bodies, key=len)
    free = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "copy"}
    found = re.findall(r"= (?:\([^=]*\)|\S+) ([a-z-]+)\(", body)
    return [name for name in found if name not in free]


@pytest.mark.long
def test_a_step_of_many_networks_launches_as_many_kernels_as_one_of_few() -> None:
    counts = []
    for width in (2, 7):
        job = make_job(members=width, **KINDS["patient"])
        stack, members = make_members(job)
        counts.append(len(ops_of_a_step(stack, members, job)))

    assert counts[0] == counts[1] > 0
