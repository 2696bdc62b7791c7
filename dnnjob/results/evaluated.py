"""A table seen through the trained network, however it was read.

evaluated.metrics.test.mse
evaluated.write_predictions(paths)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dnnjob.config import JobConfig
from dnnjob.data.block import FloatArray
from dnnjob.data.encoding import Encoding
from dnnjob.results.importance import Importance
from dnnjob.results.report import SplitBaselines, SplitMetrics
from dnnjob.runs import RunPaths


@dataclass(frozen=True, eq=False)
class Drawn:
    """Rows for plots: all of a table in memory, a sample of a streamed one.

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
        drawn: Rows for plots.
        write_predictions: Writes them into a run folder, as `output.predictions` wants them.
    """

    metrics: SplitMetrics
    baselines: SplitBaselines
    importance: tuple[Importance, ...]
    drawn: Drawn
    write_predictions: Callable[[RunPaths], None]


def count_params(job: JobConfig, encoding: Encoding) -> int:
    """Trainable parameters of the job's network on a table's columns."""
    return job.model.count_params(
        num_inputs=encoding.num_inputs, embeddings=encoding.embedding_shapes
    )
