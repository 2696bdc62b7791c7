"""The input pipeline hands over what the order says."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from dnnjob.data import order
from dnnjob.data.order import StepPlan, WindowPlan
from dnnjob.data.windows import WindowSource, make_windows, stream_windows

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


def test_a_task_reads_no_row_of_anothers_part_and_none_twice() -> None:
    plan = WindowPlan(5000, 32, num_replicas=2, epochs=4, window_rows=1024)
    read: list[range] = []

    def read_rows(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        read.append(range(first, stop))
        rows = np.arange(first, stop, dtype=np.float32)
        return rows[:, None], rows

    source = WindowSource(
        plan=plan,
        read=read_rows,
        replicas=range(1, 2),
        num_inputs=1,
        num_targets=1,
        num_resident_blocks=plan.num_blocks,
        threads=2,
    )
    seen: set[int] = set()
    with ThreadPoolExecutor(2) as pool:
        for epoch in range(plan.epochs):
            before = len(seen)
            own: set[int] = set()
            for window in range(plan.windows_per_epoch):
                pieces = plan.pieces(epoch, window, replica=1, seed=3)
                rows = [row for piece in pieces for row in piece]
                x, y = source.fill(epoch, window, seed=3, pool=pool)
                np.testing.assert_array_equal(y[: len(rows)], rows)
                np.testing.assert_array_equal(x[: len(rows), 0], rows)
                source.release()
                own |= set(rows)
            seen |= own
            assert set().union(*read) == seen
            assert source.num_read_rows == len(seen) > before
            assert len(own) <= 0.55 * plan.num_rows


class Recorded(WindowSource):
    """Tells where in memory its windows were."""

    def fill(self, *where: Any, **how: Any) -> list[np.ndarray]:
        filled = super().fill(*where, **how)
        PLACES.append(filled[0].ctypes.data)
        return filled


PLACES: list[int] = []


def test_two_buffers_hold_the_window_that_trains_and_the_one_that_is_filled() -> None:
    plan = WindowPlan(40_000, 32, num_replicas=1, epochs=1, window_rows=4096)
    PLACES.clear()

    def read_rows(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(first, stop, dtype=np.float32)
        return np.stack([rows, -rows], axis=1), rows

    source = Recorded(
        plan=plan,
        read=read_rows,
        replicas=range(1),
        num_inputs=2,
        num_targets=1,
        num_resident_blocks=0,
        threads=2,
    )

    for number, window in enumerate(stream_windows(plan, source, seed=3, first_step=0)):
        # Time for a fill that does not wait, to write over the rows.
        time.sleep(0.02)
        ((x, y),) = window.rows or ()
        pieces = plan.pieces(0, number, replica=0, seed=3)
        rows = np.concatenate([np.arange(piece.start, piece.stop) for piece in pieces])
        np.testing.assert_array_equal(y[: len(rows)], rows)
        np.testing.assert_array_equal(x[: len(rows), 1], -rows)

    assert len(PLACES) == plan.windows_per_epoch >= 6
    assert len(set(PLACES)) == 2


def test_windows_that_are_not_asked_for_to_the_end_leave_nobody_waiting() -> None:
    plan = WindowPlan(40_000, 32, num_replicas=1, epochs=2, window_rows=4096)
    source = WindowSource(
        plan=plan,
        read=lambda first, stop: (np.zeros((stop - first, 2)), np.zeros(stop - first)),
        replicas=range(1),
        num_inputs=2,
        num_targets=1,
        num_resident_blocks=0,
        threads=2,
    )
    windows = stream_windows(plan, source, seed=3, first_step=0)

    assert [next(windows).first_step for _ in range(3)] == [0, 128, 256]
    windows.close()
