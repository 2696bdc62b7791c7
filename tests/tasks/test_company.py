"""Attempts of one process that meet to be trained, and take turns with all else."""

import threading
from contextvars import ContextVar
from queue import SimpleQueue

import pytest

from dnnjob.tasks import Beside, Company, Guest, StopFlag

said: ContextVar[str] = ContextVar("said", default="nobody")


class Party:
    """A company, who has arrived, and what became of each."""

    def __init__(self) -> None:
        self.arrived: SimpleQueue[Guest] = SimpleQueue()
        self.ended: SimpleQueue[object] = SimpleQueue()
        self.seats: list[int] = []
        self.company = Company(arrived=self.arrived.put, tell_seats=self.seats.append)
        self.at_work, self.most_at_work = 0, 0

    def begin(self, number: int) -> None:
        def work() -> None:
            said.set(str(number))
            self._step()
            try:
                found = Beside(self.company, 4, number).meet(number)
            except ValueError as error:
                found = error
            self._step()
            self.ended.put(found)

        self.company.begin(work)

    def _step(self) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        threading.Event().wait(0.01)
        self.at_work -= 1


@pytest.fixture
def party() -> Party:
    return Party()


def test_one_works_at_a_time_while_others_wait_to_be_trained(party: Party) -> None:
    for number in range(5):
        party.begin(number)
    guests = [party.arrived.get(timeout=10) for _ in range(5)]
    for guest in guests:
        guest.leave(guest.given * 10)

    assert sorted(str(party.ended.get(timeout=10)) for _ in guests) == ["0", "10", "20", "30", "40"]
    assert party.most_at_work == 1


def test_an_error_on_behalf_of_one_is_its_own(party: Party) -> None:
    party.begin(1)
    party.begin(2)
    first, second = (party.arrived.get(timeout=10) for _ in range(2))

    def fail() -> None:
        raise ValueError

    assert not first.does(fail)
    assert first.is_gone
    assert isinstance(party.ended.get(timeout=10), ValueError)
    assert second.does(lambda: None)
    second.leave("done")
    assert party.ended.get(timeout=10) == "done"


def test_what_is_done_for_one_is_said_by_it(party: Party) -> None:
    party.begin(7)
    guest, heard = party.arrived.get(timeout=10), list[str]()

    guest.does(lambda: heard.append(said.get()))

    guest.leave(None)
    assert heard == ["7"]
    assert said.get() == "nobody"


@pytest.mark.parametrize(
    ("fitting", "asked", "width", "seats"),
    [(0, 0, 0, []), (1, 0, 0, []), (100, 0, 4, [100]), (3, 0, 3, [3]), (100, 8, 8, [8])],
)
def test_as_many_go_side_by_side_as_fit_or_were_asked_for(
    party: Party, fitting: int, asked: int, width: int, seats: list[int]
) -> None:
    """Four may share the call; those that go on have the places that they had."""
    beside = Beside(party.company, 4, 1)
    assert beside.choose_width(fitting, asked=asked) == width
    assert party.seats == seats


def test_fewer_go_side_by_side_once_memory_has_run_out(party: Party) -> None:
    beside = Beside(party.company, 4, 1)
    beside.choose_width(100, asked=0)
    party.company.narrow(2)
    assert beside.choose_width(100, asked=0) == 2
    assert party.seats == [100, 2]


def test_a_run_is_asked_to_stop_with_its_process_or_by_itself() -> None:
    import signal

    process = StopFlag()
    one, other = StopFlag(process), StopFlag(process)
    with one.listening():
        one.want(signal.SIGTERM)
    assert (one.signal, other.signal, process.signal) == (signal.SIGTERM, None, None)
    process.want(signal.SIGUSR2)
    assert (one.signal, other.signal) == (signal.SIGTERM, signal.SIGUSR2)
