"""What TensorBoard reads."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from dnnjob.results.report import read_history
from dnnjob.training.tensorboard import encode_events
from tests.conftest import WriteJob, run_here


def read_events(path: Path) -> list[tf.compat.v1.Event]:
    records = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    return [tf.compat.v1.Event.FromString(record) for record in records]


def test_events_hold_each_epoch_at_the_time_it_ended(tmp_path: Path) -> None:
    loss, val_loss = np.array([3.0, 2.0]), np.array([np.nan, 1.5])
    content = encode_events(
        {"loss": loss, "val_loss": val_loss}, seconds=np.array([1.0, 2.0]), ended_at=100.0
    )
    (tmp_path / "events").write_bytes(content)
    first, *epochs = read_events(tmp_path / "events")
    assert first.file_version == "brain.Event:2"
    assert [(event.step, event.wall_time) for event in epochs] == [(1, 98.0), (2, 100.0)]
    values = [{one.tag: one.simple_value for one in event.summary.value} for event in epochs]
    assert values == [{"loss": 3.0}, {"loss": 2.0, "val_loss": 1.5}]


def test_a_run_that_is_asked_leaves_its_history_for_tensorboard(
    write_job: WriteJob, root: Path
) -> None:
    job = write_job(output={"tensorboard": True, "plots": False, "trees": False})
    paths = run_here(job, root=root)
    _, *epochs = read_events(paths.tensorboard)
    history = read_history(paths.history)
    values = [{one.tag: one.simple_value for one in event.summary.value} for event in epochs]
    assert history.val_loss is not None
    for tag, column in (("loss", history.loss), ("val_loss", history.val_loss)):
        assert [value[tag] for value in values] == pytest.approx(column)
    assert all(value["rows_per_s"] > 0 for value in values)
    assert {*values[0]} == {"loss", "val_loss", "learning_rate", "rows_per_s"}
