"""From a job file and `KEY=VALUE` words to one validated record, and back to TOML.

job = load_job(Path("jobs/housing.toml"), overrides=["seed=7", "data.source=mine.csv"])
text = to_toml(job)
"""

import copy
import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, ValidationError

from dnnjob.config.job import JobConfig
from dnnjob.errors import JobError

BUILTIN = "builtin:"


def load_job(path: Path, *, overrides: Iterable[str] = ()) -> JobConfig:
    """The job of a file with `KEY=VALUE` overrides applied and `data.source` made absolute.

    Args:
        path: A TOML job file.
        overrides: Words like `train.learning_rate=0.003`; values are TOML, and text that is not
            TOML is taken as a string.

    Raises:
        JobError: If the file cannot be read, is no TOML, or breaks a rule of the job file.
    """
    values = _read_toml(path)
    _anchor_source(values, path.absolute().parent)
    for word in overrides:
        key, value = parse_override(word)
        wanted: dict[str, Any] = {}
        set_key(wanted, key, value)
        _anchor_source(wanted, Path.cwd())
        set_key(values, key, get_key(wanted, key))
    return resolve_job(values, origin=str(path))


def resolve_job(values: Mapping[str, Any], *, origin: str) -> JobConfig:
    """A validated job from nested values.

    Args:
        values: Nested tables as TOML gives them.
        origin: Where they come from, for messages.

    Raises:
        JobError: If a key is unknown or a value breaks its rule; every fault is listed.
    """
    try:
        return JobConfig.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"  {fault}" for fault in _describe_faults(error))
        raise JobError(f"{origin} is not a valid job:\n{faults}") from error


def to_toml(record: BaseModel) -> str:
    """The record as TOML, every default filled in; what has no value is left out."""
    values = record.model_dump(mode="json", exclude_none=True)
    return tomli_w.dumps({key: value for key, value in values.items() if value != {}})


def parse_override(word: str) -> tuple[str, Any]:
    """Key and value of a `KEY=VALUE` word.

    Raises:
        JobError: If it is not of that form.
    """
    key, equals, text = word.partition("=")
    if not equals or not all(key.split(".")):
        raise JobError(
            f"An override reads KEY=VALUE, as in train.learning_rate=0.003, but got {word!r}."
        )
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text


def set_key(values: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key in nested tables.

    Raises:
        JobError: If a part of the key before the last is not a table.
    """
    *tables, last = key.split(".")
    for name in tables:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise JobError(f"{name!r} of the key {key!r} is a value, not a table of keys.")
    values[last] = value


def get_key(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key in nested tables, None where absent."""
    found: Any = values
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return copy.deepcopy(found)


def valid_keys(model: type[BaseModel] = JobConfig, prefix: str = "") -> Iterator[str]:
    """Every dotted key a job may set."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from valid_keys(kind, f"{prefix}{name}.")
        else:
            yield prefix + name


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise JobError(
            f"There is no job file {path}. Give the path of a TOML file; "
            "`dnnjob init TABLE` writes one from a table."
        ) from None
    except OSError as error:
        raise JobError(f"The job file {path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"A job file is TOML, but {path} does not parse: {error}.") from error


def _anchor_source(values: Mapping[str, Any], folder: Path) -> None:
    data = values.get("data")
    if isinstance(data, dict) and isinstance(source := data.get("source"), str):
        data["source"] = anchor(source, folder)


def anchor(source: str, folder: Path) -> str:
    """`source` as an absolute path, relative ones from `folder`; symlinks stay, builtins too."""
    if not source or source.startswith(BUILTIN):
        return source
    # abspath, not resolve: a symlink is often the stable name of data that moves.
    return os.path.abspath(folder / Path(source).expanduser())  # noqa: PTH100


def _describe_faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        match fault["type"]:
            case "extra_forbidden":
                yield f"{key}: no such key. {_suggest(key)}"
            case "missing":
                yield f"{key}: required, but missing. Set it."
            case "value_error":
                yield str(fault["ctx"]["error"])
            case _:
                message = fault["msg"]
                yield f"{key}: {message[:1].lower()}{message[1:]}, but got {fault['input']!r}."


def _suggest(key: str) -> str:
    keys = sorted(valid_keys())
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6) or [
        known for known in keys if known.rpartition(".")[2] == key.rpartition(".")[2]
    ]
    section = key.rpartition(".")[0]
    siblings = [known for known in keys if known.rpartition(".")[0] == section] or keys
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}Valid keys: {', '.join(siblings)}."
