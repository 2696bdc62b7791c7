"""What tests of several rooms share: tables, jobs, real commands, golden files, a finished run."""

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w

from dnnjob.errors import ExitCode
from dnnjob.runs import RunPaths

CHECKOUT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
# Names that files, Keras and TOML might each take amiss.
FEATURES = ("plain", "with space", "per/cent", "größe", "0.5", "is_new")

# What a CI machine need not have.
MAY_BE_SKIPPED = ("root may read everything", "this user may write", "there is no NVIDIA GPU")

Command = Callable[..., "subprocess.CompletedProcess[str]"]
Golden = Callable[[str, str], None]
WriteJob = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What one worker runs in one go: a module, all series, all on the clusters, all that look at
    the finished run; what takes longest first."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    # Whoever begins with the longest is not left waiting for it.
    long = Counter(_group(item) for item in items if item.get_closest_marker("long"))
    items.sort(key=lambda item: (_GROUPS.get(_group(item), len(_GROUPS)), -long[_group(item)]))


# The other recipe's image is built beside the first one's.
_FIRST = ("tests/container/test_definition.py", "tests/container/test_container.py")
_GROUPS = {name: place for place, name in enumerate((*_FIRST, "series", "clusters", "finished"))}


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("container"):
        return str(item.path.relative_to(CHECKOUT))
    if item.get_closest_marker("slow"):
        return "series"
    if item.get_closest_marker("slurm"):
        return "clusters"
    if "finished" in getattr(item, "fixturenames", ()):
        return "finished"
    return str(item.path.relative_to(CHECKOUT))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Iterator[pytest.TestReport]:
    """In CI a test that is skipped for want of something fails: there, nothing may be missing."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(word in reason for word in MAY_BE_SKIPPED):
            report.outcome, report.longrepr = "failed", f"CI must not skip this. {reason}"
    return report


# What runs of a process leave for those after them, by module.
LEFT_BEHIND = {
    "dnnjob.run": "_opened",
    "dnnjob.training.network": "_calls",
    "dnnjob.training.export": "_exported",
    "dnnjob.data.windows": "_index_blocks",
    "dnnjob.results.trees": "_fitted",
    "dnnjob.results.plots": "_boxes",
}


def begin_anew(*, keeps_calls: bool = False) -> None:
    """Has the next run of this process find nothing, as in a process of its own.

    Args:
        keeps_calls: Whether it finds compiled calls, which take seconds each to make again.
    """
    for module, name in LEFT_BEHIND.items():
        if module in sys.modules and not (keeps_calls and name == "_calls"):
            getattr(sys.modules[module], name).clear()


@pytest.fixture(autouse=True)
def _same_environment(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs inside this process set variables for TensorFlow; the next test starts without them."""
    begin_anew(keeps_calls=True)
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = CHECKOUT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real tables are not there: {folder}")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compares a text with a file of tests/golden; `--update-golden` rewrites the file."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text()

    return check


@pytest.fixture(scope="session")
def dnnjob() -> Command:
    """Runs the real command in a process of its own."""
    return run_command


def run_command(
    *arguments: object, cwd: Path | None = None, seconds: float = 240, **environ: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command_line(*arguments),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", "TERM": "dumb", **environ},
    )


def command_line(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "dnnjob", *map(str, arguments)]


def run_here(job_file: Path, *overrides: str, root: Path) -> RunPaths:
    """Runs a job to its end inside this process, as in one of its own; its log has what it said."""
    begin_anew(keeps_calls=True)
    # Imported late: tests that run nothing do without.
    from dnnjob.launch.foreground import run_foreground

    before, logger = set(root.glob("*/2*")), logging.getLogger("dnnjob")
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        assert run_foreground(job_file, overrides, root=root) == ExitCode.DONE
    finally:
        logger.setLevel(level)
    (folder,) = set(root.glob("*/2*")) - before
    return RunPaths(folder)


def limit_stacks(monkeypatch: pytest.MonkeyPatch, *, most: int) -> list[int]:
    """Has calls of more networks end as a device without memory ends them; those refused."""
    import tensorflow as tf

    from dnnjob.training.stacked_step import StackedStep

    call, refused = StackedStep.__call__, list[int]()

    def refuse(stacked: Any, states: Any, calls: Any, *, places: int = 0, **given: Any) -> Any:
        if (width := max(len(states), places)) > most:
            refused.append(width)
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return call(stacked, states, calls, places=places, **given)

    monkeypatch.setattr(StackedStep, "__call__", refuse)
    return refused


def said_by(paths: RunPaths, *, attempt: int = 1) -> str:
    """What the chief of an attempt has said."""
    return paths.log(attempt=attempt, rank=0).read_text()


def make_frame(num_rows: int = 120) -> pd.DataFrame:
    """Numbers of several sizes, a boolean, and a target that follows from them with noise."""
    rng = np.random.default_rng(42)
    values = rng.normal(size=(num_rows, 5)) * [1, 10, 0.01, 1e4, 1] + [0, 5, 0, 2e4, -3]
    frame = pd.DataFrame(values, columns=list(FEATURES[:5]))
    frame["is_new"] = rng.random(num_rows) < 0.3
    signal = values[:, 0] + values[:, 1] / 10 - 2 * frame["is_new"]
    frame["y"] = 50 + 4 * signal + rng.normal(size=num_rows)
    return frame


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def write_job(tmp_path: Path) -> WriteJob:
    """Writes `table.csv` and a job on it that trains in a moment; sections change the job.

    It is not compiled by XLA, which takes longer than a few epochs do; `finished` is, as are the
    runs of tests/training.
    """

    def write(frame: pd.DataFrame | None = None, **sections: Any) -> Path:
        devices = {"xla": "off", **sections.pop("devices", {})}
        return write_tiny_job(tmp_path, frame, devices=devices, **sections)

    return write


def write_tiny_job(folder: Path, frame: pd.DataFrame | None = None, **sections: Any) -> Path:
    (make_frame() if frame is None else frame).to_csv(folder / "table.csv", index=False)
    job: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "data": {"source": "table.csv", "target": "y", "validation_fraction": 0.2},
        "model": {"hidden_units": [8, 4]},
        "train": {"epochs": 8, "global_batch_size": 16},
        "devices": {"kind": "cpu", "threads": 1},
        "output": {"plots": False, "trees": False},
    }
    for name, values in sections.items():
        job[name] = {**job.get(name, {}), **values} if isinstance(values, dict) else values
    path = folder / "job.toml"
    path.write_text(tomli_w.dumps(job))
    return path


@dataclass(frozen=True)
class FinishedRun:
    """A run that a real `dnnjob run` has completed, and what the command said."""

    paths: RunPaths
    job_file: Path
    frame: pd.DataFrame
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The tiny job, run once for all tests that only look; none may change it."""
    folder = tmp_path_factory.mktemp("finished")
    job_file = write_tiny_job(folder, output={"plots": True, "trees": True})
    (folder / "tmp").mkdir()
    done = run_command("run", "job.toml", "--root", "runs", cwd=folder, TMPDIR=str(folder / "tmp"))
    assert done.returncode == 0, done.stderr
    paths = RunPaths(Path(done.stdout.strip()))
    return FinishedRun(paths, job_file, make_frame(), done.stdout, done.stderr)
