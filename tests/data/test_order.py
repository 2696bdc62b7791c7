"""The order of training, checked by counting."""

import subprocess
import sys

import numpy as np
import pytest

from dnnjob.config import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.order import (
    StepPlan,
    WindowPlan,
    default_window_rows,
    philox,
    refuse_short_window,
    weight_seeds,
)
from dnnjob.errors import JobError


def make_plan(**changes: int) -> StepPlan:
    settings = {"num_rows": 354, "global_batch_size": 64, "num_replicas": 1, "epochs": 500}
    return StepPlan(**(settings | changes))


def test_the_reference_job_takes_six_steps_an_epoch_and_three_thousand_in_all() -> None:
    plan = make_plan()

    assert plan.steps_per_epoch == 6
    assert plan.num_steps == 3000


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 4])
@pytest.mark.parametrize("batch", [1, 63, 64, 354, 1000])
def test_every_epoch_takes_every_row_once(batch: int, num_replicas: int) -> None:
    plan = make_plan(global_batch_size=batch, num_replicas=num_replicas)

    for epoch in (0, 7):
        indices = plan.indices([epoch], seed=3)
        assert indices.shape == (plan.steps_per_epoch, num_replicas, plan.rows_per_replica)
        assert sorted(indices[indices >= 0].tolist()) == list(range(354))


def test_only_the_last_batch_of_an_epoch_is_short() -> None:
    indices = make_plan(num_replicas=3).indices(range(2), seed=0)

    rows = (indices >= 0).sum(axis=(1, 2))

    assert rows.tolist() == [64, 64, 64, 64, 64, 34] * 2


@pytest.mark.parametrize("num_replicas", [2, 3, 4])
def test_replicas_share_the_batches_of_one_replica(num_replicas: int) -> None:
    alone = make_plan().indices(range(3), seed=5)
    shared = make_plan(num_replicas=num_replicas).indices(range(3), seed=5)

    for whole, parts in zip(alone, shared, strict=True):
        assert whole[whole >= 0].tolist() == parts[parts >= 0].tolist()


def test_two_rows_in_the_last_batch_leave_replicas_without_any() -> None:
    plan = make_plan(num_rows=66, num_replicas=4)

    last = plan.indices([0], seed=0)[-1]

    assert (last >= 0).sum() == 2
    assert (last >= 0).any(axis=1).sum() == 1


def test_epochs_and_seeds_differ_and_repeat() -> None:
    plan = make_plan()
    first = plan.indices([0], seed=0)

    assert np.array_equal(first, plan.indices([0], seed=0))
    assert not np.array_equal(first, plan.indices([1], seed=0))
    assert not np.array_equal(first, plan.indices([0], seed=1))


def test_blocks_of_epochs_join_to_the_whole_order() -> None:
    plan = make_plan(num_rows=2**21, global_batch_size=2**14, epochs=5)

    blocks = [plan.block_epochs(block) for block in range(3)]

    assert [epoch for block in blocks for epoch in block] == [0, 1, 2, 3, 4]
    assert plan.block_shape == (2 * 128, 1, 2**14)


def test_places_in_training_share_no_random_numbers() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]

    drawn = [
        philox(9, epoch=epoch, window=window, group=group).integers(2**63, size=64)
        for epoch, window, group in keys
    ]

    assert len(np.unique(np.concatenate(drawn))) == 4 * 64


def test_another_process_makes_the_same_order() -> None:
    code = (
        "from dnnjob.data.order import StepPlan\n"
        "print(StepPlan(50, 8, 1, 2).indices([1], seed=4).ravel().tolist())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert printed.stdout.strip() == str(
        StepPlan(50, 8, 1, 2).indices([1], seed=4).ravel().tolist()
    )


def test_the_order_is_the_one_of_the_first_release() -> None:
    # A changed order changes every result: resumed runs would no longer be exact.
    assert StepPlan(10, 10, 1, 1).indices([0], seed=0).ravel().tolist() == [
        0,
        7,
        8,
        6,
        9,
        5,
        1,
        3,
        2,
        4,
    ]


def test_seeds_of_layers_differ_and_repeat() -> None:
    seeds = weight_seeds(0, count=50)

    assert len(set(seeds)) == 50
    assert seeds == weight_seeds(0, count=50) != weight_seeds(1, count=50)


def window_of(*kinds: FeatureKind, **changes: object) -> int:
    data = DataConfig.model_validate({"source": "s", "target": "y", **changes})
    return default_window_rows(data, {f"x{n}": kind for n, kind in enumerate(kinds)})


def test_the_default_window_depends_on_the_columns_alone() -> None:
    assert window_of(*["numeric"] * 12) == 2**28 // 52
    assert window_of(*["numeric"] * 10_000) == 2**28 // 40_004
    assert window_of(*["boolean"] * 20_000) == 2**12


def test_a_window_has_room_for_what_columns_become() -> None:
    assert window_of("text", "codes") == 2**28 // (4 * (2 * 33 + 1))
    assert window_of("text", columns={"x0": {"encoding": "embedding"}}) == 2**28 // 8
    assert window_of("text", max_one_hot=5) == 2**28 // (4 * 7)
    assert window_of("datetime", columns={"x0": {"cycles": ["day"]}}) == 2**28 // (4 * 5)


def make_window_plan(**changes: int) -> WindowPlan:
    settings = {
        "num_rows": 10_007,
        "global_batch_size": 96,
        "num_replicas": 1,
        "epochs": 3,
        "window_rows": 2500,
    }
    return WindowPlan(**(settings | changes))


def rows_of_steps(plan: WindowPlan, epoch: int, window: int) -> list[list[int]]:
    """Training rows of every step of a window, replica by replica."""
    indices = plan.indices(epoch, window, seed=3)
    steps: list[list[int]] = [[] for _ in range(plan.window_steps(window))]
    for replica in range(plan.num_replicas):
        pieces = plan.pieces(epoch, window, replica=replica, seed=3)
        rows = np.array([row for piece in pieces for row in piece], np.int64)
        assert len(rows) == len(plan.part(window, replica)) <= plan.part_rows(replica)
        assert (indices[len(steps) :] == -1).all()
        for step, places in zip(steps, indices[:, replica], strict=False):
            step += rows[places[places >= 0]].tolist()
    return steps


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 5])
@pytest.mark.parametrize("batch", [1, 7, 64, 96, 97, 1000])
def test_windows_take_every_row_once_an_epoch(batch: int, num_replicas: int) -> None:
    plan = make_window_plan(global_batch_size=batch, num_replicas=num_replicas)

    for epoch in (0, 2):
        steps = [
            step
            for window in range(plan.windows_per_epoch)
            for step in rows_of_steps(plan, epoch, window)
        ]
        assert sorted(row for step in steps for row in step) == list(range(plan.num_rows))
        rest = plan.num_rows - batch * (len(steps) - 1)
        assert [len(step) for step in steps] == [*[batch] * (len(steps) - 1), rest]
        assert 0 < rest <= batch


@pytest.mark.parametrize("num_replicas", [2, 3, 4])
def test_replicas_share_the_batches_of_a_window_in_the_same_places(num_replicas: int) -> None:
    alone, shared = make_window_plan(), make_window_plan(num_replicas=num_replicas)

    for window in range(alone.windows_per_epoch):
        assert rows_of_steps(shared, 1, window) == rows_of_steps(alone, 1, window)


def test_two_replicas_need_half_of_a_window_each() -> None:
    plan = make_window_plan(num_replicas=2)

    for window in range(plan.windows_per_epoch):
        parts = [plan.part(window, replica) for replica in (0, 1)]
        assert parts[0].stop == parts[1].start
        assert abs(len(parts[0]) - len(parts[1])) <= plan.num_groups


def test_a_replica_makes_its_own_places_alone() -> None:
    plan = make_window_plan(num_replicas=2)

    whole = plan.indices(0, 1, seed=3)
    mine = plan.indices(0, 1, seed=3, replicas=[1])

    np.testing.assert_array_equal(mine[:, 1], whole[:, 1])
    np.testing.assert_array_equal(mine[:, 0] >= 0, whole[:, 0] >= 0)


def test_every_batch_takes_equally_many_rows_of_every_group() -> None:
    plan = make_window_plan()
    assert plan.num_groups == 32
    indices = plan.indices(0, 0, seed=3)[:, 0]
    group_rows = plan.window_size(0) // plan.num_groups

    counts = [np.bincount(step // group_rows, minlength=32) for step in indices]

    assert {tuple(count) for count in counts} == {(3,) * 32}


def test_epochs_gather_other_blocks_into_their_windows() -> None:
    plan = make_window_plan()

    first, second = (plan.window_blocks(epoch, 0, seed=3) for epoch in (0, 1))

    assert len(first) == len(second) == plan.blocks_per_window == 64
    assert set(first) != set(second)
    assert plan.window_blocks(0, 0, seed=3) == first != plan.window_blocks(0, 0, seed=4)


def test_a_batch_larger_than_the_window_is_one_step() -> None:
    plan = make_window_plan(global_batch_size=4096, window_rows=100)

    assert plan.windows_per_epoch == 3
    assert [plan.window_steps(window) for window in range(3)] == [1, 1, 1]


def test_the_order_of_windows_is_the_one_of_the_first_release() -> None:
    plan = WindowPlan(num_rows=300, global_batch_size=4, num_replicas=1, epochs=1, window_rows=128)

    blocks = plan.window_blocks(0, 2, seed=0)

    assert blocks[:8] == [31, 137, 124, 46, 126, 13, 1, 39]
    assert plan.indices(0, 2, seed=0)[:2].ravel().tolist() == [6, 11, 27, 42, 4, 19, 23, 38]


def test_a_window_that_a_table_in_memory_exceeds_is_refused() -> None:
    data = DataConfig(source="builtin:diabetes", target="y", window_rows=20)

    refuse_short_window(data, 20)
    with pytest.raises(JobError, match=r"must hold the 21 training rows of a built-in table"):
        refuse_short_window(data, 21)
