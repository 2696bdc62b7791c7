"""The tasks of an attempt while it lives: the chief's word to the others, and signs of life.

crew = Crew(stop)                          # the only task; `join_crew` for several
steps = crew.agree(steps)                  # at the start of each call
with crew.training(): ...                  # standing still counts here
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from signal import Signals
from typing import Any

from dnnjob.errors import DnnJobError, ExitCode, PeerLostError, StoppedError
from dnnjob.tasks.message_socket import Line
from dnnjob.tasks.rendezvous import HeldPort, Peer, reachable
from dnnjob.tasks.stop import StopFlag
from dnnjob.tasks.task import Task

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_NAP_S = 0.02
_TICKS_A_BEAT = 3
# Imports and compilation may take this long, however short devices.hang_timeout_s is.
_UNCOUNTED_LIMIT_S = 3600.0
# An import may keep a process from speaking for so long.
_SILENT_LIMIT_S = 120.0
# Time for the main thread to come out of a broken collective by itself.
GRACE_S = 8.0


class ChiefEndedError(DnnJobError):
    """The chief has ended the run; this task ends with its exit code."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.exit_code = code


_ALONE = Task()


class Crew:
    """A task without others: what it wants is agreed."""

    peers: tuple[Peer, ...] = ()
    lost: DnnJobError | None = None
    """Why this task must end, once another is lost or the chief has ended."""

    def __init__(self, stop: StopFlag, task: Task = _ALONE) -> None:
        self.stop, self.task = stop, task

    @property
    def is_chief(self) -> bool:
        """Whether this task decides and publishes."""
        return self.task.is_chief

    @property
    def local_peers(self) -> tuple[Peer, ...]:
        """The tasks on this machine, this one among them, by rank."""
        here = [peer.network for peer in self.peers if peer.rank == self.task.rank]
        return tuple(peer for peer in self.peers if peer.network in here)

    def check(self) -> None:
        """Raises StoppedError if the run was asked to stop and this task decides on it."""
        self.advance()
        self.stop.check()

    def advance(self) -> None:
        """Says that this task's work has moved on, so that the run does not stand still."""

    def agree(self, steps: int) -> int:
        """Steps of the next call, by the chief's word.

        Raises:
            StoppedError: If the chief says so.
            PeerLostError: If another task is lost.
        """
        self.check()
        return steps

    def share(self, value: Any) -> Any:
        """The chief's `value`, a JSON value; that of the other tasks does not matter."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """What all tasks give, JSON values, by rank."""
        return [value]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Standing still inside for `devices.hang_timeout_s` ends the run."""
        yield

    def assemble(self) -> None:
        """Waits until every task has come this far.

        TensorFlow waits for the others with Python at a standstill, for an hour: nothing could be
        heard meanwhile of one that ended while it imported.

        Raises:
            PeerLostError: If another task is lost.
        """

    def connected(self) -> None:
        """Says that TensorFlow listens on this task's port."""

    def release(self) -> None:
        """Says that from here on the chief needs no other task."""

    def blame(self, error: BaseException) -> BaseException:
        """What is behind an error: the loss of a task, where it is an error of a collective."""
        return error

    def end(self, code: ExitCode, message: str) -> None:
        """Tells the other tasks that this one has ended, and how."""


@dataclass
class Other:
    """What this task knows of another."""

    peer: Peer
    line: Line
    moves: int = 0
    """Calls and decisions that it has taken part in."""
    work: int = 0
    """Pieces of work that it has done."""
    given: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    """What it gave to be gathered."""
    silent_s: float = 0.0


class _Talking(Crew):
    """A task with others: it listens to each, and watches that all live and move.

    Args:
        task: This task.
        peers: All tasks, by rank.
        lines: A line to each other task it talks with.
        stop: This process's wish to stop.
        held: The port that waits for TensorFlow.
        hang_timeout_s: Silence and standstill that end the run.
    """

    def __init__(
        self,
        task: Task,
        peers: tuple[Peer, ...],
        lines: dict[int, Line],
        *,
        stop: StopFlag,
        held: HeldPort,
        hang_timeout_s: float,
    ) -> None:
        super().__init__(stop, task)
        self.peers = peers
        self.on_loss: Callable[[DnnJobError], None] | None = None
        """Ends the process where the main thread does not come out of a collective."""
        self._held, self._hang_timeout_s = held, hang_timeout_s
        self._others = [Other(peers[rank], line) for rank, line in lines.items()]
        self._moves, self._work, self._counts, self._still_s = 0, 0, False, 0.0
        self._losing = threading.Lock()
        self._ended = threading.Event()
        for other in self._others:
            threading.Thread(target=self._listen, args=(other,), daemon=True).start()
        threading.Thread(target=self._watch, daemon=True).start()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Standing still inside for `devices.hang_timeout_s` ends the run."""
        for other in self._others:
            other.silent_s = 0.0
        self._still_s = 0.0
        self._counts = True
        try:
            yield
        finally:
            self._counts = False

    def advance(self) -> None:
        """Says that this task's work has moved on, so that the run does not stand still."""
        self._work += 1
        self._still_s = 0.0

    def connected(self) -> None:
        """Says that TensorFlow listens on this task's port."""
        self._held.release()
        # TensorFlow's coordination service has taken SIGTERM, for checkpoints of its own.
        self.stop.listen()

    def blame(self, error: BaseException) -> BaseException:
        """What is behind an error: the loss of a task, where a collective broke by it."""
        # A broken collective may be noticed before the broken line.
        ours = isinstance(error, DnnJobError | KeyboardInterrupt)
        limit = time.monotonic() + (0.0 if ours else GRACE_S)
        while self.lost is None and time.monotonic() < limit:
            time.sleep(0.05)
        return error if ours or self.lost is None else self.lost

    def end(self, code: ExitCode, message: str) -> None:
        """Tells the other tasks that this one has ended, and how."""
        self._ended.set()
        self._tell({"end": int(code), "message": message})
        for other in self._others:
            other.line.hang_up()
        self._held.release()

    def _moved(self) -> None:
        self._moves += 1
        self.advance()

    def _tell(self, message: dict[str, Any]) -> None:
        for other in self._others:
            with suppress(OSError):
                other.line.send(message)

    def _listen(self, other: Other) -> None:
        try:
            for message in other.line.messages():
                other.silent_s = 0.0
                other.moves = message.get("moves", other.moves)
                self._notice_work(other, message.get("work", other.work))
                self._hear(other, message)
            why = "ended"
        except (OSError, ValueError) as error:
            why = f"was cut off ({error})"
        other.line.close()
        self._lose(_lost([other.peer], why))

    def _hear(self, other: Other, message: dict[str, Any]) -> None:
        """Takes what another task says."""
        raise NotImplementedError

    def _notice_work(self, other: Other, work: int) -> None:
        """A task that waits does not stand still while the one it waits for gets on."""
        if work != other.work:
            other.work, self._still_s = work, 0.0

    def _watch(self) -> None:
        ticks, before = 0, time.monotonic()
        while not self._ended.wait(_TICK_S):
            now = time.monotonic()
            # A longer tick is one in which this process was suspended, which does not count.
            self._wait_longer(min(now - before, 2 * _TICK_S))
            ticks, before = ticks + 1, now
            self._beat(speaks=ticks % _TICKS_A_BEAT == 0)

    def _beat(self, *, speaks: bool) -> None:
        if speaks:
            self._tell({"moves": self._moves, "work": self._work})

    def _wait_longer(self, seconds: float) -> None:
        self._still_s += seconds
        silence = self._hang_timeout_s if self._counts else _SILENT_LIMIT_S
        for other in self._others:
            other.silent_s += seconds
            if other.silent_s > max(silence, self._hang_timeout_s):
                self._lose(_lost([other.peer], f"was silent for {other.silent_s:.0f} s"))
        limit = self._hang_timeout_s if self._counts else _UNCOUNTED_LIMIT_S
        if self._still_s > max(limit, self._hang_timeout_s):
            self._lose(_lost(self._last(), f"stood still for {self._still_s:.0f} s"))

    def _last(self) -> Sequence[Peer]:
        """The tasks that are furthest behind."""
        moves = {self.task.rank: self._moves}
        moves |= {other.peer.rank: other.moves for other in self._others}
        least = min(moves.values())
        return [self.peers[rank] for rank, count in sorted(moves.items()) if count == least]

    def _lose(self, error: DnnJobError) -> None:
        with self._losing:
            if self._ended.is_set() or self.lost is not None:
                return
            self.lost = error
        self._after_loss(error)
        timer = threading.Timer(GRACE_S, self._force, args=(error,))
        timer.daemon = True
        timer.start()

    def _after_loss(self, error: DnnJobError) -> None:
        """Passes the news on."""

    def _force(self, error: DnnJobError) -> None:
        if not self._ended.is_set() and self.on_loss is not None:
            self.on_loss(error)


class ChiefCrew(_Talking):
    """The chief among several tasks: it tells the others what is done."""

    _heard: int | None = None
    _released = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._assembled: set[int] = set()
        super().__init__(*args, **kwargs)

    def check(self) -> None:
        """Raises StoppedError if any task was asked to stop, PeerLostError if one is lost."""
        if self.lost is not None:
            raise self.lost
        super().check()
        if self._heard is not None:
            raise StoppedError(Signals(self._heard))

    def assemble(self) -> None:
        """Waits for the word of each other task, and passes it on."""
        while len(self._assembled) < len(self._others):
            if self.lost is not None:
                raise self.lost
            time.sleep(_NAP_S)
        self.share("assembled")

    def agree(self, steps: int) -> int:
        """Tells the others the steps of the next call, or to stop."""
        try:
            self.check()
        except StoppedError as stopped:
            self.share({"signal": int(stopped.signal)})
            raise
        return int(self.share({"steps": steps})["steps"])

    def share(self, value: Any) -> Any:
        """Tells the others."""
        self._moved()
        self._tell({"share": value, "moves": self._moves})
        return value

    def gather(self, value: Any) -> list[Any]:
        """Waits for what each other task gives, and tells all of them."""
        found = {self.task.rank: value}
        for other in self._others:
            found[other.peer.rank] = other.given.get()
            self.check()
        return list(self.share([found[rank] for rank in sorted(found)]))

    def release(self) -> None:
        """From here on the loss of another task does not matter."""
        self._released = True

    def _wait_longer(self, seconds: float) -> None:
        if not self._released:
            super()._wait_longer(seconds)

    def _hear(self, other: Other, message: dict[str, Any]) -> None:
        if "assembled" in message:
            self._assembled.add(other.peer.rank)
        if "signal" in message:
            self._heard = self._heard or int(message["signal"])
        if "give" in message:
            other.given.put(message["give"])
        if "end" in message:
            self._lose(_lost([other.peer], f"failed: {message['message']}"))

    def _lose(self, error: DnnJobError) -> None:
        if not self._released:
            super()._lose(error)
        elif not self._ended.is_set():
            logger.warning("%s The chief needs it no more and goes on.", error)

    def _after_loss(self, error: DnnJobError) -> None:
        for other in self._others:
            other.given.put(None)
        self._tell({"end": int(error.exit_code), "message": str(error)})


class FollowerCrew(_Talking):
    """Another task than the chief: it does what the chief says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._words: SimpleQueue[Any] = SimpleQueue()
        self._told_signal = False
        super().__init__(*args, **kwargs)

    def check(self) -> None:
        """Leaves the decision to the chief, which is told of a signal."""
        self.advance()
        if self.lost is not None:
            raise self.lost

    def assemble(self) -> None:
        """Tells the chief, and waits until it has heard of all."""
        self._tell({"assembled": True})
        self.share(None)

    def agree(self, steps: int) -> int:
        """Waits for the chief to say."""
        word = self.share(None)
        if "signal" in word:
            raise StoppedError(Signals(word["signal"]))
        return int(word["steps"])

    def share(self, value: Any) -> Any:
        """Waits for the chief's value."""
        self.check()
        word = self._words.get()
        self.check()
        self._moved()
        return word

    def gather(self, value: Any) -> list[Any]:
        """Gives the chief a value and waits for those of all."""
        self._tell({"give": value})
        return list(self.share(None))

    def await_end(self) -> ExitCode:
        """Waits until the chief has published the run; its exit code.

        Raises:
            DnnJobError: If the chief failed or was lost.
        """
        try:
            while True:
                self.share(None)
        except ChiefEndedError as ended:
            if ended.exit_code is ExitCode.DONE:
                return ended.exit_code
            raise

    def _hear(self, other: Other, message: dict[str, Any]) -> None:
        if "share" in message:
            self._words.put(message["share"])
        if "end" in message:
            self._lose(ChiefEndedError(ExitCode(message["end"]), message["message"]))

    def _after_loss(self, error: DnnJobError) -> None:
        self._words.put(None)

    def _beat(self, *, speaks: bool) -> None:
        super()._beat(speaks=speaks)
        if self.stop.signal is not None and not self._told_signal:
            self._told_signal = True
            self._tell({"signal": int(self.stop.signal)})


def tf_cluster(crew: Crew) -> list[str]:
    """Where the TensorFlow of each task listens, by rank."""
    me = crew.peers[crew.task.rank]
    return [f"{reachable(peer, of=me)}:{peer.port}" for peer in crew.peers]


def _lost(peers: Sequence[Peer], why: str) -> PeerLostError:
    return PeerLostError(f"A run needs all its tasks, but {', '.join(map(str, peers))} {why}.")
