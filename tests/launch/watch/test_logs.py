"""What tasks of a run said."""

import threading
from pathlib import Path

import pytest

from dnnjob.errors import JobError
from dnnjob.launch.watch import wait
from dnnjob.launch.watch.logs import logs_command
from dnnjob.runs import RunPaths, write_status
from tests.launch.watch.made import attempt_here, make_run, send, status


def say(paths: RunPaths, text: str, *, attempt: int = 1, rank: int = 0) -> Path:
    log = paths.log(attempt=attempt, rank=rank)
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as file:
        file.write(text)
    return log


def read_logs(
    paths: RunPaths,
    capsys: pytest.CaptureFixture[str],
    *,
    task: int | None = None,
    follow: bool = False,
) -> str:
    logs_command(paths.root, task=task, follow=follow)
    return capsys.readouterr().out


@pytest.fixture
def done(root: Path) -> RunPaths:
    return make_run(root, told=status("COMPLETED"))


def test_attempts_come_in_order_each_under_its_name(
    done: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    tenth = say(done, "ten\n", attempt=10)
    second = say(done, "two\n", attempt=2)

    assert read_logs(done, capsys) == f"==> {second} <==\ntwo\n\n==> {tenth} <==\nten\n"


def test_each_task_has_its_own_log(done: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    say(done, "chief\n")
    say(done, "follower\n", rank=1)

    assert read_logs(done, capsys, task=1).endswith("<==\nfollower\n")


def test_a_run_of_several_tasks_says_how_to_see_the_others(
    done: RunPaths, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dnnjob")
    for rank in (0, 1, 2):
        say(done, f"said by {rank}\n", rank=rank)

    shown = read_logs(done, capsys)

    assert "said by 0" in shown
    assert "said by 1" not in shown
    assert "--task 1, --task 2" in caplog.text


def test_what_is_no_text_is_shown_as_far_as_it_is(
    done: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    say(done, "").write_bytes(b"before \xff after\n")

    assert "before \N{REPLACEMENT CHARACTER} after" in read_logs(done, capsys)


def test_the_output_of_the_job_comes_where_dnnjob_kept_no_log(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_run(root, told=status("FAILED"))
    send(paths, "12_3")
    (paths.submission_folder / "12_3_0_log.err").write_text("no such module\n")
    (paths.submission_folder / "12_3_0_log.out").write_text("")
    (paths.submission_folder / "12_30_0_log.err").write_text("another point\n")
    (paths.submission_folder / "12_3_1_log.err").write_text("another task\n")

    shown = read_logs(paths, capsys)

    assert shown == f"==> {paths.submission_folder / '12_3_0_log.err'} <==\nno such module\n"


def test_in_the_background_the_output_is_that_of_all_runs_of_the_process(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_run(root, 1, status("FAILED"))
    send(paths, "70", executor="local", cluster=None)
    (paths.submission_folder / "pool.log").write_text("no such module\n")

    assert read_logs(paths, capsys).endswith("<==\nno such module\n")


@pytest.mark.parametrize("state", ["FAILED", "COMPLETED"])
def test_a_failed_run_shows_what_its_job_said_after_its_own_log(
    root: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = make_run(root, told=status(state))
    say(paths, "Training\n")
    send(paths, "7")
    (paths.submission_folder / "7_0_log.err").write_text("oom-kill\n")

    shown = read_logs(paths, capsys)

    assert "Training" in shown
    assert ("oom-kill" in shown) == (state == "FAILED")


def test_a_run_that_said_nothing_yet_tells_its_state(
    done: RunPaths, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dnnjob")

    assert read_logs(done, capsys) == ""
    assert "No log yet: COMPLETED" in caplog.text


def test_a_task_that_the_run_has_not_is_refused(done: RunPaths) -> None:
    with pytest.raises(JobError, match=r"this one has 1, but --task is 4"):
        logs_command(done.root, task=4, follow=False)


def test_following_shows_what_comes_and_ends_with_the_run(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait, "LOOK_S", 0.05)
    paths = make_run(root, told=status("RUNNING", [attempt_here()]))
    say(paths, "first\n")

    def go_on() -> None:
        say(paths, "second\n")
        say(paths, "third\n", attempt=2)
        write_status(paths, status("COMPLETED"))

    later = threading.Timer(0.4, go_on)
    later.start()
    shown = read_logs(paths, capsys, follow=True)
    later.join()

    first, second = paths.log(attempt=1, rank=0), paths.log(attempt=2, rank=0)
    assert shown == f"==> {first} <==\nfirst\nsecond\n\n==> {second} <==\nthird\n"
