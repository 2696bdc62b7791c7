"""Going on from a checkpoint: to the same bits, or refused, or told."""

import copy
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dnnjob.data.fingerprint import Fingerprint
from dnnjob.errors import DataError, JobError, SupersededError
from dnnjob.runs import Journal, Position, RunPaths, claim_attempt, create_run
from dnnjob.tasks import LOGICAL_CPUS, Crew, StopFlag, Task
from dnnjob.training.checkpoint import CheckpointStore
from dnnjob.training.member import TrainingState
from dnnjob.training.resume import Identity, Keeper, from_keras, identify, join_machines
from dnnjob.training.train import TrainingLoop

SECTIONS: dict[str, Any] = {
    "num_validation_rows": 30,
    "model": {"dropout_rate": 0.3, "l2": 0.001},
    "train": {"epochs": 12, "optimizer": "adam", "schedule": "cosine", "patience": 12},
}
IDENTITY = Identity(
    {"job": {"seed": 0, "train": {"epochs": 12}}, "table": "abc"}, {"device": "cpu", "threads": 1}
)


OTHER_WAYS = (
    pytest.param("1", "off", marks=pytest.mark.slow),
    pytest.param("2", "on", marks=pytest.mark.long),
    pytest.param("2", "off", marks=pytest.mark.slow),
)


class Interrupted(Exception):
    """The process is gone."""


@pytest.fixture
def paths(tmp_path: Path, make_training: Any) -> RunPaths:
    return create_run(tmp_path, make_training().job)


def make_keeper(training: Any, paths: RunPaths, identity: Identity = IDENTITY) -> Keeper:
    return Keeper(
        store=CheckpointStore(paths.checkpoints),
        journal=Journal(paths),
        members=[training.make_member()],
        identity=identity,
        every_s=30.0,
        crew=Crew(StopFlag()),
    )


def train(training: Any, keeper: Keeper, *, interrupted_after: int | None) -> TrainingState:
    """Trains from the newest checkpoint; after so many steps it writes one and breaks off."""

    (member,) = keeper.members

    def keep() -> None:
        if interrupted_after is not None and member.state.log.num_steps >= interrupted_after:
            keeper.write()
            raise Interrupted

    keeper.restore()
    TrainingLoop(training.step, training.job, keep=keep, crew=Crew(StopFlag())).train([member])
    return member.state


@pytest.mark.parametrize(
    ("num_replicas", "xla"), [pytest.param("1", "on", marks=pytest.mark.long), *OTHER_WAYS]
)
def test_a_training_broken_off_twice_ends_in_the_same_bits(
    make_training: Any,
    paths: RunPaths,
    monkeypatch: pytest.MonkeyPatch,
    num_replicas: str,
    xla: str,
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, num_replicas)
    whole = make_training(devices={"xla": xla}, **SECTIONS)
    expected = whole.train()
    # In the middle of an epoch, and soon after an epoch's end.
    for steps in (1, 30):
        broken = make_training(devices={"xla": xla}, **SECTIONS)
        with pytest.raises(Interrupted):
            train(broken, make_keeper(broken, paths), interrupted_after=steps)
    last = make_training(devices={"xla": xla}, **SECTIONS)
    keeper = make_keeper(last, paths)

    state = train(last, keeper, interrupted_after=None)

    assert keeper.inexact is None
    assert keeper.journal.status.attempts[-1].resumed_from != Position()
    assert state.log.losses == expected.log.losses
    assert state.log.validation_losses == expected.log.validation_losses
    assert state.stopping == expected.stopping
    for ours, theirs in zip(last.dnn.get_weights(), whole.dnn.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(last.state.best, whole.state.best, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.long
def test_more_epochs_end_in_the_bits_of_as_many_from_the_start(
    make_training: Any, paths: RunPaths
) -> None:
    constant = SECTIONS["train"] | {"schedule": "constant"}
    short, long = (SECTIONS | {"train": constant | {"epochs": number}} for number in (5, 12))
    whole = make_training(**long)
    expected = whole.train()
    first = make_training(**short)
    keeper = make_keeper(first, paths)
    train(first, keeper, interrupted_after=None)
    keeper.write()
    longer = make_training(**long)

    state = train(longer, make_keeper(longer, paths), interrupted_after=None)

    assert state.log.losses == expected.log.losses
    assert state.stopping == expected.stopping
    for ours, theirs in zip(longer.dnn.get_weights(), whole.dnn.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.long
def test_a_training_that_had_ended_is_not_trained_again(
    make_training: Any, paths: RunPaths
) -> None:
    first = make_training(**SECTIONS)
    keeper = make_keeper(first, paths)
    state = train(first, keeper, interrupted_after=None)
    keeper.write()
    second = make_training(**SECTIONS)

    again = train(second, make_keeper(second, paths), interrupted_after=1)

    assert again.stop_reason == state.stop_reason
    for ours, theirs in zip(second.dnn.get_weights(), first.dnn.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def write_one(make_training: Any, paths: RunPaths, identity: Identity = IDENTITY) -> None:
    """The checkpoint of a training that noted one step; none was computed."""
    keeper = make_keeper(make_training(**SECTIONS), paths, identity)
    keeper.members[0].state.log.add(np.ones(1), np.ones(1), None, seconds=0.1)
    keeper.write()


def test_the_checkpoint_of_another_job_or_table_is_refused_with_the_difference(
    make_training: Any, paths: RunPaths
) -> None:
    write_one(make_training, paths)
    training = make_training(**SECTIONS)
    job, table = IDENTITY.origin["job"], IDENTITY.origin["table"]
    others: dict[str, dict[str, Any]] = {
        "job.seed: 0 then, 1 now": {"job": {**job, "seed": 1}},
        "job.train.epochs: 12 then, 11 now": {"job": {**job, "train": {"epochs": 11}}},
        "table: 'abc' then, 'def' now": {"table": "def"},
        "job.extra: None then, True now": {"job": {**job, "extra": True}},
    }
    for told, other in others.items():
        origin = {"job": job, "table": table, **other}
        keeper = make_keeper(training, paths, Identity(origin, IDENTITY.fingerprint))

        with pytest.raises(DataError if "table" in other else JobError, match=told):
            keeper.restore()


def test_a_checkpoint_from_before_a_key_existed_counts_as_its_default(
    make_training: Any, paths: RunPaths
) -> None:
    training = make_training(**SECTIONS)
    table = Fingerprint("sha256", "abc", "")
    now = identify(training.job, table, training.devices, crew=Crew(StopFlag()), threads=1)
    before = copy.deepcopy(dict(now.origin))
    del before["job"]["train"]["loss"], before["job"]["train"]["min_delta"]
    write_one(make_training, paths, Identity(before, now.fingerprint))

    keeper = make_keeper(training, paths, now)

    assert keeper.restore()
    assert keeper.members[0].state.log.num_steps == 1


@pytest.mark.parametrize(
    ("name", "momentum"), [("sgd", 0.9), ("adam", 0.0), ("rmsprop", 0.0), ("rmsprop", 0.5)]
)
def test_what_an_optimizer_remembers_is_found_in_the_order_that_keras_has(
    name: str, momentum: float
) -> None:
    weights = [keras.Variable(np.zeros(shape)) for shape in ((3, 2), (2,), (2, 1))]
    rules = {"sgd": keras.optimizers.SGD, "rmsprop": keras.optimizers.RMSprop}
    optimizer = rules[name](momentum=momentum) if name in rules else keras.optimizers.Adam()
    optimizer.build(weights)
    for number, variable in enumerate(optimizer.variables[2:]):
        variable.assign(np.full(variable.shape, number))

    ours = from_keras(
        [np.asarray(variable) for variable in optimizer.variables],
        {"optimizer": name, "momentum": momentum},
    )

    each = (len(ours) - 1) // len(weights)
    shapes = [value.shape for value in ours[1:]]
    assert shapes == [tuple(weight.shape) for weight in weights for _ in range(each)]
    names = [variable.name.rpartition("/")[2] for variable in optimizer.variables[2:]]
    kinds = [names[int(value.flat[0])].rpartition("_")[2] for value in ours[1:]]
    assert kinds == kinds[:each] * len(weights)


def test_going_on_elsewhere_is_allowed_warned_about_and_remembered(
    make_training: Any, paths: RunPaths, caplog: pytest.LogCaptureFixture
) -> None:
    write_one(make_training, paths)
    elsewhere = Identity(IDENTITY.origin, {"device": "gpu", "threads": 1})
    training = make_training(**SECTIONS)
    keeper = make_keeper(training, paths, elsewhere)
    keeper.restore()
    keeper.write()
    assert keeper.inexact == "resumed with another device cpu -> gpu"
    assert "may differ in their last bits" in caplog.text
    training = make_training(**SECTIONS)
    later = make_keeper(training, paths, elsewhere)

    later.restore()

    assert later.inexact == keeper.inexact


def test_members_of_a_stack_that_go_on_in_calls_of_their_own_are_said_to_differ(
    make_training: Any, paths: RunPaths
) -> None:
    write_one(make_training, paths, Identity(IDENTITY.origin, {**IDENTITY.fingerprint, "stack": 8}))
    keeper = make_keeper(make_training(**SECTIONS), paths)

    keeper.restore()

    assert keeper.inexact == "resumed with another stack 8 -> None"


def test_a_change_of_any_tasks_machine_changes_the_fingerprint() -> None:
    chief = {"device": "gpu", "threads": 8, "gpus": ["NVIDIA H100"]}

    assert join_machines([chief, chief]) == chief
    assert join_machines([chief, {**chief, "gpus": ["NVIDIA A100"], "threads": 4}]) == {
        "device": "gpu",
        "threads": [8, 4],
        "gpus": [["NVIDIA H100"], ["NVIDIA A100"]],
    }


def test_an_attempt_is_known_by_the_machines_of_all_its_tasks(make_training: Any) -> None:
    training = make_training()

    class Two(Crew):
        def gather(self, value: Any) -> list[Any]:
            return [value, {**value, "cpu": "another"}]

    table = Fingerprint("sha256-bytes", "abc")
    crew = Two(StopFlag(), Task(0, 2, "launch"))
    found = identify(training.job, table, training.devices, crew=crew, threads=3)

    assert found.fingerprint["threads"] == 3
    assert found.fingerprint["tasks"] == 2
    assert found.fingerprint["cpu"][1] == "another"


def test_a_stack_of_another_width_is_another_machine(make_training: Any) -> None:
    training = make_training()
    table, crew = Fingerprint("sha256", "abc", ""), Crew(StopFlag())

    alone, stack = (
        identify(training.job, table, training.devices, crew=crew, threads=1, axis=axis)
        for axis in (0, 8)
    )

    assert stack.fingerprint == {**alone.fingerprint, "stack": 8}


@pytest.mark.parametrize("stamp", ["", "moved"])
def test_only_tables_too_large_to_be_hashed_whole_are_known_by_place_and_time(
    make_training: Any, stamp: str
) -> None:
    training = make_training()
    table = Fingerprint("sha256-footers", "abc", stamp)

    found = identify(training.job, table, training.devices, crew=Crew(StopFlag()), threads=3)

    assert found.origin["table"] == "abc"
    assert found.fingerprint.get("table_files", "") == stamp


def test_a_superseded_attempt_writes_no_checkpoint(make_training: Any, paths: RunPaths) -> None:
    training = make_training(**SECTIONS)
    keeper = make_keeper(training, paths)
    claim_attempt(paths)

    with pytest.raises(SupersededError):
        keeper.write()

    assert not paths.checkpoints.exists()


def test_a_checkpoint_whose_attempt_cannot_be_looked_up_warns(
    make_training: Any,
    paths: RunPaths,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    training = make_training(**SECTIONS)
    keeper = make_keeper(training, paths)

    def refuse(*_: object) -> int:
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as storage:
        storage.setattr("dnnjob.runs.journal.latest_attempt", refuse)
        keeper.write()

    assert "Stale file handle" in caplog.text
    keeper.write()
    assert [path.name for path in paths.checkpoints.iterdir()] == ["00000001-1.ckpt"]


@pytest.mark.long
def test_another_task_restores_what_the_chief_names(make_training: Any, paths: RunPaths) -> None:
    first, training = make_training(**SECTIONS), make_training(**SECTIONS)
    with pytest.raises(Interrupted):
        train(first, make_keeper(first, paths), interrupted_after=1)

    class Follower(Crew):
        is_chief = False

        def share(self, value: Any) -> Any:
            assert value is None
            return "00000001-1.ckpt"

    keeper = make_keeper(training, paths)
    keeper.crew = Follower(StopFlag())

    assert keeper.restore()

    (member,) = keeper.members
    assert member.state.log.num_steps >= 1
    keeper.write()
    assert [path.name for path in paths.checkpoints.iterdir()] == ["00000001-1.ckpt"]
    assert json.dumps(member.state.position.model_dump())
