"""What the chief says, and how a lost task is noticed: over real connections in one process."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dnnjob.config import DevicesConfig
from dnnjob.errors import DataError, ExitCode, PeerLostError, StoppedError
from dnnjob.runs import RunPaths
from dnnjob.tasks import ChiefEndedError, Crew, FollowerCrew, StopFlag, Task
from dnnjob.tasks.join import follow_crew, lead_crew
from dnnjob.tasks.process_group import ChiefCrew


@dataclass
class Pair:
    """A chief and a follower, as two processes would be."""

    chief: ChiefCrew
    follower: FollowerCrew

    def cut(self, crew: Any) -> None:
        """Ends a task's connection, as its death does."""
        for other in crew._others:
            other.line._connection.shutdown(2)


@pytest.fixture
def make_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("dnnjob.tasks.process_group._TICK_S", 0.05)
    monkeypatch.setattr("dnnjob.tasks.process_group.GRACE_S", 0.3)
    paths = RunPaths(tmp_path)
    (paths.attempts / "1").mkdir(parents=True)
    with ExitStack() as stack:

        def make(hang_timeout_s: float = 60.0) -> Pair:
            devices = DevicesConfig(hang_timeout_s=hang_timeout_s)
            found: list[Any] = []

            def follow() -> None:
                task = Task(1, 2, "launch")
                crew = follow_crew(
                    task, paths, read_devices=lambda: devices, stop=StopFlag(), wait_s=5
                )
                found.append(crew)

            thread = threading.Thread(target=follow)
            thread.start()
            chief = lead_crew(
                Task(0, 2, "launch"), paths, attempt=1, devices=devices, stop=StopFlag(), wait_s=5
            )
            thread.join()
            follower, attempt = found[0]
            assert attempt == 1
            stack.callback(chief.end, ExitCode.DONE, "")
            stack.callback(follower.end, ExitCode.DONE, "")
            return Pair(chief, follower)

        yield make


def wait_for(crew: Crew) -> None:
    limit = time.monotonic() + 5
    while crew.lost is None and time.monotonic() < limit:
        time.sleep(0.01)
    assert crew.lost is not None


def test_the_only_task_agrees_with_itself_until_a_signal_comes() -> None:
    crew = Crew(StopFlag())
    assert crew.agree(7) == 7
    crew.stop.signal = signal.SIGTERM

    with pytest.raises(StoppedError):
        crew.agree(7)


def test_the_chief_decides_for_all(make_pair: Any) -> None:
    pair = make_pair()

    assert pair.chief.agree(7) == 7
    assert pair.follower.agree(99) == 7
    pair.chief.share("00000003-1.ckpt")
    assert pair.follower.share(None) == "00000003-1.ckpt"


def test_what_each_task_gives_reaches_all(make_pair: Any) -> None:
    pair, found = make_pair(), []
    thread = threading.Thread(target=lambda: found.append(pair.follower.gather({"threads": 8})))
    thread.start()

    gathered = pair.chief.gather({"threads": 16})

    thread.join(5)
    assert gathered == [{"threads": 16}, {"threads": 8}] == found[0]


def test_a_task_that_is_lost_is_not_waited_for_to_give(make_pair: Any) -> None:
    pair = make_pair()
    threading.Timer(0.1, pair.cut, args=(pair.follower,)).start()

    with pytest.raises(PeerLostError, match="task 1 on"):
        pair.chief.gather({})


def test_a_signal_to_any_task_stops_all_at_the_same_call(make_pair: Any) -> None:
    pair = make_pair()
    pair.follower.stop.signal = signal.SIGTERM
    pair.follower.check()
    calls = 0
    with pytest.raises(StoppedError, match="SIGTERM"):  # noqa: PT012
        while True:
            pair.chief.agree(1)
            calls += 1
            time.sleep(0.01)

    for _ in range(calls):
        pair.follower.agree(1)
    with pytest.raises(StoppedError, match="SIGTERM"):
        pair.follower.agree(1)


def test_a_task_that_ends_is_lost_and_named(make_pair: Any) -> None:
    pair = make_pair()

    pair.cut(pair.follower)

    wait_for(pair.chief)
    with pytest.raises(PeerLostError, match=r"task 1 on .* \(process \d+\) ended"):
        pair.chief.agree(1)


def test_a_follower_that_waits_for_the_chiefs_word_notices_its_end(make_pair: Any) -> None:
    pair = make_pair()
    threading.Timer(0.1, pair.cut, args=(pair.chief,)).start()

    with pytest.raises(PeerLostError, match="task 0 on"):
        pair.follower.agree(1)


def test_the_error_of_a_broken_collective_is_blamed_on_the_lost_task(make_pair: Any) -> None:
    pair = make_pair()
    threading.Timer(0.1, pair.cut, args=(pair.follower,)).start()

    blamed = pair.chief.blame(RuntimeError("Collective ops is aborted"))

    assert isinstance(blamed, PeerLostError)


def test_an_error_of_ones_own_is_not_blamed_on_others(make_pair: Any) -> None:
    pair = make_pair()
    pair.cut(pair.follower)
    wait_for(pair.chief)
    error = DataError("The table is gone.")

    assert pair.chief.blame(error) is error


def test_what_a_follower_died_of_reaches_the_chief(make_pair: Any) -> None:
    pair = make_pair()

    pair.follower.end(ExitCode.DATA, "The table is gone.")

    wait_for(pair.chief)
    assert "failed: The table is gone." in str(pair.chief.lost)


def test_followers_end_as_the_chief_does(make_pair: Any) -> None:
    pair = make_pair()

    pair.chief.end(ExitCode.DATA, "The table is gone.")

    with pytest.raises(ChiefEndedError, match="The table is gone") as ended:
        pair.follower.await_end()
    assert ended.value.exit_code == ExitCode.DATA


def test_a_follower_ends_well_once_the_chief_has_published(make_pair: Any) -> None:
    pair = make_pair()

    pair.chief.end(ExitCode.DONE, "")

    assert pair.follower.await_end() == ExitCode.DONE


def test_a_main_thread_that_hangs_in_a_collective_is_ended_from_outside(make_pair: Any) -> None:
    pair = make_pair()
    forced = threading.Event()
    pair.chief.on_loss = lambda _: forced.set()

    pair.cut(pair.follower)

    assert forced.wait(5)


def test_the_chief_goes_on_alone_once_it_needs_no_other(
    make_pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make_pair()
    pair.chief.release()

    pair.cut(pair.follower)
    time.sleep(0.2)

    pair.chief.check()
    assert "goes on" in caplog.text


def test_a_silent_task_is_lost_after_the_hang_timeout(make_pair: Any) -> None:
    pair = make_pair(hang_timeout_s=0.6)
    # A stopped process keeps its connection and says nothing.
    pair.follower._ended.set()

    time.sleep(1.2)
    assert pair.chief.lost is None
    with pair.chief.training():
        while pair.chief.lost is None:
            pair.chief.advance()
            time.sleep(0.05)

    assert "was silent for" in str(pair.chief.lost)


def test_standing_still_counts_in_training_alone(make_pair: Any) -> None:
    pair = make_pair(hang_timeout_s=0.6)
    time.sleep(1.2)
    assert pair.chief.lost is None
    pair.chief.agree(1)
    with pair.chief.training():
        wait_for(pair.chief)

    assert "task 1 on" in str(pair.chief.lost)
    assert "stood still for" in str(pair.chief.lost)


def test_what_came_before_training_does_not_count_in_it(make_pair: Any) -> None:
    pair = make_pair(hang_timeout_s=0.6)
    time.sleep(2.0)
    with pair.chief.training():
        time.sleep(0.3)

    assert pair.chief.lost is None


def test_a_task_that_waits_goes_on_waiting_while_the_chief_gets_on(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.tasks.process_group._UNCOUNTED_LIMIT_S", 0.6)
    pair = make_pair(hang_timeout_s=0.6)
    pair.chief.release()
    waiting = threading.Thread(target=pair.follower.await_end)
    waiting.start()

    for _ in range(20):
        pair.chief.check()
        time.sleep(0.1)

    assert pair.follower.lost is None
    pair.chief.end(ExitCode.DONE, "")
    waiting.join(5)
    assert isinstance(pair.follower.lost, ChiefEndedError)


def test_a_task_that_waits_gives_up_a_chief_that_lives_and_does_nothing(
    make_pair: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.tasks.process_group._UNCOUNTED_LIMIT_S", 0.6)
    pair = make_pair(hang_timeout_s=0.6)
    pair.chief.release()

    with pytest.raises(PeerLostError, match="stood still for"):
        pair.follower.await_end()


def test_long_work_within_training_is_no_standstill(make_pair: Any) -> None:
    pair = make_pair(hang_timeout_s=0.6)
    with pair.chief.training(), pair.follower.training():
        for _ in range(20):
            pair.follower.advance()
            time.sleep(0.1)

        assert pair.chief.lost is None
        assert pair.follower.lost is None


def test_time_in_which_a_task_was_suspended_does_not_count(make_pair: Any) -> None:
    pair = make_pair(hang_timeout_s=5.0)
    pair.chief._still_s = 0.0
    now = time.monotonic()

    # One tick that took an hour, as after SIGCONT.
    pair.chief._wait_longer(min(3600.0, 0.1))

    assert pair.chief.lost is None
    assert time.monotonic() - now < 1


def test_tasks_assemble_once_all_have_come(make_pair: Any) -> None:
    pair = make_pair()
    came: list[str] = []

    def come(name: str, crew: Any) -> None:
        crew.assemble()
        came.append(name)

    first = threading.Thread(target=come, args=("chief", pair.chief))
    first.start()
    time.sleep(0.2)
    assert came == []

    come("follower", pair.follower)

    first.join(5)
    assert sorted(came) == ["chief", "follower"]


@pytest.mark.parametrize(("waits", "ends"), [("chief", "follower"), ("follower", "chief")])
def test_a_task_that_ends_before_all_have_assembled_is_lost_to_the_others(
    make_pair: Any, waits: str, ends: str
) -> None:
    pair = make_pair()
    threading.Timer(0.2, pair.cut, args=(getattr(pair, ends),)).start()

    with pytest.raises(PeerLostError):
        getattr(pair, waits).assemble()
