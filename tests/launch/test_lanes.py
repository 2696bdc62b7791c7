"""Points of a sweep in lanes; a lane here is a small script that does what a folder tells it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dnnjob.config import JobConfig, load_job, resolve_job
from dnnjob.errors import ExitCode
from dnnjob.launch import lane_plan, outcome
from dnnjob.launch import lanes as lanes_module
from dnnjob.launch.compile_times import CompileTimes
from dnnjob.launch.errand import Errand, News
from dnnjob.launch.halving import ListedOrder
from dnnjob.launch.lane_plan import (
    LanePlan,
    PointNeeds,
    find_needs,
    make_errand,
    narrowed_to_memory,
    plan_here,
    plan_lanes,
    points_at_once,
    with_stack,
)
from dnnjob.launch.lanes import Lanes, _after
from dnnjob.launch.turns import ListedTurns
from dnnjob.runs import (
    Cancel,
    Journal,
    RunPaths,
    State,
    claim_attempt,
    create_run,
    latest_attempt,
    read_settled,
    write_record,
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
    def work(
        *deeds: str,
        width: int = 2,
        kinds: str = "aaaa",
        calls: str = "aaaa",
        cores: int = 1,
        task: Task = Task(),  # noqa: B008
    ) -> ExitCode:
        used = runs[: len(deeds)]
        for paths, deed in zip(used, deeds, strict=True):
            (paths.root / "deed").write_text(deed)
        errands = [
            Errand(run=paths.root, number=number, kind=kind, call=call, cores=cores)
            for number, (paths, kind, call) in enumerate(
                zip(used, kinds, calls, strict=False), start=1
            )
        ]
        lanes = Lanes(
            LanePlan(width, cores=2),
            task=task,
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


@pytest.mark.parametrize(
    ("compile_s", "awaited", "lane_of_last"), [(60.0, 0, 2), (0.0, 3, 0)], ids=["long", "short"]
)
def test_a_point_goes_to_the_lane_that_has_its_call_unless_another_compiles_it_soon(
    work: Work,
    runs: list[RunPaths],
    monkeypatch: pytest.MonkeyPatch,
    compile_s: float,
    awaited: int,
    lane_of_last: int,
) -> None:
    monkeypatch.setattr("dnnjob.launch.compile_times._COMPILE_S", compile_s)
    work(awaits(runs[2]), "done", awaits(runs[awaited]), "done", calls="aabb")
    lanes = pids(runs[:4])
    assert lanes[0] == lanes[1] != lanes[2]
    assert lanes[3] == lanes[lane_of_last]


def test_tasks_of_a_run_come_to_its_points_in_their_order(
    work: Work, runs: list[RunPaths], heard: Heard
) -> None:
    work("done", "done", "done", width=1, calls="aba", task=Task(0, 2, "x", launcher="slurm"))
    assert heard.began == [1, 2, 3]
    heard.began.clear()
    work("done", "done", "done", width=1, calls="aba")
    assert heard.began == [1, 3, 2]


def test_a_call_that_would_be_compiled_for_longer_than_its_points_take_is_left_to_others() -> None:
    times = CompileTimes()
    assert not times.outlast(1, waited_s=0.0)
    times.note(0.4)
    times.note(0.6)
    assert times.outlast(3, waited_s=0.0)
    assert not times.outlast(9, waited_s=0.0)
    assert not times.outlast(3, waited_s=5.0)


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
    write_record(runs[1].cancel, Cancel())
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


ANY_DEVICE = {"kind": "auto", "xla": "auto"}
# Is at up to three points at once, and ends each once all that it waits for are there.
SIDE_BY_SIDE = """
import json, os, pathlib, sys, threading
print(json.dumps({"seats": 3}), flush=True)
def work(told):
    run = pathlib.Path(told["run"])
    (run / "begun").write_text(str(os.getpid()))
    deed, *names = (run / "deed").read_text().split()
    while not all((run.parent / name).exists() for name in names):
        threading.Event().wait(0.01)
    if deed == "die":
        os._exit(1)
    print(json.dumps({"number": told["number"], "trouble": deed}), flush=True)
    print(json.dumps({"number": told["number"], "code": 0}), flush=True)
for line in sys.stdin:
    threading.Thread(target=work, args=(json.loads(line),)).start()
"""


@pytest.fixture
def work_beside(runs: list[RunPaths], heard: Heard, stop: StopFlag) -> Work:
    def work_beside(
        *deeds: str, beside: tuple[int, ...] = (4, 4, 4, 4), width: int = 1
    ) -> ExitCode:
        for paths, deed in zip(runs, deeds, strict=False):
            (paths.root / "deed").write_text(deed)
        errands = [
            Errand(run=paths.root, number=number, cores=2, beside=count)
            for number, (paths, count, _) in enumerate(
                zip(runs, beside, deeds, strict=False), start=1
            )
        ]
        command = (sys.executable, "-S", "-E", "-c", SIDE_BY_SIDE)
        plan = LanePlan(width, 2 * width)
        lanes = Lanes(plan, task=Task(), stop=stop, watcher=heard, command=command)
        return lanes.work(ListedTurns(ListedOrder(errands)))

    return work_beside


def test_points_that_share_a_call_are_at_work_in_one_process(
    work_beside: Work, runs: list[RunPaths], heard: Heard
) -> None:
    # Each ends only once the others have begun; the fourth takes the place of one that has ended.
    others = awaits(*runs[:3])
    assert work_beside(others, others, others, awaits(*runs)) == ExitCode.DONE
    assert len(set(pids(runs))) == 1
    assert heard.began == [1, 2, 3, 4]
    assert heard.ended == dict.fromkeys(range(1, 5), ExitCode.DONE)


def test_processes_with_a_gpu_each_share_the_points_evenly(
    work_beside: Work, runs: list[RunPaths]
) -> None:
    """Whichever has loaded TensorFlow first has seats for all."""
    all_begun = awaits(*runs)
    assert work_beside(*[all_begun] * 4, width=2) == ExitCode.DONE
    assert sorted(Counter(pids(runs)).values()) == [2, 2]


def test_a_point_that_trains_alone_waits_for_those_that_share_a_call(
    work_beside: Work, runs: list[RunPaths], heard: Heard
) -> None:
    work_beside(awaits(runs[1]), awaits(runs[0]), "done", beside=(2, 2, 1))
    assert heard.began == [1, 2, 3]
    assert list(heard.ended)[2] == 3


def test_a_process_that_dies_takes_its_points_along_and_no_others(
    work_beside: Work, runs: list[RunPaths], heard: Heard
) -> None:
    never = awaits(runs[0]) + " never"
    code = work_beside(f"die {runs[1].root.name}/begun", never, "done", beside=(2, 2, 1))
    assert code == ExitCode.FAILED
    assert heard.ended == {1: ExitCode.FAILED, 2: ExitCode.FAILED, 3: ExitCode.DONE}
    assert [read_settled(paths).state for paths in runs[:2]] == ["FAILED", "FAILED"]


def test_points_alike_share_a_call_on_a_gpu(write_job: WriteJob) -> None:
    job = load_job(write_job(devices=ANY_DEVICE))

    def changed(**sections: dict[str, object]) -> JobConfig:
        values = job.model_dump(exclude_none=True)
        for name, keys in sections.items():
            values[name] |= keys
        return resolve_job(values, origin="test")

    jobs = [
        job,
        changed(train={"learning_rate": 0.5, "epochs": 7}, data={"test_fraction": 0.4}),
        changed(model={"hidden_units": [3]}),
        changed(model={"members": 3}),
        changed(devices={"xla": "off"}),
        changed(devices={"kind": "cpu"}),
    ]

    def beside(*, has_gpus: bool) -> list[int]:
        return [need.beside for need in find_needs(jobs, cores=2, has_gpus=has_gpus)]

    assert beside(has_gpus=True) == [2, 2, 1, 1, 1, 1]
    assert beside(has_gpus=False) == [1] * 6


@pytest.mark.parametrize(("stack", "kept"), [(0, 0), (2, 2), (100, 3)])
def test_on_a_gpu_the_stack_is_the_width_of_a_call_and_no_number_of_processes(
    write_job: WriteJob, stack: int, kept: int
) -> None:
    job = load_job(write_job(devices={**ANY_DEVICE, "stack": stack}))
    needs = find_needs([job] * 3, cores=2, has_gpus=True)
    plan = plan_lanes(needs, cores=2, memory_bytes=64 * GIB, stack=stack)
    assert plan.width == 1
    assert with_stack(job, plan).devices.stack == kept
    assert make_errand(RunPaths(Path("x")), needs[0], number=1).beside == 3


@pytest.mark.parametrize(
    ("hidden", "points"), [([200, 1000], 60), ([1000, 1000], 12), ([9999] * 3, 1)]
)
def test_a_task_has_so_many_points_as_fill_its_gpu(
    write_job: WriteJob, hidden: list[int], points: int
) -> None:
    sections = {"model": {"hidden_units": hidden}, "train": {"global_batch_size": 64}}
    job = load_job(write_job(devices=ANY_DEVICE, **sections))
    needs = find_needs([job] * 60, cores=2, has_gpus=True)
    plan = plan_lanes(needs, cores=2, memory_bytes=64 * GIB)
    assert points_at_once(plan, needs) == points
