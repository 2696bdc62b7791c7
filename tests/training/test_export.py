"""The exported model against the network it was made from."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dnnjob.config import ModelConfig
from dnnjob.data.encoding import Encoding, FeatureKind, NumberColumn, TargetEncoding
from dnnjob.training.encoder import build_encoder
from dnnjob.training.export import build_export, build_next_export, save_model
from dnnjob.training.model import build_dnn, summarize
from tests.training.conftest import plain_encoding, predict_rows

FEATURES = ("plain", "with space", "dot.ted", "größe", "a:b")
KINDS: dict[str, FeatureKind] = dict.fromkeys(FEATURES, "numeric")
MEAN = np.array([1.0, -2.0, 3.0, 1e4, 0.0])
STD = np.array([1.0, 0.5, 3.0, 2e3, 1e-3])
MODEL = ModelConfig(hidden_units=(7, 3), dropout_rate=0.5)


def make_encoding(mode: Any) -> Encoding:
    scaled = mode != "none"
    columns = tuple(
        NumberColumn(name, 0.0, False, mean if scaled else 0.0, std if scaled else 1.0)
        for name, mean, std in zip(FEATURES, MEAN.tolist(), STD.tolist(), strict=True)
    )
    target = (
        TargetEncoding("y", "none", 20.0, 5.0, 5.0)
        if scaled
        else TargetEncoding("y", "none", 0.0, 1.0, None)
    )
    return Encoding(columns, target, mode)


def raw_rows(num_rows: int) -> np.ndarray:
    return MEAN + STD * np.random.default_rng(1).normal(size=(num_rows, 5))


@pytest.mark.parametrize("mode", ["train", "none"])
def test_the_saved_model_takes_raw_columns_and_gives_target_units(
    tmp_path: Path, mode: Any
) -> None:
    encoding = make_encoding(mode)
    columns = dict(zip(FEATURES, raw_rows(50).T, strict=True))
    dnn = build_dnn(MODEL, num_inputs=5, seed=3, precision="float32")
    inputs = np.asarray(build_encoder(encoding)(encoding.numbers(columns)))
    expected = encoding.target.restore(predict_rows(dnn, inputs))
    model = build_export(MODEL, encoding=encoding, weights=[dnn.get_weights()], precision="float32")

    save_model(tmp_path / "model" / "model.keras", model)

    loaded = keras.models.load_model(tmp_path / "model" / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded.predict(columns, verbose=0)[:, 0], expected, rtol=1e-5)


@pytest.mark.long
def test_the_next_model_of_a_shape_is_that_of_its_own_weights_and_dropout(tmp_path: Path) -> None:
    encoding, x = make_encoding("train"), dict(zip(FEATURES, raw_rows(20).T, strict=True))
    built: list[keras.Model] = []
    for seed, rate in ((0, 0.1), (1, 0.4), (2, 0.0)):
        model = ModelConfig(hidden_units=(7, 3), dropout_rate=rate)
        weights = build_dnn(model, num_inputs=5, seed=seed, precision="float32").get_weights()
        given: dict[str, Any] = {
            "encoding": encoding,
            "weights": [weights],
            "precision": "float32",
        }
        built.append(build_next_export(model, **given))
        save_model(tmp_path / "next.keras", built[-1])
        fresh = build_export(model, **given)
        loaded = keras.models.load_model(tmp_path / "next.keras")
        np.testing.assert_array_equal(loaded.predict(x), fresh.predict(x))
        rates = [
            layer.rate
            for layer in loaded.get_layer("dnn").layers
            if isinstance(layer, keras.layers.Dropout)
        ]
        assert rates == [rate] * (2 if rate else 0)
    assert built[1] is built[0]
    assert built[2] is not built[0]


def test_preprocessing_equals_z_scores_in_float64_to_rounding() -> None:
    x = raw_rows(1000)
    encoding = make_encoding("train")

    z = np.asarray(build_encoder(encoding)(x.astype(np.float32)))

    np.testing.assert_allclose(z, (x - MEAN) / STD, atol=1e-5)


def test_the_reference_network_has_204601_parameters() -> None:
    dnn = build_dnn(ModelConfig(), num_inputs=12, seed=0, precision="float32")

    encoding = plain_encoding(12)
    assert dnn.count_params() == encoding.count_params(ModelConfig()) == 204_601
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
        encoding=make_encoding("train"),
        weights=[build_dnn(MODEL, num_inputs=5, seed=0, precision="float32").get_weights()],
        precision="float32",
    )
    (tmp_path / "model").write_text("a file in the way")

    with pytest.raises(OSError, match="model"):
        save_model(tmp_path / "model" / "model.keras", model)

    assert [path.name for path in tmp_path.iterdir()] == ["model"]
