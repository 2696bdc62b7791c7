"""The order of training, checked by counting."""

import subprocess
import sys

import numpy as np
import pytest

from dnnjob.data.order import StepPlan, default_window_rows, philox, weight_seeds


def make_plan(**changes: int) -> StepPlan:
    settings = {"num_rows": 354, "global_batch_size": 64, "num_replicas": 1, "epochs": 500}
    return StepPlan(**(settings | changes))


def test_the_reference_job_takes_six_steps_an_epoch_and_three_thousand_in_all() -> None:
    plan = make_plan()

    assert plan.steps_per_epoch == 6
    assert plan.num_steps == 3000
    assert plan.step_rows().tolist() == [64, 64, 64, 64, 64, 34]


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


def test_the_default_window_depends_on_the_columns_alone() -> None:
    assert default_window_rows(12) == 2**28 // 52
    assert default_window_rows(10**6) == 2**16
