"""Metrics, baselines and the worth of columns of a table in memory.

evaluated = evaluate_table(table, split, encoding, inputs, predict, y_pred=y_pred, job=job)
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig
from dnnjob.data.block import FloatArray
from dnnjob.data.encoding import Encoding, NumberColumn
from dnnjob.data.sources import Table
from dnnjob.data.split import IndexArray, Split
from dnnjob.results.baselines import baseline_mse
from dnnjob.results.evaluated import Drawn, Evaluated, count_params
from dnnjob.results.importance import measure_importance
from dnnjob.results.metrics import measure
from dnnjob.results.report import SplitBaselines, SplitMetrics, write_predictions
from dnnjob.results.streamed import linear_inputs
from dnnjob.runs import RunPaths

Floats = npt.NDArray[np.float32]


def evaluate_table(
    table: Table,
    split: Split,
    encoding: Encoding,
    inputs: Floats,
    predict: Callable[[Floats], FloatArray],
    *,
    y_pred: FloatArray,
    job: JobConfig,
) -> Evaluated:
    """What the predictions of all rows give.

    Args:
        table: The raw values.
        split: Its rows.
        encoding: How its columns became inputs.
        inputs: Those of all rows, `(num_rows, num_inputs)`.
        predict: From inputs to predictions of the scaled target.
        y_pred: Predictions of all rows, `(num_rows,)`, target units.
        job: The resolved job.
    """
    return Evaluated(
        metrics=_measure_splits(table, split, encoding, y_pred),
        baselines=_measure_baselines(table, split, encoding, inputs),
        importance=measure_importance(
            lambda x: encoding.target.restore(predict(x)),
            inputs[split.test],
            table.y[split.test],
            places=encoding.places,
            num_params=count_params(job, encoding),
            seed=job.seed,
        ),
        drawn=_draw_rows(table, split, encoding, y_pred),
        write_predictions=partial(
            _write_predictions, table, split, y_pred, tests_alone=job.output.predictions == "test"
        ),
    )


def _measure_splits(
    table: Table, split: Split, encoding: Encoding, y_pred: FloatArray
) -> SplitMetrics:
    """Metrics of the rows of each split, None where it has none."""
    rows = {"train": split.train, "validation": split.validation, "test": split.test}
    target_std = encoding.target.raw_std
    return SplitMetrics(
        **{
            name: measure(table.y[ids], y_pred[ids], target_std=target_std)
            for name, ids in rows.items()
        }
    )


def _measure_baselines(
    table: Table, split: Split, encoding: Encoding, inputs: Floats
) -> SplitBaselines:
    """Errors of the baselines on the test rows.

    The linear one takes plain numbers as they are, else the network's inputs.
    """
    train, test = split.train, split.test
    if not len(test):
        return SplitBaselines()
    x = _linear_inputs(table, encoding, inputs, np.concatenate([train, test]))
    x_train, x_test = np.split(x, [len(train)])
    return SplitBaselines(test=baseline_mse(x_train, table.y[train], x_test, table.y[test]))


def _linear_inputs(
    table: Table, encoding: Encoding, inputs: Floats, rows: IndexArray
) -> npt.NDArray[np.floating[Any]]:
    columns = encoding.columns
    plain = all(isinstance(column, NumberColumn) and not column.indicator for column in columns)
    if plain:
        x = np.stack([table.number(column.name)[rows] for column in columns], axis=1)
        if not np.isnan(x).any():
            return x
    return linear_inputs(encoding, inputs[rows])


def _draw_rows(table: Table, split: Split, encoding: Encoding, y_pred: FloatArray) -> Drawn:
    raw = [table.number(column.name) for column in encoding.number_columns]
    return Drawn(
        raw=np.stack(raw, axis=1) if raw else np.zeros((table.num_rows, 0)),
        y=table.y,
        y_pred=y_pred,
        is_test=split.labels == "test",
    )


def _write_predictions(
    table: Table, split: Split, y_pred: FloatArray, paths: RunPaths, *, tests_alone: bool
) -> None:
    ids = np.arange(table.num_rows)
    kept = split.test if tests_alone else ids
    write_predictions(
        paths,
        row_id=ids[kept],
        split=split.labels[kept],
        y_true=table.y[kept],
        y_pred=y_pred[kept],
        ids={name: column.take(kept) for name, column in table.ids.items()},
    )
