"""The job file that `dnnjob init TABLE` writes: a table's columns, and every key with its default.

text = draft_job("housing.csv")
JobConfig.model_validate(tomllib.loads(text))
"""

import codecs
import json
import logging
import os
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from pydantic import BaseModel

from dnnjob.config import without_keys
from dnnjob.config.data_section import RESULT_COLUMNS
from dnnjob.config.job import JobConfig
from dnnjob.config.overrides import BUILTIN
from dnnjob.config.schema import schema_file
from dnnjob.data.builtin import is_builtin
from dnnjob.data.csv_reader import TableFile
from dnnjob.data.data_warnings import ID_NAME, LEAST_NUMBERED_ROWS
from dnnjob.data.heads import estimate_rows, head_columns, read_heads
from dnnjob.data.kinds import ReadAs
from dnnjob.data.raw_columns import Texts
from dnnjob.data.recipe import TableShape, choose_search, choose_start
from dnnjob.data.schema import (
    ColumnData,
    check_present,
    check_target,
    listed,
    problem_of,
    problem_of_target,
    show_date,
)
from dnnjob.data.source_files import peek_source, table_stem
from dnnjob.data.sources import read_all
from dnnjob.data.text_format import TextFormat
from dnnjob.errors import DataError, JobError
from dnnjob.text import counted

logger = logging.getLogger(__name__)

WIDTH = 100
_OPTIONS = {"data.source": "TABLE", "data.target": "--target", "data.encoding": "--encoding"}
# Of a larger table a sample has to do; of Parquet files so many values take about a second.
MAX_READ_VALUES = 2**24
OPENING = (
    "Keys behind a # show their defaults. Those set here, beside the table's own, are the best "
    "start known for a table of its size and kinds of columns."
)


@dataclass(frozen=True)
class Parts:
    """What each column of a table is for.

    Attributes:
        target: The column to predict.
        reason: Why this one.
        ids: Columns that tell rows apart, with the reason.
        excluded: Columns that are no features either, with the reason.
    """

    target: str
    reason: str
    ids: Mapping[str, str]
    excluded: Mapping[str, str]


def draft_job(
    source: str | Path,
    *,
    folder: Path | None = None,
    target: str | None = None,
    encoding: str | None = None,
    search: bool = False,
) -> str:
    """A commented job file for a table, as TOML that loads and validates.

    Every key left at its default is there as a comment, and so are the columns, what they hold, and
    why some are no features. What was guessed is logged with the reason.

    Args:
        source: Files as in `data.source`; a relative path starts at the working directory.
        folder: Where the job file will lie, to name the table from there; without it the path is
            absolute.
        target: The column to predict; without it the last one of numbers that vary.
        encoding: Of text; UTF-8, if None.
        search: Whether the job is a search around the start that it is without.

    Raises:
        DataError: If the table cannot be read, or has no usable target and feature.
        JobError: If there is no such encoding.
    """
    if encoding is not None:
        _check_encoding(encoding)
    with _naming_options():
        looked_at = _read(str(source), ReadAs(format=TextFormat(encoding=encoding)))
        unit = _unit_of(looked_at.columns.get(target or ""))
        if target is not None and unit is not None:
            known = TextFormat(encoding=encoding, units={target: unit})
            looked_at = _read(str(source), ReadAs(format=known))
        columns = looked_at.columns
        parts = _choose(str(source), columns, target)
    _tell(parts)
    data: dict[str, Any] = {"source": _path_from(str(source), folder), "target": parts.target}
    if encoding is not None:
        data["encoding"] = encoding
    if parts.ids:
        data["id_columns"] = list(parts.ids)
    if parts.excluded:
        data["exclude"] = list(parts.excluded)
    if unit is not None:
        logger.info("The target %s carries the unit %r: its numbers are read.", target, unit)
        data["columns"] = {parts.target: {"unit": unit}}
    shape = _shape(looked_at, parts)
    start = choose_start(shape) | (choose_search(shape) if search else {})
    chosen: dict[str, Any] = {"name": job_name(str(source))} | start
    chosen["data"] = data | start["data"]
    notes = {
        "target": [f"{parts.reason}. The columns:", *_column_list(columns), *looked_at.sampled],
        "exclude": _reasons(parts.excluded),
        "id_columns": _reasons(parts.ids),
    }
    lines = _section_lines(JobConfig, chosen, notes)
    schema = f"#:schema {schema_file('job').as_uri()}"
    return "\n".join([schema, *_comment(OPENING), "", *lines, ""])


def _unit_of(data: ColumnData | None) -> str | None:
    """What all numbers of a column of texts carry."""
    if data is None or not isinstance(data.values, Texts):
        return None
    from dnnjob.data.text_types import find_unit

    return find_unit(data.values.values)


def _check_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
    except LookupError as error:
        raise JobError(
            f"--encoding must be one that Python knows, but it is {name!r}. Write it as utf-8, "
            "latin-1, cp1252 or utf-16."
        ) from error


@contextmanager
def _naming_options() -> Iterator[None]:
    """Lets errors name what `dnnjob init` takes in place of keys of a job file."""
    try:
        yield
    except DataError as error:
        message = str(error)
        for key, option in _OPTIONS.items():
            message = message.replace(key, option)
        raise DataError(without_keys(message, instead="Repair the table.")) from error


@dataclass(frozen=True)
class _LookedAt:
    """A table as a draft sees it.

    Attributes:
        columns: Of all its rows, of a large table those of a sample.
        num_rows: Rows of the table, about.
        sampled: What is told of the sample, a line; nothing where there is none.
    """

    columns: Mapping[str, ColumnData]
    num_rows: int
    sampled: tuple[str, ...] = ()

    @classmethod
    def whole(cls, columns: Mapping[str, ColumnData]) -> "_LookedAt":
        return cls(columns, next(iter(columns.values())).num_rows)


def _read(source: str, wanted: ReadAs) -> _LookedAt:
    """The columns of a table, of a large one those of a sample, which is told."""
    files = peek_source(source, encoding=wanted.format.encoding)
    if files is None or len({file.kind for file in files}) > 1:
        return _LookedAt.whole(read_all(source, wanted=wanted))
    read = _read_text if files[0].kind == "csv" else _read_parquet
    return read(source, files, wanted)


def _read_text(source: str, files: Sequence[TableFile], wanted: ReadAs) -> _LookedAt:
    heads = read_heads(files)
    num_rows = sum(estimate_rows(files, heads))
    if num_rows * len(files[0].names) <= MAX_READ_VALUES:
        return _LookedAt.whole(read_all(source, wanted=wanted))
    columns = head_columns(heads, wanted, source=source)
    looked_at = next(iter(columns.values())).num_rows
    told = f"Told from the first {looked_at:,} of its about {num_rows:,} rows."
    return _LookedAt(columns, num_rows, (told,))


def _read_parquet(source: str, files: Sequence[TableFile], wanted: ReadAs) -> _LookedAt:
    from dnnjob.data.parquet import ParquetRows

    rows = ParquetRows.open([file.path for file in files])
    if rows.num_rows * len(files[0].names) <= MAX_READ_VALUES:
        return _LookedAt.whole(read_all(source, wanted=wanted))
    from dnnjob.data.sample import sample_columns

    columns = sample_columns(rows, files[0].names, wanted, source=source)
    looked_at = next(iter(columns.values())).num_rows
    told = f"Told from {looked_at:,} of its {rows.num_rows:,} rows."
    return _LookedAt(columns, rows.num_rows, (told,))


def _shape(looked_at: _LookedAt, parts: Parts) -> TableShape:
    """What the rules of a start go by."""
    columns, target = looked_at.columns, looked_at.columns[parts.target]
    others = {parts.target, *parts.ids, *parts.excluded}
    known = 1 - target.column.num_missing / target.num_rows
    return TableShape(
        num_rows=round(known * looked_at.num_rows),
        num_columns=len(columns),
        num_numbers=sum(
            data.column.kind == "numeric" and not data.column.is_constant
            for name, data in columns.items()
            if name not in others
        ),
    )


def job_name(source: str) -> str:
    """A job name from a source: its last part without suffixes, hyphens for what names forbid."""
    stem = table_stem(Path(source).name.removeprefix(BUILTIN))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:64].strip("-._") or "job"


def _choose(source: str, columns: Mapping[str, ColumnData], wanted: str | None) -> Parts:
    """What each of the columns is for."""
    if wanted is not None:
        check_present(source, [wanted], list(columns), way_out="Name another by --target.")
        check_target(source, columns[wanted])
    ids = {
        name: why
        for place, (name, data) in enumerate(columns.items())
        if name != wanted and (why := _why_id(data, is_first=place == 0))
    }
    problems = {name: why for name, data in columns.items() if (why := _why_left_out(data))}
    usable = [name for name in columns if name not in problems and name not in ids]
    if len(usable) < 2:
        # Numbers that are all there is to predict from are no ids.
        ids = {name: why for name, why in ids.items() if columns[name].column.kind == "text"}
        usable = [name for name in columns if name not in problems and name not in ids]
    targets = [
        name
        for name in usable
        if not (problem_of_target(columns[name]) or columns[name].column.is_constant)
    ]
    if len({*usable, wanted} - {None}) < 2 or not (targets or wanted):
        raise DataError(
            "A job needs a target of numbers that vary, and a feature, but of the "
            f"{len(columns)} columns of {source} usable are: {listed(usable) or 'none'}. "
            "Repair the table."
        )
    reason = "Named by --target"
    if wanted is None:
        wanted, reason = _guess_target(columns, targets)
    # Predictions have columns of these names already.
    taken = {name: ids.pop(name) for name in RESULT_COLUMNS if name in ids}
    left_out = {**problems, **taken}
    excluded = {
        name: left_out[name]
        for name in columns
        if name in left_out and name not in ids and name != wanted
    }
    return Parts(wanted, reason, ids, excluded)


def _guess_target(columns: Mapping[str, ColumnData], targets: Sequence[str]) -> tuple[str, str]:
    """The last column of numbers of which most are known, and why."""
    known = [
        name for name in targets if 2 * columns[name].column.num_missing <= columns[name].num_rows
    ]
    numeric = [name for name in known if columns[name].column.kind == "numeric"]
    target = (numeric or known or targets)[-1]
    gaps = columns[target].column.num_missing
    reason = "A guess: the last column of numbers that vary"
    return target, f"{reason} (missing in {gaps} rows)" if gaps else reason


def _why_id(data: ColumnData, *, is_first: bool) -> str | None:
    """Why a column tells rows apart and nothing else; None if it does not."""
    column, num_rows = data.column, data.num_rows
    if column.kind == "text":
        if num_rows == column.num_values > 1:
            return f"text that differs in all {num_rows} rows, as names and keys do"
        return None
    if column.kind != "numeric" or column.num_missing or num_rows < LEAST_NUMBERED_ROWS:
        return None
    values = data.numbers
    if not (np.isfinite(values).all() and np.equal(np.mod(values, 1), 0).all()):
        return None
    if not (is_first or ID_NAME.search(column.name)) or len(np.unique(values)) < num_rows:
        return None
    if ID_NAME.search(column.name):
        return f"another number in each of {num_rows} rows"
    first, last = int(values.min()), int(values.max())
    return f"numbers the rows, {first} to {last}" if last - first == num_rows - 1 else None


def _why_left_out(data: ColumnData) -> str | None:
    """Why a column is no feature of a draft; None if it is."""
    if data.is_empty:
        return f"missing in all {data.num_rows} rows"
    return problem_of(data)


def _tell(parts: Parts) -> None:
    logger.info(
        "Target: %s. %s%s.",
        parts.target,
        parts.reason,
        "" if parts.reason.startswith("Named") else "; --target COLUMN names another",
    )
    for name, why in parts.ids.items():
        logger.info("%s is in data.id_columns, carried along as no feature: %s.", name, why)
    for name, why in parts.excluded.items():
        logger.info("%s is in data.exclude: %s.", name, why)


def _path_from(source: str, folder: Path | None) -> str:
    if is_builtin(source):
        return source
    absolute = Path(source).absolute()
    return str(absolute) if folder is None else os.path.relpath(absolute, folder.absolute())


def _column_list(columns: Mapping[str, ColumnData]) -> list[str]:
    width = min(max(len(_shown(name)) for name in columns), 40)
    return [f"  {_shown(name):{width}}  {_told(data)}" for name, data in columns.items()]


def _told(data: ColumnData) -> str:
    column = data.column
    told: list[str] = [column.kind]
    if column.num_values:
        told.append(counted(column.num_values, "value"))
    elif column.kind == "datetime" and column.minimum is not None and column.maximum is not None:
        told.append(f"{show_date(column.minimum)} to {show_date(column.maximum)}")
    elif column.minimum is not None and column.maximum is not None:
        told.append(f"{column.minimum:g} to {column.maximum:g}")
    if column.example is not None and column.kind != "datetime":
        told.append(f"such as {_shown(column.example[:40])}")
    if column.num_missing:
        told.append(f"{column.num_missing} missing")
    if column.num_infinite:
        told.append(f"{column.num_infinite} infinite")
    return ", ".join(told)


def _reasons(columns: Mapping[str, str]) -> list[str]:
    """Why some columns are no features."""
    return [f"  {_shown(name)}: {_printable(why)}" for name, why in columns.items()]


def _section_lines(
    section: type[BaseModel],
    chosen: Mapping[str, Any],
    notes: Mapping[str, Sequence[str]],
    *,
    prefix: str = "",
) -> Iterator[str]:
    """A section's keys with what the records say of them, then the sections inside it."""
    inner: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner += ["", *_comment(kind.__doc__), f"[{name}]"]
            inside = notes if name in chosen else {}
            inner += _section_lines(kind, chosen.get(name, {}), inside, prefix=f"{name}.")
        elif isinstance(field.get_default(call_default_factory=True), dict):
            heading = f"[{prefix}{name}]"
            inner += ["", *_comment(field.description)]
            if name in chosen:
                inner += [
                    heading,
                    *(f"{_key(key)} = {_toml(to)}" for key, to in chosen[name].items()),
                ]
            else:
                inner.append(f"# {heading}")
        else:
            yield from _comment(field.description)
            yield from (f"# {note}" for note in notes.get(name, ()))
            default = field.get_default(call_default_factory=True)
            if name in chosen:
                yield _key_line(name, chosen[name])
            else:
                yield from (f"# {line}" for line in _key_line(name, default).splitlines())
    yield from inner


def _comment(text: str | None) -> list[str]:
    prose = " ".join((text or "").split())
    return textwrap.wrap(prose, WIDTH, initial_indent="# ", subsequent_indent="# ")


def _key_line(name: str, value: object) -> str:
    return f"{name} = {'...' if value is None else _toml(value)}"


def _key(name: str) -> str:
    """A dotted key of a job as one key of TOML, in quotes."""
    return json.dumps(name)


def _toml(value: object) -> str:
    """A value as TOML on one line, lists of strings too long for it on several."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(to)}' for key, to in value.items())} }}"
    if not isinstance(value, list | tuple):
        return tomli_w.dumps({"_": value}).removeprefix("_ = ").rstrip("\n")
    items = ", ".join(map(_toml, value))
    if len(items) < WIDTH - 10:
        return f"[{items}]"
    return "\n".join(["[", *(f"    {_toml(item)}," for item in value), "]"])


def _shown(name: str) -> str:
    """A name as a comment may hold it: TOML forbids control characters there."""
    return name if name.isprintable() else json.dumps(name)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
