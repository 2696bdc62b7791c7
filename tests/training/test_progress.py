"""What the log shows of training where no terminal is."""

import logging

import pytest

from dnnjob.runs import Progress
from dnnjob.tasks import LANE
from dnnjob.training.progress import open_progress


def test_the_last_epoch_is_shown_wherever_training_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dnnjob")

    with open_progress(epochs=500) as show:
        for epoch in (0, 1, 20, 37):
            show(Progress(epoch=epoch, epochs=500, loss=0.5), 100.0, 65.0)

    assert caplog.messages == [
        "Epoch 1/500: loss 0.5, 100 steps/s, 1:05 left.",
        "Epoch 37/500: loss 0.5, 100 steps/s, 1:05 left.",
    ]


def test_a_validation_loss_stands_beside_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dnnjob")

    with open_progress(epochs=9) as show:
        show(Progress(epoch=2, epochs=9, loss=0.5, val_loss=0.75), 100.0, 1.0)

    assert caplog.messages == ["Epoch 2/9: loss 0.5, validation 0.75, 100 steps/s, 0:01 left."]


def test_no_epoch_is_shown_twice(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="dnnjob")

    with open_progress(epochs=1) as show:
        show(Progress(epoch=1, epochs=1), 100.0, 0.0)

    assert caplog.messages == ["Epoch 1/1: loss -, 100 steps/s, 0:00 left."]


def test_a_point_of_a_sweep_draws_no_bar_of_its_own_on_a_terminal(
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, logger="dnnjob")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv(LANE, "yes")

    with open_progress(epochs=1) as show:
        show(Progress(epoch=1, epochs=1), 100.0, 0.0)

    assert caplog.messages == ["Epoch 1/1: loss -, 100 steps/s, 0:00 left."]
    assert capsys.readouterr().err == ""
