"""Preprocessing inside the model, against NumPy, pandas and the pipeline."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from dnnjob.config import DataConfig, ModelConfig
from dnnjob.data.encoding import (
    CategoryColumn,
    DateColumn,
    Encoding,
    FeatureKind,
    NumberColumn,
    TargetEncoding,
)
from dnnjob.data.encoding_fit import fit_columns
from dnnjob.data.raw_columns import Block, Texts
from dnnjob.training.encoder import build_encoder, build_model, build_readers
from dnnjob.training.export import as_input, build_export, load_predictor, save_model
from dnnjob.training.model import build_dnn, summarize
from tests.data.opened import measure_block
from tests.training.conftest import predict_rows

TARGET = TargetEncoding("y", "none", mean=20.0, std=5.0, raw_std=5.0)
MODEL = ModelConfig(hidden_units=(7, 3))
KINDS: dict[str, FeatureKind] = {
    "größe m²": "numeric",
    "colour/hue": "text",
    "zip": "codes",
    "sold": "datetime",
    "street": "text",
    "flag": "boolean",
}


def make_block(num_rows: int = 300) -> Block:
    random = np.random.default_rng(3)
    size = np.where(random.random(num_rows) < 0.1, np.nan, random.normal(100, 30, num_rows))
    start = pd.Timestamp("2019-06-01").timestamp()
    sold = np.floor(start + random.uniform(0, 1e8, num_rows))
    sold[random.random(num_rows) < 0.1] = np.nan
    colours = random.choice(
        ["red", "grün", "[UNK]", "rare one", ""], num_rows, p=[0.5, 0.3, 0.1, 0.01, 0.09]
    )
    codes = random.choice(["-1", "7", "99999", ""], num_rows, p=[0.3, 0.3, 0.35, 0.05])
    return {
        "größe m²": size,
        "colour/hue": Texts.of(colours).without([]),
        "zip": Texts.of(codes).without([]),
        "sold": sold,
        "street": Texts.of(f"street {n}" for n in random.integers(0, 40, num_rows)),
        "flag": random.integers(0, 2, num_rows).astype(float),
    }


def fit(block: Block, kinds: dict[str, FeatureKind], **data: Any) -> Encoding:
    config = DataConfig(source="s", target="y", **data)
    columns = fit_columns(config, kinds, measure_block(block))
    return Encoding(columns, TARGET, config.standardize)


@pytest.fixture
def block() -> Block:
    return make_block()


@pytest.fixture
def encoding(block: Block) -> Encoding:
    cycles = {"cycles": ["day", "week", "month", "year"]}
    return fit(block, KINDS, max_one_hot=20, columns={"sold": cycles})


# The encoder


def encode_block(encoding: Encoding, block: Block) -> np.ndarray:
    return np.asarray(build_encoder(encoding)(encoding.numbers(block)))


def test_numbers_become_z_scores_with_gaps_filled_and_shown() -> None:
    values = np.array([[1.0, 10.0], [2.0, np.nan], [9.0, 30.0]])
    columns = (
        NumberColumn("a", fill=5.0, indicator=False, mean=4.0, std=2.0),
        NumberColumn("b", fill=20.0, indicator=True, mean=10.0, std=5.0),
    )
    found = encode_block(Encoding(columns, TARGET, "train"), {"a": values[:, 0], "b": values[:, 1]})
    np.testing.assert_array_equal(found, [[-1.5, 0, 0], [-1, 2, 1], [2.5, 4, 0]])


def test_both_has_the_z_score_beside_the_robust_score_where_it_tells_more() -> None:
    values = np.tile([1.0, 2.0, 3.0, 4.0, 5.0, np.nan, 90.0], 7)
    two = np.tile([0.0, 1, 1, 0, 1, 0, 0], 7)
    block: Block = {"two": two, "gaps": values, "one": np.full(49, 8.0)}
    kinds: dict[str, FeatureKind] = dict.fromkeys(block, "numeric")

    encoding = fit(block, kinds, standardize="both")
    found = encode_block(encoding, block)

    # Quartiles of the two values are 0 and 1.
    filled = np.nan_to_num(values, nan=3.5)
    low, middle, high = np.nanquantile(values, [0.25, 0.5, 0.75])
    robust = (filled - middle) / (high - low)
    robust /= np.sqrt(1 + (robust / 3) ** 2)
    z = (filled - np.nanmean(values)) / np.nanstd(values)
    two /= np.sqrt(1 + (two / 3) ** 2)
    expected = np.stack([two, robust, np.zeros(49), z, np.isnan(values)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert encoding.places == {"two": (0,), "gaps": (1, 3, 4), "one": (2,)}
    assert encoding.num_inputs == 5
    text = "gaps: 3 inputs (its robust score, its z-score, whether it is missing)"
    assert text in encoding.description


@pytest.mark.parametrize("std", [1e-9, 1e-3, 1e25])
def test_z_scores_hold_at_any_scale_that_float32_has(std: float) -> None:
    x = std * np.random.default_rng(0).normal(size=1000)
    column = NumberColumn("x", 0.0, False, mean=x.mean(), std=x.std())
    found = encode_block(Encoding((column,), TARGET, "train"), {"x": x})
    np.testing.assert_allclose(found[:, 0], (x - x.mean()) / x.std(), rtol=1e-5, atol=1e-6)


def test_unscaled_numbers_stay_as_they_are() -> None:
    column = NumberColumn("x", fill=3.0, indicator=False, mean=0.0, std=1.0)
    found = encode_block(Encoding((column,), TARGET, "none"), {"x": np.array([1e-30, np.nan, 7])})
    np.testing.assert_array_equal(found[:, 0], np.array([1e-30, 3, 7], np.float32))


def test_categories_are_those_of_pandas() -> None:
    texts = ["a", "b", "c", "a", "d"]
    column = CategoryColumn("t", "text", ("a", "b", "c"), others_trained=True, units=None)
    found = encode_block(Encoding((column,), TARGET, "train"), {"t": Texts.of(texts)})
    series = pd.Series(
        pd.Categorical(["others" if t == "d" else t for t in texts], ["others", *"abc"])
    )
    np.testing.assert_array_equal(found, pd.get_dummies(series).to_numpy(float))


def test_without_rare_values_unknown_ones_are_zeros() -> None:
    column = CategoryColumn("t", "text", ("a", "b"), others_trained=False, units=None)
    found = encode_block(Encoding((column,), TARGET, "train"), {"t": Texts.of(["b", "new", None])})
    np.testing.assert_array_equal(found, [[0, 1], [0, 0], [0, 0]])


def test_dates_are_days_and_places_in_cycles() -> None:
    dates = pd.to_datetime(
        ["2024-02-29 18:00:00", "1969-12-31 23:59:59", "2023-07-03 00:00:00", "2100-12-31 06:00:00"]
    )
    middle = pd.Timestamp("2024-01-01")
    column = DateColumn(
        "d",
        reference_day=(middle - pd.Timestamp(0)).days,
        fill=0.0,
        indicator=False,
        mean=10.0,
        std=100.0,
        cycles=("day", "week", "month", "year"),
    )
    seconds = np.array([date.timestamp() for date in dates])
    found = encode_block(Encoding((column,), TARGET, "train"), {"d": seconds})
    days = np.array([(date - middle) / pd.Timedelta(days=1) for date in dates])
    np.testing.assert_allclose(found[:, 0], (days - 10) / 100, rtol=1e-5)
    fraction = (dates - dates.normalize()) / pd.Timedelta(days=1)
    since = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
    in_month = dates.day - 1 + fraction
    lengths = np.where(dates.month == 2, 30, dates.days_in_month)
    for place, phase in enumerate(
        (fraction, (dates.day_of_week + fraction) / 7, in_month / lengths, since / 365.2425)
    ):
        angle = 2 * np.pi * np.asarray(phase, float)
        np.testing.assert_allclose(found[:, 1 + 2 * place], np.sin(angle), atol=2e-4)
        np.testing.assert_allclose(found[:, 2 + 2 * place], np.cos(angle), atol=2e-4)


def test_a_missing_date_is_the_median_without_a_place_in_any_cycle() -> None:
    column = DateColumn("d", 19_000, 0.25, True, 0.0, 1.0, ("week",))
    found = encode_block(Encoding((column,), TARGET, "train"), {"d": np.array([np.nan])})
    np.testing.assert_array_equal(found, [[0.25, 1, 0, 0]])


def test_seconds_are_told_apart_far_from_1970() -> None:
    column = DateColumn("d", 19_000, 0.0, False, 0.0, 1.0, ())
    seconds = 19_000 * 86_400 + np.array([0.0, 1.0])
    found = encode_block(Encoding((column,), TARGET, "train"), {"d": seconds})
    assert found[1, 0] - found[0, 0] == pytest.approx(1 / 86_400, rel=1e-6)


# The readers


def test_raw_columns_give_the_numbers_of_the_pipeline(block: Block, encoding: Encoding) -> None:
    inputs, numbers = build_readers(encoding)
    reader = build_model(inputs, numbers, name="reader")
    raw = {name: as_input(block[name], kind) for name, kind in KINDS.items()}
    np.testing.assert_array_equal(np.asarray(reader(raw)), encoding.numbers(block))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-02-29", "2024-02-29"),
        ("2024-02-29 12:34", "2024-02-29 12:34"),
        ("2024-02-29T12:34:56", "2024-02-29 12:34:56"),
        ("2024-02-29 12:34:56.789+02:00", "2024-02-29 12:34:56"),
        ("1600-03-01 00:00:01", "1600-03-01 00:00:01"),
        ("0001-01-01", "0001-01-01"),
        ("9999-12-31 23:59:59", "9999-12-31 23:59:59"),
        ("2024-01-01 10:00+02:00", "2024-01-01 10:00"),
        ("2024-01-01 10:00-05:30", "2024-01-01 10:00"),
        ("2024-01-01 10:00Z", "2024-01-01 10:00"),
        ("2024-01-01T10:00:07Z", "2024-01-01 10:00:07"),
        ("", None),
        ("?", None),
        ("yesterday", None),
        ("2024-13-01", None),
        ("2024-00-10", None),
        ("2023-02-29", None),
        ("2024-04-31", None),
        ("2024-01-00", None),
        ("2024/01/01", None),
        ("2024-01-01x", None),
        ("2024-01-01 10", None),
        ("2024-01-01 24:00", None),
        ("2024-01-01 10:60", None),
        ("2024-01-01 10:00:61", None),
    ],
)
def test_the_model_reads_iso_dates(text: str, seconds: str | None) -> None:
    column = DateColumn("d", 0, 0.0, False, 0.0, 1.0, ())
    inputs, numbers = build_readers(Encoding((column,), TARGET, "train"))
    found = np.asarray(keras.Model(inputs, numbers)({"d": keras.ops.convert_to_tensor([[text]])}))
    stamp = np.nan if seconds is None else float(np.datetime64(seconds, "s").astype(int))
    np.testing.assert_array_equal(found, np.stack(column.numbers(np.array([stamp])), axis=1))


def test_a_fraction_is_no_code() -> None:
    column = CategoryColumn("c", "codes", ("7", ""), others_trained=True, units=None)
    inputs, numbers = build_readers(Encoding((column,), TARGET, "train"))
    raw = np.array([[7.0], [7.5], [np.nan], [8.0], [-3e9]], np.float32)
    found = np.asarray(keras.Model(inputs, numbers)({"c": raw}))
    np.testing.assert_array_equal(found[:, 0], [1, 0, 2, 0, 0])


# The whole model


def save(folder: Path, encoding: Encoding) -> tuple[Path, Any]:
    dnn = build_dnn(
        MODEL,
        num_inputs=encoding.num_inputs,
        embeddings=encoding.embedding_shapes,
        seed=3,
        precision="float32",
    )
    model = build_export(MODEL, encoding=encoding, weights=[dnn.get_weights()], precision="float32")
    save_model(folder / "model.keras", model)
    return folder / "model.keras", dnn


def test_the_saved_model_predicts_what_the_pipeline_does(
    tmp_path: Path, block: Block, encoding: Encoding
) -> None:
    path, dnn = save(tmp_path, encoding)
    expected = encoding.target.restore(predict_rows(dnn, encode_block(encoding, block)))
    found = load_predictor(path, KINDS, precision="float32")(block).y_pred
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert encoding.embedding_shapes == ((36, 6),)
    assert {len(places) for places in encoding.places.values()} >= {1, 2, 10}


def test_values_that_training_never_saw_are_predicted(
    tmp_path: Path, block: Block, encoding: Encoding
) -> None:
    new: Block = {
        "größe m²": np.array([np.nan, 1e6]),
        "colour/hue": Texts.of(["never", None]),
        "zip": Texts.of([None, "123456"]),
        "sold": np.array([np.nan, 0.0]),
        "street": Texts.of(["elsewhere", None]),
        "flag": np.array([np.nan, 1.0]),
    }
    path, dnn = save(tmp_path, encoding)
    expected = encoding.target.restore(predict_rows(dnn, encode_block(encoding, new)))
    assert np.isfinite(expected).all()
    found = load_predictor(path, KINDS, precision="float32")(new).y_pred
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_a_log_target_comes_back_in_its_units(tmp_path: Path, block: Block) -> None:
    target = TargetEncoding("y", "log1p", mean=3.0, std=0.5, raw_std=9.0)
    columns = fit(block, KINDS).columns
    encoding = Encoding(columns, target, "train")
    path, dnn = save(tmp_path, encoding)
    scaled = predict_rows(dnn, encode_block(encoding, block))
    found = load_predictor(path, KINDS, precision="float32")(block).y_pred
    np.testing.assert_allclose(found, np.expm1(scaled * 0.5 + 3.0), rtol=5e-6)


def test_columns_may_have_the_names_of_layers(tmp_path: Path) -> None:
    names = ("columns", "encoder", "target_units", "dnn", "a/b", "a\N{DIVISION SLASH}b", "lookup_0")
    kinds: dict[str, FeatureKind] = {**dict.fromkeys(names, "numeric"), "dense": "text"}
    block: Block = {name: np.array([1.0, 2.0, 4.0]) for name in names}
    block = {**block, "dense": Texts.of(["a", "b", "a"])}
    path, _ = save(tmp_path, fit(block, kinds, min_category_rows=1))
    assert load_predictor(path, kinds, precision="float32")(block).y_pred.shape == (3,)


def test_many_columns_keep_their_order_and_names(tmp_path: Path) -> None:
    names = [f"columns_{number}" for number in range(150)]
    columns = tuple(NumberColumn(name, 0.0, False, mean=0.0, std=1.0) for name in names)
    inputs, numbers = build_readers(Encoding(columns, TARGET, "none"))
    rows = np.random.default_rng(0).normal(size=(4, 150)).astype(np.float32)

    found = build_model(inputs, numbers, name="readers")(
        {name: rows[:, place : place + 1] for place, name in enumerate(names)}
    )

    np.testing.assert_array_equal(found, rows)


def test_texts_without_a_frequent_value_still_make_a_model(tmp_path: Path) -> None:
    block: Block = {"name": Texts.of(["a", "b", "c"])}
    path, _ = save(tmp_path, fit(block, {"name": "text"}))
    found = load_predictor(path, {"name": "text"}, precision="float32")(block).y_pred
    assert len(set(found.tolist())) == 1


# The network


def test_embeddings_are_counted_and_shown() -> None:
    dnn = build_dnn(MODEL, num_inputs=4, embeddings=[(41, 7), (5, 2)], seed=0, precision="float32")
    # 2 plain inputs and vectors of 7 and 2 units: 11 inputs of the first layer.
    counted = 41 * 7 + 5 * 2 + (11 + 1) * 7 + (7 + 1) * 3 + 3 + 1
    assert dnn.count_params() == counted
    assert f"Total params: {counted:,}" in summarize(dnn)
    assert "embedding_2" in summarize(dnn)


def test_embeddings_leave_the_seeds_of_the_layers_as_they_are() -> None:
    plain = build_dnn(MODEL, num_inputs=9, seed=4, precision="float32")
    dnn = build_dnn(MODEL, num_inputs=3, embeddings=[(5, 7)], seed=4, precision="float32")
    for kernel, other in zip(plain.get_weights(), dnn.get_weights()[1:], strict=True):
        np.testing.assert_array_equal(kernel, other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_an_embedding_is_the_row_of_its_code(precision: str) -> None:
    linear = ModelConfig(hidden_units=())
    dnn = build_dnn(linear, num_inputs=2, embeddings=[(300, 2)], seed=1, precision=precision)
    table, kernel, _ = dnn.get_weights()
    x = np.array([[0.5, 299], [-1.0, 257]], np.float32)
    joined = np.concatenate([x[:, :1], table[[299, 257]]], axis=1)
    np.testing.assert_allclose(predict_rows(dnn, x), (joined @ kernel)[:, 0], rtol=1e-5, atol=1e-7)
