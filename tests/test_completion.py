"""What a shell completes."""

import json
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer

from dnnjob import cli
from dnnjob.completion import (
    COMPLETERS,
    VERBS,
    answer_shell,
    complete_keys,
    complete_places,
    complete_profiles,
    complete_runs,
    complete_submit_keys,
)
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


def test_sweeps_are_completed_where_they_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, sweep = "runs/a/20260101-000000-aaaaaa", "runs/a/sweeps/20260102-000000-bbbbbb"
    Path(run).mkdir(parents=True)
    Path(run, "job.toml").write_text("")
    Path(sweep).mkdir(parents=True)
    Path(sweep, "sweep.json").write_text("")
    assert complete_places("") == [sweep, run, "runs/a/sweeps/"]
    assert complete_places("ru") == [sweep, run, "runs/"]
    assert complete_places("runs/a/sweeps/2") == [sweep]
    assert complete_runs("ru") == [run, "runs/"]


def list_verbs() -> dict[str, Any]:
    """The verbs as the command line has them."""
    group = typer.main.get_command(cli.app)
    context = typer.Context(group)
    return {
        name: {
            "help": command.get_short_help_str(80),
            "options": {
                option: {
                    "help": parameter.help or "",
                    "takes_value": not parameter.is_flag,
                    "completer": completer_of(name, parameter),
                }
                for parameter in command.get_params(context)
                if parameter.param_type_name == "option"
                for option in parameter.opts
                if option.startswith("--")
            },
            "arguments": [
                completer_of(name, parameter)
                for parameter in command.params
                if parameter.param_type_name == "argument"
            ],
            "repeats": any(parameter.nargs == -1 for parameter in command.params),
        }
        for name, command in group.commands.items()
    }


def completer_of(verb: str, parameter: Any) -> str | list[str] | None:
    one = next(one for one in cli.app.registered_commands if one.callback.__name__ == verb)
    hint = get_type_hints(one.callback).get(parameter.name)
    if get_origin(hint) is Literal:
        return [*get_args(hint)]
    custom = parameter._custom_shell_complete
    if custom is None:
        return None
    functions = [cell.cell_contents for cell in custom.__closure__]
    (name,) = [name for name, one in COMPLETERS.items() if is_behind(functions, one)]
    return name


def is_behind(found: list[Any], wanted: Any) -> bool:
    """Whether typer's wrappers lead to a function."""
    return any(
        one is wanted
        or (callable(one) and is_behind([c.cell_contents for c in one.__closure__ or ()], wanted))
        for one in found
    )


def test_the_list_of_verbs_is_that_of_the_command_line(request: pytest.FixtureRequest) -> None:
    text = json.dumps(list_verbs(), indent=1) + "\n"
    if request.config.getoption("--update-golden"):
        VERBS.write_text(text)
    assert text == VERBS.read_text()


def complete(words: str, monkeypatch: pytest.MonkeyPatch, *, shell: str) -> bool:
    monkeypatch.setenv("_DNNJOB_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
    split = re.findall(r"=|[^\s=]+", words) + ([""] if words.endswith(" ") else [])
    monkeypatch.setenv("COMP_WORDS", "\n".join(split))
    monkeypatch.setenv("COMP_CWORD", str(len(split) - 1))
    return answer_shell()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dnnjob va", ["validate"]),
        ("dnnjob run --ro", ["--root"]),
        ("dnnjob run job.toml train.lea", ["train.learning_rate="]),
        ("dnnjob run job.toml seed=1 --root x train.lea", ["train.learning_rate="]),
        ("dnnjob submit job.toml --profile cp", ["cpu"]),
        ("dnnjob submit job.toml --profile cpu profile.memo", ["profile.memory_gb="]),
        ("dnnjob run job.toml profile.memo", []),
        ("dnnjob schema pro", ["profile"]),
        ("dnnjob export r --to k", ["keras"]),
        ("dnnjob run ", []),
        ("dnnjob nothing ", []),
        ("dnnjob run 'job", []),
    ],
)
def test_every_shell_is_answered(
    words: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert complete(words, monkeypatch, shell="bash")
    assert capsys.readouterr().out.split() == expected
    assert complete(words, monkeypatch, shell="fish")
    told = capsys.readouterr().out.splitlines()
    assert [line.partition("\t")[0] for line in told if line] == expected
    assert complete(words, monkeypatch, shell="zsh")
    quoted = "\n".join(f'"{word}"' for word in expected)
    assert capsys.readouterr().out == (
        f"_arguments '*: :(({quoted}))'\n" if expected else "_files\n"
    )


def test_bash_completes_values_though_it_cuts_words_at_signs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    complete("dnnjob run job.toml train.optimizer=ad", monkeypatch, shell="bash")
    assert capsys.readouterr().out.split() == ["adam", "adamw"]
    complete("dnnjob run job.toml output.plots=", monkeypatch, shell="bash")
    assert capsys.readouterr().out.split() == ["true", "false"]


# Typer otherwise takes the shell among the ancestors of the tests.
SHELL_BY_NAME = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}


def test_bash_itself_puts_no_blank_after_a_key(tmp_path: Path) -> None:
    script = run_command("--show-completion", "bash", **SHELL_BY_NAME).stdout
    (tmp_path / "dnnjob").write_text(f"#!/bin/sh\nexec {sys.executable} -m dnnjob\n")
    (tmp_path / "dnnjob").chmod(0o755)
    asked = (
        f"{script}\ncompopt() {{ echo asked for: $*; }}\n"
        "COMP_WORDS=(dnnjob run job.toml train.lea) COMP_CWORD=3\n"
        f"_dnnjob_completion {tmp_path}/dnnjob; echo ${{COMPREPLY[*]}}"
    )
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines(), done.stderr
    assert said == (["asked for: -o nospace", "train.learning_rate="], "")


def test_other_shells_are_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("_DNNJOB_COMPLETE", raising=False)
    assert not answer_shell()
    monkeypatch.setenv("_DNNJOB_COMPLETE", "complete_powershell")
    assert not answer_shell()


def test_completing_imports_no_more_than_it_needs() -> None:
    code = "from dnnjob.__main__ import main; main(); import sys; print(*sys.modules)"
    environ = {"_DNNJOB_COMPLETE": "complete_bash", "COMP_WORDS": "dnnjob run", "COMP_CWORD": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", **environ},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    word, modules = done.stdout.split("\n", 1)
    assert word == "run"
    heavy = {"typer", "pydantic", "numpy", "pandas", "rich", "tensorflow", "dnnjob.cli"}
    assert not heavy & set(modules.split())
    # Processor time, of which other processes of the machine take no part.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.3
