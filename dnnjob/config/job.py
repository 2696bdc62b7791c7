"""The job file as frozen records: every key, its unit, its default and its rule, once.

job = JobConfig.model_validate(tomllib.loads(text))
job.train.global_batch_size
"""

import codecs
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from dnnjob.config.search import Range, SearchConfig
from dnnjob.config.section import Section

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Rate = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
# A product with a finite gradient must stay a float32, or an update destroys the weights.
LearningRate = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1024, le=65535)]
Cycle = Literal["day", "week", "month", "year"]
SplitKind = Literal["auto", "shuffle", "hash", "group", "time", "column", "files"]

# Keras's own default.
ADAMW_DECAY = 0.004
# Of intervals, where a run has rows to calibrate them by and its job says nothing of them.
INTERVAL_LEVEL = 0.9
# What predictions.parquet says of every row.
RESULT_COLUMNS = ("row_id", "split", "y_true", "y_pred", "y_std", "y_lower", "y_upper")
# What deals the rows; which of them go together is asked of each point of a sweep.
_SPLIT_KEYS = {
    *("data.split", "data.split_column", "data.folds", "data.validation_fraction"),
    *("data.validation_source", "data.test_source"),
}
_MEMBER_KEYS = {"model.members", "model.bagging"}
# What people and programs write: UCI's archive, R, spreadsheets, pandas, databases, SAS.
MISSING_MARKERS = tuple("? NA N/A n/a #N/A NaN nan null NULL None - .".split())
# Far beyond any machine: a slip of the hand would start that many threads.
MAX_THREADS = 4096


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
    standardize: Literal["train", "table", "robust", "none"] = "train"
    """How numbers are scaled: z-scores of the training rows, or of all rows (as the course does:
    the test rows take part); robust, by median and quartiles of the training rows, with tails bent
    smoothly towards 3; or not at all. The target has z-scores in each case but none."""
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
    """What stands for a missing value in text, beside nothing."""
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


class ModelConfig(Section):
    """The dense network between the standardized features and the standardized target."""

    hidden_units: tuple[Annotated[int, Field(ge=1)], ...] = (200, 1000)
    """Units of each hidden layer; an empty list is linear regression."""
    activation: Literal["relu", "gelu", "silu", "tanh", "elu", "selu", "sigmoid", "linear"] = "relu"
    """Activation of the hidden layers."""
    dropout_rate: Fraction = 0.0
    """Share of each hidden layer's outputs dropped in training."""
    numeric_embedding: Literal["none", "piecewise", "periodic"] = "none"
    """How a number of more than two values enters: as one input; as a learned vector, linear
    between quantiles of the training rows; or as one of cosines of learned frequencies."""
    embedding_bins: Literal[2, 3, 4, 6, 8, 12, 16, 24, 48] = 16
    """Bins between quantiles of a piecewise embedding, frequencies of a periodic one."""
    embedding_units: Annotated[int, Field(ge=2)] = 8
    """Units of the vector of a number."""
    l2: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Penalty on the sum of squared kernels, added to the loss that is minimised; histories and
    reports show the loss without it."""
    members: Annotated[int, Field(ge=1, le=1000)] = 1
    """Networks of other seeds, trained side by side; the model is the mean of their predictions."""
    bagging: Literal["none", "folds"] = "none"
    """What rows a member trains on: all training rows; or folds, one part of as many as there are
    members left out by each, so that every training row has a prediction by a network that did not
    see it. Without validation rows these predictions are the validation. With train.patience a
    member stops on its part. The parts are dealt by data.split_seed; groups stay together, and
    time is cut into stretches."""

    def refuse_folds_of_one(self) -> None:
        """Refuses folds without members; the job asks, since a sweep may.

        Raises:
            ValueError: If there is one member.
        """
        if self.bagging == "folds" and self.members < 2:
            raise ValueError(
                f'model.bagging = "folds" leaves out one fold a member, but model.members is '
                f"{self.members}. Set model.members = 5, or leave bagging out."
            )


class TrainConfig(Section):
    """How the weights are found."""

    epochs: Annotated[int, Field(ge=1)] = 500
    """Passes over the training rows."""
    global_batch_size: Annotated[int, Field(ge=1)] = 64
    """Rows per optimizer step, over all replicas."""
    loss: Literal["mse", "mae", "huber"] = "mse"
    """What a step minimises: the mean of squared errors, of absolute ones, or Huber's loss, squared
    up to huber_delta and absolute beyond. Histories, early stopping and reports go by the mean
    squared error whichever it is."""
    huber_delta: Rate | None = None
    """Where Huber's loss turns, in standard deviations of the target, or target units without
    z-scores. Default: 1."""
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    """Update rule, as Keras defines it."""
    learning_rate: LearningRate = 0.01
    """Step size; the peak of a schedule."""
    momentum: Fraction = 0.0
    """Momentum of sgd and rmsprop."""
    nesterov: bool = False
    """Nesterov's momentum, for sgd."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """Decoupled weight decay, for adamw. Default there: 0.004, as Keras has it."""
    decayed: Literal["all", "kernels"] = "all"
    """Weights that decay: all, as Keras has it, or only those of matrix products, no biases."""
    beta_2: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.999
    """Share of the mean squared gradient that a step of adam and adamw keeps."""
    schedule: Literal["constant", "cosine", "coslog4", "exponential"] = "constant"
    """Course of the learning rate after the warm-up: constant, half a cosine down to zero, four
    cosines of doubling length that end at zero, or an exponential decay to a hundredth, over the
    epochs of the job."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate first rises linearly."""
    clip_norm: Rate | None = None
    """Largest global norm of a step's gradient. Default: no clipping."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Epochs without a better validation loss after which training stops and the best weights are
    restored. Needs validation rows. Default: no early stopping."""
    min_delta: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """By how much the validation loss must fall for an epoch to count as better, for patience."""
    checkpoint_every_s: Rate = 30.0
    """Seconds between checkpoints."""

    @model_validator(mode="after")
    def _options_belong_to_their_optimizer(self) -> Self:
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise ValueError(
                f"train.momentum is for sgd and rmsprop, the optimizer is {self.optimizer!r}. "
                "Leave momentum out, or choose another optimizer."
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0):
            raise ValueError(
                "train.nesterov needs sgd with momentum above 0. Set train.momentum, or leave "
                "nesterov out."
            )
        if self.beta_2 != 0.999 and self.optimizer not in ("adam", "adamw"):
            raise ValueError(
                f"train.beta_2 is for adam and adamw, the optimizer is {self.optimizer!r}. "
                "Leave beta_2 out, or choose another optimizer."
            )
        if self.weight_decay is not None and self.optimizer != "adamw":
            raise ValueError(
                f"train.weight_decay is for adamw, the optimizer is {self.optimizer!r}. "
                'Set train.optimizer = "adamw", or use model.l2.'
            )
        return self

    @model_validator(mode="after")
    def _options_belong_to_their_loss_and_patience(self) -> Self:
        if self.huber_delta is not None and self.loss != "huber":
            raise ValueError(
                f"train.huber_delta is for huber, the loss is {self.loss!r}. Set train.loss = "
                '"huber", or leave huber_delta out.'
            )
        if self.min_delta and self.patience is None:
            raise ValueError(
                f"train.min_delta = {self.min_delta} is for early stopping, but train.patience is "
                "not set. Set train.patience, or leave min_delta out."
            )
        return self

    @property
    def delta(self) -> float | None:
        """Huber's delta in force: None for other losses."""
        return 1.0 if self.loss == "huber" and self.huber_delta is None else self.huber_delta

    @property
    def decay(self) -> float | None:
        """Weight decay in force: None for optimizers other than adamw."""
        if self.optimizer == "adamw" and self.weight_decay is None:
            return ADAMW_DECAY
        return self.weight_decay


class DevicesConfig(Section):
    """What a run computes on."""

    kind: Literal["auto", "cpu", "gpu"] = "auto"
    """Kind of device; auto takes the GPUs the task was given, else its CPU cores."""
    require_gpu: bool = False
    """Refuse to run without a GPU."""
    tasks: Annotated[int, Field(ge=1)] = 1
    """Processes of the run; on submit the profile's nodes x tasks_per_node."""
    threads: Annotated[int, Field(ge=0, le=MAX_THREADS)] = 0
    """CPU threads of a task; 0 takes what a step of this size deserves of the physical cores it may
    use, and all of them beside a GPU. Of members side by side each takes so many."""
    stack: Annotated[int, Field(ge=0)] = 0
    """Networks side by side on this machine: members of a run, or points of a sweep; 0 takes as
    many as its cores and memory allow, and one on a GPU. Members train one after another where
    devices.threads says how many threads one takes, on several devices, and in several tasks."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Arithmetic of the matrix products; weights and losses stay float32."""
    xla: Literal["auto", "on", "off"] = "auto"
    """Compile the training function with XLA; auto does, always. Off draws other dropout
    masks and rounds otherwise."""

    hang_timeout_s: Rate = 900.0
    """Seconds without progress after which a run of several tasks gives up; imports, compilation
    and suspension do not count."""
    port_range: tuple[Port, Port] | None = None
    """First and last TCP port that the tasks may listen on, two for the first task of a machine
    and one for each other. Default: any free ones."""

    @model_validator(mode="after")
    def _ports_are_in_order(self) -> Self:
        if self.port_range is not None and self.port_range[0] > self.port_range[1]:
            raise ValueError(
                f"devices.port_range goes from {self.port_range[0]} down to {self.port_range[1]}. "
                "Give the first port and the last."
            )
        return self

    @property
    def needs_gpu(self) -> bool:
        """Whether a run without a GPU is refused."""
        return self.require_gpu or self.kind == "gpu"

    @model_validator(mode="after")
    def _gpu_wishes_agree(self) -> Self:
        if self.require_gpu and self.kind == "cpu":
            raise ValueError(
                'devices.require_gpu = true contradicts devices.kind = "cpu". Drop one of them.'
            )
        return self


class OutputConfig(Section):
    """What a run leaves beside its report."""

    predictions: Literal["all", "test", "none"] = "all"
    """Rows written to predictions.parquet."""
    model: bool = True
    """Save model/model.keras."""
    plots: bool = True
    """Draw plots/."""
    trees: bool = True
    """Fit gradient-boosted trees to the same training rows, as a yardstick in the report."""
    tensorboard: bool = False
    """Write losses, learning rate and speed of each epoch for TensorBoard, which shows a root's
    runs by name: tensorboard --logdir runs."""
    interval_level: Fraction | None = None
    """Share of new rows whose target the intervals around the predictions hold, by the errors on
    rows that neither trained nor stopped a network: without train.patience the validation rows, or
    the folds of model.bagging; with it validation rows beside folds. 0: no intervals. Default: 0.9
    where there are such rows."""


def _swept_as(values: object) -> Literal["list", "range"]:
    return "range" if isinstance(values, Mapping | Range) else "list"


SweptValues = Annotated[
    Annotated[tuple[Any, ...], Tag("list")] | Annotated[Range, Tag("range")],
    Discriminator(_swept_as),
]


class JobConfig(Section):
    """A whole job file."""

    name: Name
    """1-64 letters, digits, dots, underscores, hyphens; a folder and a Slurm job name."""
    seed: Seed = 0
    """Seed of initial weights, order of rows, dropout and, by default, the splits."""
    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    devices: DevicesConfig = DevicesConfig()
    output: OutputConfig = OutputConfig()
    sweep: dict[str, SweptValues] = Field(default_factory=dict)
    """Dotted keys and the values each takes; the runs are their product. A search draws from ranges
    `{ low, high }`, too, with `log = true` or a `step`."""
    search: SearchConfig = SearchConfig()

    @field_validator("sweep", mode="before")
    @classmethod
    def _dotted_keys_need_no_quotes(cls, sweep: object) -> object:
        # TOML reads a dotted key without quotes as nested tables.
        return dict(flatten(sweep)) if isinstance(sweep, Mapping) else sweep

    @model_validator(mode="after")
    def _split_keys_go_together(self) -> Self:
        # A sweep's points are checked each on its own: the base job is none of them.
        if not _SPLIT_KEYS & set(self.sweep):
            self.data.refuse_odd_split()
        return self

    @model_validator(mode="after")
    def _folds_have_members(self) -> Self:
        if not _MEMBER_KEYS & set(self.sweep):
            self.model.refuse_folds_of_one()
        return self

    @property
    def may_validate(self) -> bool:
        """Whether rows that do not train a network judge it: validation rows, or folds."""
        return self.data.may_validate or self.model.bagging == "folds"

    @model_validator(mode="after")
    def _patience_has_validation_rows(self) -> Self:
        keys = {"train.patience", "data.validation_fraction", "data.validation_source"}
        if (keys | _MEMBER_KEYS) & set(self.sweep):
            return self
        if self.train.patience is not None and not self.may_validate:
            raise ValueError(
                f"train.patience = {self.train.patience} needs validation rows, but "
                "data.validation_fraction is 0. Set data.validation_fraction = 0.1, or leave "
                "patience out."
            )
        return self

    @model_validator(mode="after")
    def _predictions_have_test_rows(self) -> Self:
        keys = {"data.test_fraction", "data.split", "data.folds", "output.predictions"}
        may_test = self.data.needs_test_rows or self.data.split in ("column", "files")
        if self.output.predictions == "test" and not may_test and not keys & set(self.sweep):
            raise ValueError(
                'output.predictions = "test" writes the test rows alone, but data.test_fraction is '
                '0. Set output.predictions = "all", or hold test rows out.'
            )
        return self

    @model_validator(mode="after")
    def _intervals_have_rows(self) -> Self:
        keys = {"train.patience", "data.split", "data.validation_fraction"} | _MEMBER_KEYS
        if keys & set(self.sweep) or not self.output.interval_level or self.calibration:
            return self
        raise ValueError(
            f"output.interval_level = {self.output.interval_level} needs rows that neither train "
            "nor stop the network, but "
            + (
                f"train.patience = {self.train.patience} stops it by the only rows that do not "
                "train. Leave patience out, or interval_level."
                if self.train.patience is not None and self.may_validate
                else "data.validation_fraction is 0. Set data.validation_fraction = 0.2, or leave "
                "interval_level out."
            )
        )

    @property
    def calibration(self) -> Literal["split", "cross"] | None:
        """The rows that calibrate intervals: validation rows or folds, unless they stop a network.

        Folds stop their member where both are there.
        """
        has_folds = self.model.bagging == "folds"
        if self.data.may_validate and (self.train.patience is None or has_folds):
            return "split"
        return "cross" if has_folds and self.train.patience is None else None

    @property
    def interval_level(self) -> float:
        """Level of the intervals in force; 0 for none."""
        if self.output.interval_level is None:
            return INTERVAL_LEVEL if self.calibration else 0.0
        return self.output.interval_level

    @property
    def split_seed(self) -> int:
        """Seed of the splits: `data.split_seed`, or the job's seed."""
        return self.seed if self.data.split_seed is None else self.data.split_seed


def flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested tables; a range of a sweep is a value."""
    for name, value in table.items():
        if isinstance(value, Mapping) and not _is_range(value):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_range(table: Mapping[str, Any]) -> bool:
    # No section has keys of these names.
    return bool({"low", "high"} & set(table))
