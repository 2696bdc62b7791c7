"""What may change of a run that goes on: where it computes, and nothing of what.

job = load_job_again(paths.job, ["devices.tasks=2"])
job = change_devices(job, {"tasks": 2})
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnnjob.config.job import JobConfig
from dnnjob.config.overrides import load_job, parse_override, resolve_job
from dnnjob.errors import JobError
from dnnjob.text import quote_command

# The arithmetic makes other numbers, not the same ones elsewhere.
_OF_THE_JOB = "devices.precision"


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
