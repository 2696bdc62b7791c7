"""Every key of a job file: its default and its rule."""

from typing import Any

import pytest

from dnnjob.config import JobConfig, resolve_job
from dnnjob.config.data_section import MISSING_MARKERS
from dnnjob.config.overrides import set_key
from dnnjob.errors import ExitCode, JobError

LEAST = {"name": "least", "data": {"source": "/t.csv", "target": "y"}}

DEFAULTS = {
    "name": "least",
    "seed": 0,
    "data": {
        "source": "/t.csv",
        "target": "y",
        "features": None,
        "exclude": (),
        "test_fraction": 0.3,
        "validation_fraction": 0.0,
        "split_seed": None,
        "split": "auto",
        "split_column": None,
        "validation_source": None,
        "test_source": None,
        "folds": None,
        "fold": 0,
        "standardize": "train",
        "target_range": "free",
        "window_rows": None,
        "memory_budget_gb": None,
        "scratch": None,
        "id_columns": (),
        "weight_column": None,
        "target_transform": "none",
        "missing": MISSING_MARKERS,
        "decimal": None,
        "thousands": None,
        "date_format": None,
        "encoding": None,
        "min_category_rows": 5,
        "max_categories": 10_000,
        "max_one_hot": 32,
        "columns": {},
    },
    "model": {
        "hidden_units": (200, 1000),
        "activation": "relu",
        "dropout_rate": 0.0,
        "numeric_embedding": "none",
        "embedding_bins": 16,
        "embedding_units": 8,
        "l2": 0.0,
        "members": 1,
        "bagging": "none",
    },
    "train": {
        "epochs": 500,
        "global_batch_size": 64,
        "loss": "mse",
        "huber_delta": None,
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "momentum": 0.0,
        "nesterov": False,
        "weight_decay": None,
        "decayed": "all",
        "beta_2": 0.999,
        "schedule": "constant",
        "warmup_steps": 0,
        "clip_norm": None,
        "patience": None,
        "min_delta": 0.0,
        "checkpoint_every_s": 30.0,
    },
    "devices": {
        "kind": "auto",
        "require_gpu": False,
        "tasks": 1,
        "threads": 0,
        "stack": 0,
        "precision": "float32",
        "xla": "auto",
        "hang_timeout_s": 900.0,
        "port_range": None,
    },
    "output": {
        "predictions": "all",
        "model": True,
        "plots": True,
        "trees": True,
        "tensorboard": False,
        "interval_level": None,
    },
    "sweep": {},
    "search": {"points": None, "halving": None},
}


def make(**keys: Any) -> JobConfig:
    """A job with dotted keys (`__` for the dot) beside the least that it needs."""
    values: dict[str, Any] = {"name": "least", "data": dict(LEAST["data"])}
    for key, value in keys.items():
        set_key(values, key.replace("__", "."), value)
    return resolve_job(values, origin="job.toml")


def test_defaults_are_those_of_the_design() -> None:
    assert make().model_dump() == DEFAULTS


GOOD: list[tuple[str, Any]] = [
    ("name", "a"),
    ("name", "A-1.b_c" + "d" * 57),
    ("seed", 2**32 - 1),
    ("data__features", ["a", "b"]),
    ("data__test_fraction", 0.999),
    ("data__test_fraction", 0.0),
    ("data__split_seed", 0),
    ("data__standardize", "table"),
    ("data__standardize", "none"),
    ("data__window_rows", 1),
    ("data__folds", 2),
    ("data__id_columns", ["id", "name"]),
    ("data__weight_column", "w"),
    ("data__target_transform", "log1p"),
    ("data__missing", []),
    ("data__min_category_rows", 1),
    ("data__max_categories", 1),
    ("data__max_one_hot", 1),
    ("model__hidden_units", []),
    ("model__activation", "gelu"),
    ("model__dropout_rate", 0.5),
    ("model__l2", 0),
    ("train__epochs", 1),
    ("train__global_batch_size", 10**9),
    ("train__optimizer", "rmsprop"),
    ("train__learning_rate", 1e-9),
    ("train__learning_rate", 1e9),
    ("train__momentum", 0.9),
    ("train__schedule", "cosine"),
    ("train__schedule", "exponential"),
    ("train__warmup_steps", 10),
    ("train__clip_norm", 1.0),
    ("train__checkpoint_every_s", 0.1),
    ("devices__kind", "gpu"),
    ("devices__require_gpu", True),
    ("devices__tasks", 8),
    ("devices__threads", 64),
    ("devices__precision", "bfloat16"),
    ("devices__xla", "off"),
    ("devices__hang_timeout_s", 10.0),
    ("devices__port_range", [20000, 20100]),
    ("output__predictions", "none"),
    ("output__model", False),
    ("output__plots", False),
]


@pytest.mark.parametrize(("key", "value"), GOOD)
def test_a_value_within_its_rule_is_taken(key: str, value: Any) -> None:
    found: Any = make(**{key: value})
    for part in key.split("__"):
        found = getattr(found, part)
    assert found == (tuple(value) if isinstance(value, list) else value)


BAD: list[tuple[str, Any, str]] = [
    ("name", "", "1 to 64 letters"),
    ("name", "a/b", "1 to 64 letters"),
    ("name", "..", "1 to 64 letters"),
    ("name", "a" * 65, "1 to 64 letters"),
    ("seed", -1, "greater than or equal to 0"),
    ("seed", 2**32, "less than 4294967296"),
    ("seed", 0.5, "integer"),
    ("data__source", "", "must not be empty"),
    ("data__source", 7, "text in quotes"),
    ("data__features", [], "at least one column"),
    ("data__features", ["a", "y"], "names the target 'y'"),
    ("data__features", ["a", "a"], "a column twice"),
    ("data__features", "a", "must be a list"),
    ("data__test_fraction", -0.1, "greater than or equal to 0"),
    ("data__test_fraction", 1.0, "less than 1"),
    ("data__test_fraction", "half", "valid number"),
    ("data__validation_fraction", -0.1, "greater than or equal to 0"),
    ("data__validation_fraction", 1.0, "less than 1"),
    ("data__split_seed", -1, "greater than or equal to 0"),
    ("data__standardize", "all", "'train', 'table', 'robust', 'both' or 'none'"),
    ("data__window_rows", 0, "greater than or equal to 1"),
    ("data__folds", 1, "greater than or equal to 2"),
    ("data__fold", 1, "data.folds is not set"),
    ("data__id_columns", ["y"], "'y' is in data.target and in data.id_columns"),
    ("data__id_columns", ["a", "a"], "a column twice"),
    ("data__id_columns", ["split"], "predictions have a column for"),
    ("data__weight_column", "y", "'y' is in data.target and in data.weight_column"),
    ("data__target_transform", "log", "'none' or 'log1p'"),
    ("data__min_category_rows", 0, "greater than or equal to 1"),
    ("data__columns", {"a": "number"}, "data.columns.a.kind: must be 'numeric'"),
    ("data__columns", {"a.b": {"kin": "text"}}, "data.columns.a.b.kin: no such key. Did you mean"),
    ("data__columns", {"a": {"fill": True}}, "data.columns.a.fill: must not be a boolean"),
    ("data__columns", {"a": {"cycles": ["hour"]}}, "'day', 'week', 'month' or 'year'"),
    ("model__hidden_units", [0], "greater than or equal to 1"),
    ("model__hidden_units", [True], "must not be a boolean"),
    ("model__hidden_units", 200, "must be a list"),
    ("model__activation", "rleu", "'relu'"),
    ("model__dropout_rate", 1.0, "less than 1"),
    ("model__dropout_rate", float("nan"), "must be"),
    ("model__l2", -1e-9, "greater than or equal to 0"),
    ("model__l2", float("inf"), "finite"),
    ("train__epochs", 0, "greater than or equal to 1"),
    ("train__epochs", 1.5, "integer"),
    ("train__epochs", "many", "valid integer"),
    ("train__epochs", True, "must not be a boolean"),
    ("train__global_batch_size", 0, "greater than or equal to 1"),
    ("train__optimizer", "lion", "'sgd', 'adam', 'adamw' or 'rmsprop'"),
    ("train__learning_rate", 0.0, "greater than 0"),
    ("train__learning_rate", float("nan"), "finite"),
    ("train__learning_rate", float("inf"), "finite"),
    ("train__momentum", 1.0, "less than 1"),
    ("train__nesterov", True, "needs sgd with momentum"),
    ("train__weight_decay", 0.1, "is for adamw, the optimizer is 'sgd'"),
    ("train__schedule", "linear", "'cosine', 'coslog4' or 'exponential'"),
    ("train__warmup_steps", -1, "greater than or equal to 0"),
    ("model__members", 0, "greater than or equal to 1"),
    ("model__bagging", "folds", "leaves out one fold a member, but model.members is 1"),
    ("model__bagging", "rows", "'none' or 'folds'"),
    ("train__clip_norm", 0.0, "greater than 0"),
    ("train__patience", 0, "greater than or equal to 1"),
    ("train__patience", 5, "needs validation rows"),
    ("train__min_delta", -1.0, "greater than or equal to 0"),
    ("train__min_delta", 0.1, "train.patience is not set"),
    ("train__loss", "l1", "'mse', 'mae' or 'huber'"),
    ("train__huber_delta", 1.0, "is for huber, the loss is 'mse'"),
    ("train__checkpoint_every_s", 0.0, "greater than 0"),
    ("train__checkpoint_every_s", float("inf"), "finite"),
    ("devices__kind", "tpu", "'auto', 'cpu' or 'gpu'"),
    ("devices__require_gpu", "perhaps", "boolean"),
    ("devices__tasks", 0, "greater than or equal to 1"),
    ("devices__threads", -1, "greater than or equal to 0"),
    ("devices__threads", 10**6, "less than or equal to 4096"),
    ("devices__precision", "float16", "'float32', 'tf32' or 'bfloat16'"),
    ("devices__xla", "sometimes", "'auto', 'on' or 'off'"),
    ("devices__hang_timeout_s", 0.0, "greater than 0"),
    ("devices__port_range", [80, 90], "greater than or equal to 1024"),
    ("devices__port_range", [30000, 20000], "Give the first port and the last"),
    ("devices__port_range", [20000], "devices.port_range"),
    ("output__predictions", "train", "'all', 'test' or 'none'"),
    ("output__model", 3, "boolean"),
    ("data", 3, "must be a table of keys"),
    ("train", [1], "must be a table of keys"),
    ("sweep", [1], "must be a table of keys"),
    ("sweep__seed", 1, "must be a list"),
]


@pytest.mark.parametrize(("key", "value", "told"), BAD)
def test_a_value_beyond_its_rule_is_refused_with_the_rule(key: str, value: Any, told: str) -> None:
    with pytest.raises(JobError) as caught:
        make(**{key: value})
    message = str(caught.value)
    assert told in message
    assert key.replace("__", ".") in message
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_gpu_cannot_be_required_of_a_cpu_job() -> None:
    with pytest.raises(JobError, match="contradicts"):
        make(devices__kind="cpu", devices__require_gpu=True)


def test_momentum_belongs_to_sgd_and_rmsprop() -> None:
    assert make(train__optimizer="rmsprop", train__momentum=0.9).train.momentum == 0.9
    with pytest.raises(JobError, match=r"train.momentum is for sgd and rmsprop"):
        make(train__optimizer="adam", train__momentum=0.9)


def test_nesterov_goes_with_sgd_and_momentum() -> None:
    assert make(train__momentum=0.9, train__nesterov=True).train.nesterov


def test_predictions_of_test_rows_alone_need_test_rows() -> None:
    wish = {"data__test_fraction": 0.0, "output__predictions": "test"}
    with pytest.raises(JobError, match=r"data.test_fraction is 0"):
        make(**wish)
    assert make(**wish, data__folds=5).data.folds == 5


def test_patience_goes_with_validation_rows() -> None:
    assert make(train__patience=3, data__validation_fraction=0.1).train.patience == 3


def test_patience_goes_with_folds_that_members_leave_out() -> None:
    folded = {"model__members": 3, "model__bagging": "folds"}
    assert make(train__patience=3, **folded).train.patience == 3


def test_weight_decay_in_force_is_kerass_for_adamw_and_none_elsewhere() -> None:
    assert make(train__optimizer="adamw").train.decay == 0.004
    assert make(train__optimizer="adamw", train__weight_decay=0.1).train.decay == 0.1
    assert make().train.decay is None


def test_a_fold_is_one_of_the_folds() -> None:
    assert make(data__folds=3, data__fold=2).data.fold == 2
    with pytest.raises(
        JobError, match=r"from 0 to data\.folds - 1, but it is 3 and data\.folds is 3"
    ):
        make(data__folds=3, data__fold=3)


def test_features_ids_and_weights_are_different_columns() -> None:
    with pytest.raises(JobError, match=r"'a' is in data\.features and in data\.weight_column"):
        make(data__features=["a", "b"], data__weight_column="a")


def test_a_columns_kind_alone_is_enough() -> None:
    columns = make(data__columns={"zip": "text", "age": {"fill": 7}}).data.columns
    assert columns["zip"].kind == "text"
    assert (columns["age"].kind, columns["age"].fill) == (None, 7.0)


def test_the_split_seed_is_the_jobs_unless_it_is_given() -> None:
    assert make(seed=5).split_seed == 5
    assert make(seed=5, data__split_seed=0).split_seed == 0


def test_every_missing_key_is_named_at_once() -> None:
    with pytest.raises(JobError) as caught:
        resolve_job({"data": {}}, origin="job.toml")
    for key in ("name", "data.source", "data.target"):
        assert f"{key}: required, but missing" in str(caught.value)


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        make().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"data__split": "group"}, r'data.split = "group" goes by a column'),
        ({"data__split_column": "g"}, r'it is "auto"'),
        ({"data__split": "files"}, r"needs test rows\. Name their files in data\.test_source"),
        ({"data__test_source": "/b.csv"}, r'are for data\.split = "files"'),
        ({"data__split": "time", "data__split_column": "t", "data__folds": 3}, r'not "time"'),
        (
            {"data__split": "column", "data__split_column": "s", "data__validation_fraction": 0.1},
            r"Leave data\.validation_fraction out",
        ),
        ({"data__split": "group", "data__split_column": "y"}, "which is the target or the weight"),
        (
            {
                "data__split": "files",
                "data__test_source": "/b.csv",
                "data__validation_source": "/c.csv",
                "data__validation_fraction": 0.1,
            },
            r"are those of data\.validation_source",
        ),
        (
            {"data__split": "files", "data__test_source": "/b.csv", "train__patience": 3},
            "needs validation rows",
        ),
    ],
)
def test_keys_of_the_split_go_together(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(JobError, match=told):
        make(**keys)


@pytest.mark.parametrize(
    "keys",
    [
        {"data__split": "column", "data__split_column": "s"},
        {
            "data__split": "files",
            "data__test_source": "/b.csv",
            "data__validation_source": "/c.csv",
        },
        {
            "data__split": "files",
            "data__test_source": "/b.csv",
            "data__validation_fraction": 0.1,
        },
        {
            "data__split": "group",
            "data__split_column": "g",
            "data__folds": 3,
            "data__validation_fraction": 0.1,
        },
    ],
)
def test_patience_takes_the_validation_rows_of_any_split(keys: dict[str, Any]) -> None:
    assert make(**keys, train__patience=3).train.patience == 3


def test_intervals_need_rows_that_nothing_else_used() -> None:
    with_rows = {"data__validation_fraction": 0.2}
    assert make(**with_rows).interval_level == 0.9
    assert make(**with_rows, output__interval_level=0.8).interval_level == 0.8
    assert make(**with_rows, output__interval_level=0).interval_level == 0
    assert make(**with_rows, train__patience=3).interval_level == 0
    assert make().interval_level == 0
    assert make(output__interval_level=0).interval_level == 0
    folds = {"model__members": 3, "model__bagging": "folds"}
    assert make(**folds).calibration == "cross"
    assert make(**folds, **with_rows).calibration == "split"
    assert make(**folds, train__patience=3).calibration is None
    # The folds stop their members, which leaves the validation rows unused.
    assert make(**folds, **with_rows, train__patience=3).calibration == "split"


@pytest.mark.parametrize(
    ("keys", "way_out"),
    [
        ({}, r"Set data\.validation_fraction = 0\.2"),
        ({"data__validation_fraction": 0.2, "train__patience": 3}, "Leave patience out"),
        (
            {"model__members": 3, "model__bagging": "folds", "train__patience": 3},
            "Leave patience out",
        ),
    ],
)
def test_intervals_without_rows_to_calibrate_them_are_refused(
    keys: dict[str, Any], way_out: str
) -> None:
    with pytest.raises(JobError, match=way_out):
        make(**keys, output__interval_level=0.9)
