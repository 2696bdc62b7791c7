"""Ten thousand runs, fifty writers at once, and another user."""

import json
import multiprocessing
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from dnnjob.collect.collected_runs import read_runs
from dnnjob.config import resolve_job
from dnnjob.results.report import Report, write_report
from dnnjob.runs import Journal, create_run
from tests.collect.make_runs import (
    Wish,
    make_job,
    make_report,
    make_root,
    write_predictions,
    write_run,
)

CHECKOUT = Path(__file__).parents[2]
COLLECT = """
import json, logging, resource, sys
from pathlib import Path
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
from dnnjob.collect.commands import collect_command
code = collect_command(Path(sys.argv[1]))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "cpu_s": usage.ru_utime + usage.ru_stime,
    # Not ru_maxrss, which starts at the size of the process that forked this one.
    "peak_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024,
}), file=sys.stderr)
sys.exit(code)
"""
NUM_WRITERS = 50
SHARED_GROUP = 54321


def collect(root: Path) -> tuple[dict[str, float], str]:
    """Time and memory of `dnnjob collect ROOT` in a process of its own, and its table."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECT, str(root)],
        capture_output=True, text=True, check=True, cwd=CHECKOUT,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stderr.splitlines()[-1])
    return figures, done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_runs_are_remembered_and_take_little_memory(
    root: Path, record_property: Callable[[str, object], None]
) -> None:
    make_root(root, num_runs=10_000, broken_fraction=0.01)
    time.sleep(2.1)  # what changed within two seconds is not cached
    (first, table), (warm, again), (warmer, _) = [collect(root) for _ in range(3)]
    for name, figures in {"first": first, "warm": warm, "warmer": warmer}.items():
        record_property(name, figures)
        print(name, figures)
    assert len(table.splitlines()) == 10_001
    assert table == again
    # How many seconds these are is for the benchmark to tell.
    assert min(warm["cpu_s"], warmer["cpu_s"]) < first["cpu_s"] / 2
    assert max(first["peak_mb"], warm["peak_mb"]) < 500


def write_whole_run(root: Path, number: int, num_reports: int) -> None:
    """What a run writes, with the calls a run makes; the report several times."""
    wish = Wish(number=number, seed=number)
    paths = create_run(root, resolve_job(make_job(wish), origin="test"))
    journal = Journal(paths)
    write_predictions(paths.root, wish)
    for version in range(num_reports):
        mse = 1000.0 * (version + 1) + number
        report = make_report(Wish(number=number, seed=number, test_mse=mse))
        write_report(paths, Report.model_validate(report))
    journal.finish("COMPLETED")


def start_writers(root: Path, *, count: int, num_reports: int) -> list[ForkServerProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dnnjob.results.report", "tests.collect.make_runs"])
    writers = [
        context.Process(target=write_whole_run, args=(root, number, num_reports))
        for number in range(count)
    ]
    for writer in writers:
        writer.start()
    return writers


@pytest.mark.parametrize(
    "count", [4, pytest.param(NUM_WRITERS, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_runs_are_collected_while_they_are_written(root: Path, count: int) -> None:
    num_reports = 5
    writers = start_writers(root, count=count, num_reports=num_reports)
    num_passes = 0
    while any(writer.is_alive() for writer in writers):
        num_passes += 1
        for run in read_runs(root):
            line = run.line
            assert (
                run.fault is None
                or "just now" in run.fault
                or "neither" in run.fault
                or (run.fault == "a folder without runs")
            )
            if line.test_mse is not None:
                version, number = divmod(round(line.test_mse), 1000)
                assert number == line.seed
                assert 1 <= version <= num_reports
                assert line.test_rmse == line.test_mse**0.5
    assert [writer.exitcode for writer in writers] == [0] * count
    lines = [run.line for run in read_runs(root)]
    assert sorted(line.test_mse or 0 for line in lines) == [
        1000.0 * num_reports + number for number in range(count)
    ]
    assert {line.state for line in lines} == {"COMPLETED"}
    print(f"{num_passes} passes beside {count} writers")


@pytest.fixture
def shared_root() -> Iterator[Path]:
    """A root on a path that others may pass, made under umask 027 for a common group."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    base = Path(tempfile.mkdtemp())
    former = os.umask(0o027)
    try:
        base.chmod(0o711)
        root = base / "runs"
        root.mkdir()
        os.chown(root, 0, SHARED_GROUP)
        # New folders and files inherit the group of a folder with this bit.
        root.chmod(root.stat().st_mode | stat.S_ISGID)
        yield root
    finally:
        os.umask(former)
        shutil.rmtree(base)


def find_python_for(user: int) -> str:
    """An interpreter of this version that `user` may start; skips the test without one."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/python{version}"):
        try:
            subprocess.run(
                [candidate, "-c", ""], user=user, group=user, extra_groups=[], check=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return candidate
    pytest.skip(f"no Python {version} that another user may start")


def test_another_user_of_the_group_collects_what_it_may_read(shared_root: Path) -> None:
    paths = create_run(shared_root, resolve_job(make_job(Wish()), origin="test"))
    journal = Journal(paths)
    write_report(paths, Report.model_validate(make_report(Wish())))
    journal.finish("COMPLETED")
    private = write_run(shared_root, Wish(number=1))
    private.chmod(0o700)
    nobody = pwd.getpwnam("nobody").pw_uid
    packages = Path(pytest.__file__).parents[1]
    home = Path(tempfile.mkdtemp())
    os.chown(home, nobody, nobody)
    done = subprocess.run(
        [find_python_for(nobody), "-B", "-c", COLLECT, str(shared_root)],
        user=nobody, group=nobody, extra_groups=[SHARED_GROUP], umask=0o027, cwd="/",
        env={"PYTHONPATH": f"{CHECKOUT}:{packages}", "HOME": str(home)},
        capture_output=True, text=True,
    )  # fmt: skip
    cache = home / ".cache" / "dnnjob"
    cached = [path.stat().st_size for path in cache.iterdir()] if cache.exists() else []
    shutil.rmtree(home)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(paths.report.stat().st_mode) == 0o640
    first, second = done.stdout.splitlines()[1:]
    assert (paths.run_id in first, "COMPLETED" in first, "12.50" in first) == (True, True, True)
    assert private.name in second
    assert "unreadable: Permission denied" in second
    assert all(cached)


def test_the_same_user_without_the_group_reads_nothing_and_says_so(shared_root: Path) -> None:
    write_run(shared_root)
    nobody = pwd.getpwnam("nobody").pw_uid
    packages = Path(pytest.__file__).parents[1]
    done = subprocess.run(
        [find_python_for(nobody), "-B", "-c", COLLECT, str(shared_root)],
        user=nobody, group=nobody, extra_groups=[], umask=0o027, cwd="/",
        env={"PYTHONPATH": f"{CHECKOUT}:{packages}", "HOME": str(shared_root / "no-home")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "is unreadable: Permission denied" in done.stderr
