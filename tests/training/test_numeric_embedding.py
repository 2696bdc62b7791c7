"""How numbers enter as vectors, against the published formulas in plain NumPy."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dnnjob.config import ModelConfig
from dnnjob.data.encoding import Encoding, NumberColumn, NumericEmbedding, TargetEncoding
from dnnjob.training.encoder import build_encoder
from dnnjob.training.export import build_export, save_model
from dnnjob.training.model import build_dnn, build_encoded_dnn
from dnnjob.training.numeric_embedding import bin_ramps
from tests.training.conftest import predict_rows

TARGET = TargetEncoding("y", "none", 20.0, 5.0, 5.0)
# A column of many values, one of three, one of two, and a constant one.
COLUMNS = {
    "many": np.linspace(-3.0, 9.0, 97) ** 3,
    "three": np.repeat([1.0, 2.0, 5.0], [40, 30, 27]),
    "two": np.repeat([0.0, 1.0], [50, 47]),
    "one": np.full(97, 7.0),
}


def make_encoding(mode: Any = "train", plain: tuple[str, ...] = ()) -> Encoding:
    columns = []
    for name, values in COLUMNS.items():
        quantiles = tuple(np.quantile(values, np.linspace(0, 1, 49)).tolist())
        column = NumberColumn(
            name,
            0.0,
            False,
            float(values.mean()),
            float(values.std()) or 1.0,
            () if name in plain else quantiles,
        )
        columns.append(column)
    return Encoding(tuple(columns), TARGET, mode)


def make_model(kind: str, **keys: Any) -> ModelConfig:
    return ModelConfig(hidden_units=(6,), numeric_embedding=kind, **keys)


def piecewise(x: float, ends: tuple[float, ...], bins: int) -> list[float]:
    """How far a number is through each bin, as arXiv:2203.05556 defines it."""
    parts = []
    for number, (low, high) in enumerate(pairwise(ends)):
        part = (x - low) / (high - low)
        part = part if number == 0 else max(part, 0.0)
        parts.append(part if number == len(ends) - 2 else min(part, 1.0))
    return parts + [0.0] * (bins - len(parts))


def test_columns_of_more_than_two_values_have_bins_between_their_quantiles() -> None:
    embedding = make_encoding().numeric_embedding(make_model("piecewise", embedding_bins=8))

    assert embedding is not None
    assert embedding.places == (0, 1)
    many, three = (np.array(ends) for ends in embedding.edges)
    values = COLUMNS["many"]
    expected = np.quantile(values, np.linspace(0, 1, 9))
    np.testing.assert_allclose(many, (expected - values.mean()) / values.std(), rtol=1e-6)
    values = COLUMNS["three"]
    np.testing.assert_allclose(three, (np.array([1, 2, 5]) - values.mean()) / values.std(), 1e-6)


def test_columns_of_fewer_bins_than_asked_for_are_told() -> None:
    encoding = make_encoding()

    told = encoding.describe_bins(make_model("piecewise", embedding_bins=16))

    assert told == "Fewer bins than model.embedding_bins = 16, since values repeat: three (2)."
    assert encoding.describe_bins(make_model("piecewise", embedding_bins=2)) == ""
    assert encoding.describe_bins(make_model("periodic")) == ""


def test_a_column_that_is_plain_and_a_model_without_embedding_have_none() -> None:
    encoding = make_encoding(plain=("many",))
    embedding = encoding.numeric_embedding(make_model("piecewise"))
    assert embedding is not None
    assert embedding.places == (1,)
    assert encoding.numeric_embedding(make_model("none")) is None
    assert make_encoding(plain=tuple(COLUMNS)).numeric_embedding(make_model("periodic")) is None


def test_robust_scores_have_their_bins_where_the_clipped_quantiles_are() -> None:
    embedding = make_encoding("robust").numeric_embedding(make_model("piecewise"))
    assert embedding is not None
    z = (COLUMNS["many"] - COLUMNS["many"].mean()) / COLUMNS["many"].std()
    assert embedding.edges[0][-1] == pytest.approx(z[-1] / math.sqrt(1 + (z[-1] / 3) ** 2))


@pytest.mark.parametrize("kind", ["piecewise", "periodic"])
def test_the_network_computes_the_published_vectors(kind: str) -> None:
    embedding = NumericEmbedding(kind, (0, 2), ((-1.0, 0.0, 0.5, 2.0), (-2.0, 1.0)), 3, 4)
    dnn = build_dnn(make_model(kind), num_inputs=3, numbers=embedding, seed=5, precision="float32")
    random = np.random.default_rng(0)
    dnn.set_weights(
        [
            weight if variable.path.split("/")[-2] == "bins" else random.normal(size=weight.shape)
            for variable, weight in zip(dnn.weights, dnn.get_weights(), strict=True)
        ]
    )
    weights = {"/".join(v.path.split("/")[-2:]): np.asarray(v) for v in dnn.weights}
    x = np.array([[-1.7, 0.3, -3.0], [0.2, 0.1, 0.4], [5.0, -9.0, 1.0]], np.float32)

    vectors = []
    for row in x.astype(np.float64):
        of_row: list[float] = []
        for column, (place, ends) in enumerate(zip(embedding.places, embedding.edges, strict=True)):
            number = row[place]
            if kind == "piecewise":
                of_row += (
                    number * weights["linear_numbers/kernel"][column]
                    + weights["linear_numbers/bias"][column]
                    + np.array(piecewise(number, ends, 3)) @ weights["pieces/kernel"][column]
                ).tolist()
            else:
                angles = (
                    number * weights["frequencies/kernel"][column]
                    + weights["frequencies/bias"][column]
                )
                waves = np.cos(angles) @ weights["waves/kernel"][column]
                of_row += [number, *(waves + weights["waves/bias"][column]).tolist()]
        vectors.append([*of_row, row[1]])
    hidden = np.maximum(np.array(vectors) @ weights["dense/kernel"] + weights["dense/bias"], 0)
    expected = hidden @ weights["dense_1/kernel"] + weights["dense_1/bias"]

    np.testing.assert_allclose(np.asarray(dnn(x)), expected, rtol=2e-5, atol=2e-5)


def test_piecewise_vectors_begin_linear_and_seeds_differ() -> None:
    embedding = NumericEmbedding("piecewise", (0,), ((-1.0, 0.0, 2.0),), 4, 2)
    first, other = (
        build_dnn(
            make_model("piecewise"), num_inputs=1, numbers=embedding, seed=seed, precision="float32"
        )
        for seed in (0, 1)
    )
    vectors = np.asarray(first.layers[0](np.array([[-2.0], [0.0], [2.0], [7.0]], np.float32)))
    slopes = np.diff(vectors, axis=0) / np.array([[2.0], [2.0], [5.0]])
    np.testing.assert_allclose(slopes, np.broadcast_to(slopes[0], slopes.shape), rtol=1e-5)
    assert np.abs(vectors).max() <= 8 * 4**-0.5
    assert not np.array_equal(first.get_weights()[2], other.get_weights()[2])


def test_parameters_are_counted_as_keras_counts_them() -> None:
    for kind in ("piecewise", "periodic"):
        embedding = NumericEmbedding(kind, (0, 2), ((-1.0, 0.0, 2.0), (-2.0, 1.0)), 3, 4)
        dnn = build_dnn(
            make_model(kind), num_inputs=3, numbers=embedding, seed=5, precision="float32"
        )
        trainable = sum(int(np.prod(v.shape)) for v in dnn.trainable_variables)
        dense = (2 * 3 + 1 + 1) * 6 + 7
        assert trainable == dense + embedding.num_params

        encoding, model = make_encoding(), make_model(kind)
        dnn = build_encoded_dnn(model, encoding, seed=0, precision="float32")
        trainable = sum(int(np.prod(v.shape)) for v in dnn.trainable_variables)
        assert trainable == encoding.count_params(model)


def test_ramps_beyond_the_outermost_edges_go_on_and_fill_up_with_zeros() -> None:
    slopes, offsets, lower, upper = bin_ramps([(-1.0, 0.0, 0.5, 2.0), (-2.0, 1.0)])
    for x in (-4.0, -1.0, 0.25, 0.5, 8.0):
        ramps = np.clip(x * slopes + offsets, lower, upper)
        np.testing.assert_allclose(ramps[0], piecewise(x, (-1.0, 0.0, 0.5, 2.0), 3), rtol=1e-6)
        np.testing.assert_allclose(ramps[1], piecewise(x, (-2.0, 1.0), 3), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("piecewise", "robust"),
        ("periodic", "train"),
        pytest.param("piecewise", "train", marks=pytest.mark.long),
        pytest.param("periodic", "robust", marks=pytest.mark.long),
    ],
)
def test_the_saved_model_gives_bounded_target_units_in_plain_keras(
    tmp_path: Path, kind: str, mode: Any
) -> None:
    encoding, model = make_encoding(mode), make_model(kind)
    dnn = build_dnn(
        model,
        num_inputs=encoding.num_inputs,
        numbers=encoding.numeric_embedding(model),
        seed=2,
        precision="float32",
    )
    inputs = np.asarray(build_encoder(encoding)(encoding.numbers(COLUMNS)))
    free = encoding.target.restore(predict_rows(dnn, inputs))
    bounds = float(np.quantile(free, 0.2)), float(np.quantile(free, 0.8))
    encoding = replace(encoding, target=replace(TARGET, bounds=bounds))
    expected = encoding.target.restore(predict_rows(dnn, inputs))
    exported = build_export(
        model, encoding=encoding, weights=[dnn.get_weights()], precision="float32"
    )

    save_model(tmp_path / "model.keras", exported)

    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(loaded.predict(COLUMNS, verbose=0)[:, 0], expected, rtol=1e-5)
    assert (expected.min(), expected.max()) == bounds


def test_z_scores_beside_robust_ones_pass_by_the_embedding() -> None:
    found = make_encoding("both")
    columns = tuple(replace(column, beside=(1.0, 2.0)) for column in found.columns)
    encoding, model = replace(found, columns=columns), make_model("piecewise")

    embedding = encoding.numeric_embedding(model)

    assert embedding == make_encoding("robust").numeric_embedding(model)
    # Two vectors, two plain scores, and a z-score each.
    assert encoding.count_network_inputs(model) == 2 * 8 + 2 + 4
    dnn = build_encoded_dnn(model, encoding, seed=0, precision="float32")
    assert dnn.count_params() - encoding.count_params(model) == 2 * 2 * 16


def test_robust_scores_are_medians_quartiles_and_a_smooth_clip() -> None:
    encoding = make_encoding("robust")
    scores = np.asarray(build_encoder(encoding)(encoding.numbers(COLUMNS)))
    z = (COLUMNS["many"] - COLUMNS["many"].mean()) / COLUMNS["many"].std()
    np.testing.assert_allclose(scores[:, 0], z / np.sqrt(1 + (z / 3) ** 2), atol=1e-6)
    assert np.abs(scores).max() < 3
