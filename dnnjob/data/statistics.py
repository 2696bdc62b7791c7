"""Statistics of a table in memory, in float64, and the encoding that follows from them.

encoding = fit_encoding(table, split, job.data)
encoding.num_inputs, encoding.target.std
"""

import numpy as np

from dnnjob.config.job import DataConfig
from dnnjob.data.block import Block, FloatArray, Texts, take_rows
from dnnjob.data.encoding import (
    ColumnStatistics,
    Encoding,
    fit_columns,
    fit_target,
    transform_target,
)
from dnnjob.data.sources import Table
from dnnjob.data.split import Split


def fit_encoding(table: Table, split: Split, data: DataConfig) -> Encoding:
    """How the table's columns become inputs, from the rows that `data.standardize` names.

    Those are the training rows, or all rows of the table; "none" scales nothing, and takes what
    fills gaps and which categories there are from the training rows.
    """
    block, y = table.block, table.y
    if data.standardize == "table":
        y = y[~np.isnan(y)]
    else:
        block, y = take_rows(block, split.train), y[split.train]
    statistics = measure_block(block)
    columns = fit_columns(data, table.kinds, statistics)
    # One by one: NumPy adds up a column in another order where it stands beside others.
    raw, transformed = (
        measure_block({data.target: values})[data.target]
        for values in (y, transform_target(y, data.target_transform))
    )
    target = fit_target(data, raw=raw, transformed=transformed)
    return Encoding(columns, target, data.standardize, statistics)


def measure_block(block: Block) -> dict[str, ColumnStatistics]:
    """Statistics of every column of these rows."""
    whole = {
        name: column
        for name, column in block.items()
        if not isinstance(column, Texts) and not np.isnan(column).any()
    }
    found = _measure_whole(whole) if whole else {}
    return {name: found.get(name) or _measure(block[name]) for name in block}


def _measure_whole(columns: dict[str, FloatArray]) -> dict[str, ColumnStatistics]:
    """Of columns without gaps, side by side."""
    values = np.stack(list(columns.values()), axis=1)
    if not len(values):
        return {name: ColumnStatistics(num_rows=0, num_missing=0) for name in columns}
    each = (values.mean(axis=0), values.var(axis=0), values.min(axis=0), values.max(axis=0))
    medians = [float(np.median(column)) for column in columns.values()]
    return {
        name: ColumnStatistics(
            num_rows=len(values),
            num_missing=0,
            mean=float(mean),
            variance=float(variance),
            minimum=float(minimum),
            maximum=float(maximum),
            median=median,
        )
        for name, median, mean, variance, minimum, maximum in zip(
            columns, medians, *each, strict=True
        )
    }


def _measure(column: FloatArray | Texts) -> ColumnStatistics:
    if isinstance(column, Texts):
        return ColumnStatistics(
            num_rows=len(column), num_missing=column.num_missing, counts=column.counts()
        )
    present = column[~np.isnan(column)]
    num_missing = len(column) - len(present)
    if not len(present):
        return ColumnStatistics(num_rows=len(column), num_missing=num_missing)
    return ColumnStatistics(
        num_rows=len(column),
        num_missing=num_missing,
        mean=float(present.mean()),
        variance=float(present.var()),
        minimum=float(present.min()),
        maximum=float(present.max()),
        median=float(np.median(present)),
    )
