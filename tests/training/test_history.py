"""Losses of epochs from the errors of steps."""

import numpy as np
import pytest

from dnnjob.data.order import StepPlan
from dnnjob.runs import Position
from dnnjob.training.fit import Fitted, FittedMember
from dnnjob.training.history import EpochLog, History
from dnnjob.training.train import Pace

PLAN = StepPlan(num_rows=10, global_batch_size=4, num_replicas=1, epochs=2)
ERRORS = np.array([8.0, 4.0, 3.0, 1.0, 0.5, 0.5], np.float32)
RATES = np.array([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], np.float32)


def test_an_epochs_loss_is_its_squared_errors_over_its_rows() -> None:
    log = EpochLog(PLAN)

    log.add(ERRORS, RATES, np.array([2.0, 1.0], np.float32), seconds=6.0)

    assert log.losses == [1.5, 0.2]
    assert log.validation_losses == [2.0, 1.0]
    assert log.learning_rates == pytest.approx([0.4, 0.1])
    assert log.seconds == [3.0, 3.0]


def test_how_the_steps_were_cut_does_not_show() -> None:
    whole, cut = EpochLog(PLAN), EpochLog(PLAN)
    errors = np.array([0.1, 0.2, 0.3, 0.7, 0.11, 0.13], np.float32)
    whole.add(errors, RATES, None, seconds=1.0)

    for start, stop in ((0, 1), (1, 4), (4, 6)):
        cut.add(errors[start:stop], RATES[start:stop], None, seconds=1.0)

    assert cut.losses == whole.losses


def test_a_log_comes_back_from_its_arrays_in_mid_epoch() -> None:
    log = EpochLog(PLAN)
    log.add(ERRORS[:4], RATES[:4], np.array([2.0], np.float32), seconds=1.0)

    again = EpochLog.from_arrays(PLAN, log.to_arrays())

    assert again == log
    assert again.num_steps == 4
    assert again.num_epochs == 1


def test_the_best_epoch_of_members_is_one_that_all_have_trained() -> None:
    validated = [5.0, 4.0, 3.0], [4.0, 2.0, 4.0, 1.0, 0.5]
    logs = [EpochLog(PLAN, [1.0] * len(each), each) for each in validated]
    members = [FittedMember(0, seed, [], log, "patience", 1, 1) for seed, log in enumerate(logs)]

    fitted = Fitted(
        members=tuple(members),
        summary="",
        history=History.mean(logs, width=1),
        pace=Pace(),
        inexact=None,
        trained=Position(epoch=5),
        width=1,
        predictor=lambda x: x,
    )

    # 4.5, 3.0, 3.5, and from there on the second alone.
    assert fitted.best_epoch == 2
