"""The exported model against the network it was made from."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dnnjob.config import ModelConfig
from dnnjob.data.statistics import Standardization
from dnnjob.training.evaluate import predict_rows
from dnnjob.training.export import build_export, load_predictor, save_model
from dnnjob.training.model import build_dnn, build_preprocessing, preprocess, summarize

FEATURES = ("plain", "with space", "dot.ted", "größe", "a:b")
SCALE = Standardization(
    "train",
    np.array([1.0, -2.0, 3.0, 1e4, 0.0]),
    np.array([1.0, 0.5, 3.0, 2e3, 1e-3]),
    target_mean=20.0,
    target_std=5.0,
)
MODEL = ModelConfig(hidden_units=(7, 3), dropout_rate=0.5)


def raw_rows(num_rows: int) -> np.ndarray:
    return SCALE.mean + SCALE.std * np.random.default_rng(1).normal(size=(num_rows, 5))


@pytest.mark.parametrize("mode", ["train", "none"])
def test_the_saved_model_takes_raw_columns_and_gives_target_units(
    tmp_path: Path, mode: Any
) -> None:
    scale = SCALE if mode == "train" else Standardization(mode, np.zeros(5), np.ones(5), 0.0, 1.0)
    x = raw_rows(50)
    dnn = build_dnn(MODEL, num_inputs=5, seed=3, precision="float32")
    inputs = preprocess(build_preprocessing(FEATURES, scale), FEATURES, x).numpy()
    expected = predict_rows(dnn, inputs) * scale.target_std + scale.target_mean
    weights = dnn.get_weights()
    model = build_export(
        MODEL, features=FEATURES, standardization=scale, weights=weights, precision="float32"
    )

    save_model(tmp_path / "model" / "model.keras", model)

    loaded = keras.models.load_model(tmp_path / "model" / "model.keras", safe_mode=True)
    columns = {name: x[:, at] for at, name in enumerate(FEATURES)}
    np.testing.assert_allclose(loaded.predict(columns, verbose=0)[:, 0], expected, rtol=1e-5)


def test_preprocessing_equals_z_scores_in_float64_to_rounding() -> None:
    x = raw_rows(1000)

    z = preprocess(build_preprocessing(FEATURES, SCALE), FEATURES, x).numpy()

    np.testing.assert_allclose(z, (x - SCALE.mean) / SCALE.std, atol=1e-5)


@pytest.mark.parametrize("std", [1e-9, 1e-3, 1e25])
def test_z_scores_hold_at_any_scale_that_float32_has(std: float) -> None:
    x = std * np.random.default_rng(0).normal(size=(1000, 1))
    scale = Standardization("train", x.mean(axis=0), x.std(axis=0), 0.0, 1.0)

    z = preprocess(build_preprocessing(("x",), scale), ("x",), x).numpy()

    np.testing.assert_allclose(z, (x - x.mean()) / x.std(), rtol=1e-5, atol=1e-6)


def test_columns_may_have_the_names_of_layers(tmp_path: Path) -> None:
    names = ("columns", "z_scores", "target_units", "dnn", "a/b", "a\N{DIVISION SLASH}b", "dense")
    scale = Standardization("train", np.zeros(7), np.ones(7), 0.0, 2.0)
    weights = build_dnn(MODEL, num_inputs=7, seed=0, precision="float32").get_weights()
    model = build_export(
        MODEL, features=names, standardization=scale, weights=weights, precision="float32"
    )

    save_model(tmp_path / "model.keras", model)

    predict = load_predictor(tmp_path / "model.keras", precision="float32")
    assert predict({name: np.ones(3) for name in names}).shape == (3,)


def test_a_single_feature_needs_no_joining() -> None:
    scale = Standardization("train", np.array([2.0]), np.array([4.0]), 0.0, 1.0)

    z = preprocess(build_preprocessing(("x",), scale), ("x",), np.array([[6.0], [2.0]])).numpy()

    assert z.tolist() == [[1.0], [0.0]]


def test_the_reference_network_has_204601_parameters() -> None:
    dnn = build_dnn(ModelConfig(), num_inputs=12, seed=0, precision="float32")

    assert dnn.count_params() == ModelConfig().count_params(num_inputs=12) == 204_601
    assert "Total params: 204,601" in summarize(dnn)


def test_predictions_do_not_depend_on_the_block_a_row_falls_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dnn = build_dnn(MODEL, num_inputs=5, seed=0, precision="float32")
    x = np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32)
    whole = predict_rows(dnn, x)

    monkeypatch.setattr("dnnjob.training.evaluate._BLOCK_ROWS", 16)

    np.testing.assert_allclose(predict_rows(dnn, x), whole, rtol=1e-6)


def test_an_unwritable_place_leaves_no_half_model(tmp_path: Path) -> None:
    model = build_export(
        MODEL,
        features=FEATURES,
        standardization=SCALE,
        weights=build_dnn(MODEL, num_inputs=5, seed=0, precision="float32").get_weights(),
        precision="float32",
    )
    (tmp_path / "model").write_text("a file in the way")

    with pytest.raises(OSError, match="model"):
        save_model(tmp_path / "model" / "model.keras", model)

    assert [path.name for path in tmp_path.iterdir()] == ["model"]
