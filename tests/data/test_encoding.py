"""How columns become inputs, against pandas and numbers worked out by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import (
    CategoryColumn,
    ColumnStatistics,
    DateColumn,
    Encoding,
    FeatureKind,
    NumberColumn,
    TargetEncoding,
)
from dnnjob.data.encoding_fit import fit_columns
from dnnjob.data.raw_columns import Block, Texts
from dnnjob.errors import DataError
from tests.data.opened import measure_block

TARGET = TargetEncoding("y", "none", 0.0, 1.0, 1.0)


def fit(block: Block, kinds: dict[str, FeatureKind], **data: Any) -> Encoding:
    config = DataConfig(source="s", target="y", **data)
    return Encoding(fit_columns(config, kinds, measure_block(block)), TARGET, config.standardize)


def fit_texts(texts: list[str | None], **data: Any) -> CategoryColumn:
    (column,) = fit({"t": Texts.of(texts)}, {"t": "text"}, **data).columns
    assert isinstance(column, CategoryColumn)
    return column


# Numbers


def test_gaps_of_numbers_are_filled_by_the_median_and_shown() -> None:
    values = np.array([1.0, 2.0, 9.0, np.nan])
    (column,) = fit({"n": values}, {"n": "numeric"}).columns
    quantiles = tuple(np.quantile(values[:3], np.linspace(0, 1, 49)).tolist())
    assert isinstance(column, NumberColumn)
    assert column.quantiles == pytest.approx(quantiles)
    assert replace(column, quantiles=()) == NumberColumn(
        "n", fill=2.0, indicator=True, mean=4.0, std=values[:3].std()
    )
    assert column.num_inputs == 2


@pytest.mark.parametrize(("fill", "expected"), [("mean", 4.0), ("median", 2.0), (-1, -1.0)])
def test_what_fills_gaps_can_be_said(fill: str | float, expected: float) -> None:
    block = {"n": np.array([1.0, 2.0, 9.0, np.nan])}
    (column,) = fit(block, {"n": "numeric"}, columns={"n": {"fill": fill}}).columns
    assert isinstance(column, NumberColumn)
    assert column.fill == expected


def test_numbers_without_gaps_have_one_input() -> None:
    encoding = fit({"b": np.array([0.0, 1.0])}, {"b": "boolean"})
    assert encoding.num_inputs == 1


def test_a_column_of_gaps_alone_becomes_zero() -> None:
    (column,) = fit({"n": np.full(3, np.nan)}, {"n": "numeric"}).columns
    assert column == NumberColumn("n", fill=0.0, indicator=False, mean=0.0, std=1.0)


# Categories


def test_frequent_values_have_inputs_and_rare_ones_share_one() -> None:
    column = fit_texts(["b"] * 3 + ["a"] * 3 + ["c"] * 4 + ["d", "e"], min_category_rows=3)
    assert column.values == ("c", "a", "b")
    assert column.others_trained
    assert column.num_inputs == 4
    (buckets,) = column.numbers(Texts.of(["a", "d", "never seen", None]))
    np.testing.assert_array_equal(buckets, [2, 0, 0, 0])


def test_values_that_training_never_saw_are_zeros_where_no_value_is_rare() -> None:
    column = fit_texts(["a"] * 5 + ["b"] * 5)
    assert (column.others_trained, column.has_other_input, column.num_inputs) == (False, False, 2)


def test_missing_texts_are_a_category_of_their_own() -> None:
    column = fit_texts(["a"] * 6 + [None] * 5)
    assert column.values == ("a", "")
    (buckets,) = column.numbers(Texts.of([None, "a"]))
    np.testing.assert_array_equal(buckets, [2, 1])


def test_a_few_missing_texts_are_rare() -> None:
    column = fit_texts(["a"] * 6 + [None])
    assert (column.values, column.others_trained) == (("a",), True)


def test_the_most_frequent_values_are_kept() -> None:
    texts: list[str | None] = ["a"] * 5 + ["b"] * 7 + ["c"] * 6
    column = fit_texts(texts, max_categories=2)
    assert (column.values, column.others_trained) == (("b", "c"), True)


def test_a_text_of_names_is_one_input() -> None:
    column = fit_texts([f"name {number}" for number in range(50)])
    assert (column.values, column.num_inputs) == ((), 1)


def test_many_values_are_embedded() -> None:
    texts: list[str | None] = [f"v{number % 40}" for number in range(400)]
    column = fit_texts(texts)
    assert (len(column.values), column.units, column.num_inputs) == (40, 7, 1)
    assert fit_texts(texts, max_one_hot=40).units is None
    assert fit_texts(texts, columns={"t": {"encoding": "one_hot"}}).num_inputs == 40
    assert fit_texts(texts[:100], columns={"t": {"encoding": "embedding"}}).units == 1


def test_categories_cannot_enter_plainly_as_numbers_do() -> None:
    with pytest.raises(DataError, match=r"Plain is for numbers, but 't' holds categories\. Set"):
        fit_texts(["a"] * 9, columns={"t": {"encoding": "plain"}})


def test_the_order_of_rows_does_not_show_in_the_categories() -> None:
    texts: list[str | None] = ["x", "y", "z", "x", "z", "y"]
    assert fit_texts(texts, min_category_rows=1) == fit_texts(texts[::-1], min_category_rows=1)


def test_codes_are_categories_whose_names_are_numbers() -> None:
    encoding = fit({"c": Texts.of(["7", "7", "-3", None])}, {"c": "codes"}, min_category_rows=1)
    (column,) = encoding.columns
    assert isinstance(column, CategoryColumn)
    assert (column.values, column.input_dtype) == (("7", "", "-3"), "float32")


def test_codes_beyond_float32_are_refused() -> None:
    statistics = ColumnStatistics(num_rows=1, num_missing=0, counts={"16777217": 1})
    data = DataConfig(source="s", target="y")
    with pytest.raises(DataError, match=r"at most 16,777,216, but 'c' holds '16777217'\. Set data"):
        fit_columns(data, {"c": "codes"}, {"c": statistics})


def test_texts_too_rare_to_be_counted_are_rare() -> None:
    found = ColumnStatistics(num_rows=20, num_missing=0, counts={"a": 12}, num_uncounted=8)
    data = DataConfig(source="s", target="y")
    (column,) = fit_columns(data, {"c": "text"}, {"c": found})
    assert isinstance(column, CategoryColumn)
    assert column.others_trained


# Dates


def test_dates_are_days_from_the_median_day() -> None:
    dates = pd.to_datetime(["2024-01-01 00:00", "2024-01-11 12:00", "2024-02-01 00:00", None])
    seconds = np.array([np.nan if date is pd.NaT else date.timestamp() for date in dates])
    encoding = fit({"d": seconds}, {"d": "datetime"}, columns={"d": {"cycles": ["week", "year"]}})
    (column,) = encoding.columns
    assert isinstance(column, DateColumn)
    day = (pd.Timestamp("2024-01-11") - pd.Timestamp(0)).days
    offsets = np.array([-10.0, 0.5, 21.0])
    assert column.reference_day == day
    assert column.fill == pytest.approx(0.5)
    assert (column.mean, column.std) == pytest.approx((offsets.mean(), offsets.std()))
    assert (column.indicator, column.num_inputs) == (True, 6)
    days, rest = column.numbers(seconds)
    np.testing.assert_array_equal(days, np.array([day - 10, day, day + 21, np.nan], np.float32))
    np.testing.assert_array_equal(rest, np.array([0, 43_200, 0, np.nan], np.float32))


def test_days_before_1970_end_at_midnight_too() -> None:
    column = DateColumn("d", 0, 0.0, False, 0.0, 1.0, ())
    days, rest = column.numbers(np.array([-1.0, -86_400.0]))
    np.testing.assert_array_equal(days, [-1, -1])
    np.testing.assert_array_equal(rest, [86_399, 0])


# Together


def test_numbers_and_inputs_stand_in_one_order() -> None:
    block: Block = {
        "few": Texts.of(["a", "b", "b", "a"]),
        "gaps": np.array([1.0, np.nan, 3.0, 5.0]),
        "day": np.array([0.0, 86_400.0, 0.0, 0.0]),
        "whole": np.array([1.0, 2.0, 3.0, 4.0]),
        "many": Texts.of(["p", "q", "r", "s"]),
    }
    kinds: dict[str, FeatureKind] = {
        "few": "text",
        "gaps": "numeric",
        "day": "datetime",
        "whole": "numeric",
        "many": "text",
    }
    encoding = fit(block, kinds, min_category_rows=1, columns={"many": {"encoding": "embedding"}})
    np.testing.assert_array_equal(
        encoding.numbers(block),
        np.array(
            [[1, 1, 0, 0, 1, 1], [np.nan, 2, 1, 0, 2, 2], [3, 3, 0, 0, 2, 3], [5, 4, 0, 0, 1, 4]],
            np.float32,
        ),
    )
    assert encoding.num_numbers == 6
    assert encoding.places == {
        "gaps": (0, 2),
        "whole": (1,),
        "day": (3,),
        "few": (4, 5),
        "many": (6,),
    }
    assert encoding.num_inputs == 7
    assert encoding.embedding_shapes == ((5, 3),)


def test_columns_that_become_several_inputs_are_told() -> None:
    block: Block = {
        "few": Texts.of(["a"] * 6 + ["b"]),
        "gaps": np.array([1.0, np.nan, 3.0, 5.0, 1.0, 1.0, 1.0]),
        "day": np.arange(7) * 86_400.0,
        "plain": np.arange(7.0),
        "many": Texts.of(["a"] * 6 + ["b"]),
    }
    kinds: dict[str, FeatureKind] = {
        "few": "text",
        "gaps": "numeric",
        "day": "datetime",
        "plain": "numeric",
        "many": "text",
    }
    columns = {"many": {"encoding": "embedding"}, "day": {"cycles": ["week"]}}
    assert fit(block, kinds, columns=columns).description == (
        "5 columns become 10 inputs:\n"
        "  few: 2 inputs (1 value, all other values)\n"
        "  gaps: 2 inputs (its z-score, whether it is missing)\n"
        "  day: 3 inputs (days, week)\n"
        "  many: 2 inputs (an embedding of 1 value, all other values)"
    )
    assert fit({"n": np.array([1.0, 2.0])}, {"n": "numeric"}).description == ""


def test_one_row_is_encoded_as_among_others() -> None:
    block: Block = {"n": np.array([1.0, 2.0]), "t": Texts.of(["a", "b"])}
    encoding = fit(block, {"n": "numeric", "t": "text"}, min_category_rows=1)
    one: Block = {"n": np.array([2.0]), "t": Texts.of(["b"])}
    np.testing.assert_array_equal(encoding.numbers(one), encoding.numbers(block)[1:])


def test_values_of_the_wrong_sort_are_a_mistake_of_ours() -> None:
    encoding = fit({"n": np.array([1.0, 2.0])}, {"n": "numeric"})
    with pytest.raises(TypeError, match="'n' were not read as numbers"):
        encoding.numbers({"n": Texts.of(["a"])})
    with pytest.raises(TypeError, match="'t' were not read as texts"):
        fit_texts(["a"]).numbers(np.array([1.0]))
