"""Sharing the points of a sweep out among tasks."""

import pytest

from dnnjob.errors import JobError
from dnnjob.launch.lane_plan import choose_points_per_task, share_out


@pytest.mark.parametrize(
    ("num_points", "facts", "each"),
    [
        (20, {"seconds_a_point": 60.0}, 10),
        (20, {"seconds_a_point": 3600.0}, 1),
        (20, {"seconds_a_point": None}, 1),
        (20, {"seconds_a_point": 1.0}, 20),
        (500, {"seconds_a_point": 3600.0, "most_tasks": 50}, 10),
        (501, {"seconds_a_point": 3600.0, "most_tasks": 50}, 11),
        # Two at a time do twice as many in ten minutes, and long ones fill the cores.
        (60, {"seconds_a_point": 60.0, "width": 2}, 20),
        (60, {"seconds_a_point": 3600.0, "width": 16}, 16),
        (3, {"seconds_a_point": 3600.0, "width": 8}, 3),
        (20, {"chosen": 7, "seconds_a_point": 1.0}, 7),
    ],
)
def test_a_task_has_ten_minutes_work_within_the_clusters_limits(
    num_points: int, facts: dict[str, float], each: int
) -> None:
    assert choose_points_per_task(num_points, **facts) == each  # type: ignore[arg-type]


def test_a_choice_that_makes_too_many_tasks_is_refused_with_one_that_does_not() -> None:
    with pytest.raises(JobError, match=r"250 tasks.*takes 50 more.*points_per_task=10 or more"):
        choose_points_per_task(500, chosen=2, most_tasks=50)


@pytest.mark.parametrize(("num_points", "each"), [(1, 1), (20, 3), (7, 7), (500, 11), (10, 4)])
def test_every_point_is_in_one_task_and_tasks_are_even(num_points: int, each: int) -> None:
    tasks = share_out(num_points, each)

    assert [place for task in tasks for place in task] == list(range(num_points))
    assert max(map(len, tasks)) <= each
    assert max(map(len, tasks)) - min(map(len, tasks)) <= 1
