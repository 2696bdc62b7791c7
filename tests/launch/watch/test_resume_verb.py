"""Which runs may go on."""

import os
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.config import resolve_profile
from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.dispatch import Dispatch
from dnnjob.launch.submit import follow_profile
from dnnjob.launch.watch import resume_verb
from dnnjob.launch.watch.resume_verb import is_live, resume_command
from dnnjob.launch.watch.run_views import RunView
from dnnjob.runs import (
    Cancel,
    RunPaths,
    Submission,
    claim_attempt,
    load_run_job,
    read_resumption,
    write_record,
    write_resumption,
)
from dnnjob.tasks import Task
from tests.launch.watch.made import ago, attempt, attempt_here, make_run, send, status, submission


def view(state: str, **changes: object) -> RunView:
    values = {"name": "tiny", "run_id": "1", "path": "/r/tiny/1", "state": state, **changes}
    return RunView.model_validate(values)


@pytest.mark.parametrize(
    ("seen", "silent_s", "cancelled", "live"),
    [
        (view("FAILED"), None, False, False),
        (view("CANCELLED"), None, False, False),
        (view("RUNNING", asked="process"), None, False, True),
        (view("CREATED", asked="slurm", job_id="7"), None, False, True),
        (view("REQUEUED", asked="slurm", job_id="7"), None, True, True),
        # Nobody here can ask about these.
        (view("RUNNING"), 5, False, True),
        (view("RUNNING"), 900, False, False),
        # The clock has been set back since.
        (view("RUNNING"), -86_400, False, False),
        (view("REQUEUED", job_id="7"), 900, False, True),
        (view("REQUEUED", job_id="7"), 900, True, False),
        (view("CREATED"), 5, False, False),
        (view("RUNNING", is_copy=True), 5, False, False),
    ],
)
def test_what_may_be_at_work_is_alive(
    seen: RunView, silent_s: float | None, cancelled: bool, live: bool
) -> None:
    heard_of = seen.model_copy(update={"updated_at": None if silent_s is None else ago(silent_s)})

    assert is_live(heard_of, now=datetime.now(UTC), is_cancelled=cancelled) == live


def test_a_live_run_is_refused_with_its_state_and_the_way_out(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt_here()]))

    told = rf"is alive: RUNNING, process {os.getpid()} on .*, last sign of life \d+ s ago"
    with pytest.raises(JobError, match=rf"{told}.*dnnjob cancel {paths.root}"):
        resume_command(paths.root, here=True)


def test_a_run_that_cannot_be_seen_is_refused_with_how_long_silence_may_last(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(host="far")]))

    with pytest.raises(JobError, match=r"on far, .* 120 s without a sign count as its end"):
        resume_command(paths.root, here=True)


def test_a_resume_that_another_overtook_while_it_looked_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_run(root, told=status("FAILED", [attempt_here()]))
    (paths.attempts / "1").mkdir(parents=True)
    look = resume_verb.look

    def look_late(runs: Sequence[RunPaths]) -> list[RunView]:
        views = look(runs)
        claim_attempt(paths, after=1)
        return views

    monkeypatch.setattr(resume_verb, "look", look_late)
    with pytest.raises(JobError, match=r"another `dnnjob resume` .* has just begun attempt 2"):
        resume_command(paths.root, here=True)
    assert sorted(path.name for path in paths.attempts.iterdir()) == ["1", "2"]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were sent again."""
    folders: list[Path] = []

    def note(folder: Path, words: Sequence[str]) -> Submission:
        folders.append(folder)
        return submission("8")

    monkeypatch.setattr(resume_verb, "resubmit", note)
    return folders


@pytest.fixture
def continued(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that went on here."""
    folders: list[Path] = []

    def note(folder: Path, words: Sequence[str], *, after: int) -> ExitCode:
        del words, after
        folders.append(folder)
        return ExitCode.DONE

    monkeypatch.setattr("dnnjob.launch.foreground.resume_foreground", note)
    return folders


@pytest.fixture
def failed(root: Path) -> RunPaths:
    """A run that was submitted and has failed."""
    paths = make_run(root, told=status("FAILED", [attempt(slurm_job_id="7", ended_at=ago(5))]))
    send(paths, "7")
    paths.profile.write_text('executor = "slurm"\ntime_limit_min = 10\n')
    write_record(paths.cancel, Cancel())
    return paths


def test_a_submitted_run_is_sent_again(
    failed: RunPaths, sent: list[Path], continued: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume_command(failed.root, here=False) == ExitCode.DONE

    assert (sent, continued) == ([failed.root], [])
    assert capsys.readouterr().out == f"{failed.root}\n"


def test_here_goes_on_here_and_takes_the_wish_to_stop_back(
    failed: RunPaths, sent: list[Path], continued: list[Path]
) -> None:
    resume_command(failed.root, here=True)

    assert (sent, continued) == ([], [failed.root])
    assert not failed.cancel.exists()


def test_a_run_without_a_profile_goes_on_here(
    failed: RunPaths, sent: list[Path], continued: list[Path]
) -> None:
    failed.profile.unlink()

    resume_command(failed.root, here=False)

    assert (sent, continued) == ([], [failed.root])


def test_a_completed_run_is_left_alone(root: Path, sent: list[Path]) -> None:
    paths = make_run(root, told=status("COMPLETED"))
    paths.profile.write_text('executor = "slurm"\ntime_limit_min = 10\n')
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert resume_command(paths.root, here=False) == ExitCode.DONE

    assert sent == []
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("word", ["train.epochs=5", "devices.precision=tf32", "devices={}"])
def test_another_job_is_refused_as_another_run(
    failed: RunPaths, sent: list[Path], continued: list[Path], word: str
) -> None:
    command = re.escape(f"`dnnjob run {failed.job} {shlex.quote(word)}`")
    with pytest.raises(JobError, match=rf"got '{word}'.* {command}"):
        resume_command(failed.root, [word], here=True)

    assert (sent, continued) == ([], [])
    assert failed.cancel.exists()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["devices.tasks=0"], "devices.tasks: must be greater"),
        (["devices.thread=1"], "Did you mean devices.threads"),
        (["devices.kind=cpu", "devices.require_gpu=true"], "contradicts"),
    ],
)
def test_other_devices_are_checked_with_the_whole_job(
    failed: RunPaths, continued: list[Path], words: list[str], fault: str
) -> None:
    before = failed.job.read_bytes()

    with pytest.raises(JobError, match=fault):
        resume_command(failed.root, words, here=True)

    assert continued == []
    assert failed.job.read_bytes() == before


def test_a_profile_is_for_runs_that_are_submitted_again(
    failed: RunPaths, continued: list[Path]
) -> None:
    with pytest.raises(JobError, match=r"goes on in the foreground: profile\.nodes=2"):
        resume_command(failed.root, ["profile.nodes=2"], here=True)

    assert continued == []


def test_a_slurm_job_has_the_tasks_of_its_profile(failed: RunPaths) -> None:
    with pytest.raises(JobError, match=r"devices.tasks = 3. .* profile.tasks_per_node=3"):
        resume_command(failed.root, ["devices.tasks=3"], here=False)

    assert failed.cancel.exists()


@pytest.mark.parametrize(
    ("changes", "words", "following"),
    [
        ({}, [], []),
        ({"tasks_per_node": 2}, [], ["devices.tasks=2"]),
        ({"tasks_per_node": 2}, ["devices.tasks=2"], []),
        ({"cpus_per_task": 4}, [], ["devices.threads=4"]),
        ({"cpus_per_task": 4}, ["devices.threads=1"], []),
        ({"executor": "slurm", "time_limit_min": 9}, [], ["devices.tasks=1"]),
    ],
)
def test_tasks_and_threads_follow_the_profile_unless_they_are_given(
    changes: dict[str, object], words: list[str], following: list[str]
) -> None:
    before = resolve_profile({"executor": "local"}, origin="test")
    now = resolve_profile({"executor": "local", **changes}, origin="test")

    assert follow_profile(words, before, now) == following


def test_a_slurm_job_counts_its_cores_anew() -> None:
    values = {"executor": "slurm", "time_limit_min": 9}
    before = resolve_profile({**values, "cpus_per_task": 4}, origin="test")
    now = resolve_profile({**values, "cpus_per_task": 2}, origin="test")

    assert follow_profile([], before, now) == ["devices.tasks=1", "devices.threads=0"]


@pytest.fixture
def attempted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Tasks and threads of the job that each attempt in the foreground would have begun with."""
    devices: list[tuple[int, int]] = []

    def note(paths: RunPaths, **_: object) -> ExitCode:
        job = load_run_job(paths)
        devices.append((job.devices.tasks, job.devices.threads))
        return ExitCode.DONE

    monkeypatch.setattr("dnnjob.launch.foreground.run_attempt", note)
    monkeypatch.setattr("dnnjob.launch.foreground.run_local_tasks", note)
    return devices


def test_other_devices_wait_in_the_run_folder_until_the_next_resume(
    failed: RunPaths, attempted: list[tuple[int, int]]
) -> None:
    before = failed.job.read_bytes()

    resume_command(failed.root, ["devices.threads=3", "devices.tasks=2"], here=True)
    resume_command(failed.root, ["devices.threads=4"], here=True)
    left = read_resumption(failed).devices
    resume_command(failed.root, here=True)

    assert attempted == [(2, 3), (1, 4), (1, 0)]
    assert left == {"threads": 4}
    assert not failed.resumption.exists()
    assert failed.job.read_bytes() == before


def test_another_task_of_a_step_leaves_what_is_asked_for_to_the_chief(
    failed: RunPaths, attempted: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_resumption(failed, {"threads": 5})
    monkeypatch.setattr("dnnjob.launch.watch.resume_verb.find_task", lambda: Task(1, 2, "step"))
    monkeypatch.setattr("dnnjob.launch.foreground.find_task", lambda: Task(1, 2, "step"))

    resume_command(failed.root, ["devices.threads=3"], here=True)

    assert attempted == [(1, 5)]


@pytest.mark.parametrize("before", [{}, {"threads": 5}])
def test_what_cannot_be_sent_again_leaves_what_was_asked_before(
    failed: RunPaths, monkeypatch: pytest.MonkeyPatch, before: dict[str, int]
) -> None:
    write_resumption(failed, before)
    asked: list[dict[str, object]] = []

    def refuse(*_: object) -> list[Submission]:
        asked.append(read_resumption(failed).devices)
        raise JobError("No room.")

    monkeypatch.setattr(Dispatch, "send", refuse)

    with pytest.raises(JobError, match="No room"):
        resume_command(failed.root, ["devices.threads=3"], here=False)

    assert asked == [{"threads": 3, "tasks": 1}]
    assert read_resumption(failed).devices == before
    assert failed.cancel.exists()
