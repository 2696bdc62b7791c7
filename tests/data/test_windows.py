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

    assert window.epochs == range(5)
    np.testing.assert_array_equal(window.indices, PLAN.indices(range(5), seed=1))


@pytest.mark.usefixtures("two_epochs_a_block")
def test_windows_join_to_the_order_and_share_one_shape() -> None:
    windows = list(make_windows(PLAN, seed=1))

    assert [window.epochs for window in windows] == [range(2), range(2, 4), range(4, 5)]
    assert {window.indices.shape for window in windows} == {PLAN.block_shape}
    joined = np.concatenate([window.indices for window in windows])
    np.testing.assert_array_equal(joined[: PLAN.num_steps], PLAN.indices(range(5), seed=1))
    assert (joined[PLAN.num_steps :] == -1).all()


@pytest.mark.usefixtures("two_epochs_a_block")
def test_a_later_attempt_seeks_and_replays_nothing() -> None:
    whole = list(make_windows(PLAN, seed=1))

    rest = list(make_windows(PLAN, seed=1, first_block=1))

    assert [window.epochs for window in rest] == [range(2, 4), range(4, 5)]
    for late, early in zip(rest, whole[1:], strict=True):
        np.testing.assert_array_equal(late.indices, early.indices)
