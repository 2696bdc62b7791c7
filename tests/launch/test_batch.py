"""The end of a batch script, in the plainest shell there is, with Slurm's answers put in.

The real Slurm gives them in tests/slurm; here each of them comes in a moment.
"""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dnnjob import slurm
from dnnjob.config import resolve_profile
from dnnjob.launch.cluster import make_script
from dnnjob.runs import (
    Attempt,
    RunPaths,
    State,
    Status,
    Submission,
    read_events,
    read_settled,
    read_submission,
    state_before,
    write_record,
    write_status,
)
from tests.waiting import wait_until

RUNNING = "JobState=RUNNING Reason=None Restarts=0 PreemptTime=None"
ENDING = "JobState=COMPLETING Reason=None Restarts=0"
TIMED_OUT = ENDING.replace("Reason=None", "Reason=TimeLimit")
SCONTROL = """#!/bin/sh
case "$1" in
show)
    [ -z "$THEN" ] || [ ! -e "$CALLS" ] || SAYS=$THEN
    # The first time, the controller is away.
    [ -z "$LATER" ] || { [ -e "$CALLS.asked" ] && SAYS=$LATER; touch "$CALLS.asked"; }
    [ -n "$SAYS" ] && echo "JobId=7 JobName=small Requeue=1 $SAYS TimeLimit=00:10:00"
    ;;
requeue)
    echo "$2" >>"$CALLS"
    if [ -s "$FLAKY" ]; then
        head -n 1 "$FLAKY" >&2
        sed -i 1d "$FLAKY"
        exit 1
    fi
    echo "$REFUSAL" >&2
    [ -z "$REFUSAL" ]
    ;;
esac
"""
Finish = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a submission's files lie, under a name that a shell might stumble over."""
    folder = tmp_path / "a root & more" / "small" / "sweeps" / "s1" / "submission"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def finish(folder: Path, tmp_path: Path) -> Finish:
    """Runs a batch script whose task ends with a code; its own code."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nsh -c "$TASK"\n')
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)

    def finish(
        task: str, *, says: str = RUNNING, refusal: str = "", shell: str = "bash", **environ: str
    ) -> int:
        done = subprocess.run(
            [shell, str(write_script(folder))],
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "SLURM_JOB_ID": "7",
                "TASK": task,
                "SAYS": says,
                "REFUSAL": refusal,
                "CALLS": str(tmp_path / "calls"),
                "LOG": str(folder / "7_0_log.err"),
                **environ,
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        print(done.stdout, done.stderr)
        return done.returncode

    return finish


@pytest.fixture
def requeued(tmp_path: Path) -> Callable[[], list[str]]:
    """The jobs that Slurm was asked to queue anew."""

    def requeued() -> list[str]:
        calls = tmp_path / "calls"
        return calls.read_text().split() if calls.exists() else []

    return requeued


def write_script(folder: Path, **values: Any) -> Path:
    given = {"executor": "slurm", "time_limit_min": 10, "memory_gb": 4, "max_requeues": 5}
    profile = resolve_profile(given | values, origin="test")
    script = folder / "batch.sh"
    script.write_text(make_script(profile, folder=folder, name="small", num_elements=1))
    return script


def make_runs(folder: Path, *states: State, element: int = 0, **update: Any) -> list[RunPaths]:
    """Run folders in these states, which the element works through."""
    runs = []
    for number, state in enumerate(states):
        paths = RunPaths(folder.parents[2] / f"run-{element}-{number}")
        paths.root.mkdir()
        job_id = f"7_{element}" if element else "7"
        ended = None if state == "RUNNING" else datetime.now(UTC)
        begun = make_attempt(job_id, ended_at=ended)
        attempts = () if state == "CREATED" else (begun,)
        write_status(paths, Status(state=state, attempts=attempts, **update))
        send(paths, job_id)
        runs.append(paths)
    lines = [os.path.relpath(paths.root, folder) + "\n" for paths in runs]
    (folder / f"runs_{element}.txt").write_text("".join(lines))
    return runs


def mark_turn(folder: Path, turn: str, *, job_id: str = "7", restarts: int = 0) -> None:
    """Says, as the task does, which of how many runs it was at, and how that one ended."""
    (folder / f"{job_id}_{restarts}_turn.txt").write_text(f"{turn}\n")


def make_attempt(job_id: str = "7", restarts: int = 0, **update: Any) -> Attempt:
    began = datetime.now(UTC)
    known = {"host": "n1", "pid": 1, "started_at": began, "peak_rss_mb": 4012.5} | update
    return Attempt(slurm_job_id=job_id, slurm_restarts=restarts, **known)


def send(paths: RunPaths, job_id: str) -> Submission:
    """Says in a run folder that it was given to a job just now."""
    sent = Submission(
        executor="slurm", job_id=job_id, host="", user="", command="", folder="submission"
    )
    write_record(paths.submission, sent)
    return sent


def last_word(paths: RunPaths) -> str | None:
    """Whether the job of a run goes on, as the batch script has said last."""
    ends = [one for one in read_events(paths, None) if one.writer == "batch"]
    return ends[-1].requeue


def states(*runs: RunPaths) -> list[str]:
    return [state_before(read_settled(paths), read_submission(paths)) for paths in runs]


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_run_that_is_to_go_on_is_queued_anew_and_the_code_kept(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], shell: str
) -> None:
    # Slurm starts it with bash, whose traps are not those of POSIX.
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")

    assert finish("exit 75", shell=shell) == 75
    assert requeued() == ["7"]
    assert last_word(paths) == "asked"


def test_the_turn_of_the_task_tells_where_a_killed_one_hides_the_code(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    make_runs(folder, "COMPLETED", "REQUEUED", reason="preempted")
    mark_turn(folder, "2 2 75")

    assert finish("exit 143") == 143
    assert requeued() == ["7"]


def test_an_array_element_is_named_by_both_numbers(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    # The last element's own number is that of the array: by it all elements would be queued anew.
    (paths,) = make_runs(folder, "REQUEUED", element=3, reason="preempted")

    finish("exit 75", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")

    assert requeued() == ["7_3"]
    assert [event.job_id for event in read_events(paths, None)] == ["7_3"]


def test_what_slurm_has_queued_anew_is_not_asked_for(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")

    finish("exit 75", says="JobState=COMPLETING Restarts=1")

    assert requeued() == []
    assert last_word(paths) == "slurm"


@pytest.mark.parametrize("says", [f"{ENDING} PreemptTime=2026-11-24T03:25:53", TIMED_OUT])
def test_a_job_ended_by_preemption_or_its_limit_is_queued_anew(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], says: str
) -> None:
    make_runs(folder, "REQUEUED")

    finish("exit 75", says=says)

    assert requeued() == ["7"]


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_cancelled_job_stays_so_and_its_runs_say_it(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], shell: str
) -> None:
    # A container lacks scontrol: the task could only guess that it was preempted.
    runs = make_runs(folder, "COMPLETED", "REQUEUED", "CREATED", "RUNNING", "FAILED")

    finish("exit 75", says=ENDING, shell=shell)

    assert requeued() == []
    assert states(*runs) == ["COMPLETED", "CANCELLED", "CANCELLED", "CANCELLED", "FAILED"]
    assert read_settled(runs[1]).reason == "cancelled"


def test_a_refused_requeue_leaves_a_failed_run_that_says_why(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted", error="old")

    finish("exit 75", refusal='Requested "operation" is|& presently\\n\tdisabled')

    status = read_settled(paths)
    assert (status.state, status.reason) == ("FAILED", "preempted")
    assert "presently" in str(status.error)
    assert "dnnjob resume" in str(status.error)


def test_a_task_whose_runs_never_begin_is_given_up(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "CREATED")

    finish("exit 75", says=RUNNING.replace("Restarts=0", "Restarts=3"), SLURM_RESTART_COUNT="3")

    assert requeued() == []
    assert "no run began in its last 4 starts" in str(read_settled(paths).error)


def test_starts_before_one_in_which_a_run_began_are_not_counted(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    make_runs(folder, "CREATED")
    mark_turn(folder, "1 1", restarts=2)

    finish("exit 75", says=RUNNING.replace("Restarts=0", "Restarts=4"), SLURM_RESTART_COUNT="4")

    assert requeued() == ["7"]


def test_a_start_whose_job_slurm_has_queued_anew_leaves_the_run_to_the_next(
    folder: Path, finish: Finish
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish("exit 1", says=RUNNING.replace("Restarts=0", "Restarts=1"))

    assert states(paths) == ["RUNNING"]
    assert last_word(paths) == "slurm"


# What it writes


def test_a_run_that_fails_before_its_first_attempt_reads_so_without_slurm(
    folder: Path, finish: Finish
) -> None:
    (paths,) = make_runs(folder, "CREATED")
    # Its clock is ahead of this one.
    sent = send(paths, "7").model_copy(update={"submitted_at": datetime(2100, 1, 1, tzinfo=UTC)})
    write_record(paths.submission, sent)

    finish("exit 1")

    assert states(paths) == ["FAILED"]


def test_no_file_of_a_run_is_changed_and_those_that_are_complete_or_gone_get_none(
    folder: Path, finish: Finish
) -> None:
    at_work, complete, gone = make_runs(folder, "RUNNING", "COMPLETED", "CREATED")
    complete.report.write_text("{}")
    shutil.rmtree(gone.root)
    before = at_work.status.read_bytes(), at_work.submission.read_bytes()

    finish("kill -KILL $$", says=TIMED_OUT)

    assert (at_work.status.read_bytes(), at_work.submission.read_bytes()) == before
    assert [path.name for path in at_work.events.iterdir()] == ["batch-7-0.json"]
    assert at_work.events.joinpath("batch-7-0.json").read_text().count("\n") == 1
    assert not complete.events.exists()
    assert not gone.root.exists()


# Asking for the requeue


@pytest.fixture
def flaky(tmp_path: Path) -> Path:
    """Refusals that Slurm gives before it grants a requeue, one a line."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    return tmp_path / "refusals"


def test_a_requeue_is_asked_for_again_while_the_controller_is_away(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], flaky: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")
    flaky.write_text("Unable to contact slurm controller (connect failure)\n")

    finish("exit 75", FLAKY=str(flaky))

    assert requeued() == ["7", "7"]
    assert last_word(paths) == "asked"
    assert read_settled(paths).state == "REQUEUED"


def test_a_requeue_that_slurm_kills_with_the_job_it_queues_anew_is_no_refusal(
    folder: Path, finish: Finish, flaky: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")
    flaky.write_text("\n")

    finish("exit 75", FLAKY=str(flaky), THEN="")

    assert last_word(paths) == "asked"
    assert read_settled(paths).state == "REQUEUED"


def test_a_cancelled_job_stays_so_though_the_controller_was_away_when_it_ended(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], tmp_path: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")

    finish("exit 75", says="", LATER=ENDING)

    assert requeued() == []
    assert read_settled(paths).state == "CANCELLED"


def test_a_requeue_that_slurm_refuses_since_it_has_made_one_is_none(
    folder: Path, finish: Finish, flaky: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")
    flaky.write_text("Requested operation is presently disabled\n")

    finish("exit 75", FLAKY=str(flaky), THEN=RUNNING.replace("Restarts=0", "Restarts=1"))

    assert last_word(paths) == "slurm"
    assert read_settled(paths).state == "REQUEUED"


def test_errors_are_not_queued_anew(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "FAILED", reason="nan", error="Loss")

    assert finish("exit 1") == 1
    assert requeued() == []
    assert last_word(paths) == "none"
    assert read_settled(paths).error == "Loss"


def test_points_behind_a_killed_one_run_in_the_next_start(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    killed, waiting = make_runs(folder, "RUNNING", "CREATED")
    mark_turn(folder, "1 2")

    finish("echo 'slurmstepd: error: Detected 1 oom-kill event(s)' >>\"$LOG\"; kill -KILL $$")

    assert requeued() == ["7"]
    assert read_settled(killed).reason == "out_of_memory"
    assert read_settled(waiting).state == "CREATED"


def test_memory_that_ran_out_in_an_earlier_start_is_not_told_again(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    earlier, stopped = make_runs(folder, "FAILED", "REQUEUED", reason="preempted")
    (folder / "7_0_log.err").write_text("slurmstepd: error: Detected 1 oom-kill event(s)\n")

    finish("exit 75")

    assert requeued() == ["7"]
    assert read_settled(stopped).state == "REQUEUED"
    assert read_settled(earlier).state == "FAILED"


def test_what_a_library_says_of_a_gpus_memory_does_not_end_a_run(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")

    finish("echo 'Allocator (GPU_0_bfc) ran out of memory' >>\"$LOG\"; exit 75")

    assert requeued() == ["7"]
    assert read_settled(paths).state == "REQUEUED"


def test_a_task_that_gets_nowhere_is_not_tried_again(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    first, second = make_runs(folder, "CREATED", "CREATED")

    finish("exit 1")

    assert requeued() == []
    for paths in (first, second):
        assert read_settled(paths).state == "FAILED"
        assert "exit code 1" in str(read_settled(paths).error)


def test_a_warning_that_comes_before_the_task_can_listen_loses_nothing(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "CREATED")

    finish("kill -USR2 $$")

    assert requeued() == ["7"]
    assert read_settled(paths).state == "CREATED"


def test_a_task_that_waited_in_vain_for_another_is_queued_anew(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish("kill -ALRM $$")

    assert requeued() == ["7"]
    assert read_events(paths, None)[0].reason == "peer_lost"


def test_a_killed_task_without_a_reason_is_an_error(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish("kill -SEGV $$")

    status = read_settled(paths)
    assert (status.state, status.reason) == ("FAILED", "error")
    assert "signal SIGSEGV" in str(status.error)


@pytest.mark.parametrize(
    ("says", "asked", "word"),
    [
        (f"{ENDING.replace('Reason=None', 'Reason=TimeLimit')}", ["7"], "asked"),
        (f"{ENDING} PreemptTime=2026-11-24T03:25:53", ["7"], "asked"),
        (f"{ENDING.replace('Restarts=0', 'Restarts=1')}", [], "slurm"),
    ],
)
def test_a_task_that_slurm_killed_before_it_could_answer_goes_on(
    folder: Path,
    finish: Finish,
    requeued: Callable[[], list[str]],
    says: str,
    asked: list[str],
    word: str,
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish("kill -KILL $$", says=says)

    assert requeued() == asked
    assert last_word(paths) == word
    # The next attempt tells how this one ended.
    assert read_settled(paths).state == "RUNNING"


def test_a_cancelled_task_that_was_killed_before_it_could_answer_is_cancelled(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish("kill -KILL $$", says=ENDING)

    assert requeued() == []
    assert (read_settled(paths).state, read_settled(paths).reason) == ("CANCELLED", "cancelled")


def test_a_killed_task_that_slurm_does_not_queue_anew_says_why(
    folder: Path, finish: Finish
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish(
        "kill -KILL $$", says=ENDING.replace("Reason=None", "Reason=TimeLimit"), refusal="disabled"
    )

    assert (read_settled(paths).state, read_settled(paths).reason) == ("FAILED", "time_limit")
    assert "not queued anew: disabled" in str(read_settled(paths).error)
    assert last_word(paths) == "refused"


def test_the_script_outlives_the_signal_that_its_task_is_given(
    folder: Path, finish: Finish, tmp_path: Path
) -> None:
    """Slurm sends SIGTERM to both: the script must wait for the checkpoint."""
    make_runs(folder, "REQUEUED", reason="preempted")
    (tmp_path / "bin" / "srun").write_text("#!/bin/sh\ntouch $BEGUN; sleep 1; exit 75\n")
    begun = tmp_path / "begun"
    environ = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SAYS": RUNNING,
        "CALLS": str(tmp_path / "calls"),
        "BEGUN": str(begun),
    }
    script = subprocess.Popen(["sh", str(write_script(folder))], env=environ)
    while not begun.exists():
        time.sleep(0.01)

    script.send_signal(signal.SIGTERM)

    assert script.wait(timeout=20) == 75
    assert (tmp_path / "calls").read_text() == "7\n"


def test_the_script_speaks_for_its_task_before_slurm_kills_both() -> None:
    profile = resolve_profile({"executor": "slurm", "time_limit_min": 10}, origin="test")

    def make(kill_wait_s: int) -> str:
        site = slurm.Site("far", kill_wait_s)
        return make_script(profile, folder=Path("/f"), name="x", num_elements=1, site=site)

    assert "dnnjob_patience_s=2\n" in make(5)
    assert "dnnjob_patience_s=8\n" in make(30)


@pytest.mark.parametrize(
    "words",
    [
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0.",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.",
        "srun: error: n1: task 0: Out Of Memory",
        "slurmstepd: error: StepId=7.0 exceeded memory limit (4207411200 > 42), being killed",
    ],
)
def test_out_of_memory_is_told_with_what_was_used(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], words: str
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    mark_turn(folder, "1 1")

    finish(f"echo '{words}' >>\"$LOG\"; kill -KILL $$")

    status = read_settled(paths)
    assert requeued() == []
    assert (status.state, status.reason) == ("FAILED", "out_of_memory")
    assert "was seen with 4012 MB" in str(status.error)


def test_a_setup_line_that_fails_ends_the_job_and_is_named(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], tmp_path: Path
) -> None:
    (paths,) = make_runs(folder, "CREATED")
    sourced = tmp_path / "modules.sh"
    sourced.write_text("true\nls /there/is/none\n")
    script = write_script(folder, setup=["true", f". {sourced}", "touch never"])

    done = subprocess.run(
        ["bash", str(script)],
        cwd=folder,
        env={**os.environ, "SLURM_JOB_ID": "7"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert "A setup line of the profile failed with exit code 2: ls /there/is/none" in done.stderr
    assert not (folder / "never").exists()
    assert "ls /there/is/none" in str(read_settled(paths).error)
    assert states(paths) == ["FAILED"]


def test_what_the_script_exports_reaches_its_task_whatever_was_said_to_sbatch(
    folder: Path, finish: Finish
) -> None:
    make_runs(folder, "CREATED")

    # srun hands on what this says, and --export=NONE leaves it behind in the job.
    assert finish('[ -z "${SLURM_EXPORT_ENV+set}" ]', SLURM_EXPORT_ENV="NONE") == 0


def test_why_a_task_is_ended_is_noted_at_once_in_case_both_are_killed_soon(
    folder: Path, finish: Finish, tmp_path: Path
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    begun = tmp_path / "begun"
    (tmp_path / "bin" / "srun").write_text(
        f"#!/bin/sh\ntrap '' TERM\ntouch {shlex.quote(str(begun))}\nsleep 60 & wait\nwait\n"
    )
    environ = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SAYS": f"{RUNNING.replace(' PreemptTime=None', '')} PreemptTime=2026-11-24T03:25:53",
        "CALLS": str(tmp_path / "calls"),
    }
    script = subprocess.Popen(
        ["sh", str(write_script(folder))], env=environ, start_new_session=True
    )
    try:
        wait_until(begun.exists, seconds=20)
        os.killpg(script.pid, signal.SIGTERM)
        # Long before it would speak for the task.
        wait_until(lambda: read_events(paths, None), seconds=6, every=0.05)
    finally:
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()

    (end,) = read_events(paths, None)
    assert (end.requeue, end.reason) == ("asked", "preempted")
