"""How each raw column becomes inputs of the network, decided from statistics of the training rows.

columns = fit_columns(job.data, kinds, statistics)           # of encoding_fit
encoding = Encoding(columns, target, mode="train")
numbers = encoding.numbers(block)          # float32 (num_rows, num_numbers): what the encoder takes
encoding.num_inputs, encoding.places["sex"]
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from dnnjob.config.data_section import Cycle
from dnnjob.config.job import ModelConfig
from dnnjob.data.raw_columns import Block, FloatArray, RawColumn, Texts
from dnnjob.data.schema import listed
from dnnjob.text import counted

Mode = Literal["train", "table", "robust", "both", "none"]
FeatureKind = Literal["numeric", "boolean", "codes", "text", "datetime"]
FloatMatrix = npt.NDArray[np.float32]
# Of these the numbers are robust scores.
ROBUST_MODES = frozenset({"robust", "both"})

SECONDS_A_DAY = 86_400
MISSING = ""
# Shares of the rows at which quantiles are known: as many bins as divide 48 have theirs among them.
QUANTILE_SHARES = tuple(place / 48 for place in range(49))
# Where the smooth clip of robust scaling bends (RealMLP, arXiv:2407.04491).
CLIP_SCALE = 3.0


@dataclass(frozen=True)
class ColumnStatistics:
    """What the encoding of a column is made from; numbers are NaN where there are none.

    Attributes:
        num_rows: Rows looked at.
        num_missing: Those without a value.
        mean: Of the values, in their unit; dates are seconds since 1970.
        variance: Population variance (ddof=0), the squared unit.
        minimum: The least value.
        maximum: The largest value.
        median: Of the values.
        counts: Rows of each text; empty for numbers.
        num_uncounted: Rows whose text was too rare to be counted.
        quantiles: At `QUANTILE_SHARES`; empty where there are no numbers.
    """

    num_rows: int
    num_missing: int
    mean: float = math.nan
    variance: float = math.nan
    minimum: float = math.nan
    maximum: float = math.nan
    median: float = math.nan
    counts: Mapping[str, int] = field(default_factory=dict)
    num_uncounted: int = 0
    quantiles: tuple[float, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no row has a value."""
        return self.num_missing == self.num_rows


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers or booleans: a z-score, and 1 where a value is missing.

    Attributes:
        name: Of the column.
        fill: What a missing value counts as.
        indicator: Whether an input says which rows had none.
        mean: What is subtracted: the mean, or the median of robust scaling.
        std: What is divided by, > 0: the standard deviation, or the distance of the quartiles.
        quantiles: Of the raw values, at `QUANTILE_SHARES`; empty where the column has no embedding.
        beside: Mean and standard deviation, > 0, of a z-score beside the robust score, for
            `data.standardize = "both"`; None where there is none.
    """

    name: str
    fill: float
    indicator: bool
    mean: float
    std: float
    quantiles: tuple[float, ...] = ()
    beside: tuple[float, float] | None = None

    input_dtype: ClassVar = "float32"
    num_numbers: ClassVar = 1

    @property
    def num_inputs(self) -> int:
        """Inputs of the network."""
        return 1 + self.indicator + (self.beside is not None)

    def numbers(self, column: RawColumn) -> list[FloatMatrix]:
        """The raw numbers as float32, NaN where missing."""
        return [_floats(self.name, column).astype(np.float32, copy=False)]


@dataclass(frozen=True)
class DateColumn:
    """A column of dates and times: days since a day in the middle, and places in cycles.

    Attributes:
        name: Of the column.
        reference_day: Days from 1970-01-01 to the day of the median.
        fill: What a missing date counts as, days since the reference.
        indicator: Whether an input says which rows had none.
        mean: Of the days since the reference.
        std: Of the same, > 0.
        cycles: Each adds a sine and a cosine.
    """

    name: str
    reference_day: int
    fill: float
    indicator: bool
    mean: float
    std: float
    cycles: tuple[Cycle, ...]

    input_dtype: ClassVar = "string"
    num_numbers: ClassVar = 2

    @property
    def num_inputs(self) -> int:
        """Inputs of the network."""
        return 1 + self.indicator + 2 * len(self.cycles)

    def numbers(self, column: RawColumn) -> list[FloatMatrix]:
        """Whole days since 1970-01-01 and seconds of the day, NaN where missing.

        Both are exact in float32, where the seconds since 1970 are not.
        """
        seconds = _floats(self.name, column)
        days = np.floor(seconds / SECONDS_A_DAY)
        rest = np.floor(seconds - days * SECONDS_A_DAY)
        return [days.astype(np.float32), rest.astype(np.float32)]


@dataclass(frozen=True)
class CategoryColumn:
    """A column of texts or integer codes: a bucket for each frequent value, one for all others.

    Attributes:
        name: Of the column.
        kind: Texts, or integers.
        values: Those with a bucket, the most frequent first; "" is the bucket of missing ones.
        others_trained: Whether training rows fall into the bucket of the others, since their
            values are rare. What training never saw falls there too.
        units: Width of the learned embedding; None for one input a bucket.
    """

    name: str
    kind: Literal["text", "codes"]
    values: tuple[str, ...]
    others_trained: bool
    units: int | None

    num_numbers: ClassVar = 1

    @property
    def input_dtype(self) -> str:
        """Type of the exported model's input."""
        return "float32" if self.kind == "codes" else "string"

    @property
    def has_other_input(self) -> bool:
        """Whether the bucket of the others has an input; without one they are zeros throughout."""
        return self.others_trained or not self.values

    @property
    def num_inputs(self) -> int:
        """Inputs of the network: the one-hot ones, or the code that the embedding takes."""
        return 1 if self.units else len(self.values) + self.has_other_input

    @cached_property
    def buckets(self) -> dict[str, float]:
        """Number of each value's bucket; 0 is that of the others."""
        return {value: float(number) for number, value in enumerate(self.values, start=1)}

    def numbers(self, column: RawColumn) -> list[FloatMatrix]:
        """The number of each row's bucket."""
        if not isinstance(column, Texts):
            raise TypeError(f"The values of {self.name!r} were not read as texts.")
        missing = self.buckets.get(MISSING, 0.0)
        return [column.translated(self.buckets, other=0.0, missing=missing)]


ColumnEncoding = NumberColumn | DateColumn | CategoryColumn


@dataclass(frozen=True)
class NumericEmbedding:
    """How numbers enter the network as vectors.

    Attributes:
        kind: As `model.numeric_embedding` has it.
        places: The inputs that it takes, z-scores or robust scores of numbers.
        edges: Ascending edges of each one's bins, in the units of the inputs.
        units: Of each vector.
        frequencies: Of each column, where it is periodic.
    """

    kind: Literal["piecewise", "periodic"]
    places: tuple[int, ...]
    edges: tuple[tuple[float, ...], ...]
    units: int
    frequencies: int

    @property
    def num_inputs(self) -> int:
        """What the network gets instead of the numbers."""
        return len(self.places) * self.units

    @property
    def num_params(self) -> int:
        """Trainable parameters."""
        num_columns = len(self.places)
        if self.kind == "periodic":
            return num_columns * (2 * self.frequencies + (self.frequencies + 1) * (self.units - 1))
        num_bins = max(map(len, self.edges)) - 1
        return num_columns * self.units * (2 + num_bins)


@dataclass(frozen=True)
class TargetEncoding:
    """What the network learns instead of the raw target: transformed, then a z-score.

    Attributes:
        name: Of the target.
        transform: What comes first.
        mean: Of the transformed target; 0 unscaled.
        std: Of the same, > 0; 1 unscaled.
        raw_std: Standard deviation in target units, of the same rows; None unscaled.
        bounds: Least and largest target, in target units, that predictions stay within; None where
            they are free.
    """

    name: str
    transform: Literal["none", "log1p"]
    mean: float
    std: float
    raw_std: float | None
    bounds: tuple[float, float] | None = None

    def scale(self, y: FloatArray) -> FloatMatrix:
        """Scaled targets of raw ones, `(num_rows,)`; NaN stays."""
        return ((transform_target(y, self.transform) - self.mean) / self.std).astype(np.float32)

    def restore(self, scaled: FloatArray) -> FloatArray:
        """Target units of what the network predicts, `(num_rows,)`."""
        transformed = scaled * self.std + self.mean
        y = np.expm1(transformed) if self.transform == "log1p" else transformed
        return y if self.bounds is None else np.clip(y, *self.bounds)


def transform_target(y: FloatArray, transform: Literal["none", "log1p"]) -> FloatArray:
    """The target as it is standardized."""
    return np.log1p(y) if transform == "log1p" else y


@dataclass(frozen=True)
class Encoding:
    """How a table's raw columns become the network's inputs.

    The inputs stand in this order: scores of the numbers, z-scores beside them, their indicators,
    dates with their cycles and indicators, one-hot categories, and last the codes that embeddings
    take.

    Attributes:
        columns: One a feature, in their order.
        target: What is predicted.
        mode: The rows that means and deviations come from.
        statistics: What those rows hold, by column.
    """

    columns: tuple[ColumnEncoding, ...]
    target: TargetEncoding
    mode: Mode
    statistics: Mapping[str, ColumnStatistics] = field(default_factory=dict, compare=False)

    @cached_property
    def number_columns(self) -> tuple[NumberColumn, ...]:
        """Those of numbers and booleans."""
        return tuple(column for column in self.columns if isinstance(column, NumberColumn))

    @cached_property
    def date_columns(self) -> tuple[DateColumn, ...]:
        """Those of dates and times."""
        return tuple(column for column in self.columns if isinstance(column, DateColumn))

    @cached_property
    def one_hot_columns(self) -> tuple[CategoryColumn, ...]:
        """Those of few categories."""
        return tuple(column for column in self._categories if not column.units)

    @cached_property
    def embedded_columns(self) -> tuple[CategoryColumn, ...]:
        """Those of many categories."""
        return tuple(column for column in self._categories if column.units)

    @property
    def _categories(self) -> Iterator[CategoryColumn]:
        return (column for column in self.columns if isinstance(column, CategoryColumn))

    @property
    def ordered(self) -> tuple[ColumnEncoding, ...]:
        """The columns in the order of `numbers`."""
        return (
            *self.number_columns,
            *self.date_columns,
            *self.one_hot_columns,
            *self.embedded_columns,
        )

    @property
    def num_numbers(self) -> int:
        """Columns of `numbers`."""
        return sum(column.num_numbers for column in self.columns)

    @property
    def num_inputs(self) -> int:
        """Inputs of the network, the codes of embeddings included."""
        return sum(column.num_inputs for column in self.columns)

    @property
    def embedding_shapes(self) -> tuple[tuple[int, int], ...]:
        """Buckets and units of each embedding, in the order of the last inputs."""
        return tuple(
            (len(column.values) + 1, column.units)
            for column in self.embedded_columns
            if column.units
        )

    def count_network_inputs(self, model: ModelConfig) -> int:
        """Inputs of the first dense layer: vectors count with all their units."""
        width = self.num_inputs + sum(units - 1 for _, units in self.embedding_shapes)
        if (numbers := self.numeric_embedding(model)) is not None:
            width += numbers.num_inputs - len(numbers.places)
        return width

    def count_params(self, model: ModelConfig) -> int:
        """Trainable parameters of the network: embeddings, kernels and biases of every layer."""
        total = sum(buckets * units for buckets, units in self.embedding_shapes)
        if (numbers := self.numeric_embedding(model)) is not None:
            total += numbers.num_params
        return total + model.count_dense_params(self.count_network_inputs(model))

    def numeric_embedding(self, model: ModelConfig) -> NumericEmbedding | None:
        """How the numbers of more than two values enter the network; None where they do plainly.

        Bins end at quantiles of the rows that scale the inputs; equal ones make fewer bins.
        """
        if model.numeric_embedding == "none":
            return None
        step = (len(QUANTILE_SHARES) - 1) // model.embedding_bins
        edges = {
            place: ends
            for place, column in enumerate(self.number_columns)
            if len(ends := self._edges(column, step)) > 2
        }
        if not edges:
            return None
        return NumericEmbedding(
            kind=model.numeric_embedding,
            places=tuple(edges),
            edges=tuple(edges.values()),
            units=model.embedding_units,
            frequencies=model.embedding_bins,
        )

    def _edges(self, column: NumberColumn, step: int) -> tuple[float, ...]:
        scores = (np.array(column.quantiles[::step]) - column.mean) / column.std
        if self.mode in ROBUST_MODES:
            scores = smooth_clip(scores)
        # Inputs are float32: bins narrower than its steps would divide by nothing.
        return tuple(map(float, np.unique(scores.astype(np.float32))))

    @cached_property
    def places(self) -> dict[str, tuple[int, ...]]:
        """The inputs that each column became, by their place."""
        found: dict[str, list[int]] = {column.name: [] for column in self.columns}
        names = [
            *(column.name for column in self.number_columns),
            *(column.name for column in self.number_columns if column.beside),
            *(column.name for column in self.number_columns if column.indicator),
            *(
                name
                for column in self.ordered[len(self.number_columns) :]
                for name in _each(column)
            ),
        ]
        for place, name in enumerate(names):
            found[name].append(place)
        return {name: tuple(places) for name, places in found.items()}

    @property
    def description(self) -> str:
        """The columns that became several inputs or an embedding, a line each; "" for none."""
        told = {column.name: _describe(column) for column in self.columns}
        lines = [f"  {name}: {text}" for name, text in told.items() if text]
        if not lines:
            return ""
        width = sum(units for _, units in self.embedding_shapes)
        total = self.num_inputs - len(self.embedded_columns) + width
        return "\n".join([f"{len(self.columns)} columns become {total} inputs:", *lines])

    def describe_bins(self, model: ModelConfig) -> str:
        """The columns that get fewer bins than the model asks for, in a line; "" for none."""
        embedding = self.numeric_embedding(model)
        if embedding is None or embedding.kind != "piecewise":
            return ""
        names = [self.number_columns[place].name for place in embedding.places]
        bins = {name: len(ends) - 1 for name, ends in zip(names, embedding.edges, strict=True)}
        fewer = [f"{name} ({n})" for name, n in bins.items() if n < model.embedding_bins]
        if not fewer:
            return ""
        return (
            f"Fewer bins than model.embedding_bins = {model.embedding_bins}, since values repeat: "
            f"{listed(fewer)}."
        )

    def numbers(self, block: Block) -> FloatMatrix:
        """What the encoder takes of raw rows, float32 `(num_rows, num_numbers)`.

        Numbers with NaN for missing, days and seconds of dates, the buckets of categories.
        """
        parts = [part for column in self.ordered for part in column.numbers(block[column.name])]
        return np.stack(parts, axis=1)


def smooth_clip(scores: FloatArray) -> FloatArray:
    """Robust scores with their tails bent towards +-3: x / sqrt(1 + (x / 3)^2)."""
    bent: FloatArray = scores / np.sqrt(1 + np.square(scores / CLIP_SCALE))
    return bent


def _describe(column: ColumnEncoding) -> str:
    """What a column becomes; "" for one z-score."""
    match column:
        case NumberColumn():
            if column.num_inputs == 1:
                return ""
            parts = ["its robust score", "its z-score"] if column.beside else ["its z-score"]
            parts += ["whether it is missing"] * column.indicator
            return f"{counted(column.num_inputs, 'input')} ({', '.join(parts)})"
        case DateColumn():
            parts = ["days"] + ["whether it is missing"] * column.indicator + list(column.cycles)
            return f"{counted(column.num_inputs, 'input')} ({', '.join(parts)})"
        case CategoryColumn():
            num_values = len(set(column.values) - {MISSING})
            parts = [counted(num_values, "value")] * (num_values > 0)
            parts += ["gaps"] * (MISSING in column.values)
            parts += ["all other values"] * (column.has_other_input or column.units is not None)
            if column.units:
                return f"{counted(column.units, 'input')} (an embedding of {', '.join(parts)})"
            return f"{counted(column.num_inputs, 'input')} ({', '.join(parts)})"


def _each(column: ColumnEncoding) -> list[str]:
    return [column.name] * column.num_inputs


def _floats(name: str, column: RawColumn) -> FloatArray:
    if isinstance(column, Texts):
        raise TypeError(f"The values of {name!r} were not read as numbers.")
    return column
