"""Numbers of each epoch as TensorBoard reads them.

content = encode_events({"loss": loss, "learning_rate": rate}, seconds=seconds, ended_at=time())
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_VERSION = "brain.Event:2"


def encode_events(
    scalars: Mapping[str, npt.NDArray[Any]], *, seconds: npt.NDArray[Any], ended_at: float
) -> bytes:
    """An event file with a step an epoch, counted from 1.

    Args:
        scalars: Values by tag, each `(num_epochs,)`; NaN is left out.
        seconds: Wall time of each epoch, `(num_epochs,)`.
        ended_at: When the last one ended, in seconds since 1970.
    """
    times = ended_at - (np.sum(seconds) - np.cumsum(seconds))
    event, summary = tf.compat.v1.Event, tf.compat.v1.Summary
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        with tf.io.TFRecordWriter(str(path)) as writer:
            first = event(wall_time=ended_at - float(np.sum(seconds)), file_version=_VERSION)
            writer.write(first.SerializeToString())
            for row, wall_time in enumerate(times):
                values = [
                    summary.Value(tag=tag, simple_value=float(column[row]))
                    for tag, column in scalars.items()
                    if not np.isnan(column[row])
                ]
                one = event(wall_time=wall_time, step=row + 1, summary=summary(value=values))
                writer.write(one.SerializeToString())
        return path.read_bytes()
