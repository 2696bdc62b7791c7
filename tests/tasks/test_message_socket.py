"""The line between tasks, and a stranger on the network who tries to get at it."""

import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from dnnjob.config import DevicesConfig
from dnnjob.errors import ExitCode, PeerLostError
from dnnjob.runs import RunPaths
from dnnjob.tasks import FollowerCrew, StopFlag, Task
from dnnjob.tasks.join import follow_crew, lead_crew
from dnnjob.tasks.message_socket import Line, answer, call
from dnnjob.tasks.process_group import ChiefCrew
from dnnjob.tasks.rendezvous import HeldPort, read_peers

SECRET = b"s" * 32


class Relay:
    """A stranger between two tasks, who hears and may change what the caller says."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self.heard = b""
        self._change = change
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]

    def between(self, onward: socket.socket) -> None:
        """Passes on what comes in, both ways."""
        caller, _ = self._door.accept()
        back = threading.Thread(target=self._pass, args=(onward, caller, None))
        back.start()
        self._pass(caller, onward, self._change)
        back.join()
        for one in (caller, onward, self._door):
            one.close()

    def _pass(
        self, source: socket.socket, sink: socket.socket, change: Callable[[bytes], bytes] | None
    ) -> None:
        with suppress(OSError):
            while said := source.recv(4096):
                if change is not None:
                    self.heard += said
                    said = change(said)
                sink.sendall(said)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def make_lines() -> Iterator[Callable[..., tuple[Line | None, Line | None]]]:
    """Both ends of a connection, by secret; `relay` stands between them."""
    with ExitStack() as stack:

        def make(
            theirs: bytes = SECRET, relay: Relay | None = None
        ) -> tuple[Line | None, Line | None]:
            door = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port, found = door.getsockname()[1], []
            if relay is not None:
                onward = socket.create_connection(("127.0.0.1", port))
                passing = threading.Thread(target=relay.between, args=(onward,))
                passing.start()
                stack.callback(passing.join)
                port = relay.port

            def follow() -> None:
                with suppress(OSError):
                    found.append(call("127.0.0.1", port, secret=theirs, timeout_s=2))

            thread = threading.Thread(target=follow)
            thread.start()
            chief = answer(door.accept()[0], secret=SECRET, timeout_s=2)
            thread.join()
            lines = (chief, found[0] if found else None)
            for line in lines:
                if line is not None:
                    stack.callback(line.close)
            return lines

        yield make


def test_tasks_that_know_the_secret_talk_both_ways(
    make_lines: Callable[..., tuple[Line, Line]],
) -> None:
    chief, follower = make_lines()

    follower.send({"rank": 1})
    follower.send({"moves": 2})
    chief.send({"share": "ä"})

    assert [chief.receive(), chief.receive()] == [{"rank": 1}, {"moves": 2}]
    assert follower.receive() == {"share": "ä"}


def test_who_knows_another_secret_is_cut_off(
    make_lines: Callable[..., tuple[Line | None, Line | None]],
) -> None:
    assert make_lines(theirs=b"x" * 32) == (None, None)


def test_who_only_passes_everything_on_hears_no_secret(
    make_lines: Callable[..., tuple[Line, Line]],
) -> None:
    relay = Relay(lambda said: said)
    chief, follower = make_lines(relay=relay)

    follower.send({"rank": 1})

    assert chief.receive() == {"rank": 1}
    assert SECRET not in relay.heard


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.replace(b'"moves": 1', b'"moves": 7'),
        lambda said: said * 2,
        lambda said: b'{"end": 1, "message": ""}\n' + said,
    ],
    ids=["changed", "said again", "invented"],
)
def test_what_a_stranger_changes_on_the_way_breaks_the_line(
    change: Callable[[bytes], bytes], make_lines: Callable[..., tuple[Line, Line]]
) -> None:
    relay = Relay(lambda said: change(said) if b"moves" in said else said)
    chief, follower = make_lines(relay=relay)

    follower.send({"moves": 1})

    with pytest.raises(ValueError, match="not signed by the other task"):
        list(chief.messages())


def test_a_recorded_caller_and_a_mirrored_challenge_prove_nothing(
    make_lines: Callable[..., tuple[Line, Line]],
) -> None:
    relay = Relay(lambda said: said)
    make_lines(relay=relay)
    door = socket.create_server(("127.0.0.1", 0))
    replayed, mirrored = (socket.create_connection(door.getsockname()) for _ in range(2))
    replayed.sendall(relay.heard)

    assert answer(door.accept()[0], secret=SECRET, timeout_s=2) is None

    def mirror() -> None:
        with suppress(OSError):
            mirrored.sendall(mirrored.recv(32))
            mirrored.sendall(mirrored.recv(32))

    threading.Thread(target=mirror, daemon=True).start()
    assert answer(door.accept()[0], secret=SECRET, timeout_s=0.3) is None
    assert len(replayed.recv(4096)) == 32
    for one in (door, replayed, mirrored):
        one.close()


def come_together(
    tmp_path: Path, disturb: Callable[[int], None], *, local_tasks: int = 1
) -> tuple[ChiefCrew, FollowerCrew]:
    """A chief and a follower that comes after a stranger has done something to the chief's port."""
    paths = RunPaths(tmp_path)
    folder = paths.attempts / "1"
    folder.mkdir(parents=True)
    devices, found = DevicesConfig(), []

    def follow() -> None:
        while not (peers := read_peers(folder)):
            pass
        disturb(peers[0].talk_port)
        task = Task(1, 2, "launch", local_tasks=local_tasks)
        found.append(
            follow_crew(task, paths, read_devices=lambda: devices, stop=StopFlag(), wait_s=5)[0]
        )

    thread = threading.Thread(target=follow)
    thread.start()
    task = Task(0, 2, "launch", local_tasks=local_tasks)
    chief = lead_crew(task, paths, attempt=1, devices=devices, stop=StopFlag(), wait_s=5)
    thread.join()
    return chief, found[0]


def end(*crews: ChiefCrew | FollowerCrew) -> None:
    for crew in crews:
        crew.end(ExitCode.DONE, "")


def test_strangers_at_the_chiefs_port_neither_join_nor_keep_its_tasks_away(tmp_path: Path) -> None:
    strangers: list[socket.socket] = []

    def disturb(port: int) -> None:
        # Silent ones, far more than are answered at a time, and some that talk.
        for number in range(150):
            stranger = socket.create_connection(("127.0.0.1", port))
            strangers.append(stranger)
            with suppress(OSError):
                if number % 3 == 1:
                    stranger.sendall(b'{"launch": "launch", "rank": 1}\n' * 99)
                if number % 3 == 2:
                    stranger.close()

    chief, follower = come_together(tmp_path, disturb)

    assert chief.agree(7) == follower.agree(99) == 7
    for stranger in strangers:
        with suppress(OSError):
            assert len(stranger.recv(4096)) <= 32
        stranger.close()
    end(chief, follower)


def test_the_secret_is_its_owners_alone_and_gone_once_all_have_come(tmp_path: Path) -> None:
    secret = tmp_path / "attempts" / "1" / "secret"
    modes: list[int] = []

    crews = come_together(tmp_path, lambda port: modes.append(secret.stat().st_mode))

    assert [stat.S_IMODE(mode) for mode in modes] == [0o600]
    assert not secret.exists()
    end(*crews)


def test_a_chief_that_nobody_joins_leaves_no_secret(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)

    with pytest.raises(PeerLostError, match="nothing was seen"):
        lead_crew(
            Task(0, 2, "launch"),
            paths,
            attempt=1,
            devices=DevicesConfig(),
            stop=StopFlag(),
            wait_s=0.1,
        )

    assert [path.name for path in (paths.attempts / "1").iterdir()] == ["task-0.json"]


def test_ports_for_tasks_of_one_machine_are_closed_to_others() -> None:
    local, remote = HeldPort(local=True), HeldPort()

    assert local.listen().getsockname()[0] == "127.0.0.1"
    assert remote.listen().getsockname()[0] == "0.0.0.0"
    local.release()
    remote.release()
