"""Several replicas in one process, as logical CPU devices, against one."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.tasks import LOGICAL_CPUS
from tests.training.conftest import predict_rows
from tests.training.test_reference_job import TABLE, make_job

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "a batch of 63": {"train": {"global_batch_size": 63}},
    "dropout": {"model": {"dropout_rate": 0.4}, "train": {"optimizer": "adam"}},
    "dropout in a graph": {"model": {"dropout_rate": 0.4}, "devices": {"xla": "off"}},
    "l2 and clipping": {"model": {"l2": 0.01}, "train": {"clip_norm": 0.1}},
    "decay": {"train": {"optimizer": "adamw"}},
    "patience": {"num_validation_rows": 33, "train": {"patience": 3, "learning_rate": 0.5}},
    "graph": {"devices": {"xla": "off"}, "train": {"clip_norm": 0.1}},
}
# Each setting once; other pairs are for a release.
PAIRS = [
    pytest.param(
        number,
        name,
        marks=pytest.mark.long if number == (2 if place % 2 else 4) else pytest.mark.slow,
    )
    for place, name in enumerate(SETTINGS)
    for number in (2, 4)
]
# An epoch of 66 rows ends with a batch of 2: two of four replicas have no row of it.
ROWS = 66


@pytest.mark.parametrize(("num_replicas", "name"), PAIRS)
def test_replicas_train_as_one_device_does(
    make_training: Any, monkeypatch: pytest.MonkeyPatch, num_replicas: int, name: str
) -> None:
    sections = {"num_rows": ROWS, **SETTINGS[name]}
    sections["train"] = {"epochs": 20, "global_batch_size": 64, **sections.get("train", {})}
    alone = make_training(**sections)
    expected = alone.train()
    monkeypatch.setenv(LOGICAL_CPUS, str(num_replicas))
    together = make_training(**sections)

    state = together.train()

    assert together.plan.num_replicas == num_replicas
    np.testing.assert_allclose(state.log.losses, expected.log.losses, rtol=1e-5)
    np.testing.assert_allclose(
        state.log.validation_losses, expected.log.validation_losses, rtol=1e-5
    )
    assert state.stop_reason == expected.stop_reason
    for ours, theirs in zip(together.dnn.get_weights(), alone.dnn.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


# Numbers of bfloat16 stand 2**-7 apart; of tf32 2**-10, but a CPU takes float32 for it.
@pytest.mark.parametrize(
    ("precision", "rtol"),
    [
        pytest.param("bfloat16", 2**-7, marks=pytest.mark.long),
        pytest.param("tf32", 1e-5, marks=pytest.mark.slow),
    ],
)
def test_replicas_train_as_one_device_does_in_short_arithmetic(
    make_training: Any, monkeypatch: pytest.MonkeyPatch, precision: str, rtol: float
) -> None:
    sections: dict[str, Any] = {
        "num_rows": ROWS,
        "num_validation_rows": 33,
        "devices": {"precision": precision},
        "train": {"epochs": 20, "global_batch_size": 64},
    }
    expected = make_training(**sections).train()
    monkeypatch.setenv(LOGICAL_CPUS, "2")
    together = make_training(**sections)

    state = together.train()

    assert together.plan.num_replicas == 2
    np.testing.assert_allclose(state.log.losses, expected.log.losses, rtol=rtol)
    np.testing.assert_allclose(
        state.log.validation_losses, expected.log.validation_losses, rtol=rtol
    )


@pytest.mark.long
def test_patience_gives_every_replica_the_best_weights(
    make_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, "2")
    training = make_training(
        num_rows=20,
        num_validation_rows=40,
        model={"hidden_units": (64,)},
        train={
            "epochs": 200,
            "patience": 5,
            "optimizer": "adam",
            "learning_rate": 0.05,
            "global_batch_size": 8,
        },
    )

    state = training.train()
    training.state.restore_best()

    assert state.stop_reason == "patience"
    predicted = predict_rows(training.dnn, training.x_validation)
    best = min(state.log.validation_losses)
    assert np.mean((predicted - training.y_validation) ** 2) == pytest.approx(best, rel=1e-5)
    for variable in training.state.weights:
        first, second = (part.numpy() for part in variable.values)
        np.testing.assert_array_equal(first, second)


@pytest.mark.long
@pytest.mark.parametrize("num_replicas", [1, 2])
def test_compiling_trains_nothing(
    make_training: Any, monkeypatch: pytest.MonkeyPatch, num_replicas: int
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, str(num_replicas))
    training = make_training(model={"l2": 0.1}, train={"optimizer": "adam"})
    before = [weight.copy() for weight in training.dnn.get_weights()]

    training.step.compile(training.state)

    for then, now in zip(before, training.dnn.get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)
    assert all(not np.any(variable.numpy()) for variable in training.state.optimizer[1:])
    assert int(training.state.iterations.numpy()) == 0


def test_a_gradient_that_is_not_finite_on_one_replica_skips_the_update_of_all(
    make_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, "2")
    training = make_training(train={"epochs": 1})
    indices = training.plan.indices([0], seed=0)
    training.y[indices[0, 1, 3]] = np.inf
    training.__post_init__()
    before = training.dnn.get_weights()

    with pytest.raises(Exception, match="epoch 1, batch 1"):
        training.train()

    for then, now in zip(before, training.dnn.get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)


def test_every_replica_holds_its_copy_of_the_rows_on_its_own_device(
    make_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, "4")
    devices = make_training().devices

    placed = devices.place(lambda: tf.constant([1.0, 2.0]))
    each = devices.place_each([tf.constant(float(number)) for number in range(4)])

    names = devices.strategy.extended.worker_devices
    assert tuple(copy.device for copy in placed.values) == names
    assert tuple(part.device for part in each.values) == names
    assert [float(part) for part in each.values] == [0.0, 1.0, 2.0, 3.0]


def test_gradients_are_added_among_the_devices_and_not_on_the_host(
    make_training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOGICAL_CPUS, "2")
    training = make_training(num_validation_rows=40, train={"patience": 3})
    training.train()

    (traced,) = training.step._call._list_all_concrete_functions()
    library = traced.graph.as_graph_def().library.function
    reductions = [
        node.device for body in library for node in body.node_def if node.op == "CollectiveReduceV2"
    ]

    # One of the gradients of a step, one of the validation losses of an epoch.
    assert sorted(reductions) == sorted(2 * training.devices.strategy.extended.worker_devices)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not TABLE.exists(), reason=f"needs the housing table at {TABLE}")
@pytest.mark.parametrize("batch", [64, 63])
def test_the_reference_job_ends_alike_on_1_2_and_4_replicas(
    make_training: Any, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    losses, errors = [], []
    for num_replicas in (1, 2, 4):
        monkeypatch.setenv(LOGICAL_CPUS, str(num_replicas))
        job = make_job(make_training, seed=0, epochs=500, batch=batch)
        losses.append(job.training.train().log.losses[:20])
        errors.append(job.test_mse(predict_rows(job.training.dnn, job.x_test)))

    print(f"batch {batch}: test MSE {errors}")
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)
    np.testing.assert_allclose(errors, errors[0], rtol=0.005)
