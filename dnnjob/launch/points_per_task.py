"""How the points of a sweep are shared out among tasks; arithmetic alone.

each = choose_points_per_task(500, seconds_a_point=20.0, most_tasks=50)     # 30
share_out(500, each)                                                       # [range(0, 30), ...]
"""

import math
from itertools import pairwise

from dnnjob.errors import JobError

# Work enough for a task that its start, imports and compilation do not matter.
_SECONDS_A_TASK = 600.0


def choose_points_per_task(
    num_points: int,
    *,
    chosen: int | None = None,
    seconds_a_point: float | None = None,
    most_tasks: int | None = None,
    width: int = 1,
    least: int = 1,
) -> int:
    """Points that one task runs, so many at a time.

    Args:
        num_points: Points of the sweep.
        chosen: What the profile says.
        seconds_a_point: How long one takes, roughly; None if unknown, which counts as long.
        most_tasks: Tasks that may be queued; None for any number.
        width: Points that a task runs side by side.
        least: Points that a task must have.

    Raises:
        JobError: If the profile's choice makes more tasks than may be queued.
    """
    fewest = math.ceil(num_points / most_tasks) if most_tasks else 1
    if chosen is not None:
        if chosen < fewest:
            raise JobError(
                f"A sweep of {num_points} points with points_per_task = {chosen} is "
                f"{math.ceil(num_points / chosen)} tasks, but the cluster takes {most_tasks} more. "
                f"Set profile.points_per_task={fewest} or more, or leave it out."
            )
        return chosen
    in_turn = 1 if not seconds_a_point else max(1, round(_SECONDS_A_TASK / seconds_a_point))
    return min(num_points, max(fewest, least, width * in_turn))


def share_out(num_points: int, each: int) -> list[range]:
    """The places of the points of each task, consecutive ones, as evenly as can be."""
    num_tasks = math.ceil(num_points / each)
    cuts = [round(number * num_points / num_tasks) for number in range(num_tasks + 1)]
    return [range(start, stop) for start, stop in pairwise(cuts)]
