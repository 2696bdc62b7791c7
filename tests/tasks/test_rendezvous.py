"""How tasks find each other: what is left behind, what is missing, who holds which port."""

import socket
import threading
from pathlib import Path

import pytest

from dnnjob.errors import MissingError, PeerLostError, StoppedError
from dnnjob.runs import RunPaths
from dnnjob.tasks.rendezvous import (
    HeldPort,
    Peer,
    Waiting,
    find_chief,
    introduce,
    meet,
    publish,
    reachable,
    read_peers,
    with_addresses,
)
from dnnjob.tasks.task import Task


def waiting(limit_s: float = 0.3) -> Waiting:
    return Waiting(limit_s, lambda: None)


def peer(rank: int, *, launch: str = "now", num_tasks: int = 2) -> Peer:
    return introduce(Task(rank, num_tasks, launch), port=4000 + rank)


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    folder = tmp_path / "attempts" / "3"
    folder.mkdir(parents=True)
    return folder


def test_tasks_that_come_one_after_another_all_see_each_other(attempt: Path) -> None:
    seen: dict[int, tuple[Peer, ...]] = {}

    def come(rank: int) -> None:
        seen[rank] = meet(attempt, peer(rank, num_tasks=3), num_tasks=3, waiting=waiting(5))

    threads = [threading.Thread(target=come, args=(rank,)) for rank in (2, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [one.rank for one in seen[0]] == [0, 1, 2]
    assert seen[0] == seen[1] == seen[2]


def test_the_tasks_that_did_not_come_are_named(attempt: Path) -> None:
    publish(attempt, peer(1, num_tasks=4))

    with pytest.raises(PeerLostError, match=r"of task\(s\) 2, 3 nothing was seen for 0 s"):
        meet(attempt, peer(0, num_tasks=4), num_tasks=4, waiting=waiting())


def test_a_task_that_says_why_it_cannot_come_is_not_waited_for(attempt: Path) -> None:
    publish(attempt, peer(1).model_copy(update={"error": "n2 does not reach n1 at 10.0.0.1:4000"}))

    with pytest.raises(PeerLostError, match=r"n2 does not reach n1 at 10\.0\.0\.1:4000"):
        meet(attempt, peer(0), num_tasks=2, waiting=waiting(60))


def test_waiting_ends_when_the_run_is_asked_to_stop(attempt: Path) -> None:
    def stop() -> None:
        raise StoppedError(__import__("signal").SIGTERM)

    with pytest.raises(StoppedError):
        meet(attempt, peer(0), num_tasks=2, waiting=Waiting(60, stop))


def test_a_chief_of_another_launch_is_a_leftover(tmp_path: Path, attempt: Path) -> None:
    publish(attempt, peer(0, launch="before"))
    paths = RunPaths(tmp_path)
    assert find_chief(paths, "now") is None
    newer = tmp_path / "attempts" / "10"
    newer.mkdir()
    publish(newer, peer(0))

    found = find_chief(paths, "now")

    assert found is not None
    assert found[0] == 10


def test_a_half_written_address_is_not_read(attempt: Path) -> None:
    publish(attempt, peer(0))
    (attempt / "task-1.json").write_text('{"rank": 1, "laun')
    (attempt / ".task-2.json.77-abc.tmp").write_text("{}")

    assert list(read_peers(attempt)) == [0]


def test_looking_leaves_nothing_behind(attempt: Path) -> None:
    publish(attempt, peer(0))

    read_peers(attempt)

    assert [path.name for path in attempt.iterdir()] == ["task-0.json"]


def test_a_held_port_is_nobody_elses_until_tensorflow_takes_it() -> None:
    held = HeldPort()

    with pytest.raises(OSError, match="in use"), socket.socket() as thief:
        thief.bind(("", held.port))
    with socket.socket() as tensorflow:
        tensorflow.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tensorflow.bind(("", held.port))
        tensorflow.listen()
        held.release()


def test_ports_come_from_the_range_and_run_out_with_a_word() -> None:
    with socket.socket() as free:
        free.bind(("", 0))
        first = free.getsockname()[1]
    held = HeldPort((first, first))

    assert held.port == first
    with pytest.raises(MissingError, match=f"port_range = \\[{first}, {first}\\] is free"):
        HeldPort((first, first))
    held.release()


def test_the_address_of_a_machine_is_the_one_at_which_it_was_reached() -> None:
    machines = {0: "a", 1: "a", 2: "b", 3: "b"}
    guessed = [
        peer(rank).model_copy(update={"network": network, "address": "192.168.7.7"})
        for rank, network in machines.items()
    ]

    peers = with_addresses(guessed, {0: "10.0.0.1", 1: "127.0.0.1", 3: "10.0.0.2"})

    assert [one.address for one in peers] == ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"]


def test_a_machine_whose_name_does_not_resolve_has_the_addresses_of_its_interfaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror

    usual = peer(0).addresses
    monkeypatch.setattr("socket.getaddrinfo", unknown)

    assert set(peer(0).addresses) == set(usual)


def test_tasks_of_one_machine_meet_on_the_loopback_address() -> None:
    here = peer(0)
    there = here.model_copy(update={"network": "elsewhere", "address": "10.1.2.3"})

    assert reachable(here, of=here) == "127.0.0.1"
    assert reachable(there, of=here) == "10.1.2.3"
