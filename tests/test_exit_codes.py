"""The table of causes and exit codes, each of its lines provoked."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dnnjob import cli
from dnnjob.errors import ExitCode
from dnnjob.runs import RunPaths, create_run, read_status, write_status
from dnnjob.training.resume import _refuse_other_origin
from tests.conftest import CHECKOUT, FinishedRun, WriteJob, command_line

PAGE = (CHECKOUT / "docs" / "exit-codes.md").read_text()
CODES = {
    cause.strip(): int(code) for cause, code in re.findall(r"^\| (\D.+?) \| (\d+) \|$", PAGE, re.M)
}

# Words of the command for each cause; RUN is a finished run, COPY one that may be spoiled.
CALLS: dict[str, list[str]] = {
    "the command did what it should": ["validate job.toml", "collect RUN", "logs RUN"],
    "an unknown verb, option or key": [
        "walk", "run job.toml --rot x", "validate job.toml train.epoch=3", "clean . --older x",
    ],
    "a value that breaks a key's rule": ["run job.toml train.epochs=0"],
    "a job file that is missing or no TOML": ["run none.toml", "validate table.csv"],
    "a profile that is unknown": ["submit job.toml --profile none", "doctor --profile none"],
    "a folder that is no run": ["resume .", "logs .", "wait .", "compare . .", "cancel none"],
    "an output that would replace an input or a file of a run": [
        "predict RUN table.csv --out table.csv", "collect RUN --out RUN/report.json",
    ],
    "an output with an ending that no file has": [
        "collect RUN --out t.xlsx", "predict RUN table.csv --out t.xlsx",
    ],
    "a table that is missing, empty or cannot be read": [
        "validate job.toml data.source=none.csv", "run job.toml data.source=empty.csv",
        "init none.csv", "predict RUN none.csv --out p.csv",
        "validate job.toml data.source=broken.parquet",
    ],
    "a table without a column that the job or the model needs": [
        "run job.toml data.target=z", "predict RUN thin.csv --out p.csv",
    ],
    "a column that cannot be what it is taken for": [
        'validate job.toml data.columns.plain.kind="datetime"',
    ],
    "runs of which nothing can be read": ["collect broken"],
    "a folder for the runs that cannot be written": ["run job.toml --root /proc/none"],
    "an output in a folder that cannot be written": [
        "predict RUN table.csv --out /proc/p.csv", "collect RUN --out /proc/t.csv",
        "export RUN --to keras --out /proc/x.keras",
    ],
    "a GPU that is asked for and not there": [
        "run job.toml devices.require_gpu=true devices.kind=gpu",
    ],
    "Slurm that is not there, does not answer, or refuses to be asked": [
        "submit job.toml --profile cpu",
    ],
}  # fmt: skip
# What is provoked by a test of its own, below or where its part is tested.
APART = {
    "a reader of stdout that has had enough",
    "stdout that is full or closed",
    "a loss or gradient that is no finite number",
    "waiting for a run that failed",
    "a run without a model, or with a damaged one, to predict with",
    "a table that has changed since the checkpoint of a resumed run",
    "a full disk, whatever was to be written",
    "a signal by which Slurm takes the nodes back",
    "Ctrl-C",
    "SIGTERM outside of Slurm",
}


def test_every_line_of_the_table_is_provoked_and_every_code_explained() -> None:
    assert set(CODES) == set(CALLS) | APART
    meanings = {int(code) for code in re.findall(r"^\| (\d+) \| \D", PAGE, re.M)}
    assert set(CODES.values()) == meanings == {int(code) for code in ExitCode}


@pytest.fixture
def call(
    write_job: WriteJob, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], int]:
    """The command inside this process, in a folder with a job and tables; gives its exit code."""
    monkeypatch.chdir(write_job().parent)
    monkeypatch.setattr(cli, "leave", sys.exit)
    Path("empty.csv").write_text("")
    Path("thin.csv").write_text("a,y\n1,2\n3,4\n")
    Path("broken.parquet").write_bytes(b"PAR1 and no more")
    run = Path("broken/tiny/20261123-101500-3f9a1c")
    run.mkdir(parents=True)
    for name in ("job.toml", "status.json"):
        (run / name).write_text("{")

    def run_words(words: str) -> int:
        with pytest.raises(SystemExit) as ended:
            cli.main(words.replace("RUN", str(finished.paths.root)).split())
        return int(ended.value.code or 0)

    return run_words


@pytest.mark.parametrize(
    ("cause", "words"), [(cause, words) for cause, calls in CALLS.items() for words in calls]
)
def test_a_cause_has_the_code_of_the_table(
    call: Callable[[str], int], monkeypatch: pytest.MonkeyPatch, cause: str, words: str
) -> None:
    if cause.startswith("Slurm"):
        monkeypatch.setenv("PATH", "/nowhere")
    assert call(words) == CODES[cause]


def test_waiting_for_a_failed_run(call: Callable[[str], int], finished: FinishedRun) -> None:
    from dnnjob.config import load_job

    paths = create_run(Path.cwd() / "runs", load_job(finished.paths.job))
    failed = read_status(paths).model_copy(update={"state": "FAILED", "reason": "error"})
    write_status(paths, failed)
    assert call(f"wait {paths.root}") == CODES["waiting for a run that failed"]


def test_a_run_without_a_model(call: Callable[[str], int], finished: FinishedRun) -> None:
    import shutil

    copied = RunPaths(Path.cwd() / "copy")
    shutil.copytree(finished.paths.root, copied.root)
    copied.model.unlink()
    code = call("predict copy table.csv --out p.csv")
    assert code == CODES["a run without a model, or with a damaged one, to predict with"]


@pytest.mark.parametrize(
    "words",
    ["predict RUN table.csv --out p.csv", "collect RUN --out t.csv", "run job.toml",
     "collect RUN --out t.html", "predict RUN table.csv --out p.parquet"],
)  # fmt: skip
def test_a_full_disk(
    call: Callable[[str], int], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert call(words) == CODES["a full disk, whatever was to be written"]


def test_streams() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command_line("--version"), stdout=full, stderr=subprocess.DEVNULL)
    assert done.returncode == CODES["stdout that is full or closed"]
    gone, pipe = os.pipe()
    os.close(gone)
    done = subprocess.run(command_line("--version"), stdout=pipe)
    os.close(pipe)
    assert done.returncode == CODES["a reader of stdout that has had enough"]


def test_a_loss_that_is_not_finite(call: Callable[[str], int]) -> None:
    code = call("run job.toml train.learning_rate=1e9 output.model=false")
    assert code == CODES["a loss or gradient that is no finite number"]


def test_a_changed_table() -> None:
    from dnnjob.errors import DataError

    with pytest.raises(DataError) as caught:
        _refuse_other_origin({"job": {}, "table": "a"}, {"job": {}, "table": "b"})
    cause = "a table that has changed since the checkpoint of a resumed run"
    assert caught.value.exit_code == CODES[cause]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cause", "number", "environ"),
    [
        ("Ctrl-C", signal.SIGINT, {}),
        ("SIGTERM outside of Slurm", signal.SIGTERM, {}),
        ("a signal by which Slurm takes the nodes back", signal.SIGTERM, {"SLURM_JOB_ID": "7"}),
    ],
)
def test_signals(
    write_job: WriteJob, cause: str, number: signal.Signals, environ: dict[str, str]
) -> None:
    folder = write_job(train={"epochs": 1_000_000}).parent
    command = command_line("run", "job.toml")
    with subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if line.startswith("Epoch"):
                break
        time.sleep(0.2)
        run.send_signal(number)
        run.communicate(timeout=60)
    assert run.returncode == CODES[cause]
