"""Members that one compiled call trains side by side: which they are, and what comes of a call.

group = next_group(members, width=8)
steps = train_together(stacked, group, job.train, size=100, width=8)
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from dnnjob.config import TrainConfig
from dnnjob.training.member import PATIENCE_ENDED, Member, unfinished
from dnnjob.training.network_state import NetworkState
from dnnjob.training.stacked_step import StackedStep


def next_group(members: Sequence[Member], *, width: int) -> list[Member]:
    """Those of the next call: of the first `width` members of which any trains on.

    As soon as patience has ended half of a group, the others go on as a narrower one. Who they are
    follows from where members ended alone, so that a run that goes on has the same groups.
    """
    for first in range(0, len(members), width):
        group = list(members[first : first + width])
        if unfinished(group):
            return _narrowed(group)
    return []


def _narrowed(group: list[Member]) -> list[Member]:
    while True:
        ends = sorted(member.state.log.num_steps for member in group if _has_ended(member))
        half = (len(group) + 1) // 2
        if len(ends) < half:
            return group
        last = ends[half - 1]
        group = [
            member
            for member in group
            if not _has_ended(member) or member.state.log.num_steps > last
        ]


def _has_ended(member: Member) -> bool:
    """Whether patience has ended it: one that diverged keeps its place, wherever a run goes on."""
    return member.state.stop_reason == PATIENCE_ENDED


def train_together(
    stacked: StackedStep, group: Sequence[Member], train: TrainConfig, *, size: int, width: int
) -> list[int]:
    """Takes equally many steps of each member that trains on, at most `size`.

    Args:
        stacked: Computes them.
        group: Members, as `next_group` gives them.
        train: `[train]` of the job.
        size: The most steps.
        width: That of the whole stack.

    Returns:
        Steps of each of them.
    """
    going, began = unfinished(group), time.perf_counter()
    calls = [member.next_call(stacked.step, train, size=size) for member in going]
    # None gets ahead of the others where their epochs differ, whatever a clock makes of `size`.
    num_steps = min(call.stop - call.start for call in calls)
    calls = [replace(call, stop=call.start + num_steps) for call in calls]
    idle = replace(calls[0], stop=calls[0].start)
    taken = dict(zip(going, calls, strict=True))
    with ExitStack() as seats:
        outcomes = stacked(
            present(group, seats),
            [taken.get(member, idle) for member in group],
            ended=[_has_ended(member) for member in group],
        )
    # The history of a run adds up all members' and divides by the width.
    seconds = (time.perf_counter() - began) * width / len(going)
    for member, outcome in zip(group, outcomes, strict=True):
        if member in taken:
            member.take(outcome, taken[member], stacked.step, train, seconds=seconds)
    return [
        outcome.stop - taken[member].start
        for member, outcome in zip(group, outcomes, strict=True)
        if member in taken
    ]


def present(group: Sequence[Member], seats: ExitStack) -> list[NetworkState]:
    """The variables of all members, with their values in them."""
    return [seats.enter_context(member.network.present()) for member in group]
