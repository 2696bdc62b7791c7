"""How much each column matters: what the test error gains when its values are shuffled.

importance = measure_importance(predict, x_test, y_test, places=encoding.places, seed=0)
importance[0].column, importance[0].mse_increase          # the most important first
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dnnjob.runs import Record

REPEATS = 5
# Rows predicted times parameters: a fraction of a second on a few cores.
MAX_PRODUCTS = 5e10
MIN_ROWS = 100
Doubles = npt.NDArray[np.float64]
Inputs = npt.NDArray[np.float32]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Importance(Record):
    """What shuffling one column does."""

    column: str
    mse_increase: Finite
    """Mean increase of the mean squared error, target units squared; about 0 or below for a
    column that tells nothing new."""
    mse_increase_std: Finite
    """Standard deviation of the increase over the shuffles."""


def measure_importance(
    predict: Callable[[Inputs], Doubles],
    x: Inputs,
    y: Doubles,
    *,
    places: Mapping[str, Sequence[int]],
    num_params: int,
    seed: int,
) -> tuple[Importance, ...]:
    """Permutation importance of every column, the most important first; none without test rows.

    Breiman, "Random forests", doi:10.1023/A:1010933404324. Inputs of one column are shuffled
    together; columns that say the same share what they are worth.

    Args:
        predict: From inputs of rows to predictions in target units.
        x: The network's inputs of test rows, `(num_rows, num_inputs)`.
        y: Their targets, target units, all known, `(num_rows,)`.
        places: The inputs that each column became.
        num_params: Parameters of the network, which say what predicting costs.
        seed: Of the shuffles, and of the rows drawn of many.
    """
    if not len(y):
        return ()
    random = np.random.default_rng(seed)
    num_rows = max(MIN_ROWS, int(MAX_PRODUCTS / (num_params * REPEATS * len(places))))
    if num_rows < len(y):
        rows = np.sort(random.choice(len(y), num_rows, replace=False))
        x, y = x[rows], y[rows]
    before = float(np.square(predict(x) - y).mean())
    found = [
        _measure(predict, x, y, list(inputs), before, column=column, random=random)
        for column, inputs in places.items()
    ]
    return tuple(sorted(found, key=lambda one: -one.mse_increase))


def _measure(
    predict: Callable[[Inputs], Doubles],
    x: Inputs,
    y: Doubles,
    inputs: list[int],
    before: float,
    *,
    column: str,
    random: np.random.Generator,
) -> Importance:
    shuffled = np.tile(x, (REPEATS, 1))
    for repeat in range(REPEATS):
        rows = slice(repeat * len(x), (repeat + 1) * len(x))
        shuffled[rows, inputs] = x[random.permutation(len(x))][:, inputs]
    errors = np.square(predict(shuffled).reshape(REPEATS, -1) - y).mean(axis=1)
    return Importance(
        column=column,
        mse_increase=float(errors.mean()) - before,
        mse_increase_std=float(errors.std()),
    )
