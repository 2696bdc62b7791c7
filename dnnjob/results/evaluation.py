"""What the predictions of every row of a table give.

evaluated = evaluate(table, encoding, encode, predict, job=job, parts=parts)
evaluated.metrics.test.mse
evaluated.write_predictions(paths)
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig
from dnnjob.data.encoding import Encoding
from dnnjob.data.folds import Folds
from dnnjob.data.raw_columns import FloatArray
from dnnjob.data.split import SPLITS, TEST, TRAIN, VALIDATION
from dnnjob.data.table import Table
from dnnjob.results.importance import Importance, measure_importance
from dnnjob.results.intervals import Intervals, calibrate, describe_too_few
from dnnjob.results.metrics import Totals
from dnnjob.results.prediction_pass import (
    PredictedParts,
    PredictionPass,
    PredictionSums,
    join_parts,
)
from dnnjob.results.report import SplitBaselines, SplitMetrics
from dnnjob.runs import RunPaths
from dnnjob.text import counted

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows for plots: all of a table, of a long one a sample.

    Attributes:
        raw: Numbers, `(num_rows, num_number_columns)`, as the table has them.
        y: Targets, `(num_rows,)`, NaN where unlabelled.
        y_pred: Predictions, same shape, target units.
        is_test: Which are test rows, same shape.
    """

    raw: FloatArray
    y: FloatArray
    y_pred: FloatArray
    is_test: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What the predictions of all rows give.

    Attributes:
        metrics: Of each split.
        baselines: On the test rows.
        importance: What each column is worth.
        intervals: How far targets lie from predictions; None where no rows tell.
        members: Of each network of several, the mean squared errors of its validation and of the
            test rows, target units squared; None without such rows.
        drawn: Rows for plots.
        write_predictions: Writes them into a run folder, as `output.predictions` wants them.
    """

    metrics: SplitMetrics
    baselines: SplitBaselines
    importance: tuple[Importance, ...]
    intervals: Intervals | None
    members: tuple[tuple[float | None, float | None], ...]
    drawn: Drawn
    write_predictions: Callable[[RunPaths], None]


def evaluate(
    table: Table,
    encoding: Encoding,
    encode: Callable[[Floats], Floats],
    predict: Callable[[Floats], FloatArray],
    *,
    job: JobConfig,
    parts: PredictedParts,
    folds: Folds | None = None,
) -> Evaluated:
    """Predicts every row, or finds what an earlier attempt has predicted, and measures the errors.

    Args:
        table: The rows.
        encoding: How they become inputs.
        encode: The encoder.
        predict: From inputs to predictions of the scaled target, `(num_members, num_rows)`; the
            model's is their mean in target units.
        job: The resolved job.
        parts: Keeps what is predicted for a later attempt.
        folds: Of each training row the member that did not train on it, -1 where none is left;
            None where all did.
            Without validation rows these members' predictions are the validation.

    Raises:
        StoppedError: If a signal asked for it; a later attempt predicts the rest.
    """
    num_params = encoding.count_params(job.model) * job.model.members
    whole = PredictionPass(table, encoding, encode, predict, parts, num_params, folds)
    sums, predictions = whole.run()
    parts.attempt.check()
    with parts.attempt.watch.time("evaluate"):
        is_test, target_std = sums.joined("labels") == TEST, encoding.target.raw_std
        named = zip(SPLITS, sums.errors, strict=False)
        intervals = _make_intervals(job, sums)
        return Evaluated(
            metrics=SplitMetrics(
                **{name: one.metrics(target_std=target_std) for name, one in named}
            ),
            baselines=SplitBaselines(test=sums.linear.solve() if is_test.any() else None),
            importance=_measure_importance(
                encoding, predict, sums, num_params=num_params, seed=job.seed
            ),
            intervals=intervals,
            members=_member_errors(sums.members),
            drawn=Drawn(sums.joined("raw"), sums.joined("y"), sums.joined("y_pred"), is_test),
            write_predictions=partial(
                join_parts,
                predictions,
                intervals=intervals,
                tests_alone=job.output.predictions == "test",
            ),
        )


def _measure_importance(
    encoding: Encoding,
    predict: Callable[[Floats], FloatArray],
    sums: PredictionSums,
    *,
    num_params: int,
    seed: int,
) -> tuple[Importance, ...]:
    """What each column is worth on the test rows that were drawn."""
    return measure_importance(
        lambda x: encoding.target.restore(predict(x)).mean(axis=0),
        sums.joined("inputs"),
        sums.joined("y")[sums.joined("labels") == TEST],
        places=encoding.places,
        num_params=num_params,
        seed=seed,
    )


def _member_errors(totals: Sequence[Totals]) -> tuple[tuple[float | None, float | None], ...]:
    """Mean squared errors of pairs of totals."""
    mse = [one.squared_error / one.num_rows if one.num_rows else None for one in totals]
    return tuple(zip(mse[::2], mse[1::2], strict=True))


def _make_intervals(job: JobConfig, sums: PredictionSums) -> Intervals | None:
    """Intervals by the validation rows or the folds, of a long table by a sample of them."""
    level = job.interval_level
    if not level or job.calibration is None:
        return None
    labels, y, y_pred = (sums.joined(name) for name in ("labels", "y", "y_pred"))
    unseen, tests = labels == VALIDATION, labels == TEST
    method: Literal["split", "cross"] = "split"
    # A column that deals the rows may name none of them for validation.
    if not unseen.any() and job.model.bagging == "folds" and job.train.patience is None:
        # Rows of a member that diverged have none that left them out.
        unseen, method = (labels == TRAIN) & ~np.isnan(sums.joined("y_unseen")), "cross"
    transform = job.data.target_transform
    y_unseen = sums.joined("y_unseen")[unseen]
    found = calibrate(y[unseen], y_unseen, level=level, method=method, transform=transform)
    if found is None:
        logger.warning("%s", describe_too_few(level, int(unseen.sum())))
        return None
    found = found.judged(y[tests], y_pred[tests])
    if found.coverage_test is not None:
        logger.info(
            "Intervals of level %g, from %s held out, hold the target of %.1f %% of the test "
            "rows; their mean width is %.4g.",
            *(level, counted(found.num_rows, "row"), 100 * found.coverage_test, found.mean_width),
        )
    return found
