"""The training loop: decides how far each call goes and when to stop, and computes nothing.

loop = TrainingLoop(step, job=job, keep=keep, crew=crew, shows=shows, lanes=2)
pace = loop.train(members)
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.runs import Show
from dnnjob.tasks import Crew
from dnnjob.training.member import Member, overall_progress, refuse_divergence, unfinished
from dnnjob.training.stacked_members import Axis, Seated, next_group, train_together
from dnnjob.training.stacked_step import StackedStep
from dnnjob.training.step import CompiledStep

# A round this long costs nothing in speed and lets a bar, a checkpoint or a stop come in time.
SECONDS_A_ROUND = 0.5
# Where members take turns, calls are shorter, so that all lanes are busy until a round's end.
_CALLS_A_ROUND = 5
_MAX_GROWTH = 8


@dataclass(frozen=True)
class Pace:
    """Steps that an attempt has taken, of all members, and the seconds they took."""

    steps: int = 0
    seconds: float = 0.0

    @property
    def steps_per_s(self) -> float:
        """Speed of this attempt so far, 0 before its first step."""
        return self.steps / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class TrainingLoop:
    """What a training needs besides its members.

    Attributes:
        step: The compiled call.
        job: The job.
        keep: Called after every round to write a checkpoint where one is due.
        crew: The tasks of the run: agrees on the length of each call, or to stop.
        shows: Told after every round.
        lanes: Members that train at the same moment, each in a thread of its own. TensorFlow lets
            go of the interpreter while a call computes.
        axis: Trains members in one call instead; None where each has calls of its own.
        takes_turns: Whether the members of a round go on together; else one trains to its end
            before the next begins.
    """

    step: CompiledStep
    job: JobConfig
    keep: Callable[[], None]
    crew: Crew
    shows: tuple[Show, ...] = ()
    lanes: int = 1
    axis: Axis | None = None
    takes_turns: bool = True

    @property
    def width(self) -> int:
        """Members that train at the same moment."""
        return self.lanes if self.axis is None else self.axis.width

    @property
    def stacked(self) -> StackedStep | None:
        """The call of several members; one that has the axis for itself has a call of its own."""
        return None if self.axis is None or self.axis.width == 1 else self.axis.stacked

    def train(self, members: Sequence[Member]) -> Pace:
        """Trains the members to the job's end; they change in place.

        In a round lanes take members in turn, as many as the round has time for; every member
        makes one call where tasks have to agree on it, or where there is one member, or one call
        for all. Whatever a clock decides changes no number.

        Raises:
            NonFiniteError: If losses or gradients of more than half of the members are not finite.
            StoppedError: If a signal asked for it.
            PeerLostError: If another task is lost.
        """
        pace, size = Pace(), 1
        if not unfinished(members):
            self._show(members, pace)
        with ThreadPoolExecutor(self.lanes) as lanes:
            while active := self._next(members):
                size = self.crew.agree(size)
                began = time.perf_counter()
                if self._calls_each(active):
                    if (steps := self._round(active, size)) is None:
                        continue
                    seconds = time.perf_counter() - began
                    size = next_size(size, seconds, of=SECONDS_A_ROUND)
                else:
                    steps, a_step = self._fill(lanes, active, size)
                    seconds = time.perf_counter() - began
                    wanted = SECONDS_A_ROUND / _CALLS_A_ROUND
                    size = next_size(size, size * a_step, of=wanted)
                pace = Pace(pace.steps + sum(steps), pace.seconds + seconds)
                self.end_round(members, pace)
        return pace

    def end_round(self, members: Sequence[Member], pace: Pace) -> None:
        """Shows what a round has come to, and keeps it where that is due.

        Raises:
            NonFiniteError: If losses or gradients of more than half of the members are not finite.
        """
        refuse_divergence(members, self.job.train)
        self._show(members, pace)
        self.keep()

    def _next(self, members: Sequence[Member]) -> list[Member]:
        if self.stacked is not None:
            return next_group(members, width=self.width)
        return unfinished(members)[: None if self.takes_turns else 1]

    def _calls_each(self, active: Sequence[Member]) -> bool:
        if self.width > 1:
            return self.stacked is not None
        # A call of each of many members would be short, and most of it spent outside of steps.
        return len(active) == 1 or self.crew.task.num_tasks > 1

    def _round(self, active: Sequence[Member], size: int) -> list[int] | None:
        """Steps of each member in one round of calls; None where memory has room for fewer."""
        if self.stacked is None or self.axis is None:
            return [self._call(member, size) for member in active]
        group = [Seated(member, self.step, self.job.train) for member in active]
        try:
            return train_together(self.stacked, group, size=size, width=self.width)
        except tf.errors.ResourceExhaustedError:
            if not self.axis.halve():
                raise
            return None

    def _call(self, member: Member, size: int) -> int:
        return member.train(self.step, self.job.train, size=size, advance=self.crew.advance)

    def _fill(
        self, lanes: ThreadPoolExecutor, members: Sequence[Member], size: int
    ) -> tuple[list[int], float]:
        """Lets lanes take the members in turn until the round is over.

        Returns:
            Steps of each call, and the seconds of a step of the fastest: where other processes are
            at work, some calls take many times as long, and short ones would stay short.
        """
        # Those behind first: where a round has no time for all, none waits for the others' end.
        waiting = deque(sorted(members, key=lambda member: member.state.log.num_steps))
        calls = list[tuple[int, float]]()
        lock, ends = threading.Lock(), time.perf_counter() + SECONDS_A_ROUND

        def work() -> None:
            member: Member | None = None
            while True:
                with lock:
                    if member is not None and member.state.stop_reason is None:
                        waiting.append(member)
                    if not waiting or (time.perf_counter() >= ends and calls):
                        return
                    member = waiting.popleft()
                began = time.perf_counter()
                steps = self._call(member, size)
                calls.append((steps, time.perf_counter() - began))

        futures = [lanes.submit(work) for _ in range(min(self.lanes, len(members)))]
        wait(futures)
        for future in futures:
            future.result()
        return [steps for steps, _ in calls], min(seconds / max(1, n) for n, seconds in calls)

    def _show(self, members: Sequence[Member], pace: Pace) -> None:
        left = sum(
            member.plan.num_steps - member.state.log.num_steps for member in unfinished(members)
        )
        progress = overall_progress(members, self.job.train)
        for show in self.shows:
            show(progress, pace.steps_per_s, left / (pace.steps_per_s or 1.0))


def next_size(size: int, seconds: float, *, of: float) -> int:
    """Steps of the next call, after one of so many that took so long."""
    wanted = size * of / max(seconds, 1e-6)
    return max(1, round(min(wanted, size * _MAX_GROWTH)))
