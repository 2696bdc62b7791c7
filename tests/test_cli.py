"""The command as a person meets it: help, start-up, errors and exit codes."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from dnnjob import __version__, cli
from dnnjob.config import load_job, to_toml
from tests.conftest import CHECKOUT, Command, Golden, WriteJob, command_line, make_frame

VERBS = (
    "run", "submit", "resume", "status", "logs", "cancel", "wait", "clean",
    "predict", "export", "validate", "doctor", "init", "collect", "best", "compare", "schema",
)  # fmt: skip
JOBS = sorted((CHECKOUT / "jobs").glob("*.toml"))


def modules_after(*arguments: object, cwd: Path) -> set[str]:
    """Top-level packages that a command has imported when it ends."""
    code = (
        "import atexit, os, sys\n"
        "from dnnjob import cli\n"
        # What os._exit passes over.
        "os._exit = sys.exit\n"
        # os._exit would end the process without the list.
        "cli.leave = sys.exit\n"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}))\n"
        "cli.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


# Help


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_as_written(dnnjob: Command, golden: Golden, verb: str) -> None:
    done = dnnjob(*verb.split(), "--help")
    assert done.returncode == 0
    golden(f"help{verb and '-' + verb}.txt", done.stdout)


def test_the_version_is_shown(dnnjob: Command) -> None:
    assert dnnjob("--version").stdout == f"dnnjob {__version__}\n"


def test_no_arguments_give_help_and_a_usage_error(dnnjob: Command) -> None:
    done = dnnjob()
    assert done.returncode == 2
    assert "Usage: dnnjob" in done.stdout + done.stderr


def test_every_verb_of_the_readme_exists() -> None:
    readme = (CHECKOUT / "README.md").read_text()
    assert set(re.findall(r"^dnnjob (\w+)", readme, re.MULTILINE)) <= set(VERBS)


# Start-up


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_no_heavy_package(arguments: list[str], tmp_path: Path) -> None:
    heavy = {"tensorflow", "keras", "pandas", "pyarrow", "matplotlib", "sklearn", "numpy", "rich"}
    assert not modules_after(*arguments, cwd=tmp_path) & heavy


@pytest.mark.parametrize(
    "words",
    [
        "validate job.toml",
        pytest.param("collect .", marks=pytest.mark.long),
        pytest.param("init table.csv", marks=pytest.mark.long),
        pytest.param("submit job.toml --profile cpu --dry-run", marks=pytest.mark.long),
    ],
)
def test_other_verbs_import_no_tensorflow(write_job: WriteJob, words: str) -> None:
    heavy = {"tensorflow", "keras", "matplotlib"}
    assert not modules_after(*words.split(), cwd=write_job().parent) & heavy


def test_status_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = {"tensorflow", "keras", "matplotlib", "numpy", "pandas", "pyarrow", "sklearn"}
    heavy |= {"submitit"}
    assert not modules_after("status", ".", cwd=tmp_path) & heavy


def test_help_takes_less_than_half_a_second() -> None:
    def cpu_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command_line("--help"), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time, since other processes of the machine do not count into it.
    assert min(cpu_s() for _ in range(3)) < 0.5


# Job files of the checkout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job_files_resolve_as_written(golden: Golden, path: Path) -> None:
    golden(f"job-{path.stem}.toml", to_toml(load_job(path)))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_job_files_open_with_what_they_are_and_the_command(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = "\n".join(lines[: lines.index("")])
    assert f"#   dnnjob run jobs/{path.name}\n" in header
    assert "# Measured" in header


def test_the_example_is_what_init_writes(dnnjob: Command, request: pytest.FixtureRequest) -> None:
    path = CHECKOUT / "jobs" / "example.toml"
    header, _, body = path.read_text().partition("\n\n")
    schema, _, written = dnnjob("init", "builtin:diabetes").stdout.partition("\n")
    # Where dnnjob is installed; TOML's language servers read it.
    assert schema.startswith("#:schema file:///")
    assert Path(schema.removeprefix("#:schema file://")).name == "job.json"
    written = written.replace('name = "diabetes"', 'name = "example"')
    if request.config.getoption("--update-golden"):
        path.write_text(f"{header}\n\n{written}")
    else:
        assert body == written


# Errors: one message, no traceback, the right code, nothing written


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture
def call(
    write_job: WriteJob, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Call:
    """The command inside this process, in a folder with a job and its table."""
    monkeypatch.chdir(write_job().parent)
    monkeypatch.setattr(cli, "leave", sys.exit)

    def run(*arguments: str) -> Answer:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        out, err = capfd.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run"], "Missing argument 'JOB'"),
        (["walk"], "No such command 'walk'"),
        (["run", "job.toml", "--rot", "x"], "No such option"),
        (["run", "job.toml", "--epochs", "3"], "KEY=VALUE: train.epochs=VALUE"),
        (["run", "job.toml", "--batch-size=3"], "KEY=VALUE: train.global_batch_size=VALUE"),
        (["run", "job.toml", "--set", "train.epochs=3"], "as in train.epochs=100"),
        (["submit", "job.toml", "--partition", "gpu"], "profile.partition=VALUE"),
        (["run", "none.toml"], "There is no job file none.toml"),
        (["run", "."], "cannot be read"),
        (["run", "table.csv"], "does not parse"),
        (["run", "job.toml", "train.epoch=3"], "Did you mean train.epochs?"),
        (["run", "job.toml", "train.epochs=0"], "greater than or equal to 1"),
        (["run", "job.toml", "seed"], "An override reads KEY=VALUE"),
        (["run", "job.toml", "train.patience=3", "data.validation_fraction=0"], "validation rows"),
        (["run", "job.toml", "sweep.train.epochs=[1, 0]"], "train.epochs=0"),
        (["run", "job.toml", "sweep.seed=[]"], "empty list"),
        (["validate", "none.toml"], "There is no job file none.toml"),
        (["resume", "."], "A run folder holds a job.toml"),
        (["resume", "none"], "A run folder holds a job.toml"),
        (["predict", ".", "table.csv", "--out", "p.json"], "a .parquet or a .csv file"),
        (["predict", "none", "table.csv", "--out", "p.parquet"], "A run folder holds a job.toml"),
        (["predict", "none", "table.csv", "--out", "none/p.parquet"], "Make it one"),
        (["predict", ".", "table.csv"], "Missing option '--out'"),
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_nothing_written(
    call: Call, arguments: list[str], told: str
) -> None:
    before = sorted(Path.cwd().rglob("*"))
    answer = call(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err
    assert "Traceback" not in answer.err
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "job.toml", "data.source=none.csv"], "There is no file"),
        (["run", "job.toml", "data.source=empty.csv"], "is empty"),
        (["run", "job.toml", "data.target=z"], "has no column 'z'"),
        (["run", "job.toml", 'data.features=["plian"]'], "did you mean 'plain'?"),
        (["validate", "job.toml", "data.weight_column=w"], "Correct data.weight_column.\n"),
        (["validate", "job.toml", "data.source=tiny.csv"], "which is nothing to float32"),
        (["run", "job.toml", "data.source=mixed"], "must have the same columns"),
        (["run", "job.toml", "data.source=twice.csv"], "repeats 'a' (2 times)"),
        (["run", "job.toml", "data.source=builtin:iris"], "no built-in table 'iris'"),
        (["run", "job.toml", 'sweep.data.source=["table.csv", "none.csv"]'], "There is no file"),
        (["validate", "job.toml", "data.source=none.csv"], "There is no file"),
        (["validate", "job.toml", "data.source=one-row.csv"], "at least 2 rows"),
        (["validate", "job.toml", "data.source=constant.csv"], "numbers that vary"),
        (["init", "none.csv"], "There is no file"),
    ],
    ids=" ".join,
)
def test_bad_data_ends_with_3_and_nothing_written(
    call: Call, arguments: list[str], told: str
) -> None:
    for name, text in {
        "empty.csv": "",
        "twice.csv": "a,a,y\n1,2,3\n4,5,6\n",
        "one-row.csv": "a,y\n1,2\n",
        "tiny.csv": "a,y\n1,2e-300\n3,1e-300\n4,5e-300\n",
        "constant.csv": "a,y\n1,2\n3,2\n4,2\n",
        "mixed/1.csv": "a,y\n1,2\n",
        "mixed/2.csv": "b,y\n1,2\n",
    }.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    before = sorted(Path.cwd().rglob("*"))
    answer = call(*arguments)
    assert (answer.code, answer.out) == (3, ""), answer.err
    assert told in answer.err
    assert "Traceback" not in answer.err
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("root", ["job.toml", "/proc/none", "/sys/none"])
def test_a_root_that_cannot_be_written_ends_with_4(call: Call, root: str) -> None:
    answer = call("run", "job.toml", "--root", root)
    assert (answer.code, answer.out) == (4, "")
    assert "--root" in answer.err


def test_a_read_only_root_ends_with_4(
    dnnjob: Command, write_job: WriteJob, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("read-only")
    root.chmod(0o555)
    if os.access(root, os.W_OK):
        pytest.skip("this user may write to read-only folders")
    done = dnnjob("run", write_job(), "--root", root)
    assert done.returncode == 4
    assert "Permission denied" in done.stderr


def test_an_interrupt_before_the_run_begins_ends_with_130(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dnnjob.data.draft.draft_job", interrupt)
    assert call("init", "table.csv").code == 130


def test_a_bug_shows_where_it_is(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnnjob.data.draft.draft_job", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["init", "table.csv"])


# What verbs print


def test_a_warm_up_without_end_is_told(call: Call) -> None:
    def warnings(steps: int) -> str:
        answer = call("validate", "job.toml", f"train.warmup_steps={steps}", "--json")
        return " ".join(json.loads(answer.out)["warnings"])

    assert "train.warmup_steps = 40, but the training has 40 steps in all" in warnings(40)
    assert "warmup" not in warnings(39)


def test_validate_prints_a_table_or_json(call: Call) -> None:
    text = call("validate", "job.toml")
    assert text.code == 0
    assert "parameters" in text.out
    values = json.loads(call("validate", "job.toml", "--json").out)
    assert values["points"][0]["num_rows"] == 120


def test_warnings_about_the_table_go_to_stderr(dnnjob: Command, write_job: WriteJob) -> None:
    frame = make_frame()
    frame["plain"] = 1.0
    done = dnnjob("validate", write_job(frame))
    assert done.returncode == 0
    assert "constant features tell nothing: plain" in done.stderr
    assert "constant features" not in done.stdout


def test_init_prints_a_job_that_validates(call: Call) -> None:
    Path("mine.toml").write_text(call("init", "table.csv").out)
    assert call("validate", "mine.toml").code == 0
