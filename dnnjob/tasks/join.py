"""How a process joins the crew of its run.

crew = lead_crew(task, paths, attempt=1, devices=job.devices, stop=stop)      # the chief
crew, attempt = follow_crew(task, paths, read_devices=..., stop=stop)         # the others
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from dnnjob.config import DevicesConfig
from dnnjob.errors import PeerLostError
from dnnjob.runs import RunPaths
from dnnjob.tasks.message_socket import Line, answer, call
from dnnjob.tasks.process_group import ChiefCrew, FollowerCrew
from dnnjob.tasks.rendezvous import (
    WAIT_S,
    HeldPort,
    Peer,
    Waiting,
    find_chief,
    introduce,
    leave_secret,
    meet,
    publish,
    reachable,
    read_secret,
    with_addresses,
)
from dnnjob.tasks.stop import StopFlag
from dnnjob.tasks.task import Task

_ANSWER_S = 5.0
# Callers that have not proved themselves yet; a task of the run does so within milliseconds.
_MOST_UNKNOWN = 64
_NAP_S = 0.02
# A chief that has left its address listens already.
_UNREACHED_S = 40.0


def lead_crew(
    task: Task,
    paths: RunPaths,
    *,
    attempt: int,
    devices: DevicesConfig,
    stop: StopFlag,
    wait_s: float = WAIT_S,
) -> ChiefCrew:
    """The chief's crew, once every task has come.

    Raises:
        PeerLostError: If some do not come within `wait_s`.
        StoppedError: If a signal comes first.
    """
    with ExitStack() as undo:
        held = HeldPort(devices.port_range)
        undo.callback(held.release)
        door = HeldPort(devices.port_range, local=task.is_local)
        me = introduce(task, port=held.port, talk_port=door.port)
        visitors = _Visitors(task, leave_secret(paths.secret(attempt)), door.listen())
        lines, peers = _receive(visitors, me, paths, attempt, Waiting(wait_s, stop.check))
        undo.pop_all()
    return ChiefCrew(
        task, peers, lines, stop=stop, held=held, hang_timeout_s=devices.hang_timeout_s
    )


def follow_crew(
    task: Task,
    paths: RunPaths,
    *,
    read_devices: Callable[[], DevicesConfig],
    stop: StopFlag,
    wait_s: float = WAIT_S,
) -> tuple[FollowerCrew, int]:
    """The crew of another task than the chief, and the attempt that the chief claimed.

    Args:
        task: This task.
        paths: The run.
        read_devices: Called once the chief is there: it writes what this attempt changes of the
            job before it leaves its address.
        stop: What remembers the signals.
        wait_s: How long to wait for the others.

    Raises:
        JobError: If the job cannot be read.
        PeerLostError: If the chief or others do not come within `wait_s`.
        StoppedError: If a signal comes first.
    """
    with ExitStack() as undo:
        waiting = Waiting(wait_s, stop.check)
        line, attempt = _find_chief(task, paths, waiting)
        undo.callback(line.close)
        devices = read_devices()
        held = HeldPort(devices.port_range)
        undo.callback(held.release)
        me = introduce(task, port=held.port)
        peers = meet(paths.attempts / str(attempt), me, num_tasks=task.num_tasks, waiting=waiting)
        peers = _hear_addresses(line, peers, wait_s)
        undo.pop_all()
    crew = FollowerCrew(
        task, peers, {0: line}, stop=stop, held=held, hang_timeout_s=devices.hang_timeout_s
    )
    return crew, attempt


def _find_chief(task: Task, paths: RunPaths, waiting: Waiting) -> tuple[Line, int]:
    """A line to the chief, and the attempt that it claimed.

    Raises:
        PeerLostError: If it leaves no address, or is not reached at what it left.
    """
    me = introduce(task, port=0)
    refused_since: float | None = None
    for _ in waiting.looks():
        found = find_chief(paths, task.launch)
        if found is None:
            continue
        attempt, chief = found
        secret = read_secret(paths.secret(attempt))
        if secret is not None and (line := _call(chief, me, secret)) is not None:
            return line, attempt
        refused_since = refused_since or time.monotonic()
        if time.monotonic() - refused_since > _UNREACHED_S:
            tried = ", ".join(f"{one}:{chief.talk_port}" for one in _addresses(chief, me))
            error = (
                f"Each task calls the chief, but from {me.host} {chief} is not reached at {tried}. "
                "Look whether a firewall stands between the nodes, and set devices.port_range."
            )
            publish(paths.attempts / str(attempt), me.model_copy(update={"error": error}))
            raise PeerLostError(error)
    raise PeerLostError(
        f"A run of {task.num_tasks} tasks begins with the chief, but task 0 left no address under "
        f"{paths.attempts} within {waiting.limit_s:.0f} s. Look at its log in {paths.logs}."
    )


def _call(chief: Peer, me: Peer, secret: bytes) -> Line | None:
    """A line to the chief; None where an address is a leftover that nobody answers."""
    for address in _addresses(chief, me):
        with suppress(OSError):
            line = call(address, chief.talk_port, secret=secret, timeout_s=_ANSWER_S)
            if line is not None:
                line.send({"rank": me.rank})
                return line
    return None


def _addresses(chief: Peer, me: Peer) -> tuple[str, ...]:
    near = reachable(chief, of=me)
    return (near,) if near != chief.address else chief.addresses or (near,)


def _hear_addresses(line: Line, peers: tuple[Peer, ...], wait_s: float) -> tuple[Peer, ...]:
    """The tasks, with the addresses at which the chief and its callers met.

    Raises:
        PeerLostError: If the chief ends before it has told them.
    """
    told = line.receive_within(wait_s)
    if told is None:
        raise PeerLostError(f"{peers[0]} ended before all tasks had come.")
    proven = {int(rank): address for rank, address in told["addresses"].items()}
    return with_addresses(peers, proven | {0: line.address})


@dataclass
class _Visitors:
    """The tasks that have called the chief.

    Attributes:
        task: The chief.
        secret: What the others prove to know.
        door: Where they call.
        lines: A line to each that has, by rank.
    """

    task: Task
    secret: bytes
    door: socket.socket
    lines: dict[int, Line] = field(default_factory=dict)
    _unknown: dict[socket.socket, None] = field(default_factory=dict)
    _closed: threading.Event = field(default_factory=threading.Event)

    def welcome(self) -> None:
        """Takes every call until the door is closed.

        Each is answered in a thread of its own, since a stranger may say nothing, and of too many
        the one that has said nothing for longest is cut off.
        """
        while not self._closed.is_set():
            try:
                connection, _ = self.door.accept()
            except OSError:
                # Closed, or a stranger who was gone again at once, or too many files are open.
                self._closed.wait(_NAP_S)
                continue
            for silent in list(self._unknown)[: -_MOST_UNKNOWN + 1]:
                _cut_off(silent)
            self._unknown[connection] = None
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def wait(self, waiting: Waiting, peers: Sequence[Peer]) -> dict[int, Line]:
        """A line to each other task.

        Raises:
            PeerLostError: If some do not call in time.
        """
        for _ in waiting.looks():
            if len(self.lines) == self.task.num_tasks - 1:
                return dict(self.lines)
        missing = [str(peer) for peer in peers if peer.rank and peer.rank not in self.lines]
        raise PeerLostError(
            f"Each of {self.task.num_tasks} tasks calls the chief, but {', '.join(missing)} did "
            "not. Look whether a firewall stands between the nodes, and set devices.port_range."
        )

    def close(self) -> None:
        """Takes no more calls."""
        self._closed.set()
        # A thread that waits in accept() does not notice that the socket is closed.
        with suppress(OSError):
            self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()
        for connection in list(self._unknown):
            _cut_off(connection)

    def _answer(self, connection: socket.socket) -> None:
        line = answer(connection, secret=self.secret, timeout_s=_ANSWER_S)
        self._unknown.pop(connection, None)
        if line is None:
            return
        message = line.receive_within(_ANSWER_S)
        if message is None:
            line.close()
        else:
            self.lines[int(message["rank"])] = line


def _receive(
    visitors: _Visitors, me: Peer, paths: RunPaths, attempt: int, waiting: Waiting
) -> tuple[dict[int, Line], tuple[Peer, ...]]:
    """The chief's lines to the others, and all tasks, once they have come."""
    try:
        threading.Thread(target=visitors.welcome, daemon=True).start()
        folder = paths.attempts / str(attempt)
        peers = meet(folder, me, num_tasks=visitors.task.num_tasks, waiting=waiting)
        lines = visitors.wait(waiting, peers)
        proven = {rank: line.address for rank, line in lines.items()}
        for line in lines.values():
            # Who is gone is noticed where the line is listened to.
            with suppress(OSError):
                line.send({"addresses": proven})
        return lines, with_addresses(peers, proven)
    finally:
        visitors.close()
        # Nobody needs it once all tasks have called.
        with suppress(OSError):
            paths.secret(attempt).unlink()


def _cut_off(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
