"""What a shell completes after Tab: quick, from files alone, without importing what they describe.

answer_shell()                          # before anything else, where a shell asks
complete_keys("train.lea") == ["train.learning_rate="]
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASKED = "_DNNJOB_COMPLETE"
"""The environment variable by which a shell asks."""
BASH_SCRIPT = """
%(complete_func)s() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \\
                   COMP_CWORD=$COMP_CWORD \\
                   %(autocomplete_var)s=complete_bash $1 ) )
    # A key waits for its value, a folder for what is in it.
    [[ ${COMPREPLY[0]-} == *[=/] ]] && compopt -o nospace
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""
"""typer's own puts a blank after each word."""
VERBS = Path(__file__).parent / "schemas" / "verbs.json"
"""Each verb with its options and arguments, as the command line has them: a test compares."""

_SCHEMAS = VERBS.parent
_MOST_RUNS = 50
_SWEEP_FILE = "sweep.json"


def complete_keys(incomplete: str) -> list[str]:
    """Keys of a job that begin so, or the values of one where only some are valid."""
    return _complete(incomplete, _list_keys("job"))


def complete_submit_keys(incomplete: str) -> list[str]:
    """The same with the keys of a profile."""
    profile = {f"profile.{key}": values for key, values in _list_keys("profile").items()}
    return _complete(incomplete, _list_keys("job") | profile)


def complete_profiles(incomplete: str) -> list[str]:
    """Names of the profiles that are found by name."""
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    folders = (
        Path("slurm"),
        Path(config) / "dnnjob" / "profiles",
        Path(__file__).parents[1] / "slurm",
    )
    names = {path.stem for folder in folders for path in folder.glob("*.toml")}
    return sorted(name for name in names if name.startswith(incomplete))


def complete_runs(incomplete: str) -> list[str]:
    """Run folders that begin so, the newest first: those of `runs`, and folders on the way."""
    return _complete_folders(incomplete, _is_run)


def complete_places(incomplete: str) -> list[str]:
    """The same with the folders of sweeps."""
    return _complete_folders(incomplete, lambda path: _is_run(path) or _is_sweep(path))


Complete = Callable[[str], list[str]]
# Of a word: one of few, or what a function of `COMPLETERS` finds.
Completer = str | list[str] | None
COMPLETERS: Mapping[str, Complete] = {
    one.__name__: one
    for one in (
        complete_keys,
        complete_submit_keys,
        complete_profiles,
        complete_runs,
        complete_places,
    )
}
"""By the names under which `VERBS` has them."""


@dataclass(frozen=True)
class _Question:
    """The words of a command line up to the one that is not complete."""

    words: Sequence[str]
    incomplete: str
    key: str = ""
    """The key of a value where the shell has cut `KEY=VALUE` in three."""


def answer_shell() -> bool:
    """Answers a shell of those whose questions are known here; whether it asked.

    It does without the imports of the command line, which take twice as long as the rest.
    """
    how = os.environ.get(ASKED, "").removeprefix("complete_")
    if how not in ("bash", "zsh", "fish"):
        return False
    try:
        question = _read_bash() if how == "bash" else _read_line()
    except ValueError:
        # An open quote, or no question at all.
        question = _Question([], "-")
    found = list(_find(question))
    match how:
        case "zsh":
            listed = "\n".join(f'"{_quote_zsh(word)}"' for word, _ in found)
            told = [f"_arguments '*: :(({listed}))'" if found else "_files"]
        case "fish" if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
            sys.exit(0 if found else 1)
        case "fish":
            told = [f"{word}\t{prose}" if prose else word for word, prose in found]
        case _:
            told = [word for word, _ in found]
    print("\n".join(told))
    return True


def _read_bash() -> _Question:
    words = shlex.split(os.environ.get("COMP_WORDS", ""))
    place = int(os.environ.get("COMP_CWORD", "0"))
    before, incomplete = words[1:place], words[place] if place < len(words) else ""
    # For bash a "=" is a word.
    if incomplete == "=" and before:
        return _Question(before[:-1], "", key=before[-1])
    if len(before) > 1 and before[-1] == "=":
        return _Question(before[:-2], incomplete, key=before[-2])
    return _Question(before, incomplete)


def _read_line() -> _Question:
    line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = shlex.split(line)[1:]
    if words and not line.endswith(" "):
        return _Question(words[:-1], words[-1])
    return _Question(words, "")


def _find(question: _Question) -> Iterator[tuple[str, str]]:
    """Words that fit, and what each is for."""
    known = json.loads(VERBS.read_text(encoding="utf-8"))
    verb = known.get(question.words[0]) if question.words else None
    if verb is None:
        if not question.words:
            names = known if not question.incomplete.startswith("-") else {}
            yield from _begin(question.incomplete, {name: known[name]["help"] for name in names})
        return
    if question.key.startswith("--"):
        completer = verb["options"].get(question.key, {}).get("completer")
        yield from _ask(completer, question.incomplete)
        return
    completer, takes_value = _expected(verb, question.words[1:])
    if question.key:
        for word, prose in _ask(completer, f"{question.key}={question.incomplete}"):
            yield word.partition("=")[2], prose
    elif question.incomplete.startswith("-") and not takes_value:
        options = {name: option["help"] for name, option in verb["options"].items()}
        yield from _begin(question.incomplete, options)
    else:
        yield from _ask(completer, question.incomplete)


def _expected(verb: Mapping[str, Any], words: Sequence[str]) -> tuple[Completer, bool]:
    """What completes the word after some, and whether it is an option's value."""
    arguments, rest = list(verb["arguments"]), list(words)
    while rest:
        word = rest.pop(0)
        if verb["options"].get(word, {}).get("takes_value"):
            if not rest:
                return verb["options"][word]["completer"], True
            rest.pop(0)
        elif not word.startswith("-") and len(arguments) > 1:
            del arguments[0]
        elif not word.startswith("-") and arguments and not verb["repeats"]:
            arguments = []
    return (arguments[0] if arguments else None), False


def _ask(completer: Completer, incomplete: str) -> Iterator[tuple[str, str]]:
    if isinstance(completer, list):
        yield from _begin(incomplete, dict.fromkeys(completer, ""))
    elif completer is not None:
        yield from ((word, "") for word in COMPLETERS[completer](incomplete))


def _begin(incomplete: str, words: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    return ((word, prose) for word, prose in words.items() if word.startswith(incomplete))


def _quote_zsh(word: str) -> str:
    """A word as `_arguments` reads it inside of quotes."""
    for letter, quoted in (('"', '""'), ("'", "''"), ("$", r"\$"), ("`", r"\`"), (":", r"\\:")):
        word = word.replace(letter, quoted)
    return word


def _complete_folders(incomplete: str, is_wanted: Callable[[Path], bool]) -> list[str]:
    start = Path("/") if incomplete.startswith("/") else Path()
    pattern = f"{incomplete.lstrip('/')}*"
    found = list(start.glob(pattern)) if incomplete else [*Path().glob("runs/*/*")]
    others = [path for path in found if path.is_dir() and not is_wanted(path)]
    inside = {place for folder in others for place in _within(folder, is_wanted)}
    wanted = inside | {path for path in found if is_wanted(path)}
    newest_first = sorted(wanted, key=lambda path: path.name, reverse=True)
    folders = sorted(f"{path}/" for path in others)
    return [*map(str, newest_first[:_MOST_RUNS]), *folders]


def _within(folder: Path, is_wanted: Callable[[Path], bool], depth: int = 3) -> Iterator[Path]:
    """What is wanted under a folder, as deep as a root has sweeps."""
    for path in folder.glob("[!.]*/"):
        if is_wanted(path):
            yield path
        elif depth > 1:
            yield from _within(path, is_wanted, depth - 1)


def _complete(incomplete: str, keys: dict[str, tuple[str, ...]]) -> list[str]:
    key, equals, begun = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in keys.get(key, ()) if value.startswith(begun)]
    return [f"{one}=" for one in keys if one.startswith(incomplete)]


def _list_keys(kind: str) -> dict[str, tuple[str, ...]]:
    """Dotted keys with their values, where these are few."""
    schema = json.loads((_SCHEMAS / f"{kind}.json").read_text(encoding="utf-8"))
    return dict(_walk(schema, schema.get("$defs", {}), ""))


def _walk(
    schema: dict[str, Any], records: dict[str, Any], prefix: str
) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, field in schema.get("properties", {}).items():
        record = field.get("$ref", "").rpartition("/")[2]
        if "properties" in records.get(record, {}):
            yield from _walk(records[record], records, f"{prefix}{name}.")
        else:
            is_switch = field.get("type") == "boolean"
            values = ("true", "false") if is_switch else field.get("enum", ())
            yield f"{prefix}{name}", tuple(map(str, values))


def _is_run(path: Path) -> bool:
    return (path / "job.toml").is_file()


def _is_sweep(path: Path) -> bool:
    return (path / _SWEEP_FILE).is_file()
