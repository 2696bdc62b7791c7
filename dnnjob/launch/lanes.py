"""Runs points of a sweep in lanes: processes side by side, each of which takes the next point.

lanes = Lanes(plan, task=find_task(), stop=stop, watcher=show)
code = lanes.work(turns)            # the worst exit code of all points

Whatever befalls a lane, only the point that it was at fails: another lane goes on with the rest.
"""

import logging
import math
import os
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from dnnjob.errors import ExitCode, StoppedError
from dnnjob.latest import Latest
from dnnjob.launch.compile_times import CompileTimes
from dnnjob.launch.errand import Errand, News, choose_first
from dnnjob.launch.lane_plan import LanePlan
from dnnjob.launch.local_tasks import COMMAND, signals_held_back
from dnnjob.launch.outcome import explain_end
from dnnjob.launch.turns import Turns, leave_word
from dnnjob.machine import count_oom_kills
from dnnjob.runs import (
    Reason,
    RunPaths,
    State,
    read_cancel,
    read_status,
    read_submission,
)
from dnnjob.tasks import LANE, StopFlag, Task
from dnnjob.text import quote_command
from dnnjob.training.hyperparameters import MOST_CALLS

logger = logging.getLogger(__name__)

_NAP_S = 0.1
# Of a time limit: by so much less has a point that joins others.
_LATE = 0.1
_LANE = (sys.executable, "-P", "-m", "dnnjob.launch.lane")


class Watcher(Protocol):
    """Who is told what becomes of the points."""

    def begin(self, errand: Errand) -> None:
        """A point begins."""

    def hear(self, errand: Errand, news: News) -> None:
        """A point has come further, or met trouble."""

    def end(self, errand: Errand, code: ExitCode) -> None:
        """A point has ended."""


@dataclass
class _Lane:
    """A process, and the points that it is at."""

    place: int
    kind: str
    process: "subprocess.Popen[bytes]"
    errands: dict[int, Errand] = field(default_factory=dict)
    """What it is at, by their numbers: several where one call trains them."""
    seats: int = 1
    """How many that may be."""
    calls: Latest[str] = field(default_factory=lambda: Latest(most=MOST_CALLS))
    """What it has compiled and not forgotten."""
    is_compiling: bool = False
    """Whether its point has a call that it did not have."""
    waits_since: float = field(default_factory=time.monotonic)
    """When it was last at a point, or nothing was ready for it."""
    began_at: float = 0.0
    is_warned: bool = False
    oom_kills: int = 0
    """Processes that the kernel had ended for want of memory when its first point began."""
    rest: bytes = b""
    """Of a line that has not come whole."""

    @property
    def is_full(self) -> bool:
        """Whether it can be at no further point."""
        beside = [errand.beside for errand in self.errands.values()]
        return bool(beside) and (len(beside) >= self.seats or min(beside) == 1)

    def takes_in(self, errand: Errand, *, most: int, limit_s: float | None) -> bool:
        """Whether a point may join those that it is at: a warning of their time reaches all."""
        late_s = math.inf if limit_s is None else _LATE * limit_s
        is_late = time.monotonic() - self.began_at > late_s
        has_room = len(self.errands) < most and not (self.is_full or is_late)
        return has_room and self.kind == errand.kind and errand.beside > 1

    def has_call_of(self, errand: Errand) -> bool:
        """Whether it need not compile for a point."""
        return self.kind == errand.kind and errand.call in self.calls

    def find(self, number: int) -> Errand | None:
        """The point that news is about; any, where it is about the process."""
        return self.errands.get(number) or next(iter(self.errands.values()), None)

    def send(self, number: int) -> None:
        """Sends it a signal."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def read(self) -> tuple[list[News], bool]:
        """What it has told since the last look, and whether it can tell more."""
        content = os.read(cast(BinaryIO, self.process.stdout).fileno(), 1 << 16)
        *lines, self.rest = (self.rest + content).split(b"\n")
        return [News.model_validate_json(line) for line in lines], bool(content)


@dataclass
class Lanes:
    """The lanes of some points.

    Attributes:
        plan: How many, and with what.
        task: Which task of each run this process is.
        stop: What remembers the signals; a signal is passed on, and no other point is begun.
        watcher: Who is told of the points.
        command: What starts a lane.
        log: Where what the libraries of the lanes say goes.
    """

    plan: LanePlan
    task: Task
    stop: StopFlag
    watcher: Watcher
    command: Sequence[str] = _LANE
    log: Path | None = None
    _lanes: dict[int, _Lane] = field(default_factory=dict)
    _passed_on: bool = False
    _next: Errand | None = None
    _again: Errand | None = None
    """A point that was ended for its memory, and begins again with fewer beside it."""
    _is_narrowed: bool = False
    _times: CompileTimes = field(default_factory=CompileTimes)

    def work(self, turns: Turns) -> ExitCode:
        """Runs every point; the worst exit code of all.

        A point that was stopped to be continued ends the work with its code, as a signal does with
        that of an interruption where something is left to do: what has not begun stays as it is.
        """
        codes = [ExitCode.DONE]
        goes_on = True
        with self._ending(turns):
            while True:
                if self.stop.signal is not None:
                    self._pass_on(self.stop.signal)
                elif goes_on:
                    self._give(turns)
                if not self._at_work:
                    break
                for errand, code in self._look():
                    if code is None:
                        self._again = errand.model_copy(update={"after": None})
                        turns.again(errand)
                        continue
                    codes.append(code)
                    goes_on = goes_on and code is not ExitCode.CONTINUE
                    turns.end(errand, code)
                    self.watcher.end(errand, code)
        # Without a signal the job goes on, and this point with it.
        if self._again is not None and self.stop.signal is not None:
            codes.append(self._stop_waiting(self._again, self.stop.signal))
            turns.end(self._again, codes[-1])
            self.watcher.end(self._again, codes[-1])
        if ExitCode.CONTINUE in codes:
            return ExitCode.CONTINUE
        if self.stop.signal is not None and (turns.waiting or self._next is not None):
            return StoppedError(self.stop.signal).exit_code
        return max(codes)

    @property
    def _at_work(self) -> list[_Lane]:
        return [lane for lane in self._lanes.values() if lane.errands]

    @property
    def _has_room(self) -> bool:
        at_work = self._at_work
        return len(at_work) < self.plan.width or not all(lane.is_full for lane in at_work)

    def _give(self, turns: Turns) -> None:
        """Has points begin as long as there is room."""
        # Not before there is room: until then one may be cancelled, or taken up elsewhere.
        while self._has_room:
            if self._again is None:
                self._next = self._next or self._take(turns)
            errand = self._again or self._next
            if errand is None:
                return
            if (lane := self._find_lane(errand, most=self._share(turns))) is None:
                return
            if errand is self._again:
                self._again = None
            else:
                self._next = None
            if not lane.errands:
                lane.is_warned, lane.is_compiling = False, not lane.has_call_of(errand)
                lane.began_at, lane.oom_kills = time.monotonic(), count_oom_kills()
            lane.calls.keep(errand.call)
            lane.errands[errand.number] = errand
            self.watcher.begin(errand)
            # One that has died meanwhile is found out by the next look.
            with suppress(BrokenPipeError):
                gate = cast(BinaryIO, lane.process.stdin)
                gate.write(errand.model_dump_json().encode() + b"\n")
                gate.flush()

    def _take(self, turns: Turns) -> Errand | None:
        """The next point: those that may train with it are shared among the lanes."""
        # Tasks of a run, which know nothing of each other's lanes, come to the points alike.
        chooses = self.plan.beside == 1 and self.task.num_tasks == 1
        choose = self._choose if chooses else choose_first
        if (errand := turns.take(choose)) is None:
            return None
        return errand.model_copy(update={"beside": math.ceil(errand.beside / self.plan.width)})

    def _choose(self, ready: Sequence[Errand]) -> Errand | None:
        """The first whose call an idle lane has compiled; else one of a call that no lane has.

        At last one of a call that a lane at work has, if it is worth compiling once more.
        """
        idle = [lane for lane in self._lanes.values() if not lane.errands]
        for lanes, has in ((idle, True), (self._at_work, False)):
            for one in ready:
                if has == any(lane.has_call_of(one) for lane in lanes):
                    return one
        now, counts = time.monotonic(), Counter(one.call for one in ready)
        for lane in idle if not ready else ():
            lane.waits_since = now
        waited_s = now - max([lane.waits_since for lane in idle], default=-math.inf)
        for one in ready:
            if not self._times.outlast(counts[one.call], waited_s=waited_s):
                return one
        return None

    def _share(self, turns: Turns) -> int:
        """Points that a lane may be at: who tells of seats first leaves some to the others."""
        at_work = sum(len(lane.errands) for lane in self._at_work)
        return math.ceil((at_work + 1 + len(turns.waiting)) / self.plan.width)

    def _find_lane(self, errand: Errand, *, most: int) -> _Lane | None:
        """A lane for a point; None as long as others take the room.

        Args:
            errand: The point.
            most: Points that a lane may be at with it.
        """
        for lane in self._at_work:
            if lane.takes_in(errand, most=most, limit_s=self.plan.limit_s):
                return lane
        filled = sum(max(one.cores for one in lane.errands.values()) for lane in self._at_work)
        if filled and filled + errand.cores > self.plan.cores:
            return None
        if len(self._at_work) >= self.plan.width:
            return None
        idle = [lane for lane in self._lanes.values() if not lane.errands]
        for lane in sorted(idle, key=lambda lane: not lane.has_call_of(errand)):
            if lane.kind == errand.kind:
                return lane
        while len(self._lanes) >= self.plan.width:
            # TensorFlow takes threads, devices and precision once a process.
            self._dismiss(idle.pop(0))
        places = set(range(self.plan.width)) - set(self._lanes)
        return self._start(min(places), errand)

    def _start(self, place: int, errand: Errand) -> _Lane:
        task = replace(self.task, parent=os.getpid())
        if task.num_tasks == 1:
            task = replace(task, local_tasks=max(1, self.plan.cores // errand.cores))
        asked = shlex.join(["dnnjob", *sys.argv[1:]])
        environ = {**os.environ, **task.to_environ(), COMMAND: asked, LANE: "yes"}
        if self.plan.gpus:
            environ["CUDA_VISIBLE_DEVICES"] = self.plan.gpus[place]
        # A group of its own, so that a terminal's Ctrl-C comes once, from here.
        with signals_held_back():
            process = subprocess.Popen(
                _after(self.plan.setup, self.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ,
                process_group=0,
            )
        self._lanes[place] = lane = _Lane(place, errand.kind, process)
        return lane

    def _look(self) -> Iterator[tuple[Errand, ExitCode | None]]:
        """Waits a moment for news; the points that have ended, with their codes.

        None is no code: the point begins again.
        """
        with selectors.DefaultSelector() as selector:
            for lane in self._lanes.values():
                selector.register(cast(BinaryIO, lane.process.stdout), selectors.EVENT_READ, lane)
            ready = [key.data for key, _ in selector.select(_NAP_S)]
        for lane in ready:
            told, is_open = lane.read()
            for news in told:
                lane.seats = news.seats or lane.seats
                if (errand := lane.find(news.number)) is None or news.seats:
                    continue
                if news.code is not None:
                    del lane.errands[errand.number]
                    lane.waits_since = time.monotonic()
                    if not lane.is_compiling:
                        self._times.note(lane.waits_since - lane.began_at)
                    yield errand, news.code
                else:
                    self.watcher.hear(errand, news)
            if not is_open:
                yield from self._lose(lane)
        for lane in self._at_work:
            self._limit(lane)

    def _limit(self, lane: _Lane) -> None:
        """Warns a point whose time is near its end, and ends one that does not heed it."""
        if self.plan.limit_s is None:
            return
        left_s = lane.began_at + self.plan.limit_s - time.monotonic()
        if left_s < 0:
            lane.send(signal.SIGKILL)
        elif left_s < self.plan.warning_s and not lane.is_warned:
            lane.is_warned = True
            lane.send(signal.SIGUSR2)

    def _pass_on(self, number: signal.Signals) -> None:
        if not self._passed_on:
            self._passed_on = True
            for lane in self._at_work:
                lane.send(number)

    def _dismiss(self, lane: _Lane) -> None:
        """Ends a lane without a point."""
        del self._lanes[lane.place]
        cast(BinaryIO, lane.process.stdin).close()
        lane.process.wait()
        cast(BinaryIO, lane.process.stdout).close()

    def _narrow(self) -> bool:
        """Halves the lanes, once, where others are at work; whether it has."""
        if self._is_narrowed or self.stop.signal is not None or not self._at_work:
            return False
        self._is_narrowed = True
        self.plan = replace(self.plan, width=max(1, self.plan.width // 2))
        for lane in [one for one in self._lanes.values() if not one.errands]:
            self._dismiss(lane)
        return True

    def _lose(self, lane: _Lane) -> list[tuple[Errand, ExitCode | None]]:
        """Takes leave of a lane that has ended by itself, with or without points.

        Returns:
            The points that it was at, each with its exit code; None where one begins again.
        """
        self._lanes.pop(lane.place, None)
        code = lane.process.wait()
        for pipe in (lane.process.stdin, lane.process.stdout):
            with suppress(BrokenPipeError):
                cast(BinaryIO, pipe).close()
        lost, lane.errands = list(lane.errands.values()), {}
        return [(errand, self._explain_loss(lane, errand, code)) for errand in lost]

    def _explain_loss(self, lane: _Lane, errand: Errand, code: int) -> ExitCode | None:
        paths = RunPaths(errand.run)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        state: State = "FAILED"
        reason: Reason = "vanished" if code < 0 else "error"
        result = ExitCode.FAILED
        if code == -signal.SIGKILL and count_oom_kills() > lane.oom_kills:
            reason = "out_of_memory"
            how = f"was killed for its memory{_describe_memory(paths)}"
        elif lane.is_warned:
            reason, how = "time_limit", "did not end within the profile's time_limit_min"
        elif self.stop.signal is not None:
            # Under Slurm it goes on with the others.
            stopped = explain_end(StoppedError(self.stop.signal), paths)
            state, reason, result = stopped.state, stopped.reason, stopped.exit_code
        elif read_cancel(paths) is not None:
            state, reason, result = "CANCELLED", "cancelled", ExitCode.TERMINATED
        see = f" See {self.log}." if self.log else ""
        error = f"Its process {how}.{see} {quote_command('resume', paths.root)} goes on."
        begins_again = reason == "out_of_memory" and errand.beside == 1
        again = begins_again and read_cancel(paths) is None and self._narrow()
        # Who waits for the points must not take this one's end for the last.
        leave_word(paths, "REQUEUED" if again else state, reason, error)
        logger.error("%s: %s", paths.root, error)
        if again:
            logger.warning("It begins again: from here on %d go side by side.", self.plan.width)
            return None
        return result

    def _stop_waiting(self, errand: Errand, number: signal.Signals) -> ExitCode:
        """Says of a point that was to begin again that it was stopped; its exit code."""
        paths = RunPaths(errand.run)
        stopped = explain_end(StoppedError(number), paths)
        leave_word(paths, stopped.state, stopped.reason, stopped.message)
        return stopped.exit_code

    @contextmanager
    def _ending(self, turns: Turns) -> Iterator[None]:
        """Ends all lanes at the end; at an interruption at once, and says so of their points."""
        try:
            yield
        except BaseException:
            for lane in self._lanes.values():
                lane.send(signal.SIGKILL)
            stopped = [errand for lane in self._at_work for errand in lane.errands.values()]
            for lane in self._at_work:
                lane.process.wait()
            for errand in [*stopped, *([self._again] if self._again else [])]:
                paths = RunPaths(errand.run)
                error = f"Interrupted at once. {quote_command('resume', paths.root)} goes on."
                leave_word(paths, "CANCELLED", "cancelled", error)
            raise
        finally:
            if self._next is not None:
                turns.put_back(self._next)
            for lane in list(self._lanes.values()):
                self._dismiss(lane)


class LogWatcher:
    """Says in the job's own log what becomes of its runs."""

    def begin(self, errand: Errand) -> None:
        """A run begins."""
        logger.info("Run %d: %s", errand.number, errand.run)

    def hear(self, errand: Errand, news: News) -> None:
        """What the log of the run has not."""
        if news.trouble is not None:
            logger.log(news.level, "%s", news.trouble)

    def end(self, errand: Errand, code: ExitCode) -> None:
        """A run has ended."""
        logger.info("Run %d ended with exit code %d.", errand.number, code)


def _describe_memory(paths: RunPaths) -> str:
    """What a run was allowed and was seen with, and the way out."""
    submission = read_submission(paths)
    asked_gb = submission.requested.memory_gb if submission else None
    with suppress(OSError, ValueError, IndexError):
        used_mb = read_status(paths).attempts[-1].peak_rss_mb
        if asked_gb and used_mb:
            seen = f": it had asked for {asked_gb:g} GB and was seen with {used_mb:.0f} MB"
            return f"{seen}. Raise profile.memory_gb, or lower devices.stack"
    return ". Lower devices.stack, so that fewer go side by side, or train.global_batch_size"


def _after(setup: Sequence[str], command: Sequence[str]) -> list[str]:
    """A command after the lines of a profile, in a shell that becomes it."""
    if not setup:
        return list(command)
    # What the lines print is no news of the lane, and what it is told is not for them to read.
    lines = "\n".join(
        ("set -e", "exec 3>&1 4<&0 1>&2 </dev/null", *setup, 'exec 1>&3 <&4 3>&- 4<&- "$0" "$@"')
    )
    return ["sh", "-c", lines, *command]
