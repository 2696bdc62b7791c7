"""Runs killed at any moment end in the bits of one that was not."""

from pathlib import Path

import pytest

from tests.launch.killing import ALL, HANDFUL, kill_series


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_run_killed_in_every_phase_ends_in_the_same_bits(tmp_path: Path) -> None:
    kills = kill_series(tmp_path, epochs=2500, tasks=1, kills=HANDFUL, seed=1)

    assert len(kills) >= 5


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_of_a_minute_killed_25_times_ends_in_the_same_bits(tmp_path: Path) -> None:
    kills = kill_series(tmp_path, epochs=800, tasks=1, kills=ALL, seed=0, runs=3, least_s=60)

    assert len(kills) >= 25


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_run_of_two_tasks_of_which_one_or_both_are_killed_ends_in_the_same_bits(
    tmp_path: Path,
) -> None:
    kills = kill_series(
        tmp_path,
        epochs=800,
        tasks=2,
        kills=ALL,
        seed=0,
        ranks=("all", "0", "1", "0,1"),
        runs=3,
        least_s=60,
    )

    assert len(kills) >= 25
    assert {kill.ranks for kill in kills} == {"all", "0", "1", "0,1"}
