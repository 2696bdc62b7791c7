"""From a job file and `KEY=VALUE` words to one validated record, and back to TOML.

job = load_job(Path("jobs/housing.toml"), overrides=["seed=7", "data.source=mine.csv"])
text = to_toml(job)
job = load_job_again(paths.job, ["devices.tasks=2"])    # a run that goes on computes elsewhere
"""

import copy
import difflib
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dnnjob.config.data_section import ColumnConfig
from dnnjob.config.job import JobConfig, flatten_sweep
from dnnjob.errors import JobError
from dnnjob.image import mount_hint
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)

BUILTIN = "builtin:"
# Keys of [data] that name files or folders.
_PATH_KEYS = ("source", "validation_source", "test_source", "scratch")
_COLUMNS_KEY = "data.columns"
# The arithmetic makes other numbers, not the same ones elsewhere.
_OF_THE_JOB = "devices.precision"
# What other tools call it.
_OTHER_WORDS = {
    "lr": "learning_rate",
    "eta": "learning_rate",
    "batch": "global_batch_size",
    "bs": "global_batch_size",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "iterations": "epochs",
    "hidden": "hidden_units",
    "layers": "hidden_units",
    "units": "hidden_units",
    "hidden_layers": "hidden_units",
    "hidden_layer_sizes": "hidden_units",
    "dropout": "dropout_rate",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "optim": "optimizer",
    "early_stopping": "patience",
    "label": "target",
    "y": "target",
    "input": "source",
    "file": "source",
    "path": "source",
    "dataset": "source",
    "test_size": "test_fraction",
    "test_split": "test_fraction",
    "val_split": "validation_fraction",
    "validation_split": "validation_fraction",
    "random_state": "seed",
    "random_seed": "seed",
    "device": "kind",
    "cpus": "threads",
    "warmup": "warmup_steps",
    "grad_clip": "clip_norm",
}


def load_job(path: Path, *, overrides: Iterable[str] = ()) -> JobConfig:
    """The job of a file with `KEY=VALUE` overrides applied and `data.source` made absolute.

    Args:
        path: A TOML job file.
        overrides: Words like `train.learning_rate=0.003`; values are TOML, and text that is not
            TOML is taken as a string.

    Raises:
        JobError: If the file cannot be read, is no TOML, or breaks a rule of the job file.
    """
    values = read_toml(path, kind="job file")
    return make_job(values, overrides=overrides, folder=path.absolute().parent, origin=str(path))


def make_job(
    values: dict[str, Any], *, overrides: Iterable[str] = (), folder: Path, origin: str
) -> JobConfig:
    """The job of nested tables as TOML gives them, with overrides applied.

    Args:
        values: The tables, which are changed in place.
        overrides: As `load_job` takes them.
        folder: From which its relative paths are.
        origin: Where they come from, for messages.

    Raises:
        JobError: If a rule of the job file is broken.
    """
    words = [parse_override(word) for word in overrides]
    _anchor_sources(values, folder)
    for key, value in words:
        wanted: dict[str, Any] = {}
        set_key(wanted, key, value)
        _anchor_sources(wanted, Path.cwd())
        set_key(values, key, get_key(wanted, key))
        _sweep_no_more(values, key)
    return resolve_job(values, origin=origin)


def _sweep_no_more(values: dict[str, Any], key: str) -> None:
    """Takes a key out of the sweep, whose values would win over the one it was given."""
    sweep = values.get("sweep")
    if not isinstance(sweep, Mapping):
        return
    swept = flatten_sweep(sweep)
    if key in swept:
        logger.info("%s has one value for all runs: it is not swept.", key)
        values["sweep"] = {name: listed for name, listed in swept.items() if name != key}


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
        faults = "\n".join(f"  {fault}" for fault in describe_faults(error, JobConfig))
        raise JobError(f"{origin} is not a valid job:\n{faults}") from error


def to_toml(record: BaseModel) -> str:
    """The record as TOML, defaults filled in; what has no value is left out."""
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


def without_keys(message: str, *, instead: str) -> str:
    """A message without the ways out that are keys of the job file; its first sentence stays.

    Args:
        message: Of an error.
        instead: The way out for whoever has no job file.
    """
    names = "|".join(re.escape(key) for key in valid_keys() if "." in key)
    first, *sentences = re.split(r"(?<=[.?!]) (?=[A-Z`])", message)
    kept = [one for one in sentences if not re.search(rf"(?<![\w/])(?:{names})(?![\w/])", one)]
    if len(kept) == len(sentences):
        return message
    return " ".join([first, *kept, instead])


def read_toml(path: Path, *, kind: Literal["job file", "profile"]) -> dict[str, Any]:
    """The nested tables of a TOML file.

    Raises:
        JobError: If it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        hint = "; `dnnjob init TABLE` writes one from a table" if kind == "job file" else ""
        raise JobError(
            f"There is no {kind} {path}. Give the path of a TOML file{hint}."
            f"{mount_hint(path, to='read')}"
        ) from None
    except OSError as error:
        raise JobError(
            f"A {kind} is a TOML file, but {path} cannot be read: {error.strerror}. "
            "Give the path of a file you can read."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(
            f"A {kind} is TOML, but {path} does not parse: {str(error).rstrip('.')}. "
            "Texts stand in quotes, and each key on a line of its own."
        ) from error


def _anchor_sources(values: Mapping[str, Any], folder: Path) -> None:
    """Makes the paths of `data`, and the values a sweep gives them, absolute in place."""
    if isinstance(data := values.get("data"), dict):
        for key in {*_PATH_KEYS} & set(data):
            data[key] = _anchor_each(data[key], folder)
    sweep = values.get("sweep")
    if isinstance(sweep, dict):
        for key in {f"data.{name}" for name in _PATH_KEYS} & set(sweep):
            sweep[key] = _anchor_each(sweep[key], folder)
        _anchor_sources(sweep, folder)


def _anchor_each(source: Any, folder: Path) -> Any:
    if isinstance(source, list):
        return [_anchor_each(one, folder) for one in source]
    return anchor(source, folder) if isinstance(source, str) else source


def anchor(source: str, folder: Path) -> str:
    """`source` as an absolute path, relative ones from `folder`; symlinks stay, builtins too.

    Raises:
        JobError: If it starts in the home of an unknown user.
    """
    if not source or source.startswith(BUILTIN):
        return source
    try:
        path = folder / Path(source).expanduser()
    except RuntimeError as error:
        raise JobError(
            f"{source!r} starts in a home that is not known ({error}). Give the whole path."
        ) from error
    # abspath, not resolve: a symlink is often the stable name of data that moves.
    return os.path.abspath(path)  # noqa: PTH100


def describe_faults(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Each fault of a record in the words of its file: the key, the rule, what was received."""
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"])
        match fault["type"]:
            case "extra_forbidden":
                yield f"{key}: no such key. {_suggest(fault['loc'], model)}"
            case "tuple_type":
                yield (
                    f"{key}: must be a list, but got {_as_toml(fault['input'])}. "
                    f"Write {key}={_as_list(fault['input'], fault['loc'], model)}."
                )
            case "missing":
                yield f"{key}: required, but missing. Set it."
            case "value_error" if not _is_key(fault["loc"], model):
                yield str(fault["ctx"]["error"])
            case _:
                yield f"{key}: {_rule(fault)}, but got {_as_toml(fault['input'])}."


def _rule(fault: ErrorDetails) -> str:
    """What a value must be, in the words of job files."""
    match fault["type"]:
        case "value_error":
            return str(fault["ctx"]["error"])
        case "string_pattern_mismatch":
            return (
                "must be 1 to 64 letters, digits, dots, underscores or hyphens, and begin with a "
                "letter or digit"
            )
        case "model_type" | "dict_type":
            return "must be a table of keys"
        case "string_too_short":
            return "must not be empty"
        case "string_type":
            return "must be a text in quotes"
        case "int_parsing":
            return "must be a valid integer"
        case "float_parsing":
            return "must be a valid number"
        case _:
            return fault["msg"].replace("Input should", "must")


def _as_list(value: Any, place: Sequence[int | str], model: type[BaseModel]) -> str:
    """What somebody meant who wrote a list without brackets."""
    values = [value]
    if isinstance(value, str):
        listed = parse_override(f"_=[{value}]")[1]
        values = listed if isinstance(listed, list) else values
    *tables, name = map(str, place)
    field = _section_at(tables, model).model_fields.get(name)
    if field is not None and field.annotation in (tuple[str, ...], tuple[str, ...] | None):
        # A number in quotes is a text.
        values = [one if isinstance(one, str) else str(one) for one in values]
    return f"[{', '.join(map(_as_toml, values))}]"


def _as_toml(value: Any) -> str:
    try:
        return tomli_w.dumps({"value": value}).removeprefix("value = ").rstrip("\n")
    except TypeError:
        return repr(value)


def _suggest(place: Sequence[int | str], model: type[BaseModel]) -> str:
    """The nearest valid key, if one is near, and those of the same table."""
    *tables, name = map(str, place)
    siblings = list(_section_at(tables, model).model_fields)
    near = [
        ".".join([*tables, known]) for known in difflib.get_close_matches(name, siblings, n=1)
    ] or nearest_keys(name, model)
    hint = f"Did you mean {near[0]}? " if near else ""
    return f"{hint}Valid keys: {', '.join(siblings)}."


def nearest_keys(name: str, model: type[BaseModel] = JobConfig) -> list[str]:
    """Keys whose last part is a name, means the same elsewhere, or is like it; the best first."""
    by_name: dict[str, list[str]] = {}
    for key in valid_keys(model):
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    wanted = name.lower().replace("-", "_").rpartition(".")[2]
    wanted = _OTHER_WORDS.get(wanted, wanted)
    near = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.7)
    # batch_size is global_batch_size.
    parts = [known for known in by_name if wanted and f"_{wanted}_" in f"_{known}_"]
    for found in ([wanted] if wanted in by_name else [], near, parts):
        if found:
            return by_name[found[0]]
    return []


def _is_key(place: Sequence[int | str], model: type[BaseModel]) -> bool:
    """Whether a fault is one key's, and not a whole table's."""
    key = ".".join(map(str, place))
    in_column = place[:2] == ("data", "columns") and len(place) == 4
    return in_column or key in valid_keys(model)


def _section_at(tables: Sequence[str], model: type[BaseModel]) -> type[BaseModel]:
    """The record behind a table of the file; that of a single column has the column's name."""
    if ".".join(tables[:2]) == _COLUMNS_KEY and len(tables) == 3:
        return ColumnConfig
    found = model.model_fields[tables[0]].annotation if len(tables) == 1 else model
    return found if isinstance(found, type) and issubclass(found, BaseModel) else model


def load_job_again(path: Path, words: Sequence[str]) -> JobConfig:
    """The job of a run with other devices.

    Args:
        path: The resolved job of the run.
        words: `KEY=VALUE` for keys of `[devices]`.

    Raises:
        JobError: If another key is given, or the job is not valid with these.
    """
    for word, key in zip(words, list_keys(words), strict=True):
        if not key.startswith("devices.") or key == _OF_THE_JOB:
            raise JobError(
                f"A run goes on as the job it began with: only keys of [devices] but precision "
                f"may change, and profile.* where it is submitted again, but got {word!r}. "
                f"Another job is another run: {quote_command('run', path, word)}."
            )
    return load_job(path, overrides=words)


def parse_devices(words: Iterable[str]) -> dict[str, Any]:
    """The keys of `[devices]` that words set, without their table's name."""
    return {key.removeprefix("devices."): value for key, value in map(parse_override, words)}


def change_devices(job: JobConfig, devices: Mapping[str, Any]) -> JobConfig:
    """The job with other values for some keys of `[devices]`.

    Raises:
        JobError: If it is not valid with these.
    """
    if not devices:
        return job
    values = job.model_dump(exclude_none=True)
    values["devices"] |= devices
    return resolve_job(values, origin="The job with other devices")


def list_keys(words: Iterable[str]) -> list[str]:
    """The key of each `KEY=VALUE` word."""
    return [parse_override(word)[0] for word in words]
