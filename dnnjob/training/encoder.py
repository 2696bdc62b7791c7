"""Preprocessing as Keras models of stock layers: what stands before the network in `model.keras`.

encoder = build_encoder(encoding)                 # numbers of rows -> the network's inputs
inputs, numbers = build_readers(encoding)         # raw columns, texts included -> numbers of rows
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from dnnjob.config.data_section import Cycle
from dnnjob.data.encoding import (
    CLIP_SCALE,
    MISSING,
    ROBUST_MODES,
    SECONDS_A_DAY,
    CategoryColumn,
    ColumnEncoding,
    DateColumn,
    Encoding,
    NumberColumn,
)
from dnnjob.training.column_models import columns_as_inputs

# Codes are at most 2**24: none is one of these, which float32 holds exactly.
_MISSING_CODE, _OTHER_CODE, _NO_CODE = -(2**31), -(2**30), -(2**29)
# TextVectorization numbers padding 0 and unknown letters 1.
_DIGIT_ZERO = 2
_DASH, _COLON, _END = 10, 11, -2
_DATE_LETTERS = 19
_JOINED_AT_ONCE = 64
# Days from 0000-03-01 to 1970-01-01, and of the 400 years after which the calendar repeats.
_EPOCH_SHIFT, _ERA = 719_468, 146_097


def build_encoder(encoding: Encoding, *, name: str = "encoder") -> keras.Model:
    """A model from `Encoding.numbers`, `(rows, num_numbers)`, to the network's inputs."""
    numbers = keras.Input((encoding.num_numbers,), name="numbers")
    parts: list[Any] = []
    at = len(encoding.number_columns)
    if at:
        parts += _encode_numbers(
            numbers if at == encoding.num_numbers else numbers[:, :at], encoding
        )
    for date in encoding.date_columns:
        parts += _encode_date(
            date, days=numbers[:, at : at + 1], seconds=numbers[:, at + 1 : at + 2]
        )
        at += 2
    for category in encoding.one_hot_columns:
        parts.append(_encode_one_hot(category, numbers[:, at]))
        at += 1
    if encoding.embedded_columns:
        parts.append(numbers[:, at:])
    joined = keras.layers.Concatenate(name="inputs")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(numbers, joined, name=name)


def _encode_numbers(numbers: Any, encoding: Encoding) -> list[Any]:
    """Scores with gaps filled, z-scores beside robust ones, and the indicators of gaps."""
    columns = encoding.number_columns
    missing = ops.isnan(numbers)
    fill = np.array([column.fill for column in columns], dtype=np.float32)
    filled = z = ops.where(missing, fill, numbers)
    if encoding.mode != "none":
        z = _rescale(z, [(column.mean, column.std) for column in columns], "centred", "z_scores")
    if encoding.mode in ROBUST_MODES:
        z = z / ops.sqrt(1.0 + ops.square(z / CLIP_SCALE))
    parts = [z]
    scales = {place: column.beside for place, column in enumerate(columns) if column.beside}
    if scales:
        beside = _take(filled, list(scales), len(columns))
        parts.append(_rescale(beside, list(scales.values()), "centred_beside", "z_scores_beside"))
    shown = [place for place, column in enumerate(columns) if column.indicator]
    if shown:
        parts.append(_take(ops.cast(missing, "float32"), shown, len(columns)))
    return parts


def _rescale(numbers: Any, scales: Sequence[tuple[float, float]], *names: str) -> Any:
    """Less the mean, over the deviation, by layers of the names."""
    # Not Normalization: it keeps a float32 variance, which overflows from deviations of 1e19
    # on, and takes none below 1e-7 for what it is.
    mean, std = np.array(scales).T
    centred = keras.layers.Rescaling(1.0, (-mean).tolist(), name=names[0])(numbers)
    return keras.layers.Rescaling((1.0 / std).tolist(), name=names[1])(centred)


def _take(numbers: Any, places: Sequence[int], num_columns: int) -> Any:
    """Some of the columns."""
    if len(places) == num_columns:
        return numbers
    return ops.take(numbers, np.array(places, dtype=np.int32), axis=1)


def _encode_date(date: DateColumn, *, days: Any, seconds: Any) -> list[Any]:
    """Days since the reference as a z-score, the indicator of gaps, sines and cosines."""
    missing = ops.isnan(days)
    # Any day will do where none is: what comes of it is replaced.
    day = ops.where(missing, float(date.reference_day), days)
    fraction = ops.where(missing, 0.0, seconds) / SECONDS_A_DAY
    elapsed = ops.where(missing, date.fill, day - float(date.reference_day) + fraction)
    parts = [(elapsed - date.mean) / date.std]
    if date.indicator:
        parts.append(ops.cast(missing, "float32"))
    for cycle in date.cycles:
        angle = 2.0 * math.pi * _phase(cycle, ops.cast(day, "int32"), fraction)
        parts += [ops.where(missing, 0.0, ops.sin(angle)), ops.where(missing, 0.0, ops.cos(angle))]
    return parts


def _phase(cycle: Cycle, day: Any, fraction: Any) -> Any:
    """Share of the cycle that has passed, in [0, 1); `day` counts from 1970-01-01, int32."""
    match cycle:
        case "day":
            return fraction
        case "week":
            # 1970-01-01 was a Thursday, and weeks start on Monday.
            return (ops.cast(ops.mod(day + 3, 7), "float32") + fraction) / 7.0
        case "month":
            passed, length = _place_in_month(day)
            return (ops.cast(passed, "float32") + fraction) / ops.cast(length, "float32")
        case "year":
            # A mean year of the calendar, from the first of January 1970 on.
            passed = ops.mod(day * 400, _ERA)
            return (ops.cast(passed, "float32") + fraction * 400.0) / float(_ERA)


def _place_in_month(day: Any) -> tuple[Any, Any]:
    """Whole days of the month that have passed, and its days (30 for February).

    After https://howardhinnant.github.io/date_algorithms.html.
    """
    of_era = ops.mod(day + _EPOCH_SHIFT, _ERA)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153
    start, end = (153 * month + 2) // 5, (153 * (month + 1) + 2) // 5
    return of_year - start, end - start


def _encode_one_hot(category: CategoryColumn, buckets: Any) -> Any:
    one_hot = ops.one_hot(ops.cast(buckets, "int32"), len(category.values) + 1, dtype="float32")
    return one_hot if category.has_other_input else one_hot[:, 1:]


def build_readers(encoding: Encoding) -> tuple[dict[str, Any], Any]:
    """Inputs for raw columns, and what `Encoding.numbers` makes of the same rows.

    Numbers and codes enter as float32 with NaN for missing, texts and ISO dates as strings with ""
    for missing, each `(rows, 1)`.
    """
    names = {column.name for column in encoding.columns}
    inputs: dict[str, Any] = {}
    for column in encoding.columns:
        # A column's own name is free; that of another with the slash is not.
        name = column.name
        if "/" in name:
            name = free_name(name.replace("/", "\N{DIVISION SLASH}"), names)
            names.add(name)
        inputs[column.name] = keras.Input((1,), name=name, dtype=column.input_dtype)
    parts = [
        part
        for number, column in enumerate(encoding.ordered)
        for part in _read(column, inputs[column.name], f"_{number}", names)
    ]
    return inputs, _concatenate(parts, names)


def _concatenate(parts: list[Any], names: set[str]) -> Any:
    """The parts beside each other; of many by groups, since Keras takes their square in time."""
    while len(parts) > _JOINED_AT_ONCE:
        groups = [
            parts[first : first + _JOINED_AT_ONCE]
            for first in range(0, len(parts), _JOINED_AT_ONCE)
        ]
        parts = []
        for group in groups:
            name = free_name(f"columns_{len(names)}", names)
            names.add(name)
            parts.append(keras.layers.Concatenate(name=name)(group) if group[1:] else group[0])
    if len(parts) == 1:
        return parts[0]
    return keras.layers.Concatenate(name=free_name("columns", names))(parts)


def _read(column: ColumnEncoding, raw: Any, suffix: str, names: Collection[str]) -> list[Any]:
    """What `column.numbers` gives, in a model of its own: Keras names its ops as it likes."""
    if isinstance(column, NumberColumn):
        return [raw]
    inputs = keras.Input((1,), name="raw", dtype=column.input_dtype)
    match column:
        case DateColumn():
            numbers = _read_date(inputs)
        case CategoryColumn(kind="codes"):
            numbers = _look_up_codes(column, inputs)
        case CategoryColumn():
            numbers = _look_up_texts(column, inputs)
    return [keras.Model(inputs, numbers, name=free_name(f"read{suffix}", names))(raw)]


def _look_up_texts(column: CategoryColumn, raw: Any) -> Any:
    # Keras strips a first value that equals its word for the others.
    others = free_name("others", column.values)
    lookup = keras.layers.StringLookup(
        vocabulary=list(column.values) or [free_name("nothing", [others])],
        num_oov_indices=1,
        oov_token=others,
    )
    return ops.cast(lookup(raw), "float32")


def _look_up_codes(column: CategoryColumn, raw: Any) -> Any:
    codes = [_MISSING_CODE if value == MISSING else int(value) for value in column.values]
    lookup = keras.layers.IntegerLookup(
        vocabulary=codes or [_NO_CODE],
        num_oov_indices=1,
        oov_token=_OTHER_CODE,
    )
    known = ops.where(ops.isnan(raw), float(_MISSING_CODE), raw)
    # No code is a fraction: the next integer would be another category.
    known = ops.where(ops.equal(known, ops.floor(known)), known, float(_OTHER_CODE))
    return ops.cast(lookup(ops.cast(known, "int64")), "float32")


def _read_date(raw: Any) -> Any:
    """Whole days since 1970-01-01 and seconds of the day, NaN for what is no ISO date."""
    letters = keras.layers.TextVectorization(
        standardize=None,
        split="character",
        output_mode="int",
        output_sequence_length=_DATE_LETTERS,
        vocabulary=list("0123456789-:"),
    )(raw)
    # 0 to 9, then the dash and the colon; negative for other letters and where the text has ended.
    letter = ops.cast(letters, "int32") - _DIGIT_ZERO
    year, is_date = 100 * _two_digits(letter, 0) + _two_digits(letter, 2), True
    month, day = _two_digits(letter, 5), _two_digits(letter, 8)
    hour, minute, second = (_two_digits(letter, place) for place in (11, 14, 17))
    has_time, has_seconds = ~_is(letter, 10, _END), _is(letter, 16, _COLON)
    for place in (0, 2, 5, 8):
        is_date &= _are_digits(letter, place)
    is_date &= _is(letter, 4, _DASH) & _is(letter, 7, _DASH) & (letter[:, 10:11] < 0)
    is_date &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= _month_length(year, month))
    is_time = _are_digits(letter, 11) & _is(letter, 13, _COLON) & _are_digits(letter, 14)
    is_time &= (hour < 24) & (minute < 60) & ~_are_digits(letter, 15)
    is_date &= ~has_time | (is_time & (~has_seconds | (_are_digits(letter, 17) & (second < 60))))
    # Without seconds the minutes may be followed by a zone, which is left out.
    seconds = 3600 * hour + 60 * minute + ops.where(has_seconds, second, 0)
    days = ops.cast(_days_since_1970(year, month, day), "float32")
    both = ops.concatenate([days, ops.cast(seconds, "float32")], axis=1)
    return ops.where(is_date, both, float("nan"))


def _two_digits(letter: Any, place: int) -> Any:
    """The number at a place of the text, 0 where none is."""
    tens, ones = letter[:, place : place + 1], letter[:, place + 1 : place + 2]
    return ops.where(_are_digits(letter, place), 10 * tens + ones, 0)


def _is(letter: Any, place: int, wanted: int) -> Any:
    """Whether a place of the text holds this letter."""
    # Not `==`, which compares symbolic tensors by identity.
    return ops.equal(letter[:, place : place + 1], wanted)


def _are_digits(letter: Any, place: int) -> Any:
    """Whether two digits stand at a place of the text."""
    two = letter[:, place : place + 2]
    return ops.all((two >= 0) & (two <= 9), axis=1, keepdims=True)


def _month_length(year: Any, month: Any) -> Any:
    """Days of a month, 28 to 31."""
    following = ops.where(month >= 12, year + 1, year), ops.mod(month, 12) + 1
    return _days_since_1970(*following, 1) - _days_since_1970(year, month, 1)


def _days_since_1970(year: Any, month: Any, day: Any) -> Any:
    """After https://howardhinnant.github.io/date_algorithms.html."""
    # Years start in March, so that a leap day is the last.
    year = year - ops.cast(month <= 2, "int32")
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * ops.mod(month + 9, 12) + 2) // 5 + day - 1
    days = of_era * 365 + of_era // 4 - of_era // 100 + of_year
    return era * _ERA + days - _EPOCH_SHIFT


def free_name(name: str, taken: Collection[str]) -> str:
    """`name`, with underscores where it is taken: Keras names inputs and layers in one space."""
    while name in taken:
        name += "_"
    return name


def build_model(inputs: Mapping[str, Any], outputs: Any, *, name: str) -> keras.Model:
    """A Keras model whose inputs are a dictionary of columns."""
    with columns_as_inputs():
        return keras.Model(inputs, outputs, name=name)
