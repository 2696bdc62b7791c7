"""The end of a batch script, in the plainest shell there is, with Slurm's answers put in.

The real Slurm gives them in tests/slurm; here each of them comes in a moment.
"""

import json
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
from dnnjob.launch.watch.state import state_before
from dnnjob.runs import (
    Attempt,
    RunPaths,
    State,
    Status,
    Submission,
    read_batch_end,
    read_status,
    read_submission,
    write_status,
    write_submission,
)
from tests.slurm.clusters import wait_until

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


@pytest.fixture(params=["dash", "bash"])
def finish(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Finish:
    """Runs a batch script whose task ends with a code; its own code."""
    # Slurm starts it with bash, whose traps are not those of POSIX.
    shell = shutil.which(request.param) or pytest.skip(f"there is no {request.param} here")
    (tmp_path / "bin").mkdir(exist_ok=True)
    (tmp_path / "bin" / "scontrol").write_text(SCONTROL)
    (tmp_path / "bin" / "srun").write_text('#!/bin/sh\nsh -c "$TASK"\n')
    for file in (tmp_path / "bin").iterdir():
        file.chmod(0o755)

    def finish(task: str, *, says: str = RUNNING, refusal: str = "", **environ: str) -> int:
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


def make_attempt(job_id: str = "7", restarts: int = 0, **update: Any) -> Attempt:
    began = datetime.now(UTC)
    known = {"host": "n1", "pid": 1, "started_at": began, "peak_rss_mb": 4012.5} | update
    return Attempt(slurm_job_id=job_id, slurm_restarts=restarts, **known)


def send(paths: RunPaths, job_id: str) -> Submission:
    """Says in a run folder that it was given to a job just now."""
    sent = Submission(
        executor="slurm", job_id=job_id, host="", user="", command="", folder="submission"
    )
    write_submission(paths, sent)
    return sent


def last_word(folder: Path, job_id: str = "7") -> str:
    submission = Submission(
        executor="slurm", job_id=job_id, host="", user="", command="", folder="submission"
    )
    end = read_batch_end(RunPaths(folder.parent), submission)
    assert end is not None
    return end.requeue


def test_a_run_that_is_to_go_on_is_queued_anew_and_the_code_kept(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    make_runs(folder, "REQUEUED", reason="preempted")

    assert finish("exit 75") == 75
    assert requeued() == ["7"]
    assert last_word(folder) == "asked"


def test_the_status_tells_where_a_killed_task_hides_the_code(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    make_runs(folder, "COMPLETED", "REQUEUED", reason="preempted")

    assert finish("exit 143") == 143
    assert requeued() == ["7"]


def test_an_array_element_is_named_by_both_numbers(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    # The last element's own number is that of the array: by it all elements would be queued anew.
    make_runs(folder, "REQUEUED", element=3, reason="preempted")

    finish("exit 75", SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="3")

    assert requeued() == ["7_3"]
    assert last_word(folder, "7_3") == "asked"


def test_what_slurm_has_queued_anew_is_not_asked_for(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    make_runs(folder, "REQUEUED", reason="preempted")

    finish("exit 75", says="JobState=COMPLETING Restarts=1")

    assert requeued() == []
    assert last_word(folder) == "slurm"


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (f"{ENDING} PreemptTime=2026-11-24T03:25:53", "preempted"),
        (ENDING.replace("Reason=None", "Reason=TimeLimit"), "time_limit"),
    ],
)
def test_a_job_ended_by_preemption_or_its_limit_is_queued_anew(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], says: str, reason: str
) -> None:
    make_runs(folder, "REQUEUED", reason=reason)

    finish("exit 75", says=says)

    assert requeued() == ["7"]


def test_a_cancelled_job_stays_so_and_its_runs_say_it(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    # A container lacks scontrol: the task could only guess that it was preempted.
    done, stopped, waiting = make_runs(folder, "COMPLETED", "REQUEUED", "CREATED")

    finish("exit 75", says=ENDING)

    assert requeued() == []
    assert last_word(folder) == "cancelled"
    assert [read_status(paths).state for paths in (done, stopped, waiting)] == [
        "COMPLETED",
        "CANCELLED",
        "CANCELLED",
    ]
    assert read_status(stopped).reason == "cancelled"


def test_a_refused_requeue_leaves_a_failed_run_that_says_why(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted", error="old")

    finish("exit 75", refusal='Requested "operation" is|& presently\\ndisabled')

    status = read_status(paths)
    assert (status.state, status.reason) == ("FAILED", "preempted")
    assert "presently" in str(status.error)
    assert "dnnjob resume" in str(status.error)
    assert last_word(folder) == "refused"


def test_a_killed_run_is_not_queued_anew_for_ever_and_its_neighbours_are(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    spent, waiting = make_runs(folder, "RUNNING", "CREATED")
    attempts = tuple(make_attempt(restarts=restarts) for restarts in range(6))
    write_status(spent, Status(state="RUNNING", attempts=attempts))

    again = {"says": TIMED_OUT.replace("Restarts=0", "Restarts=5"), "SLURM_RESTART_COUNT": "5"}
    finish("kill -KILL $$", **again)

    assert (read_status(spent).state, read_status(spent).reason) == ("FAILED", "time_limit")
    assert "queued anew at most 5 times" in str(read_status(spent).error)
    assert read_status(waiting).state == "CREATED"
    assert requeued() == ["7"]


def test_the_starts_of_a_task_are_not_counted_against_each_of_its_runs(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    *_, late = make_runs(folder, "COMPLETED", "RUNNING")
    write_status(late, Status(state="RUNNING", attempts=(make_attempt(restarts=30),)))

    again = {"says": TIMED_OUT.replace("Restarts=0", "Restarts=30"), "SLURM_RESTART_COUNT": "30"}
    finish("kill -KILL $$", **again)

    assert requeued() == ["7"]


def test_a_task_whose_runs_never_begin_is_given_up(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "CREATED")

    finish("exit 75", says=RUNNING.replace("Restarts=0", "Restarts=3"), SLURM_RESTART_COUNT="3")

    assert requeued() == []
    assert "no run began in its last 4 starts" in str(read_status(paths).error)


def test_a_job_cancelled_near_its_time_limit_stays_so(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    # Without Slurm's commands the task goes by the clock.
    failed, stopped = make_runs(folder, "FAILED", "REQUEUED", reason="time_limit")

    finish("exit 75", says=ENDING)

    assert requeued() == []
    assert read_status(failed).state == "FAILED"
    assert (read_status(stopped).state, read_status(stopped).reason) == ("CANCELLED", "cancelled")


# Whose a run is


def test_a_run_that_was_sent_again_is_left_to_its_new_job(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    taken, again, mine = make_runs(folder, "RUNNING", "REQUEUED", "RUNNING")
    for paths, state in ((taken, "RUNNING"), (again, "REQUEUED")):
        write_status(paths, Status(state=state, attempts=(make_attempt("7"), make_attempt("9"))))
        send(paths, "9")

    finish("exit 1")

    assert [read_status(paths).state for paths in (taken, again, mine)] == [
        "RUNNING",
        "REQUEUED",
        "FAILED",
    ]
    assert requeued() == []


def test_a_start_that_comes_back_late_says_nothing_of_a_later_one(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "RUNNING")
    attempts = (make_attempt(ended_at=datetime.now(UTC)), make_attempt(restarts=1))
    write_status(paths, Status(state="RUNNING", attempts=attempts))
    (folder / "7_ended.json").write_text('{"exit_code": 0, "requeue": "none", "restarts": 1}')

    # Where Slurm does not answer, too.
    for says in (RUNNING.replace("Restarts=0", "Restarts=1"), ""):
        finish("kill -KILL $$", says=says)

    assert read_status(paths).state == "RUNNING"
    assert requeued() == []
    assert json.loads((folder / "7_ended.json").read_text())["restarts"] == 1


def test_a_start_whose_job_slurm_has_queued_anew_leaves_the_run_to_the_next(
    folder: Path, finish: Finish
) -> None:
    (paths,) = make_runs(folder, "RUNNING")

    finish("exit 1", says=RUNNING.replace("Restarts=0", "Restarts=1"))

    assert read_status(paths).state == "RUNNING"
    assert last_word(folder) == "slurm"


# What it writes


def test_a_run_that_fails_before_its_first_attempt_reads_so_without_slurm(
    folder: Path, finish: Finish
) -> None:
    (paths,) = make_runs(folder, "CREATED")
    # Its clock is ahead of this one.
    sent = send(paths, "7").model_copy(update={"submitted_at": datetime(2100, 1, 1, tzinfo=UTC)})
    write_submission(paths, sent)

    finish("exit 1")

    assert state_before(read_status(paths), read_submission(paths)) == "FAILED"


def test_a_resumed_run_whose_job_never_began_it_says_why(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "FAILED", reason="nan", error="Loss")
    before = (make_attempt("6", ended_at=datetime.now(UTC), reason="nan"),)
    write_status(paths, Status(state="FAILED", reason="nan", error="Loss", attempts=before))
    send(paths, "7")

    finish("exit 9")

    status = read_status(paths)
    assert "exit code 9" in str(status.error)
    assert status.attempts == before
    assert state_before(status, read_submission(paths)) == "FAILED"


def test_an_end_that_the_script_tells_ends_the_attempt(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "RUNNING")

    finish("echo 'slurmstepd: error: Detected 1 oom-kill event(s)' >>\"$LOG\"; kill -KILL $$")

    (attempt,) = read_status(paths).attempts
    assert attempt.reason == "out_of_memory"
    assert attempt.ended_at is not None
    assert attempt.ended_at >= attempt.started_at.replace(microsecond=0)


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
    assert last_word(folder) == "asked"
    assert read_status(paths).state == "REQUEUED"


def test_a_requeue_that_slurm_kills_with_the_job_it_queues_anew_is_no_refusal(
    folder: Path, finish: Finish, flaky: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")
    flaky.write_text("\n")

    finish("exit 75", FLAKY=str(flaky), THEN="")

    assert last_word(folder) == "asked"
    assert read_status(paths).state == "REQUEUED"


def test_a_cancelled_job_stays_so_though_the_controller_was_away_when_it_ended(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], tmp_path: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")

    finish("exit 75", says="", LATER=ENDING)

    assert requeued() == []
    assert read_status(paths).state == "CANCELLED"


def test_a_requeue_that_slurm_refuses_since_it_has_made_one_is_none(
    folder: Path, finish: Finish, flaky: Path
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")
    flaky.write_text("Requested operation is presently disabled\n")

    finish("exit 75", FLAKY=str(flaky), THEN=RUNNING.replace("Restarts=0", "Restarts=1"))

    assert last_word(folder) == "slurm"
    assert read_status(paths).state == "REQUEUED"


def test_errors_are_not_queued_anew(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "FAILED", reason="nan", error="Loss")

    assert finish("exit 1") == 1
    assert requeued() == []
    assert last_word(folder) == "none"
    assert read_status(paths).error == "Loss"


@pytest.mark.parametrize(
    "words",
    [
        "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0.",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0.",
        "srun: error: n1: task 0: Out Of Memory",
        "slurmstepd: error: StepId=7.0 exceeded memory limit (4207411200 > 42), being killed",
    ],
)
def test_out_of_memory_is_told_with_what_was_asked_and_used(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]], words: str
) -> None:
    (paths,) = make_runs(folder, "RUNNING")

    finish(f"echo '{words}' >>\"$LOG\"; kill -KILL $$")

    status = read_status(paths)
    assert requeued() == []
    assert (status.state, status.reason) == ("FAILED", "out_of_memory")
    assert "asked for 4 GB and was seen with 4012 MB" in str(status.error)


def test_points_behind_a_killed_one_run_in_the_next_start(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    killed, waiting = make_runs(folder, "RUNNING", "CREATED")

    finish("echo 'slurmstepd: error: Detected 1 oom-kill event(s)' >>\"$LOG\"; kill -KILL $$")

    assert requeued() == ["7"]
    assert read_status(killed).reason == "out_of_memory"
    assert read_status(waiting).state == "CREATED"


def test_memory_that_ran_out_in_an_earlier_start_is_not_told_again(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    earlier, stopped = make_runs(folder, "FAILED", "REQUEUED", reason="preempted")
    (folder / "7_0_log.err").write_text("slurmstepd: error: Detected 1 oom-kill event(s)\n")

    finish("exit 75")

    assert requeued() == ["7"]
    assert read_status(stopped).state == "REQUEUED"
    assert read_status(earlier).state == "FAILED"


def test_what_a_library_says_of_a_gpus_memory_does_not_end_a_run(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "REQUEUED", reason="preempted")

    finish("echo 'Allocator (GPU_0_bfc) ran out of memory' >>\"$LOG\"; exit 75")

    assert requeued() == ["7"]
    assert read_status(paths).state == "REQUEUED"


def test_a_task_that_gets_nowhere_is_not_tried_again(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    first, second = make_runs(folder, "CREATED", "CREATED")

    finish("exit 1")

    assert requeued() == []
    for paths in (first, second):
        assert read_status(paths).state == "FAILED"
        assert "exit code 1" in str(read_status(paths).error)


def test_a_warning_that_comes_before_the_task_can_listen_loses_nothing(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "CREATED")

    finish("kill -USR2 $$")

    assert requeued() == ["7"]
    assert read_status(paths).state == "CREATED"


def test_a_task_that_waited_in_vain_for_another_is_queued_anew(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    make_runs(folder, "RUNNING")

    finish("kill -ALRM $$")

    assert requeued() == ["7"]
    assert last_word(folder) == "asked"


def test_a_killed_task_without_a_reason_is_an_error(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "RUNNING")

    finish("kill -SEGV $$")

    status = read_status(paths)
    assert (status.state, status.reason) == ("FAILED", "error")
    assert "7_0_log.err" in str(status.error)


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

    finish("kill -KILL $$", says=says)

    assert requeued() == asked
    assert last_word(folder) == word
    # The next attempt tells how this one ended.
    assert read_status(paths).state == "RUNNING"


def test_a_cancelled_task_that_was_killed_before_it_could_answer_is_cancelled(
    folder: Path, finish: Finish, requeued: Callable[[], list[str]]
) -> None:
    (paths,) = make_runs(folder, "RUNNING")

    finish("kill -KILL $$", says=ENDING)

    assert requeued() == []
    assert (read_status(paths).state, read_status(paths).reason) == ("CANCELLED", "cancelled")


def test_a_killed_task_that_slurm_does_not_queue_anew_says_why(
    folder: Path, finish: Finish
) -> None:
    (paths,) = make_runs(folder, "RUNNING")

    finish(
        "kill -KILL $$", says=ENDING.replace("Reason=None", "Reason=TimeLimit"), refusal="disabled"
    )

    assert (read_status(paths).state, read_status(paths).reason) == ("FAILED", "time_limit")
    assert "not queued anew: disabled" in str(read_status(paths).error)
    assert last_word(folder) == "refused"


def test_failing_setup_lines_end_the_job_and_say_so(folder: Path, finish: Finish) -> None:
    (paths,) = make_runs(folder, "CREATED")
    script = write_script(folder, setup=["true", "false", "touch never"])

    done = subprocess.run(
        ["sh", str(script)], cwd=folder, env={**os.environ, "SLURM_JOB_ID": "7"}, check=False
    )

    assert done.returncode == 1
    assert not (folder / "never").exists()
    assert read_status(paths).state == "FAILED"


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
        wait_until((folder / "7_ended.json").exists, seconds=6, every=0.05)
    finally:
        os.killpg(script.pid, signal.SIGKILL)
        script.wait()

    end = read_batch_end(paths, send(paths, "7").model_copy(update={"folder": str(folder)}))
    assert end is not None
    assert (end.requeue, end.reason) == ("asked", "preempted")


def test_the_script_speaks_for_its_task_before_slurm_kills_both() -> None:
    profile = resolve_profile({"executor": "slurm", "time_limit_min": 10}, origin="test")

    def make(kill_wait_s: int) -> str:
        site = slurm.Site("far", kill_wait_s)
        return make_script(profile, folder=Path("/f"), name="x", num_elements=1, site=site)

    assert "dnnjob_patience_s=2\n" in make(5)
    assert "dnnjob_patience_s=8\n" in make(30)


def test_a_job_without_runs_only_leaves_its_code(folder: Path, finish: Finish) -> None:
    assert finish("exit 4") == 4
    assert json.loads((folder / "7_ended.json").read_text())["exit_code"] == 4
