"""The start that `dnnjob init` writes for a table: rules on its size and kinds, in one place.

start = choose_start(TableShape(num_rows=1030, num_columns=9, num_numbers=8))
start["train"]["global_batch_size"]
"""

import math
from dataclasses import dataclass
from typing import Any

# Share of the rows that train, by the default of data.test_fraction.
_TRAIN_SHARE = 0.7
# A network takes about this many steps, where the bounds of the epochs allow it.
_STEPS = 8_000
# Halving by 3 needs nine.
_LEAST_EPOCHS, _MOST_EPOCHS = 9, 150
# Beyond, vectors of all numbers would cost more than the rest of the network.
_MOST_EMBEDDED = 128
# Rows times columns that surely are one window, whatever the columns become.
_MOST_FOLDED_VALUES = 2_000_000
# Above, a network that stops early gains less than intervals by clean validation rows are worth.
_MOST_STOPPED_ROWS = 20_000
# From here on a tenth of them is worth less for training than for intervals.
_LEAST_CALIBRATED_ROWS = 2_000
# Training rows up to which a model has so many members: fewer where each of them costs more.
_MEMBERS = {24: 4, 200: 8, 1_500: 12, 10_000: 8, 30_000: 4}
_SEARCH_POINTS, _HALVING = 20, 3


@dataclass(frozen=True)
class TableShape:
    """What the rules go by.

    Attributes:
        num_rows: Rows with a target, about.
        num_columns: Columns of the table.
        num_numbers: Features that are numbers.
    """

    num_rows: int
    num_columns: int
    num_numbers: int


def choose_start(shape: TableShape) -> dict[str, dict[str, Any]]:
    """Keys of each section that differ from their default, besides the table's own."""
    num_train_rows = round(_TRAIN_SHARE * shape.num_rows)
    batch, members = choose_batch(num_train_rows), choose_members(shape)
    steps_per_epoch = max(1, math.ceil(num_train_rows / batch))
    epochs = min(max(math.ceil(_STEPS / steps_per_epoch), _LEAST_EPOCHS), _MOST_EPOCHS)
    data: dict[str, Any] = {"target_range": "trained"}
    model: dict[str, Any] = {"hidden_units": [256, 256], "dropout_rate": 0.2}
    train: dict[str, Any] = {
        "epochs": epochs,
        "global_batch_size": batch,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "weight_decay": 0.03,
        "decayed": "kernels",
        "beta_2": 0.95,
        "schedule": "cosine",
    }
    if 0 < shape.num_numbers <= _MOST_EMBEDDED:
        # Vectors of robust scores, and z-scores beside them.
        data["standardize"] = "both"
        model["numeric_embedding"] = "piecewise"
    elif shape.num_numbers:
        data["standardize"] = "robust"
    if members > 1:
        model |= {"members": members, "bagging": "folds"}
    validates = members == 1 or num_train_rows >= _LEAST_CALIBRATED_ROWS
    # A single row can only train.
    if validates and num_train_rows > 1:
        data["validation_fraction"] = 0.1
    if members > 1 or 1 < num_train_rows <= _MOST_STOPPED_ROWS:
        # Where a network learns noise, its best epoch comes early.
        train["patience"] = max(1, epochs // 2)
    return {"data": data, "model": model, "train": train}


def choose_members(shape: TableShape) -> int:
    """Networks of a model, each with a fold of its own; one where the rows are too few or many."""
    num_train_rows = round(_TRAIN_SHARE * shape.num_rows)
    if shape.num_rows * shape.num_columns > _MOST_FOLDED_VALUES or num_train_rows < 12:
        return 1
    return next((count for most, count in _MEMBERS.items() if num_train_rows <= most), 1)


def choose_batch(num_train_rows: int) -> int:
    """Rows of a step: 64, of few rows 32, and above 6,000 about a sixty-fourth of them."""
    if num_train_rows < 300:
        return 32
    power = round(math.log2(max(num_train_rows, 1) / 64))
    return 1 << min(max(power, 6), 11)


def choose_search(shape: TableShape) -> dict[str, Any]:
    """`[sweep]` and `[search]` over the keys that matter most, around the start."""
    sweep: dict[str, Any] = {
        "train.learning_rate": {"low": 0.001, "high": 0.01, "log": True},
        "train.weight_decay": {"low": 0.003, "high": 0.3, "log": True},
        "model.dropout_rate": {"low": 0.0, "high": 0.4, "step": 0.1},
        "model.hidden_units": [[128, 128], [256, 256], [512, 512], [256, 256, 256]],
    }
    if 0 < shape.num_numbers <= _MOST_EMBEDDED:
        sweep["model.numeric_embedding"] = ["none", "piecewise", "periodic"]
    start = choose_start(shape)
    search: dict[str, Any] = {"points": _SEARCH_POINTS, "start": True}
    if "validation_fraction" in start["data"] or "bagging" in start["model"]:
        search["halving"] = _HALVING
    return {"sweep": sweep, "search": search}
