"""The section [data] of a job file: the table, its columns, their formats, and the splits.

data = DataConfig(source="houses.csv", target="price")
data.columns["zip"].kind
"""

import codecs
from collections.abc import Collection
from itertools import combinations
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dnnjob.config.section import Fraction, Section, Seed

Cycle = Literal["day", "week", "month", "year"]
SplitKind = Literal["auto", "shuffle", "hash", "group", "time", "column", "files"]

# What predictions.parquet says of every row.
RESULT_COLUMNS = ("row_id", "split", "y_true", "y_pred", "y_std", "y_lower", "y_upper")
# What people and programs write: UCI's archive, R, spreadsheets, pandas, databases, SAS.
MISSING_MARKERS = tuple("? NA N/A n/a #N/A NaN nan null NULL None - .".split())


def name_missing(missing: Collection[str]) -> str:
    """The key of what stands for gaps, and what a list of one's own replaces there."""
    if not missing:
        return "data.missing"
    words = " ".join(missing)
    return f"data.missing (a list replaces {words} there: name those in use as well)"


class ColumnConfig(Section):
    """What a column holds, and how it becomes inputs; a text alone is its kind."""

    kind: Literal["numeric", "boolean", "codes", "text", "datetime"] | None = None
    """What the values are. Default: what the file shows; codes, integers that name categories,
    look like numbers and need saying."""
    fill: Literal["median", "mean"] | Annotated[float, Field(allow_inf_nan=False)] = "median"
    """What a missing number or date counts as: of the training rows, or a number."""
    encoding: Literal["auto", "one_hot", "embedding", "plain"] = "auto"
    """How categories enter: one input each, as a learned embedding, or by data.max_one_hot. A
    number that is plain has no part in model.numeric_embedding."""
    cycles: tuple[Cycle, ...] = ()
    """Cycles of a date whose place enters beside its days: a sine and a cosine each."""
    unit: Annotated[str, Field(min_length=1)] | None = None
    """What every number of the column carries in text, before or after it, such as "€" or "%"."""

    @model_validator(mode="before")
    @classmethod
    def _a_text_is_the_kind(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value


_PLAIN_COLUMN = ColumnConfig()


class DataConfig(Section):
    """Where the table is, what is predicted from what, and how rows are split and scaled."""

    source: Annotated[str, Field(min_length=1)]
    """A CSV or Parquet file, a folder or a glob of them, or `builtin:boston_housing`,
    `builtin:diabetes`. Relative paths start at the job file."""
    target: str
    """The column to predict."""
    features: tuple[str, ...] | None = None
    """The columns to predict from. Default: every other column."""
    exclude: tuple[str, ...] = ()
    """Columns that are no features, where data.features names none."""
    test_fraction: Fraction = 0.3
    """Share of all rows held out for the test split; 0 trains on all rows, and nothing then tells
    how good the network is on rows it has not seen."""
    validation_fraction: Fraction = 0.0
    """Share of the training rows held out for the validation split."""
    split_seed: Seed | None = None
    """Seed of the splits. Default: the job's seed."""
    split: SplitKind = "auto"
    """How rows are dealt to the splits: shuffle, by scikit-learn's permutation of them; hash, each
    by a hash of its number; auto, shuffle up to ten million rows and hash above; group, by a hash
    of the value in data.split_column, all rows of a value together; time, the newest rows by
    data.split_column are the test rows, those before them the validation rows; column, by the
    words train, validation and test in data.split_column; files, by data.validation_source and
    data.test_source."""
    split_column: str | None = None
    """The column that data.split = "group", "time" or "column" goes by; no feature unless
    data.features names it."""
    validation_source: Annotated[str, Field(min_length=1)] | None = None
    """Files of the validation rows, for data.split = "files". Default: data.validation_fraction of
    data.source."""
    test_source: Annotated[str, Field(min_length=1)] | None = None
    """Files of the test rows, for data.split = "files"; data.test_fraction then is not used."""
    folds: Annotated[int, Field(ge=2)] | None = None
    """Cut the rows into this many parts, one of which is the test split, in place of
    data.test_fraction. Sweep data.fold over all, and `dnnjob collect --predictions` joins them."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which of the folds is the test split, from 0."""
    standardize: Literal["train", "table", "robust", "both", "none"] = "train"
    """How numbers are scaled: z-scores of the training rows, or of all rows (as the course does:
    the test rows take part); robust, by median and quartiles of the training rows, with tails bent
    smoothly towards 3; both, robust and beside it the z-score of the training rows; or not at all.
    The target has z-scores in each case but none."""
    target_range: Literal["free", "trained"] = "free"
    """Whether predictions stay between the least and the largest target of the training rows."""
    window_rows: Annotated[int, Field(ge=1)] | None = None
    """Training rows of a window: a longer table is trained window by window. Default: from the
    table alone."""
    memory_budget_gb: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    """Memory for the training rows of a table of several windows: what fits stays, the rest is read
    again every epoch. No number depends on it. Default: a quarter of what a task may use."""
    scratch: str | None = None
    """Folder for a copy of a table of several windows whose files cannot be read in small pieces;
    best on a disk of this machine. Default: the folder for temporary files."""
    id_columns: tuple[str, ...] = ()
    """Columns that are no features, carried into the predictions."""
    weight_column: str | None = None
    """A column with the weight of each row in the loss. Default: all weigh the same."""
    target_transform: Literal["none", "log1p"] = "none"
    """What the network learns to predict: the target, or log(1 + target); predictions and errors
    are in target units all the same."""
    missing: tuple[str, ...] = MISSING_MARKERS
    """What stands for a missing value in text, beside nothing; a list replaces this one."""
    decimal: Literal[".", ","] | None = None
    """What stands before the fraction of a number in text. Default: what the table shows."""
    thousands: Literal["", ",", ".", " ", "'"] | None = None
    """What stands between the thousands of a number in text. Default: what the table shows."""
    date_format: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    """How dates are written in text, such as "%d.%m.%Y" (Python's strptime), beside 2026-01-31 and
    a time behind it; one format or a list. Default: what the table shows."""
    encoding: str | None = None
    """Of files of text, such as "latin-1", "cp1252" or "utf-16". Default: UTF-8."""
    min_category_rows: Annotated[int, Field(ge=1)] = 5
    """Categories of fewer training rows share one input, with those that training never saw."""
    max_categories: Annotated[int, Field(ge=1)] = 10_000
    """The most frequent categories of a column that are told apart."""
    max_one_hot: Annotated[int, Field(ge=1)] = 32
    """Columns of more categories enter as learned embeddings."""
    columns: dict[str, ColumnConfig] = Field(default_factory=dict)
    """What single columns hold, where the file does not show it, and how they enter."""

    @field_validator("date_format", mode="before")
    @classmethod
    def _a_text_is_a_date_format(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("encoding")
    @classmethod
    def _the_encoding_is_known(cls, value: str | None) -> str | None:
        try:
            return value if value is None else codecs.lookup(value).name
        except LookupError as error:
            raise ValueError(
                f"data.encoding must be one that Python knows, but it is {value!r}. Write it as "
                '"utf-8", "latin-1", "cp1252" or "utf-16".'
            ) from error

    @model_validator(mode="after")
    def _marks_differ(self) -> Self:
        if self.decimal is not None and self.decimal == self.thousands:
            raise ValueError(
                f"data.decimal and data.thousands must differ, but both are {self.decimal!r}. "
                "Set one of them to another mark."
            )
        return self

    @model_validator(mode="after")
    def _excluded_columns_have_no_other_part(self) -> Self:
        if self.exclude and self.features is not None:
            raise ValueError(
                "data.exclude is for jobs that take every other column, but data.features names "
                "them. Leave one of them out."
            )
        if self.target in self.exclude:
            raise ValueError(
                f"data.exclude names the target {self.target!r}. Leave it out, or set data.target."
            )
        return self

    @model_validator(mode="after")
    def _target_is_no_feature(self) -> Self:
        if self.features is not None:
            if not self.features:
                raise ValueError(
                    "data.features is empty. Name at least one column, or leave it out."
                )
            if self.target in self.features:
                raise ValueError(
                    f"data.features names the target {self.target!r}. Leave it out of the features."
                )
            if len(set(self.features)) < len(self.features):
                raise ValueError("data.features names a column twice. Name each once.")
        return self

    @model_validator(mode="after")
    def _the_fold_is_one_of_the_folds(self) -> Self:
        if self.fold >= (self.folds or 1):
            raise ValueError(
                f"data.fold counts from 0 to data.folds - 1, but it is {self.fold} and data.folds "
                f"is {'not set' if self.folds is None else self.folds}. Set data.folds, or lower "
                "data.fold."
            )
        return self

    def column(self, name: str) -> ColumnConfig:
        """What the job says of a column; the defaults where it says nothing."""
        return self.columns.get(name, _PLAIN_COLUMN)

    def refuse_odd_split(self) -> None:
        """Refuses keys of the split that do not go together; the job asks, since a sweep may.

        Raises:
            ValueError: If they do not.
        """
        kind = f'data.split = "{self.split}"'
        by_column = self.split in ("group", "time", "column")
        if by_column and self.split_column is None:
            raise ValueError(f"{kind} goes by a column. Name it in data.split_column.")
        if not by_column and self.split_column is not None:
            raise ValueError(
                f'data.split_column is for data.split = "group", "time" or "column", but it is '
                f'"{self.split}". Set data.split, or leave data.split_column out.'
            )
        if self.split == "files" and self.test_source is None and self.needs_test_rows:
            raise ValueError(
                f"{kind} needs test rows. Name their files in data.test_source, or set "
                "data.test_fraction = 0 to do without."
            )
        if self.split != "files" and (self.test_source or self.validation_source):
            raise ValueError(
                'data.validation_source and data.test_source are for data.split = "files", but '
                f'it is "{self.split}". Set data.split = "files", or leave them out.'
            )
        if self.folds is not None and self.split in ("time", "column", "files"):
            raise ValueError(
                f'data.folds is for data.split = "shuffle", "hash" or "group", not "{self.split}". '
                "Leave data.folds out, or set data.split."
            )
        if self.validation_fraction > 0:
            self._refuse_two_validation_splits()

    def _refuse_two_validation_splits(self) -> None:
        if self.split == "column":
            raise ValueError(
                'With data.split = "column" the validation rows are those that data.split_column '
                "says. Leave data.validation_fraction out."
            )
        if self.validation_source is not None:
            raise ValueError(
                "The validation rows are those of data.validation_source. Leave "
                "data.validation_fraction out, or data.validation_source."
            )

    @property
    def needs_test_rows(self) -> bool:
        """Whether a table without test rows is refused."""
        return self.folds is not None or self.test_fraction > 0

    @property
    def may_validate(self) -> bool:
        """Whether the job asks for validation rows, or its table may name some."""
        named = self.split == "column" or self.validation_source is not None
        return named or self.validation_fraction > 0

    @model_validator(mode="after")
    def _a_column_has_one_part(self) -> Self:
        if taken := set(self.id_columns) & {*RESULT_COLUMNS}:
            raise ValueError(
                f"data.id_columns names {min(taken)!r}, which predictions have a column for. "
                "Rename the column in the table."
            )
        if len(set(self.id_columns)) < len(self.id_columns):
            raise ValueError("data.id_columns names a column twice. Name each once.")
        parts = {
            "target": [self.target],
            "features": self.features or (),
            "id_columns": self.id_columns,
            "weight_column": [self.weight_column] if self.weight_column is not None else [],
        }
        if self.split_column in (self.target, self.weight_column) and self.split_column:
            raise ValueError(
                f"data.split_column names {self.split_column!r}, which is the target or the "
                "weight. Name another column."
            )
        for (one, names), (other, others) in combinations(parts.items(), 2):
            if both := set(names) & set(others):
                raise ValueError(
                    f"A column has one part, but {min(both)!r} is in data.{one} and in "
                    f"data.{other}. Leave it out of one of them."
                )
        return self
