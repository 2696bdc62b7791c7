"""Networks that one compiled call trains side by side: which they are, and what comes of a call.

axis = Axis(stacked, 8, narrowed=tell)
group = next_group(members, width=axis.width)
steps = train_together(stacked, [Seated(one, step, job.train) for one in group], size=100, width=8)
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from dnnjob.config import TrainConfig
from dnnjob.training.member import PATIENCE_ENDED, Member, unfinished
from dnnjob.training.network_state import NetworkState
from dnnjob.training.stacked_step import StackedStep
from dnnjob.training.step import CompiledStep

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Axis:
    """The leading axis of a compiled call.

    Attributes:
        stacked: The call.
        width: Networks that it trains at most.
        narrowed: Told of another width before anything is trained with it.
    """

    stacked: StackedStep
    width: int
    narrowed: Callable[[int], None]
    _is_narrowed: bool = False

    def halve(self) -> bool:
        """Halves the width, once, where memory has run out; whether it has."""
        if self._is_narrowed or self.width < 2:
            return False
        self._is_narrowed = True
        before, self.width = self.width, self.width // 2
        logger.warning(
            "The device has too little memory for %d networks side by side: from here on %d go on. "
            "Set devices.stack = %d to begin with so many.",
            before,
            *[self.width] * 2,
        )
        self.narrowed(self.width)
        return True


@dataclass(frozen=True, eq=False)
class Seated:
    """A network with a place on a leading axis.

    Attributes:
        member: The network on its way.
        step: What computes it alone.
        train: `[train]` of its job.
    """

    member: Member
    step: CompiledStep
    train: TrainConfig


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
    stacked: StackedStep, group: Sequence[Seated], *, size: int, width: int, places: int = 0
) -> list[int]:
    """Takes equally many steps of each network that trains on, at most `size`.

    Args:
        stacked: Computes them.
        group: Members of a run, as `next_group` gives them, or of runs of one member each.
        size: The most steps.
        width: Networks among which the seconds of a call count as shared.
        places: As in `StackedStep`, of networks of several runs; 0 is one run's members.

    Returns:
        Steps of each of them.
    """
    began = time.perf_counter()
    calls = {
        one: one.member.next_call(one.step, one.train, size=size)
        for one in group
        if unfinished([one.member])
    }
    # None gets ahead of the others where their epochs differ, whatever a clock makes of `size`.
    num_steps = min(call.stop - call.start for call in calls.values())
    calls = {one: replace(call, stop=call.start + num_steps) for one, call in calls.items()}
    first = next(iter(calls.values()))
    idle = replace(first, stop=first.start)
    with ExitStack() as seats:
        outcomes = stacked(
            present([one.member for one in group], seats),
            [calls.get(one, idle) for one in group],
            ended=[_has_ended(one.member) for one in group],
            steps=[one.step for one in group] if places else (),
            places=places,
        )
    # The history of a run adds up all members' and divides by the width.
    seconds = (time.perf_counter() - began) * width / len(calls)
    taken = []
    for one, outcome in zip(group, outcomes, strict=True):
        if one in calls:
            one.member.take(outcome, calls[one], one.step, one.train, seconds=seconds)
            taken.append(outcome.stop - calls[one].start)
    return taken


def present(group: Sequence[Member], seats: ExitStack) -> list[NetworkState]:
    """The variables of all members, with their values in them."""
    return [seats.enter_context(member.network.present()) for member in group]
