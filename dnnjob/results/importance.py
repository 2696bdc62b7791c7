"""How much each column matters: what the test error gains when its values are shuffled.

importance = measure_importance(predict, x_test, y_test, places=encoding.places, seed=0)
importance[0].column, importance[0].mse_increase          # the most important first
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dnnjob.runs import Record

logger = logging.getLogger(__name__)

REPEATS = 5
# Rows predicted times parameters: a fraction of a second on a few cores.
MAX_PRODUCTS = 5e10
MIN_ROWS = 100
# Columns shuffled of a table too wide to shuffle each: at least what a picture shows.
MIN_COLUMNS = 40
# On those a part of the products is spent: nobody reads hundreds.
CHOSEN_SHARE = 0.25
PROGRESS_S = 10.0
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
    affordable = MAX_PRODUCTS / (num_params * REPEATS)
    num_rows = max(MIN_ROWS, int(affordable / len(places)))
    if num_rows < len(y):
        rows = np.sort(random.choice(len(y), num_rows, replace=False))
        x, y = x[rows], y[rows]
    predicted = predict(x)
    before = float(np.square(predicted - y).mean())
    # Predicting few rows takes as long as a hundred: it reads all parameters.
    affordable /= max(MIN_ROWS, len(y))
    if affordable < len(places):
        affordable *= CHOSEN_SHARE
    num_columns = max(MIN_COLUMNS, int(affordable))
    if num_columns < len(places):
        places = _choose_columns(x, predicted, places, num_columns)
    copies = _Copies(predict, x, y, random)
    found: list[Importance] = []
    told_at = time.monotonic()
    for column, inputs in places.items():
        errors = copies.errors_without(list(inputs))
        found.append(
            Importance(
                column=column,
                mse_increase=float(errors.mean()) - before,
                mse_increase_std=float(errors.std()),
            )
        )
        if time.monotonic() - told_at > PROGRESS_S:
            logger.info("Shuffled %d of %d columns.", len(found), len(places))
            told_at = time.monotonic()
    return tuple(sorted(found, key=lambda one: -one.mse_increase))


class _Copies:
    """`REPEATS` copies of the rows, of which one column at a time is shuffled."""

    def __init__(
        self,
        predict: Callable[[Inputs], Doubles],
        x: Inputs,
        y: Doubles,
        random: np.random.Generator,
    ) -> None:
        self._predict, self._x, self._y, self._random = predict, x, y, random
        self._rows = np.tile(x, (REPEATS, 1))

    def errors_without(self, inputs: list[int]) -> Doubles:
        """Mean squared error of each copy once these inputs, shuffled together, tell nothing."""
        num_rows = len(self._x)
        for repeat in range(REPEATS):
            rows = slice(repeat * num_rows, (repeat + 1) * num_rows)
            order = self._random.permutation(num_rows)
            self._rows[rows, inputs] = self._x[np.ix_(order, np.array(inputs))]
        errors = np.square(self._predict(self._rows).reshape(REPEATS, -1) - self._y).mean(axis=1)
        self._rows[:, inputs] = np.tile(self._x[:, inputs], (REPEATS, 1))
        return np.asarray(errors, np.float64)


def _choose_columns(
    x: Inputs, predicted: Doubles, places: Mapping[str, Sequence[int]], num_columns: int
) -> dict[str, Sequence[int]]:
    """The columns whose inputs, or their squared deviations, go most with the prediction."""
    centred = x - x.mean(axis=0)
    scores = np.maximum(_correlate(centred, predicted), _correlate(np.square(centred), predicted))
    by_column = {column: scores[list(inputs)].max() for column, inputs in places.items()}
    chosen = set(sorted(by_column, key=lambda column: -by_column[column])[:num_columns])
    logger.info(
        "Of %d columns the %d that go most with the prediction are shuffled.",
        len(places),
        len(chosen),
    )
    return {column: inputs for column, inputs in places.items() if column in chosen}


def _correlate(x: Inputs, predicted: Doubles) -> Doubles:
    """Absolute correlation of each input with the prediction, 0 for a constant one."""
    x = x - x.mean(axis=0)
    size = np.sqrt(np.square(x).sum(axis=0, dtype=np.float64))
    products = np.abs((predicted - predicted.mean()) @ x)
    found: Doubles = np.divide(products, size, out=np.zeros(x.shape[1]), where=size > 0)
    return found
