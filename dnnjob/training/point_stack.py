"""Runs of one network each that one compiled call trains: points of a sweep.

stack = PointStack()
stack.take_round(guests)          # steps of those that may share a call; who has ended leaves
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import tensorflow as tf

from dnnjob.tasks import Guest
from dnnjob.training.member import Member
from dnnjob.training.stacked_members import Axis, Seated, train_together
from dnnjob.training.stacked_step import StackedStep
from dnnjob.training.train import SECONDS_A_ROUND, Pace, TrainingLoop, next_size

# A sweep over layers has stacks of several kinds, one after the other.
_MOST_AXES = 4


@dataclass(eq=False)
class PointTraining:
    """The training of a run that waits for others.

    Attributes:
        loop: What it needs besides its network.
        member: Its network.
        stacked: A call of its kind.
        kind: What networks share that one call can train.
        width: Networks that the call has places for. Where it is 1 the run trains alone.
        narrow: Told of another width.
        pace: Steps so far, and the seconds of the calls that took them.
        compile_s: Seconds that it waited for calls to be compiled.
    """

    loop: TrainingLoop
    member: Member
    stacked: StackedStep
    kind: str
    width: int
    narrow: Callable[[int], None]
    pace: Pace = field(default_factory=Pace)
    compile_s: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        """What it must share with those in its call."""
        return self.kind, self.width

    def change_width(self, width: int) -> None:
        """Goes on among fewer."""
        self.width = width
        self.narrow(width)


class PointStack:
    """What trains runs together, and what that leaves for others of their kinds."""

    def __init__(self) -> None:
        """Nothing is compiled."""
        self._axes: dict[tuple[str, int], Axis] = {}
        self._seated: list[Guest] = []
        self._size = 1

    def take_round(self, guests: Sequence[Guest]) -> None:
        """Trains the first and those that may share its call for a moment.

        The bits of each are those that it would have beside others: its call has equally many
        places, whoever takes them, and at whatever step each stands.

        Args:
            guests: Each brings a `PointTraining`; those that need no further round are gone after.
        """
        # Those that wait for a place, or for the call of another kind, may be stopped as well.
        guests = [one for one in guests if one.does(one.given.loop.crew.check)]
        if not guests:
            return
        key = guests[0].given.key
        alike = [guest for guest in guests if guest.given.key == key]
        axis = self._find_axis(alike)
        group = alike[: axis.width]
        try:
            self._train(axis, group)
        except tf.errors.ResourceExhaustedError as error:
            if axis.halve():
                self._leave_alone(alike)
                return
            _fail(group, error)
        except BaseException as error:
            # Each says so in its own folder.
            _fail(group, error)

    def _find_axis(self, alike: Sequence[Guest]) -> Axis:
        first = alike[0].given
        axis = self._axes.pop(first.key, None)
        if axis is None:
            axis = Axis(first.stacked, first.width, narrowed=_tell_nobody)

        def narrow(width: int) -> None:
            del self._axes[first.key]
            for guest in alike:
                if not guest.is_gone:
                    guest.does(guest.given.change_width, width)
            self._axes.setdefault((first.kind, width), axis)

        axis.narrowed = narrow
        self._axes[first.key] = axis
        while len(self._axes) > _MOST_AXES:
            del self._axes[next(iter(self._axes))]
        return axis

    @staticmethod
    def _leave_alone(guests: Sequence[Guest]) -> None:
        """Has those go on by themselves that have the call for themselves."""
        for guest in guests:
            if not guest.is_gone and guest.given.width == 1:
                guest.leave(None)

    def _train(self, axis: Axis, group: Sequence[Guest]) -> None:
        seated = [
            Seated(one.given.member, one.given.loop.step, one.given.loop.job.train) for one in group
        ]
        places = axis.width
        if any(one not in self._seated for one in group):
            # Other shapes may have come, and the call for them is compiled apart from any step.
            began = time.perf_counter()
            train_together(axis.stacked, seated, size=0, width=len(group), places=places)
            for one in group:
                one.given.compile_s += time.perf_counter() - began
            self._seated, self._size = list(group), 1
        began = time.perf_counter()
        steps = train_together(
            axis.stacked, seated, size=self._size, width=len(group), places=places
        )
        seconds = time.perf_counter() - began
        self._size = next_size(self._size, seconds, of=SECONDS_A_ROUND)
        for one, taken in zip(group, steps, strict=True):
            one.does(_end_round, one, taken, seconds)
        self._seated = [one for one in group if not one.is_gone]

    def release(self) -> None:
        """Lets go of all rows, once nobody waits."""
        self._seated = []
        for axis in self._axes.values():
            axis.narrowed = _tell_nobody
            axis.stacked.release()


def _tell_nobody(_: int) -> None:
    pass


def _end_round(guest: Guest, steps: int, seconds: float) -> None:
    given: PointTraining = guest.given
    given.pace = Pace(given.pace.steps + steps, given.pace.seconds + seconds)
    given.loop.end_round([given.member], given.pace)
    if given.member.state.stop_reason is not None:
        guest.leave(given.pace)


def _fail(guests: Sequence[Guest], error: BaseException) -> None:
    for guest in guests:
        if not guest.is_gone:
            guest.fail(error)
