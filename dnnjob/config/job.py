"""The job file as frozen records: every key, its unit, its default and its rule, once.

job = JobConfig.model_validate(tomllib.loads(text))
job.train.global_batch_size
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)

from dnnjob.config.data_section import DataConfig
from dnnjob.config.search import Range, SearchConfig
from dnnjob.config.section import Fraction, Rate, Section, Seed, flatten

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
# A product with a finite gradient must stay a float32, or an update destroys the weights.
LearningRate = Annotated[float, Field(gt=0.0, le=1e9, allow_inf_nan=False)]
Port = Annotated[int, Field(ge=1024, le=65535)]

# Keras's own default.
ADAMW_DECAY = 0.004
# Of intervals, where a run has rows to calibrate them by and its job says nothing of them.
INTERVAL_LEVEL = 0.9
# What deals the rows; which of them go together is asked of each point of a sweep.
_SPLIT_KEYS = {
    *("data.split", "data.split_column", "data.folds", "data.validation_fraction"),
    *("data.validation_source", "data.test_source"),
}
_MEMBER_KEYS = {"model.members", "model.bagging"}
# Far beyond any machine: a slip of the hand would start that many threads.
MAX_THREADS = 4096


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

    def count_dense_params(self, num_inputs: int) -> int:
        """Kernels and biases of the dense layers of one network of so many inputs."""
        widths = [num_inputs, *self.hidden_units, 1]
        return sum((below + 1) * above for below, above in pairwise(widths))


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
    many as its cores and memory allow, and on a GPU, where one call trains them, as many as that
    has memory for; an error for want of memory there halves them once. Members train one after
    another where devices.threads says how many threads one takes, on several devices, and in
    several tasks."""
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
        return flatten_sweep(sweep) if isinstance(sweep, Mapping) else sweep

    @model_validator(mode="after")
    def _split_keys_go_together(self) -> Self:
        # A sweep's points are checked each on its own: the base job is one for search.start alone.
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


def flatten_sweep(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Lists and ranges of a sweep by their dotted keys."""
    return dict(flatten(sweep, is_value=_is_listed))


def _is_listed(value: Any) -> bool:
    # No section has keys of these names, which a range has.
    return not isinstance(value, Mapping) or bool({"low", "high"} & set(value))
