"""How the tasks of an attempt find each other: each leaves its address in the run folder.

attempt = find_attempt(paths, launch, waiting=waiting)        # all but the chief
me = introduce(task, port=held.port)
peers = meet(paths.attempts / "1", me, num_tasks=2, waiting=waiting)
"""

import fcntl
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dnnjob.errors import MissingError, PeerLostError
from dnnjob.machine import network_key, present_gpus, visible_gpus
from dnnjob.runs import Record, RunPaths, read_record, write_bytes, write_record
from dnnjob.tasks.task import Task

# Long enough for a node whose first imports come from a cold network file system.
WAIT_S = 300.0
_LOOPBACK = "127.0.0.1"
_LONGEST_NAP_S = 1.0
# The request of Linux for the address of an interface.
_SIOCGIFADDR = 0x8915


class Peer(Record):
    """A task as the others know it."""

    rank: int
    launch: str
    host: str
    pid: int
    network: str
    """Equal for tasks that reach each other on the loopback address."""
    address: str
    """Where others reach it: a guess, until it has called or was called."""
    addresses: tuple[str, ...] = ()
    """All that it has, the best guess first."""
    port: int
    """Where TensorFlow will listen."""
    talk_port: int = 0
    """Where the chief listens for the other tasks' signs of life."""
    gpus: tuple[str, ...] = ()
    """Ids of the GPUs that it may use."""
    present: tuple[str, ...] = ()
    """What tells the GPUs that it reaches from others."""
    error: str = ""
    """Why it cannot take part: said here, where it does not reach the chief itself."""

    def __str__(self) -> str:
        return f"task {self.rank} on {self.host} (process {self.pid})"


class HeldPort:
    """A free TCP port that no other process gets until TensorFlow has taken it."""

    def __init__(self, port_range: tuple[int, int] | None = None, *, local: bool = False) -> None:
        """Takes any free port, or one of `port_range`.

        Args:
            port_range: First and last port to choose from.
            local: Whether only processes of this machine may connect to it.

        Raises:
            MissingError: If none of the range is free.
        """
        self._socket = _bind(port_range, _LOOPBACK if local else "")
        # From here on TensorFlow, which sets the same, may listen where this socket only holds.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.port = int(self._socket.getsockname()[1])

    def listen(self) -> socket.socket:
        """The port as a listening socket."""
        self._socket.listen(1024)
        return self._socket

    def release(self) -> None:
        """Lets go of the port."""
        self._socket.close()


def _bind(port_range: tuple[int, int] | None, address: str) -> socket.socket:
    first, last = port_range or (0, 0)
    ports = list(range(first, last + 1))
    # Several runs on one machine start at different places of the range.
    start = secrets.randbelow(len(ports))
    for port in (*ports[start:], *ports[:start]):
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.bind((address, port))
        except OSError:
            held.close()
        else:
            return held
    raise MissingError(
        f"Each task needs free ports, but none of devices.port_range = [{first}, {last}] is free. "
        "Widen it, or leave it out."
    )


@dataclass(frozen=True)
class Waiting:
    """How long to wait for other tasks, and what else to look at meanwhile.

    Attributes:
        limit_s: Seconds until the wait is over.
        check: Called between looks; raises to end the wait.
    """

    limit_s: float
    check: Callable[[], None]

    def looks(self) -> Iterator[None]:
        """Yields for each look until the time is over."""
        for _ in looks(self.limit_s):
            self.check()
            yield


def looks(limit_s: float) -> Iterator[None]:
    """Yields for each look at something to come, at growing intervals, for `limit_s` seconds."""
    ends, nap = time.monotonic() + limit_s, 0.02
    while time.monotonic() < ends:
        yield
        time.sleep(nap)
        nap = min(nap * 1.5, _LONGEST_NAP_S)


def introduce(task: Task, *, port: int, talk_port: int = 0) -> Peer:
    """This process as the other tasks are to know it."""
    addresses = _own_addresses()
    return Peer(
        rank=task.rank,
        launch=task.launch,
        host=socket.gethostname(),
        pid=os.getpid(),
        network=network_key(),
        address=addresses[0],
        addresses=addresses,
        port=port,
        talk_port=talk_port,
        gpus=visible_gpus(),
        present=present_gpus(),
    )


def publish(folder: Path, me: Peer) -> None:
    """Leaves this task's address in the attempt's folder."""
    write_record(_file_of(folder, me.rank), me)


def leave_secret(path: Path) -> bytes:
    """A new secret of an attempt, in a file that only its user's processes read."""
    secret = secrets.token_bytes(32)
    write_bytes(path, secret, mode=0o600)
    return secret


def read_secret(path: Path) -> bytes | None:
    """What the chief has left; None where there is nothing."""
    # On NFS a name that came lately may be cached as missing.
    if path.name not in fresh_names(path.parent):
        return None
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def find_chief(paths: RunPaths, launch: str) -> tuple[int, Peer] | None:
    """Attempt and address of the chief of a launch; None while it has left none.

    Addresses that earlier attempts left behind name other launches.
    """
    for attempt in sorted(_numbers(paths.attempts), reverse=True):
        chief = read_peers(paths.attempts / str(attempt)).get(0)
        if chief is not None and chief.launch == launch:
            return attempt, chief
    return None


def introduced(paths: RunPaths, launch: str) -> set[int]:
    """Ranks of a launch that have left their address, which they do once they know the chief."""
    folders = [paths.attempts / str(attempt) for attempt in _numbers(paths.attempts)]
    peers = [peer for folder in folders for peer in read_peers(folder).values()]
    return {peer.rank for peer in peers if peer.launch == launch}


def meet(folder: Path, me: Peer, *, num_tasks: int, waiting: Waiting) -> tuple[Peer, ...]:
    """All tasks of the attempt, by rank, once each has left its address.

    Raises:
        PeerLostError: If some do not come in time, or say that they cannot; they are named.
    """
    publish(folder, me)
    peers: dict[int, Peer] = {}
    for _ in waiting.looks():
        peers = read_peers(folder)
        for peer in peers.values():
            if peer.error and peer.rank != me.rank:
                raise PeerLostError(peer.error)
        if len(peers) == num_tasks:
            return tuple(peers[rank] for rank in range(num_tasks))
    missing = [str(rank) for rank in range(num_tasks) if rank not in peers]
    raise PeerLostError(
        f"A run of {num_tasks} tasks begins once all have come, but of task(s) "
        f"{', '.join(missing)} nothing was seen for {waiting.limit_s:.0f} s. Look at their logs in "
        f"{folder.parent.parent / 'logs'}, and whether all nodes see {folder}."
    )


def read_peers(folder: Path) -> dict[int, Peer]:
    """The tasks that have left their address, by rank."""
    peers = {}
    for name in fresh_names(folder):
        is_peer = name.startswith("task-") and name.endswith(".json")
        if is_peer and (peer := read_record(folder / name, Peer)) is not None:
            peers[peer.rank] = peer
    return peers


def fresh_names(folder: Path) -> list[str]:
    """Names in a folder; none where there is no folder.

    NFS caches listings for up to a minute, unless this machine changes the folder itself.
    """
    probe = folder / f".look-{os.getpid()}-{secrets.token_hex(3)}"
    with suppress(OSError):
        probe.touch()
        probe.unlink()
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except FileNotFoundError:
        return []


def reachable(peer: Peer, *, of: Peer) -> str:
    """The address at which `of` reaches `peer`."""
    return _LOOPBACK if peer.network == of.network else peer.address


def with_addresses(peers: Sequence[Peer], proven: Mapping[int, str]) -> tuple[Peer, ...]:
    """The tasks, with the addresses at which those of each machine were reached.

    Args:
        peers: All tasks, by rank.
        proven: Addresses that a connection was made from or to, by rank.
    """
    by_network = {
        peers[rank].network: address
        for rank, address in proven.items()
        if not address.startswith("127.")
    }
    return tuple(
        peer.model_copy(update={"address": by_network.get(peer.network, peer.address)})
        for peer in peers
    )


def _numbers(folder: Path) -> list[int]:
    return [int(name) for name in fresh_names(folder) if name.isdecimal()]


def _file_of(folder: Path, rank: int) -> Path:
    return folder / f"task-{rank}.json"


def _own_addresses() -> tuple[str, ...]:
    """Addresses of this machine; the loopback address where it has no other.

    Which of several leads to the others is found by trying: names may not resolve or mean a network
    of their own, and there may be no default route.
    """
    found: list[str] = []
    with suppress(OSError):
        named = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        found += [str(entry[4][0]) for entry in named]
    # Connecting a datagram socket sends nothing.
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        found.append(str(probe.getsockname()[0]))
    found += _interface_addresses()
    # Debian maps a machine's own name to 127.0.1.1.
    return tuple(dict.fromkeys(one for one in found if not one.startswith("127."))) or (_LOOPBACK,)


def _interface_addresses() -> list[str]:
    found = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                request = struct.pack("256s", name.encode()[:15])
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                found.append(socket.inet_ntoa(answer[20:24]))
    return found
