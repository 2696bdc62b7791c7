"""The compiled call against Keras's own training, and against itself."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import pytest
import tensorflow as tf

from dnnjob.config import resolve_job
from dnnjob.training.dropout import draw_masks
from dnnjob.training.hyperparameters import Hyperparameters
from dnnjob.training.model import build_dnn
from dnnjob.training.row_chunks import chunk_rows
from dnnjob.training.step import Call, Stopping
from dnnjob.training.strategy import Devices
from tests.training.conftest import predict_rows

OPTIMIZERS = {
    "sgd": ({}, lambda: keras.optimizers.SGD(0.01)),
    "momentum": (
        {"optimizer": "sgd", "momentum": 0.9},
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    ),
    "nesterov": (
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    ),
    "adam": ({"optimizer": "adam"}, lambda: keras.optimizers.Adam(0.01)),
    "adamw": ({"optimizer": "adamw"}, lambda: keras.optimizers.AdamW(0.01)),
    "rmsprop": (
        {"optimizer": "rmsprop", "momentum": 0.5},
        lambda: keras.optimizers.RMSprop(0.01, momentum=0.5),
    ),
    "clipped": (
        {"optimizer": "sgd", "clip_norm": 0.05},
        lambda: keras.optimizers.SGD(0.01, global_clipnorm=0.05),
    ),
}


def same_batches(training: Any) -> tf.data.Dataset:
    """The batches of all epochs of a plan, in its order, for Keras's `fit`."""

    def generate() -> Any:
        for epoch in range(training.plan.epochs):
            for batch in training.plan.indices([epoch], seed=training.job.seed):
                rows = batch[batch >= 0]
                yield training.x[rows], training.y[rows]

    signature = (
        tf.TensorSpec((None, training.x.shape[1]), tf.float32),
        tf.TensorSpec((None,), tf.float32),
    )
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def fit_with_keras(
    training: Any, optimizer: keras.Optimizer, *, l2: float = 0.0, loss: Any = "mse"
) -> Any:
    """History of Keras's `fit` from the same weights; the model is in `history.model`."""
    layers: list[Any] = [keras.Input((training.x.shape[1],))]
    for layer in training.dnn.layers:
        regularizer = keras.regularizers.L2(l2) if l2 else None
        config = layer.get_config() | {"kernel_regularizer": regularizer}
        layers.append(
            keras.layers.Dense(
                config["units"], config["activation"], kernel_regularizer=regularizer
            )
        )
    model = keras.Sequential(layers)
    model.set_weights(training.dnn.get_weights())
    model.compile(optimizer=optimizer, loss=loss, metrics=["mse"])
    plan = training.plan
    return model.fit(
        same_batches(training), epochs=plan.epochs, steps_per_epoch=plan.steps_per_epoch, verbose=0
    )


@pytest.mark.parametrize(
    ("name", "xla"),
    [
        *(
            pytest.param(name, "on", marks=() if name in ("sgd", "adam") else pytest.mark.long)
            for name in OPTIMIZERS
        ),
        ("sgd", "off"),
        pytest.param("adam", "off", marks=pytest.mark.long),
        *(
            pytest.param(name, "off", marks=pytest.mark.slow)
            for name in OPTIMIZERS
            if name not in ("sgd", "adam")
        ),
    ],
)
def test_every_optimizer_trains_as_it_does_in_keras(
    make_training: Any, name: str, xla: str
) -> None:
    settings, make_optimizer = OPTIMIZERS[name]
    training = make_training(train=settings, devices={"xla": xla})
    history = fit_with_keras(training, make_optimizer())

    state = training.train()

    np.testing.assert_allclose(state.log.losses, history.history["loss"], rtol=2e-6)
    for ours, theirs in zip(training.dnn.get_weights(), history.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_l2_trains_as_keras_regularizers_do_and_stays_out_of_the_loss(make_training: Any) -> None:
    training = make_training(model={"l2": 0.01}, train={"epochs": 2})
    history = fit_with_keras(training, keras.optimizers.SGD(0.01), l2=0.01)

    state = training.train()

    for ours, theirs in zip(training.dnn.get_weights(), history.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert state.log.losses[0] < history.history["loss"][0]


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"loss": "mae"}, keras.losses.MeanAbsoluteError()),
        pytest.param({"loss": "huber"}, keras.losses.Huber(1.0), marks=pytest.mark.long),
        pytest.param(
            {"loss": "huber", "huber_delta": 0.25}, keras.losses.Huber(0.25), marks=pytest.mark.long
        ),
    ],
)
def test_robust_losses_train_as_they_do_in_keras_and_histories_show_squared_errors(
    make_training: Any, settings: dict[str, Any], loss: keras.Loss
) -> None:
    training = make_training(train=settings)
    history = fit_with_keras(training, keras.optimizers.SGD(0.01), loss=loss)

    state = training.train()

    np.testing.assert_allclose(state.log.losses, history.history["mse"], rtol=2e-6)
    for ours, theirs in zip(training.dnn.get_weights(), history.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("xla", "batch"), [("off", 16), ("on", 2000)])
def test_embeddings_train_as_they_do_in_keras(make_training: Any, xla: str, batch: int) -> None:
    random = np.random.default_rng(5)
    num_rows = 100 if batch < 100 else 2500
    codes = random.integers(0, (6, 40), size=(num_rows, 2))
    x = np.column_stack([random.normal(size=(num_rows, 3)), codes])
    y = x[:, 0] + np.sin(codes[:, 0]) + (codes[:, 1] % 3)
    training = make_training(
        table=(x, y),
        embeddings=((6, 3), (40, 2)),
        train={"global_batch_size": batch},
        devices={"xla": xla},
    )
    model = build_dnn(
        training.job.model, num_inputs=5, embeddings=((6, 3), (40, 2)), seed=9, precision="float32"
    )
    model.set_weights(training.dnn.get_weights())
    # Not Adam: Keras leaves the moments of embeddings that a batch does not touch as they are.
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    plan = training.plan
    history = model.fit(
        same_batches(training), epochs=plan.epochs, steps_per_epoch=plan.steps_per_epoch, verbose=0
    )

    state = training.train()

    np.testing.assert_allclose(state.log.losses, history.history["loss"], rtol=1e-5)
    for ours, theirs in zip(training.dnn.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "loss", ["mse", *(pytest.param(loss, marks=pytest.mark.long) for loss in ("mae", "huber"))]
)
def test_a_weight_counts_as_that_many_rows(make_training: Any, loss: str) -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(30, 5)), random.normal(size=30)
    weights = random.integers(0, 4, size=30)
    weighted = np.stack([y, np.sqrt(weights / weights.mean())], axis=1)
    whole = {"global_batch_size": 1000, "epochs": 20, "loss": loss}
    training = make_training(table=(x, weighted), train=whole)
    repeated = make_training(table=(x.repeat(weights, axis=0), y.repeat(weights)), train=whole)

    losses, expected = training.train().log.losses, repeated.train().log.losses

    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for ours, theirs in zip(training.dnn.get_weights(), repeated.dnn.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_validation_is_weighted_too(make_training: Any) -> None:
    random = np.random.default_rng(2)
    x, y = random.normal(size=(60, 5)), random.normal(size=60)
    weights = np.concatenate([np.ones(40), random.uniform(0, 2, 20)])
    weights[40:] /= weights[40:].mean()
    table = x, np.stack([y, np.sqrt(weights)], axis=1)
    training = make_training(table=table, num_validation_rows=20, train={"epochs": 1})

    state = training.train()

    errors = predict_rows(training.dnn, training.x_validation) - y[40:]
    expected = (weights[40:] * np.square(errors)).mean()
    np.testing.assert_allclose(state.log.validation_losses, [expected], rtol=1e-5)


def test_a_linear_job_reaches_the_least_squares_solution(make_training: Any) -> None:
    training = make_training(
        model={"hidden_units": ()},
        train={"epochs": 2000, "learning_rate": 0.05, "global_batch_size": 100},
    )
    design = np.column_stack([training.x, np.ones(len(training.x))])
    expected, *_ = np.linalg.lstsq(design.astype(np.float64), training.y, rcond=None)

    training.train()

    kernel, bias = training.dnn.get_weights()
    np.testing.assert_allclose([*kernel.ravel(), *bias], expected, atol=1e-5)


@pytest.mark.parametrize("xla", ["on", pytest.param("off", marks=pytest.mark.long)])
def test_how_steps_are_cut_into_calls_never_changes_a_bit(make_training: Any, xla: str) -> None:
    sections = {
        "model": {"dropout_rate": 0.3},
        "train": {"optimizer": "adam", "epochs": 4, "patience": 4},
        "devices": {"xla": xla},
    }
    results = []
    for cuts in ([0, 28], [0, 1, 2, 9, 10, 27, 28]):
        training = make_training(num_validation_rows=30, **sections)
        indices = tf.constant(training.plan.indices(range(4), seed=0))
        rates = np.full(28, 0.01, np.float32)
        stopping, errors = Stopping.begin(), np.zeros(28, np.float32)
        for start, stop in pairwise(cuts):
            call = Call(
                indices,
                seed=0,
                rates=rates,
                first_step=0,
                start=start,
                stop=stop,
                stopping=stopping,
            )
            outcome = training.step(training.state, call)
            errors[start:stop] = outcome.squared_errors[start:stop]
            stopping = outcome.stopping
        results.append([errors, *training.dnn.get_weights(), *map(np.asarray, stopping)])

    for whole, cut in zip(*results, strict=True):
        np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize(
    "xla", [pytest.param("on", marks=pytest.mark.long), pytest.param("off", marks=pytest.mark.slow)]
)
def test_a_batch_added_up_from_chunks_trains_as_one_product(
    make_training: Any, monkeypatch: pytest.MonkeyPatch, xla: str
) -> None:
    weights = []
    for rows in (1024, 24):
        monkeypatch.setattr("dnnjob.training.row_chunks._LEAST_CHUNK_ROWS", rows)
        training = make_training(
            model={"dropout_rate": 0.5}, train={"global_batch_size": 50}, devices={"xla": xla}
        )
        training.train()
        weights.append(training.dnn.get_weights())

    for whole, chunked in zip(*weights, strict=True):
        np.testing.assert_allclose(whole, chunked, rtol=1e-4, atol=1e-6)


SHARE_OF_THE_CALLER = """
import time
from tests.training.conftest import build_training

training = build_training(
    num_rows=2000,
    num_validation_rows=100,
    model={"hidden_units": (16,) * 5, "dropout_rate": 0.2, "l2": 1e-4},
    train={
        "epochs": 100,
        "global_batch_size": 64,
        "optimizer": "adamw",
        "patience": 100,
    },
)
member, train = training.make_member(), training.job.train
member.train(training.step, train, size=1, advance=lambda: None)
own, all_threads = time.thread_time(), time.process_time()
member.train(training.step, train, size=3000, advance=lambda: None)
print((time.thread_time() - own) / (time.process_time() - all_threads))
"""


@pytest.mark.long
def test_with_one_thread_a_network_trains_in_the_thread_that_calls() -> None:
    # Else networks side by side, each called from a thread of its own, meet in TensorFlow's pool.
    environment = {
        **os.environ,
        "TF_NUM_INTRAOP_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    share = subprocess.run(
        [sys.executable, "-c", SHARE_OF_THE_CALLER],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert float(share) > 0.9


@pytest.mark.parametrize(
    ("kind", "names", "threads", "rows"),
    [
        ("cpu", 1, 0, 512),
        ("cpu", 1, 2, 512),
        ("cpu", 1, 16, 4096),
        ("cpu", 4, 16, 1024),
        ("gpu", 1, 16, 1024),
    ],
)
def test_a_chunk_grows_with_the_threads_that_share_it(
    kind: Literal["cpu", "gpu"], names: int, threads: int, rows: int
) -> None:
    devices = Devices(kind, ("x",) * names, ("x",) * names, tf.distribute.get_strategy(), xla=True)
    assert chunk_rows(devices, threads=threads) == rows


@pytest.mark.long
@pytest.mark.parametrize("batch", [16, 2000])
def test_one_compilation_serves_every_range_of_steps(make_training: Any, batch: int) -> None:
    training = make_training(
        num_rows=3000,
        num_validation_rows=1500,
        model={"dropout_rate": 0.1, "hidden_units": (8,)},
        train={"patience": 3, "global_batch_size": batch, "optimizer": "adamw"},
    )
    indices = tf.zeros(training.plan.block_shape, tf.int32)
    rates = np.zeros(len(indices), np.float32)
    began = time.perf_counter()
    training.step.compile(training.state)
    compiled = time.perf_counter()

    for start in (1, 2, 3):
        call = Call(
            indices,
            seed=0,
            rates=rates,
            first_step=0,
            start=start,
            stop=start + 1,
            stopping=Stopping(np.float32(start), np.int32(start)),
        )
        training.step(training.state, call)

    # Seconds against milliseconds: a compilation each would make this three times as long.
    assert time.perf_counter() - compiled < compiled - began


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    def draw(seed: int) -> tf.Tensor:
        stream = tf.constant([seed, 0], tf.int64)
        values = Hyperparameters.of(
            resolve_job(
                {
                    "name": "x",
                    "data": {"source": "x.csv", "target": "y"},
                    "model": {"dropout_rate": 0.3},
                },
                origin="test",
            )
        )
        place = {"replica": tf.constant(0), "num_replicas": 1, "rows": 16}
        return draw_masks([1000], values=values, stream=stream, **place)[0]

    mask, other = draw(5), draw(6)

    assert np.mean(mask.numpy() == 0) == pytest.approx(0.3, abs=0.02)
    assert np.mean(mask.numpy()) == pytest.approx(1.0, abs=0.03)
    assert np.mean(mask.numpy() == other.numpy()) < 0.7


@pytest.mark.parametrize(
    "xla", [pytest.param("on", marks=pytest.mark.long), pytest.param("off", marks=pytest.mark.slow)]
)
def test_validation_loss_is_the_mean_squared_error_after_each_epoch(
    make_training: Any, xla: str
) -> None:
    training = make_training(num_validation_rows=33, devices={"xla": xla}, train={"epochs": 5})

    state = training.train()

    predicted = training.dnn.predict(training.x_validation, verbose=0)[:, 0].astype(np.float64)
    expected = np.mean((predicted - training.y_validation) ** 2)
    assert len(state.log.validation_losses) == 5
    assert state.log.validation_losses[-1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("xla", ["on", pytest.param("off", marks=pytest.mark.slow)])
def test_patience_stops_and_gives_back_the_best_weights(make_training: Any, xla: str) -> None:
    training = make_training(
        num_rows=20,
        num_validation_rows=40,
        devices={"xla": xla},
        model={"hidden_units": (64,)},
        train={
            "epochs": 400,
            "patience": 5,
            "optimizer": "adam",
            "learning_rate": 0.05,
            "global_batch_size": 8,
        },
    )

    state = training.train()
    training.state.restore_best()

    losses = state.log.validation_losses
    best = int(np.argmin(losses))
    assert state.stop_reason == "patience"
    assert len(losses) == best + 1 + 5 < 400
    predicted = training.dnn.predict(training.x_validation, verbose=0)[:, 0].astype(np.float64)
    assert np.mean((predicted - training.y_validation) ** 2) == pytest.approx(
        losses[best], rel=1e-5
    )


@pytest.mark.long
def test_an_epoch_that_is_hardly_better_does_not_count(make_training: Any) -> None:
    settings = {"epochs": 200, "patience": 3, "min_delta": 0.02, "learning_rate": 0.02}
    training = make_training(num_rows=50, num_validation_rows=40, train=settings)

    state = training.train()

    losses, best = state.log.validation_losses, 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best] - 0.02:
            best = epoch
    assert state.stop_reason == "patience"
    assert (state.best_epoch, len(losses)) == (best + 1, best + 1 + 3)
    assert best < int(np.argmin(losses))


@pytest.mark.parametrize("xla", ["on", pytest.param("off", marks=pytest.mark.long)])
def test_a_gradient_that_is_not_finite_skips_the_update_and_ends_the_call(
    make_training: Any, xla: str
) -> None:
    x, y = np.ones((32, 5)), np.zeros(32)
    training = make_training(table=(x, y), devices={"xla": xla}, train={"epochs": 1})
    indices = training.plan.indices([0], seed=0)
    training.y[indices[1, 0, 3]] = np.inf
    training.__post_init__()
    rates = np.full(2, 0.01, np.float32)
    call = Call(tf.constant(indices), 0, rates, 0, start=0, stop=1, stopping=Stopping.begin())
    training.step(training.state, call)
    before = training.dnn.get_weights()

    outcome = training.step(training.state, replace(call, start=1, stop=2))

    assert not outcome.finite
    assert outcome.stop == 1
    for then, now in zip(before, training.dnn.get_weights(), strict=True):
        np.testing.assert_array_equal(then, now)


@pytest.mark.long
def test_bfloat16_trains_near_float32_with_float32_weights(make_training: Any) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        training = make_training(devices={"precision": precision}, train={"epochs": 20})
        losses[precision] = training.train().log.losses[-1]
        assert {weight.dtype.name for weight in training.dnn.get_weights()} == {"float32"}

    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)
