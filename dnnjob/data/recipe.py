"""The start that `dnnjob init` writes for a table: rules on its size and kinds, in one place.

start = choose_start(TableShape(num_rows=1030, num_numbers=8))
start["train"]["global_batch_size"]
"""

import math
from dataclasses import dataclass
from typing import Any

# Share of the rows that train, by the default of data.test_fraction.
_TRAIN_SHARE = 0.7
# A network takes about this many steps, where the bounds of the epochs allow it.
_STEPS = 6_000
_LEAST_EPOCHS, _MOST_EPOCHS = 8, 120
# Beyond, vectors of all numbers would cost more than the rest of the network.
_MOST_EMBEDDED = 128
_SEARCH_POINTS = 20


@dataclass(frozen=True)
class TableShape:
    """What the rules go by.

    Attributes:
        num_rows: Rows of the table, about.
        num_numbers: Features that are numbers.
    """

    num_rows: int
    num_numbers: int


def choose_start(shape: TableShape) -> dict[str, dict[str, Any]]:
    """Keys of each section that differ from their default, besides the table's own."""
    num_train_rows = max(1, round(_TRAIN_SHARE * shape.num_rows))
    batch = choose_batch(num_train_rows)
    steps_per_epoch = math.ceil(num_train_rows / batch)
    epochs = min(max(math.ceil(_STEPS / steps_per_epoch), _LEAST_EPOCHS), _MOST_EPOCHS)
    data: dict[str, Any] = {"validation_fraction": 0.1}
    model: dict[str, Any] = {"hidden_units": [256, 256], "dropout_rate": 0.2}
    if shape.num_numbers:
        data["standardize"] = "robust"
    if 0 < shape.num_numbers <= _MOST_EMBEDDED:
        model["numeric_embedding"] = "piecewise"
    data["target_range"] = "trained"
    train = {
        "epochs": epochs,
        "global_batch_size": batch,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "weight_decay": 0.03,
        "decayed": "kernels",
        "beta_2": 0.95,
        "schedule": "cosine",
    }
    return {"data": data, "model": model, "train": train}


def choose_batch(num_train_rows: int) -> int:
    """Rows of a step: 64 up to 4,000 training rows, then about a sixty-fourth of them."""
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
        sweep["model.embedding_bins"] = [8, 16, 48]
    return {"sweep": sweep, "search": {"points": _SEARCH_POINTS}}
