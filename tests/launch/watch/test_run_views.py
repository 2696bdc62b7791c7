"""What is read, seen and asked of runs before their state is judged."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from dnnjob.launch.watch.run_views import RunView, glance, look
from dnnjob.launch.watch.slurm_answer import Answer
from dnnjob.machine import process_key
from dnnjob.runs import JobView, RunPaths, write_status
from dnnjob.runs.records import Maker
from tests.launch.watch.made import CLUSTER, ago, attempt, attempt_here, make_run, send, status


class Slurm:
    """Stands for Slurm, and remembers what it was asked."""

    def __init__(self, *, cluster: str | None = CLUSTER, fault: str | None = None, **jobs: JobView):
        self.answer = Answer(cluster, {name.lstrip("j"): job for name, job in jobs.items()}, fault)
        self.asked: list[tuple[set[str], set[str]]] = []

    def __call__(self, job_ids: Collection[str], *, begun: Collection[str]) -> Answer:
        self.asked.append((set(job_ids), set(begun)))
        return self.answer


def see(paths: RunPaths, slurm: Slurm | None = None) -> RunView:
    (view,) = look([paths], ask=slurm or Slurm())
    return view


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


# Slurm


def test_all_jobs_are_asked_for_at_once_and_only_those_of_open_runs(root: Path) -> None:
    slurm = Slurm()
    send(make_run(root, 1), "1")
    begun = attempt(slurm_job_id="2_5")
    send(make_run(root, 2, status("RUNNING", [begun])), "2_5")
    send(make_run(root, 3, status("COMPLETED")), "3")
    make_run(root, 4)

    look([RunPaths(folder) for folder in sorted((root / "tiny").iterdir())], ask=slurm)

    assert slurm.asked == [({"1", "2_5"}, {"2_5"})]


def test_without_open_jobs_slurm_is_left_alone(root: Path) -> None:
    slurm = Slurm()
    see(make_run(root, told=status("COMPLETED")), slurm)
    see(make_run(root, 2, status("RUNNING", [attempt_here()])), slurm)
    assert slurm.asked == []


def test_a_run_that_ends_while_slurm_is_asked_is_not_lost(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=900))
    send(paths, "7")

    class Slow(Slurm):
        def __call__(self, job_ids: Collection[str], *, begun: Collection[str]) -> Answer:
            write_status(paths, status("COMPLETED", [attempt(slurm_job_id="7")]))
            return Answer(CLUSTER, {})

    assert see(paths, Slow()).state == "COMPLETED"


def test_the_job_of_a_step_without_a_submission_is_asked_for(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=900))
    assert see(paths, Slurm(j7=JobView(state="RUNNING", nodes="n3"))).nodes == "n3"
    assert see(paths, Slurm()).reason == "vanished"


def test_another_clusters_job_with_the_same_id_is_not_this_one(root: Path) -> None:
    paths = make_run(root)
    send(paths, "7")
    beta = Slurm(cluster="beta", j7=JobView(state="RUNNING"))

    view = see(paths, beta)

    assert (view.state, view.job_state, view.asked) == ("CREATED", None, "unknown")
    assert f"on the cluster {CLUSTER}" in str(view.note)


def test_books_that_do_not_answer_make_nothing_vanish(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=900))
    send(paths, "7")

    view = see(paths, Slurm(fault="sacct says: no"))

    assert (view.state, view.is_over) == ("RUNNING", False)
    assert "accounting does not answer" in str(view.note)


def test_the_job_of_somebody_else_that_slurm_does_not_show_may_be_alive(root: Path) -> None:
    # As under PrivateData=jobs, where both squeue and sacct leave it out without a word.
    begun = status("RUNNING", [attempt(slurm_job_id="7")], silent_s=900)
    theirs, mine = make_run(root, 1, begun), make_run(root, 2, begun)
    send(theirs, "7", user="zoe")
    send(mine, "7")

    view = see(theirs)

    assert (view.state, view.is_over, view.asked) == ("RUNNING", False, "unknown")
    assert "in a job of zoe" in str(view.note)
    assert see(mine).reason == "vanished"


def test_a_step_without_a_submission_is_whose_the_folder_is(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=900))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    assert see(paths).state == "RUNNING"


def test_a_glance_leaves_slurm_alone_and_guesses_nothing(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")]))
    send(paths, "7")

    (view,) = glance([paths])

    assert (view.state, view.note) == ("RUNNING", None)


def test_a_copied_run_is_told_from_the_run(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=7200))
    send(paths, "7")
    copied = RunPaths(Path(shutil.copytree(paths.root, root / "copy" / paths.run_id)))
    slurm = Slurm()

    view = see(copied, slurm)

    assert slurm.asked == []
    assert view.is_copy
    assert view.note == f"last sign of life 2 h ago, a copy of {paths.root}"


def test_a_link_to_a_run_is_no_copy(root: Path) -> None:
    paths = make_run(root)
    send(paths, "7")
    link = root / "link"
    link.symlink_to(paths.root)

    assert not see(RunPaths(link), Slurm(j7=JobView(state="PENDING"))).is_copy


# Processes of this machine


def test_a_living_process_is_at_work_and_a_dead_one_has_vanished(
    root: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    key = process_key(sleeper.pid)
    begun = attempt(host=socket.gethostname(), pid=sleeper.pid, process=key)
    paths = make_run(root, told=status("RUNNING", [begun], silent_s=5))

    assert see(paths).state == "RUNNING"
    sleeper.kill()
    sleeper.wait()

    assert (see(paths).state, see(paths).reason) == ("FAILED", "vanished")


def test_a_run_of_another_host_tells_its_last_sign_of_life(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(host="far")], silent_s=3 * 3600))
    assert see(paths).note == "last sign of life 3 h ago, on far"


def test_a_local_run_waits_as_long_as_the_process_that_is_to_begin_it_lives(
    root: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    paths = make_run(root, told=status("CREATED", silent_s=900))
    send(
        paths,
        str(sleeper.pid),
        executor="local",
        cluster=None,
        host=socket.gethostname(),
        process=process_key(sleeper.pid),
    )

    assert see(paths).state == "CREATED"
    sleeper.kill()
    sleeper.wait()

    assert see(paths).reason == "vanished"


def test_a_run_that_no_attempt_went_on_with_has_vanished_with_the_process_that_made_it(
    root: Path, sleeper: "subprocess.Popen[bytes]"
) -> None:
    key = process_key(sleeper.pid)
    maker = Maker(host=socket.gethostname(), pid=sleeper.pid, process=key)
    paths = make_run(root, told=status("CREATED", made_by=maker))

    assert (see(paths).state, see(paths).asked) == ("CREATED", "unknown")
    sleeper.kill()
    sleeper.wait()

    assert (see(paths).state, see(paths).reason) == ("FAILED", "vanished")


def test_a_run_that_went_on_here_is_no_job_any_more(root: Path) -> None:
    before = attempt(900, slurm_job_id="7", ended_at=ago(300), reason="cancelled")
    paths = make_run(root, told=status("RUNNING", [before, attempt_here()]))
    send(paths, "7", sent_s=900)
    slurm = Slurm()

    view = see(paths, slurm)

    assert (view.state, view.job_id, view.process) == ("RUNNING", None, os.getpid())
    assert slurm.asked == []


# Files that cannot be read


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda path: path.write_text("{"), "its status.json is damaged"),
        (lambda path: path.unlink(), "there is no status.json"),
        (lambda path: (path.unlink(), path.mkdir()), "unreadable: Is a directory"),
    ],
)
def test_a_run_that_cannot_be_read_is_a_line_with_its_fault(
    root: Path, break_it: object, told: str
) -> None:
    paths = make_run(root)
    break_it(paths.status)  # type: ignore[operator]

    view = see(paths)

    assert (view.state, view.note) == (None, told)


def test_looking_changes_nothing(root: Path) -> None:
    paths = make_run(root, told=status("RUNNING", [attempt(slurm_job_id="7")], silent_s=900))
    send(paths, "7")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}

    see(paths)

    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
