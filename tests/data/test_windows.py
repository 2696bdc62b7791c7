"""The input pipeline hands over what the order says."""

import numpy as np
import pytest

from dnnjob.data import order
from dnnjob.data.order import StepPlan
from dnnjob.data.windows import make_windows

PLAN = StepPlan(num_rows=30, global_batch_size=8, num_replicas=2, epochs=5)


@pytest.fixture
def two_epochs_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_MAX_BLOCK_ROWS", 2 * 32)


def test_a_small_table_is_one_window_of_all_epochs() -> None:
    (window,) = make_windows(PLAN, seed=1)

    assert (window.first_step, window.num_steps) == (0, PLAN.num_steps)
    np.testing.assert_array_equal(window.indices, PLAN.indices(range(5), seed=1))


@pytest.mark.usefixtures("two_epochs_a_block")
def test_windows_join_to_the_order_and_share_one_shape() -> None:
    windows = list(make_windows(PLAN, seed=1))

    per_epoch = PLAN.steps_per_epoch
    assert [window.first_step for window in windows] == [0, 2 * per_epoch, 4 * per_epoch]
    assert [window.num_steps for window in windows] == [2 * per_epoch, 2 * per_epoch, per_epoch]
    assert {window.indices.shape for window in windows} == {PLAN.block_shape}
    joined = np.concatenate([window.indices for window in windows])
    np.testing.assert_array_equal(joined[: PLAN.num_steps], PLAN.indices(range(5), seed=1))
    assert (joined[PLAN.num_steps :] == -1).all()


@pytest.mark.usefixtures("two_epochs_a_block")
def test_a_later_attempt_seeks_and_replays_nothing() -> None:
    whole = list(make_windows(PLAN, seed=1))

    rest = list(make_windows(PLAN, seed=1, first_step=3 * PLAN.steps_per_epoch + 1))

    assert [window.first_step for window in rest] == [window.first_step for window in whole[1:]]
    for late, early in zip(rest, whole[1:], strict=True):
        np.testing.assert_array_equal(late.indices, early.indices)
