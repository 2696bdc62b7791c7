"""Points of a sweep in lanes; a lane here is a small script that does what a folder tells it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dnnjob.config import load_job
from dnnjob.errors import ExitCode
from dnnjob.launch import lane_plan, outcome
from dnnjob.launch import lanes as lanes_module
from dnnjob.launch.errand import Errand, News
from dnnjob.launch.halving import ListedOrder
from dnnjob.launch.lane_plan import LanePlan, PointNeeds, narrowed_to_memory, plan_here, plan_lanes
from dnnjob.launch.lanes import Lanes, ListedTurns, _after
from dnnjob.runs import (
    Cancel,
    Journal,
    RunPaths,
    State,
    claim_attempt,
    create_run,
    latest_attempt,
    read_settled,
    write_cancel,
)
from dnnjob.tasks import StopFlag, Task
from tests.conftest import WriteJob

GIB = 2**30
# Says its number, does what the run folder's file `deed` says, and tells the code.
SCRIPT = """
import json, os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: stopped.append(143))
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
for line in sys.stdin:
    stopped = []
    run = pathlib.Path(json.loads(line)["run"])
    deed = (run / "deed").read_text()
    (run / "begun").write_text(str(os.getpid()))
    print(json.dumps({"progress": {"epoch": 1, "epochs": 2, "val_loss": 0.5}}), flush=True)
    print(json.dumps({"trouble": "odd"}), flush=True)
    if deed == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    others = [run.parent / name for name in deed.split()[1:]]
    while deed.startswith("await") and not stopped and not all(map(pathlib.Path.exists, others)):
        time.sleep(0.01)
    code = {"fail": 1, "continue": 75}.get(deed, 0)
    print(json.dumps({"code": stopped[0] if stopped else code}), flush=True)
"""


class Heard:
    """Remembers what the lanes tell."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.ended: dict[int, ExitCode] = {}
        self.news: list[News] = []
        self.on_news: Callable[[], object] = lambda: None

    def begin(self, errand: Errand) -> None:
        self.began.append(errand.number)

    def hear(self, errand: Errand, news: News) -> None:
        self.news.append(news)
        self.on_news()

    def end(self, errand: Errand, code: ExitCode) -> None:
        self.ended[errand.number] = code


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def stop() -> StopFlag:
    return StopFlag()


Work = Callable[..., ExitCode]


@pytest.fixture
def runs(write_job: WriteJob, tmp_path: Path) -> list[RunPaths]:
    job = load_job(write_job())
    return [create_run(tmp_path / "runs", job) for _ in range(4)]


@pytest.fixture
def work(runs: list[RunPaths], heard: Heard, stop: StopFlag) -> Work:
    def work(*deeds: str, width: int = 2, kinds: str = "aaaa", cores: int = 1) -> ExitCode:
        used = runs[: len(deeds)]
        for paths, deed in zip(used, deeds, strict=True):
            (paths.root / "deed").write_text(deed)
        errands = [
            Errand(run=paths.root, number=number, kind=kind, cores=cores)
            for number, (paths, kind) in enumerate(zip(used, kinds, strict=False), start=1)
        ]
        lanes = Lanes(
            LanePlan(width, cores=2),
            task=Task(),
            stop=stop,
            watcher=heard,
            command=(sys.executable, "-S", "-E", "-c", SCRIPT),
        )
        turns = ListedTurns(ListedOrder(errands))
        try:
            return lanes.work(turns)
        finally:
            turns.cancel_rest()

    return work


def pids(runs: list[RunPaths]) -> list[int]:
    return [int((paths.root / "begun").read_text()) for paths in runs]


def awaits(*runs: RunPaths) -> str:
    return " ".join(["await", *(f"{paths.root.name}/begun" for paths in runs)])


def test_points_run_side_by_side(work: Work, runs: list[RunPaths], heard: Heard) -> None:
    # Each ends only once the other has begun.
    assert work(awaits(runs[1]), awaits(runs[0])) == ExitCode.DONE
    assert heard.ended == {1: ExitCode.DONE, 2: ExitCode.DONE}
    assert heard.news[0].progress is not None
    assert heard.news[0].progress.val_loss == 0.5


def test_a_lane_takes_the_next_point(work: Work, runs: list[RunPaths]) -> None:
    work("done", "done", "done", width=1)
    assert len(set(pids(runs[:3]))) == 1


def test_points_of_another_kind_have_a_process_of_their_own(
    work: Work, runs: list[RunPaths]
) -> None:
    work("done", "done", "done", width=1, kinds="aab")
    first, second, third = pids(runs[:3])
    assert first == second != third


def test_points_that_fill_the_cores_go_one_at_a_time(
    work: Work, runs: list[RunPaths], heard: Heard
) -> None:
    work("done", "done", "done", width=2, cores=2)
    assert len(set(pids(runs[:3]))) == 1
    assert list(heard.ended) == [1, 2, 3]


def test_lines_of_a_profile_read_nothing_of_what_a_lane_is_told(tmp_path: Path) -> None:
    command = _after(["cat", "echo said"], ["cat"])
    done = subprocess.run(command, input="told", capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("told", "said\n")


def test_the_worst_code_of_all_counts(work: Work, heard: Heard) -> None:
    assert work("done", "fail", "done") == ExitCode.FAILED
    assert heard.ended == {1: ExitCode.DONE, 2: ExitCode.FAILED, 3: ExitCode.DONE}


def test_a_lane_that_is_killed_fails_its_point_alone(
    work: Work, runs: list[RunPaths], heard: Heard
) -> None:
    assert work("die", "done", "done", width=1) == ExitCode.FAILED
    status = read_settled(runs[0])
    assert (status.state, status.reason) == ("FAILED", "vanished")
    assert "killed by signal 9" in str(status.error)
    assert heard.ended == {1: ExitCode.FAILED, 2: ExitCode.DONE, 3: ExitCode.DONE}


def test_a_lane_that_the_kernel_ends_for_want_of_memory_says_so(
    work: Work, runs: list[RunPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(range(100))
    monkeypatch.setattr(lanes_module, "count_oom_kills", lambda: next(counts))
    work("die")
    assert read_settled(runs[0]).reason == "out_of_memory"


@pytest.fixture
def on_again(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens when a point is to begin again; each end of a lane is one for its memory."""
    counts = iter(range(100))
    monkeypatch.setattr(lanes_module, "count_oom_kills", lambda: next(counts))
    again, happens = ListedTurns.again, list[Callable[[], object]]()

    def hear(turns: ListedTurns, errand: Errand) -> None:
        for one in happens:
            one()
        again(turns, errand)

    monkeypatch.setattr(ListedTurns, "again", hear)
    return happens


def test_a_point_that_is_ended_for_its_memory_beside_others_begins_again_with_fewer(
    work: Work,
    runs: list[RunPaths],
    heard: Heard,
    on_again: list[Callable[[], object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    states: list[State] = []

    def mend() -> None:
        states.append(read_settled(runs[0]).state)
        (runs[0].root / "deed").write_text("done")
        (runs[0].root / "mended").touch()

    on_again.append(mend)
    code = work("die", f"await {runs[0].root.name}/mended", "done", "done")

    assert code == ExitCode.DONE
    # Nobody who waits for the sweep may take it for over until then.
    assert states[0] == "REQUEUED"
    assert heard.ended == dict.fromkeys((1, 2, 3, 4), ExitCode.DONE)
    assert heard.began == [1, 2, 1, 3, 4]
    assert "from here on 1 go side by side" in caplog.text
    # One at a time: the lane of the second does the rest.
    assert len(set(pids(runs))) == 1


@pytest.mark.parametrize(
    ("job_id", "state", "code"),
    [("", "CANCELLED", ExitCode.TERMINATED), ("7", "REQUEUED", ExitCode.CONTINUE)],
)
def test_a_signal_stops_a_point_that_is_to_begin_again_for_its_memory(
    work: Work,
    runs: list[RunPaths],
    heard: Heard,
    stop: StopFlag,
    on_again: list[Callable[[], object]],
    monkeypatch: pytest.MonkeyPatch,
    job_id: str,
    state: State,
    code: ExitCode,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    monkeypatch.setattr(outcome, "show_job", lambda _: {})
    on_again.append(lambda: stop.want(signal.SIGTERM))
    assert work("die", "await never") == code
    assert read_settled(runs[0]).state == state
    assert heard.ended[1] == code


@pytest.mark.parametrize(
    ("job_id", "state", "code"),
    [("", "CANCELLED", ExitCode.TERMINATED), ("7", "REQUEUED", ExitCode.CONTINUE)],
)
def test_a_lane_that_is_killed_while_it_stops_leaves_its_point_as_a_stop_does(
    work: Work,
    runs: list[RunPaths],
    heard: Heard,
    stop: StopFlag,
    monkeypatch: pytest.MonkeyPatch,
    job_id: str,
    state: State,
    code: ExitCode,
) -> None:
    def kill() -> None:
        stop.want(signal.SIGTERM)
        os.kill(pids(runs[:1])[0], signal.SIGKILL)

    monkeypatch.setenv("SLURM_JOB_ID", job_id)
    monkeypatch.setattr(outcome, "show_job", lambda _: {})
    heard.on_news = kill
    assert work("await never") == code
    assert read_settled(runs[0]).state == state


def test_a_signal_is_passed_on_and_nothing_more_begins(
    work: Work, runs: list[RunPaths], heard: Heard, stop: StopFlag
) -> None:
    heard.on_news = lambda: len(heard.news) == 4 and stop.want(signal.SIGTERM)
    code = work("await never", "await never", "done")
    assert code == ExitCode.TERMINATED
    assert heard.ended == {1: ExitCode.TERMINATED, 2: ExitCode.TERMINATED}
    assert read_settled(runs[2]).state == "CANCELLED"
    assert "before it began" in str(read_settled(runs[2]).error)


def test_a_signal_that_comes_when_all_is_nearly_done_changes_no_code(
    work: Work, heard: Heard, stop: StopFlag
) -> None:
    # One that does nothing to the script, which may be about to end.
    heard.on_news = lambda: stop.want(signal.SIGCONT)
    assert work("done", width=1) == ExitCode.DONE
    stop.signal = None
    assert work("done", "done", width=1) == ExitCode.TERMINATED


def test_a_second_ctrl_c_ends_the_lanes_at_once(
    work: Work, runs: list[RunPaths], heard: Heard, stop: StopFlag
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    heard.on_news = interrupt
    with pytest.raises(KeyboardInterrupt):
        work("await never", "done", width=1)
    assert [read_settled(paths).state for paths in runs[:2]] == ["CANCELLED", "CANCELLED"]
    with pytest.raises(ProcessLookupError):
        os.kill(pids(runs[:1])[0], 0)


def test_a_point_that_was_cancelled_does_not_begin(
    work: Work, runs: list[RunPaths], heard: Heard
) -> None:
    write_cancel(runs[1], Cancel())
    work("done", "done", "done")
    assert heard.began == [1, 3]
    assert read_settled(runs[1]).state == "CANCELLED"


def test_a_point_that_was_gone_on_with_elsewhere_is_left_alone(
    work: Work, runs: list[RunPaths], heard: Heard
) -> None:
    heard.on_news = lambda: latest_attempt(runs[1]) or Journal(runs[1])
    assert work("done", "done", "continue", "done", width=1) == ExitCode.CONTINUE
    assert heard.began == [1, 3]
    assert [read_settled(paths).state for paths in (runs[1], runs[3])] == ["RUNNING", "CANCELLED"]


def test_a_point_says_after_which_attempt_it_comes(runs: list[RunPaths]) -> None:
    """So that of two that resume a sweep at once, one has each point."""
    claim_attempt(runs[0])
    turns = ListedTurns(ListedOrder([Errand(run=runs[0].root, number=1)]))

    errand = turns.take()

    assert errand is not None
    assert errand.after == 1


def test_a_point_that_is_to_go_on_later_ends_the_work(work: Work, heard: Heard) -> None:
    assert work("continue", "done", width=1) == ExitCode.CONTINUE
    assert list(heard.ended) == [1]


def test_a_signal_of_the_system_ends_the_work(work: Work, heard: Heard, stop: StopFlag) -> None:
    with stop.listening():
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        # The script does not know SIGINT, as a lane that hangs.
        assert work("await never", width=1) == ExitCode.INTERRUPTED
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("cores", "points", "memory_gib", "stack", "width"),
    [
        (16, [1] * 60, 64, 0, 16),
        (16, [1] * 5, 64, 0, 5),
        (16, [4] * 60, 64, 0, 4),
        (16, [1] * 60, 4, 0, 4),
        (2, [1] * 60, 0.1, 0, 1),
        (1, [1] * 60, 64, 3, 3),
        (16, [16] * 4, 64, 0, 1),
    ],
)
def test_there_are_as_many_lanes_as_cores_and_memory_hold(
    cores: int, points: list[int], memory_gib: float, stack: int, width: int
) -> None:
    plan = plan_lanes(
        [PointNeeds(cores=need, kind="") for need in points],
        cores=cores,
        memory_bytes=memory_gib * GIB,
        stack=stack,
    )
    assert plan.width == width


@pytest.mark.parametrize(("is_resumed", "width"), [(False, 16), (True, 2)])
def test_a_sweep_resumed_on_a_smaller_machine_takes_no_more_lanes_than_it_holds(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch, is_resumed: bool, width: int
) -> None:
    monkeypatch.setattr(lane_plan, "count_cores", lambda: 8)
    monkeypatch.setattr(lane_plan, "memory_limit_bytes", lambda: 2 * GIB)
    jobs = [load_job(write_job(devices={"stack": 16}))] * 20
    needs = [PointNeeds(cores=1, kind="")] * 20
    assert plan_here(jobs, needs, task=Task(), is_resumed=is_resumed).width == width


@pytest.mark.parametrize(("memory_gib", "width"), [(2, 2), (0.5, 1), (1e6, 16)])
def test_a_plan_of_cores_alone_is_narrowed_to_the_memory_that_is_there(
    monkeypatch: pytest.MonkeyPatch, memory_gib: float, width: int
) -> None:
    monkeypatch.setattr(lane_plan, "memory_limit_bytes", lambda: memory_gib * GIB)
    assert narrowed_to_memory(LanePlan(16, 16)).width == width


@pytest.mark.parametrize(("batch", "cores"), [(64, 1), (256, 2), (1024, 8), (8192, 16)])
def test_a_point_fills_the_cores_that_its_step_is_worth(
    write_job: WriteJob, batch: int, cores: int
) -> None:
    job = load_job(
        write_job(
            model={"hidden_units": [200, 1000]},
            train={"global_batch_size": batch},
            devices={"threads": 0},
        )
    )
    assert PointNeeds.of(job, cores=16, num_columns=13, num_points=60, on_gpu=False).cores == cores
