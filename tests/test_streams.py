"""stdout and stderr that are closed, full, or read by nobody: no verb and no run minds."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnnjob.streams import UnfailingFile, open_talk
from tests.conftest import FinishedRun, WriteJob

# Every verb in one process, whose streams are what is tested; imports are paid once.
DRIVER = """
import json, os, sys
def is_closed(number):
    try:
        os.fstat(number)
    except OSError:
        return True
closed = [number for number in (0, 1, 2) if is_closed(number)]
from dnnjob import cli
calls, answers, codes = json.loads(sys.argv[1]), sys.argv[2], []
def end(code):
    raise SystemExit(code)
cli.leave = end
for call in calls:
    for number in closed:
        if not is_closed(number):
            os.close(number)
    try:
        cli.main(call)
    except SystemExit as ended:
        codes.append(int(ended.code or 0))
    except BaseException as error:
        codes.append(repr(error))
with open(answers, "w") as file:
    json.dump(codes, file)
os._exit(0)
"""


def run_with(streams: str, calls: list[list[str]], folder: Path) -> tuple[list[object], str]:
    """Exit codes of commands under a shell's redirections, and what stderr got."""
    answers = folder / "answers.json"
    done = subprocess.run(
        ["bash", "-c", f'"$@" {streams}', "bash", sys.executable, "-c", DRIVER,
         json.dumps(calls), str(answers)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )  # fmt: skip
    return json.loads(answers.read_text()), done.stderr


@pytest.mark.parametrize(
    ("streams", "code"),
    [
        pytest.param(">&-", 4, marks=pytest.mark.long),
        pytest.param("2>&-", 0, marks=pytest.mark.long),
        (">/dev/full", 4),
        pytest.param("2>/dev/full | true", 0, marks=pytest.mark.long),
    ],
)
def test_verbs_tell_that_their_product_is_lost_and_mind_nothing_else(
    finished: FinishedRun, streams: str, code: int
) -> None:
    run, folder = str(finished.paths.root), finished.job_file.parent
    printing = [
        ["--help"], ["--version"], ["validate", "job.toml"], ["init", "table.csv"],
        ["status", run, "--json"], ["status"], ["logs", run], ["collect", "."],
        ["collect", ".", "--json"], ["compare", run, run], ["best", "."],
        ["submit", "job.toml", "--profile", "cpu", "--dry-run"],
    ]  # fmt: skip
    others = {("run", "none.toml"): 2, ("wait", run): 0, ("collect", ".", "--out", "t.csv"): 0}
    codes, told = run_with(streams, [*printing, *map(list, others)], folder)
    assert codes == [code] * len(printing) + list(others.values())
    assert "Traceback" not in told
    if code:
        lost = [line for line in told.splitlines() if "could not be written to stdout" in line]
        assert len(lost) == len(printing) + 1


@pytest.mark.parametrize(
    "streams",
    [
        ">/dev/full 2>/dev/full",
        pytest.param("<&- >&- 2>&-", marks=pytest.mark.long),
        pytest.param("2>&1 | true", marks=pytest.mark.long),
    ],
)
def test_a_run_ends_as_it_would_have(write_job: WriteJob, streams: str) -> None:
    folder = write_job(train={"epochs": 2}).parent
    codes, _ = run_with(streams, [["run", "job.toml"]], folder)
    assert codes == [0]
    (status,) = folder.glob("runs/tiny/*/status.json")
    assert json.loads(status.read_text())["state"] == "COMPLETED"
    assert (status.parent / "report.json").is_file()


def test_what_cannot_be_written_is_lost_and_remembered() -> None:
    full = UnfailingFile(os.open("/dev/full", os.O_WRONLY), owns=True)
    assert full.write(b"words") == 5
    assert full.fault is not None
    assert full.fault.errno == errno.ENOSPC
    full.close()


def test_a_log_on_a_full_disk_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    log = open_talk(tmp_path / "log")
    print("words", file=log)
    log.close()


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for word in ("größe", "two"):
        with open_talk(tmp_path / "log") as log:
            print(word, file=log)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "größe\ntwo\n"
