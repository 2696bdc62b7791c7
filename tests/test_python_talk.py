"""Messages of the commands, said in Python."""

import ast
import re

import pytest

from dnnjob.python_talk import in_python
from tests.conftest import CHECKOUT

# Verbs and options that belong to a shell, or to other tools.
ELSEWHERE = {"cli.py", "draft.py", "doctor.py", "image.py", "clean.py", "slurm", "cluster.py"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Set --root to a folder.", "Set `root` to a folder."),
        ("--force submits it.", "`force=True` submits it."),
        (
            "`dnnjob resume 'runs/a b/1' train.epochs=9 --here` goes on.",
            "`dnnjob.open_run('runs/a b/1').resume('train.epochs=9', here=True)` goes on.",
        ),
        (
            "`dnnjob status runs/a/sweeps/2026-1` shows it.",
            "`dnnjob.open_sweep('runs/a/sweeps/2026-1').status()` shows it.",
        ),
        ("Give what `dnnjob run` printed.", "Give what `dnnjob.run` made."),
        ("`dnnjob status ROOT` lists them.", "`dnnjob.open_run(ROOT).status()` lists them."),
        ("`dnnjob init TABLE` writes one", "`dnnjob init TABLE` in a shell writes one"),
        ("podman run --tmpfs /tmp", "podman run --tmpfs /tmp"),
        ("a path /data/--root.csv stays", "a path /data/--root.csv stays"),
    ],
)
def test_commands_become_calls_and_options_arguments(message: str, expected: str) -> None:
    assert in_python(message) == expected


def test_no_message_that_python_meets_keeps_an_option_of_the_command_line() -> None:
    options = set(re.findall(r"^  (--[a-z-]+)", _all_help(), re.MULTILINE)) - {"--help"}
    assert {"--root", "--where", "--force"} <= options
    for place, message in _messages():
        left = set(re.findall(r"--[a-z-]+", re.sub(r"`[^`]*`", "", in_python(message))))
        # A name with every line and every table is for what the command prints.
        assert not left & options - {"--columns", "--predictions", "--task", "--json"}, place


def _all_help() -> str:
    return "".join(path.read_text() for path in (CHECKOUT / "tests" / "golden").glob("help-*.txt"))


def _messages() -> list[tuple[str, str]]:
    """Texts of the package with an option in them."""
    found = []
    for path in sorted((CHECKOUT / "dnnjob").rglob("*.py")):
        if ELSEWHERE & {path.name, path.parent.name}:
            continue
        tree = ast.parse(path.read_text())
        docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if is_text and node not in docs and re.search(r"(?<![\w-])--[a-z]+ ", node.value):
                found.append((f"{path.name}:{node.lineno}", node.value))
    return found
