"""Runs killed at any moment end in the bits of one that was not."""

from pathlib import Path

import pytest

from tests.launch.killing import kill_series


@pytest.mark.timeout(600)
def test_a_run_killed_a_few_times_ends_in_the_same_bits(tmp_path: Path) -> None:
    kills = kill_series(tmp_path, epochs=3000, tasks=1, kills=4, seed=1, ranks=("all",))

    assert len(kills) == 4


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_of_a_minute_killed_25_times_ends_in_the_same_bits(tmp_path: Path) -> None:
    kill_series(tmp_path, epochs=60000, tasks=1, kills=25, seed=0, ranks=("all",))


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_of_two_tasks_of_which_one_or_both_are_killed_ends_in_the_same_bits(
    tmp_path: Path,
) -> None:
    kill_series(tmp_path, epochs=3000, tasks=2, kills=25, seed=0, ranks=("all", "0", "1", "0,1"))
