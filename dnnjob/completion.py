"""What a shell completes after Tab: quick, from files alone, without importing what they describe.

complete_keys("train.lea") == ["train.learning_rate="]
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SCHEMAS = Path(__file__).parent / "schemas"
_MOST_RUNS = 50


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
    start = Path("/") if incomplete.startswith("/") else Path()
    found = list(start.glob(f"{incomplete.lstrip('/')}*" if incomplete else "runs/*/*"))
    others = [path for path in found if path.is_dir() and not _is_run(path)]
    inside = [run for folder in others for run in (*folder.glob("*"), *folder.glob("*/*"))]
    runs = sorted({path for path in (*found, *inside) if _is_run(path)}, key=lambda path: path.name)
    folders = sorted(f"{path}/" for path in others)
    return [*map(str, reversed(runs[-_MOST_RUNS:])), *folders]


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
