"""Predicting goes on where it stopped, to the same bits."""

from pathlib import Path
from signal import SIGTERM
from typing import Any

import numpy as np
import pytest

from dnnjob.errors import StoppedError
from dnnjob.runs import Journal, Position, RunPaths, create_run
from dnnjob.tasks import Crew, StopFlag
from dnnjob.training import evaluate
from dnnjob.training.evaluate import predict_rows
from dnnjob.training.predicted import PredictionKeeper

TRAINED = Position(epoch=3)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_BLOCK_ROWS", 64)


@pytest.fixture
def training(make_training: Any) -> Any:
    return make_training(num_rows=1000)


@pytest.fixture
def paths(tmp_path: Path, training: Any) -> RunPaths:
    return create_run(tmp_path, training.job)


def make_keeper(
    paths: RunPaths, *, stop: StopFlag | None = None, every_s: float = 1000.0
) -> PredictionKeeper:
    return PredictionKeeper(
        paths.predicted, Journal(paths), Crew(stop or StopFlag()), TRAINED, every_s
    )


def stop_at_once(training: Any, paths: RunPaths) -> PredictionKeeper:
    """What one block leaves behind."""
    stop = StopFlag()
    stop.want(SIGTERM)
    keeper = make_keeper(paths, stop=stop)
    with pytest.raises(StoppedError):
        predict_rows(training.dnn, training.x, kept=keeper)
    return keeper


def test_a_prediction_that_was_stopped_goes_on_to_the_same_bits(
    training: Any, paths: RunPaths, tmp_path: Path
) -> None:
    whole = predict_rows(
        training.dnn, training.x, kept=make_keeper(create_run(tmp_path / "b", training.job))
    )

    stopped = stop_at_once(training, paths)
    keeper = make_keeper(paths)
    rest = predict_rows(training.dnn, training.x, kept=keeper)

    np.testing.assert_array_equal(rest, whole)
    assert len(whole) == 1000
    assert stopped.journal.status.attempts[-1].reached == Position(epoch=3, predicted=64)
    assert keeper.journal.status.attempts[-1].resumed_from == Position(epoch=3, predicted=64)


def test_predictions_are_kept_in_time_for_a_kill(training: Any, paths: RunPaths) -> None:
    predict_rows(training.dnn, training.x, kept=make_keeper(paths, every_s=0.0))

    again = make_keeper(paths)
    predict_rows(training.dnn, training.x, kept=again)

    assert again.journal.status.attempts[-1].resumed_from == Position(epoch=3, predicted=1000)


def test_predictions_of_other_weights_are_left_alone(
    training: Any, make_training: Any, paths: RunPaths
) -> None:
    stop_at_once(training, paths)
    other = make_training(num_rows=1000, seed=1)

    keeper = make_keeper(paths)
    predicted = predict_rows(other.dnn, other.x, kept=keeper)

    assert keeper.journal.status.attempts[-1].resumed_from is None
    assert not np.array_equal(
        predicted[:64], predict_rows(training.dnn, training.x, kept=keeper)[:64]
    )


def test_damaged_predictions_are_made_again(
    training: Any, paths: RunPaths, caplog: pytest.LogCaptureFixture
) -> None:
    stop_at_once(training, paths)
    paths.predicted.write_bytes(paths.predicted.read_bytes()[:-20])

    predicted = predict_rows(training.dnn, training.x, kept=make_keeper(paths))

    assert len(predicted) == 1000
    assert "damaged predictions" in caplog.text


def test_a_disk_that_refuses_does_not_end_the_run(
    training: Any, paths: RunPaths, caplog: pytest.LogCaptureFixture
) -> None:
    # A file in the place of the folder: nothing can be written below it.
    paths.checkpoints.write_text("")

    predicted = predict_rows(training.dnn, training.x, kept=make_keeper(paths, every_s=0.0))

    assert len(predicted) == 1000
    assert "could not be kept" in caplog.text
