"""Which runs may go on."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.watch import resume
from dnnjob.launch.watch.resume import is_live, resume_command
from dnnjob.launch.watch.state import RunView
from dnnjob.runs import Cancel, RunPaths, Submission, write_cancel
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

    with pytest.raises(JobError, match=rf"is alive: RUNNING\. .*dnnjob cancel {paths.root}"):
        resume_command(paths.root, here=True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that were sent again."""
    folders: list[Path] = []

    def note(folder: Path) -> Submission:
        folders.append(folder)
        return submission("8")

    monkeypatch.setattr(resume, "resubmit", note)
    return folders


@pytest.fixture
def continued(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs that went on here."""
    folders: list[Path] = []

    def note(folder: Path) -> ExitCode:
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
    write_cancel(paths, Cancel())
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
