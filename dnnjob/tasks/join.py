"""How a process joins the crew of its run.

crew = lead_crew(task, paths, attempt=1, devices=job.devices, stop=stop)      # the chief
crew, attempt = follow_crew(task, paths, devices=job.devices, stop=stop)      # the others
"""

import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from dnnjob.config import DevicesConfig
from dnnjob.errors import PeerLostError
from dnnjob.runs import RunPaths
from dnnjob.tasks.message_socket import Line, connect
from dnnjob.tasks.process_group import ChiefCrew, FollowerCrew
from dnnjob.tasks.rendezvous import (
    WAIT_S,
    HeldPort,
    Peer,
    Waiting,
    find_chief,
    introduce,
    meet,
    reachable,
)
from dnnjob.tasks.stop import StopFlag
from dnnjob.tasks.task import Task

_ANSWER_S = 5.0


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
    held, door = HeldPort(devices.port_range), HeldPort(devices.port_range)
    visitors = _Visitors(task)
    threading.Thread(target=visitors.welcome, args=(door.listen(),), daemon=True).start()
    waiting = Waiting(wait_s, stop.check)
    me = introduce(task, port=held.port, talk_port=door.port)
    peers = meet(paths.attempts / str(attempt), me, num_tasks=task.num_tasks, waiting=waiting)
    lines = visitors.wait(waiting, peers)
    return ChiefCrew(
        task, peers, lines, stop=stop, held=held, hang_timeout_s=devices.hang_timeout_s
    )


def follow_crew(
    task: Task,
    paths: RunPaths,
    *,
    devices: DevicesConfig,
    stop: StopFlag,
    wait_s: float = WAIT_S,
) -> tuple[FollowerCrew, int]:
    """The crew of another task than the chief, and the attempt that the chief claimed.

    Raises:
        PeerLostError: If the chief or others do not come within `wait_s`.
        StoppedError: If a signal comes first.
    """
    held = HeldPort(devices.port_range)
    me = introduce(task, port=held.port)
    waiting = Waiting(wait_s, stop.check)
    line, attempt = _find_chief(task, me, paths, waiting)
    peers = meet(paths.attempts / str(attempt), me, num_tasks=task.num_tasks, waiting=waiting)
    crew = FollowerCrew(
        task, peers, {0: line}, stop=stop, held=held, hang_timeout_s=devices.hang_timeout_s
    )
    return crew, attempt


def _find_chief(task: Task, me: Peer, paths: RunPaths, waiting: Waiting) -> tuple[Line, int]:
    for _ in waiting.looks():
        found = find_chief(paths, task.launch)
        if found is not None and (line := _call(found[1], me)) is not None:
            return line, found[0]
    raise PeerLostError(
        f"A run of {task.num_tasks} tasks begins with the chief, but task 0 left no address under "
        f"{paths.attempts} within {waiting.limit_s:.0f} s. Look at its log in {paths.logs}."
    )


def _call(chief: Peer, me: Peer) -> Line | None:
    """A line to the chief; None where an address is a leftover that nobody answers."""
    try:
        line = connect(reachable(chief, of=me), chief.talk_port, timeout_s=_ANSWER_S)
        line.send({"launch": me.launch, "rank": me.rank})
    except OSError:
        return None
    answer = line.receive_within(_ANSWER_S)
    if answer is None or answer.get("launch") != me.launch:
        line.close()
        return None
    return line


@dataclass
class _Visitors:
    """The tasks that have called the chief."""

    task: Task
    lines: dict[int, Line] = field(default_factory=dict)

    def welcome(self, door: socket.socket) -> None:
        """Answers the run's own tasks until all have called; others are turned away."""
        with door:
            while len(self.lines) < self.task.num_tasks - 1:
                connection, _ = door.accept()
                self._answer(Line(connection))

    def wait(self, waiting: Waiting, peers: Sequence[Peer]) -> dict[int, Line]:
        """A line to each other task.

        Raises:
            PeerLostError: If some do not call in time.
        """
        for _ in waiting.looks():
            if len(self.lines) == self.task.num_tasks - 1:
                return self.lines
        missing = [str(peer) for peer in peers if peer.rank and peer.rank not in self.lines]
        raise PeerLostError(
            f"Each of {self.task.num_tasks} tasks calls the chief, but {', '.join(missing)} did "
            "not. Look whether a firewall stands between the nodes, and set devices.port_range."
        )

    def _answer(self, line: Line) -> None:
        message = line.receive_within(_ANSWER_S) or {}
        if message.get("launch") != self.task.launch:
            line.close()
            return
        line.send({"launch": self.task.launch})
        self.lines[int(message["rank"])] = line
