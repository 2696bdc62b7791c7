"""What a shell completes."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dnnjob.completion import complete_keys, complete_profiles, complete_runs, complete_submit_keys
from dnnjob.config import ProfileConfig
from dnnjob.config.overrides import valid_keys
from tests.conftest import run_command


def test_keys_are_completed_and_few_values_too() -> None:
    assert complete_keys("train.lea") == ["train.learning_rate="]
    assert complete_keys("train.optimizer=ad") == ["train.optimizer=adam", "train.optimizer=adamw"]
    assert complete_keys("output.plots=") == ["output.plots=true", "output.plots=false"]
    assert complete_keys("none") == []


def test_every_key_can_be_completed() -> None:
    assert {word.rstrip("=") for word in complete_keys("")} == set(valid_keys())
    profile = {f"profile.{key}" for key in ProfileConfig.model_fields}
    assert {word.rstrip("=") for word in complete_submit_keys("profile.")} == profile


def test_profiles_are_completed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "dnnjob" / "profiles").mkdir(parents=True)
    (tmp_path / "dnnjob" / "profiles" / "mine.toml").write_text("")
    assert {"cpu", "gpu", "local", "mine"} <= set(complete_profiles(""))
    assert complete_profiles("mi") == ["mine"]


def test_run_folders_are_completed_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [f"runs/{name}" for name in ("b/20250101-000000-aaaaaa", "a/20260101-000000-aaaaaa")]
    for run in runs:
        Path(run).mkdir(parents=True)
        Path(run, "job.toml").write_text("")
    newest_first = runs[::-1]
    assert complete_runs("") == newest_first
    assert complete_runs("ru") == [*newest_first, "runs/"]
    assert complete_runs("runs/b/2") == [runs[0]]
    assert complete_runs(f"{tmp_path}/runs/b/") == [f"{tmp_path}/{runs[0]}"]


def complete(words: str) -> list[str]:
    done = run_command(
        _DNNJOB_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=words, SHELL="/bin/zsh"
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dnnjob val", "validate"),
        ("dnnjob run --ro", "--root"),
        ("dnnjob run job.toml train.lea", "train.learning_rate="),
        ("dnnjob submit job.toml --profile cp", "cpu"),
        ("dnnjob submit job.toml profile.memo", "profile.memory_gb="),
    ],
)
def test_the_command_answers_a_shell(words: str, expected: str) -> None:
    assert expected in "\n".join(complete(words))


def test_completing_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import os, sys\n"
        "from dnnjob import cli\n"
        "def end(code): print(*sys.modules, file=sys.stderr); os._exit(0)\n"
        "cli._exit = end\n"
        "cli.main([])"
    )
    environ = {"_DNNJOB_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "dnnjob run j train.le"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "SHELL": "/bin/zsh", **environ},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "train.learning_rate=" in done.stdout
    heavy = {"numpy", "pandas", "pyarrow", "rich", "tensorflow", "dnnjob.config"}
    assert not heavy & set(done.stderr.split())
    # Processor time, of which other processes of the machine take no part; half of it is typer's
    # import of pydantic.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6
