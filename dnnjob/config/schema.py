"""JSON Schemas of job files and profiles, for editors: the records' own, as TOML may write them.

text = render_schema("job")
schema_file("job")                     # the same, as it lies in the package
"""

import json
from pathlib import Path
from typing import Any, Literal

from dnnjob.config.data_section import ColumnConfig
from dnnjob.config.job import JobConfig
from dnnjob.config.profile import ProfileConfig

SchemaKind = Literal["job", "profile"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def render_schema(kind: SchemaKind) -> str:
    """The JSON Schema of a kind of file, with the prose of every key."""
    schema = {"$schema": _DIALECT, **_SCHEMAS[kind]()}
    return json.dumps(_tidy(schema), indent=1, ensure_ascii=False) + "\n"


def schema_file(kind: SchemaKind) -> Path:
    """The file of the package that holds it."""
    return Path(__file__).parents[1] / "schemas" / f"{kind}.json"


def _job_schema() -> dict[str, Any]:
    schema = JobConfig.model_json_schema()
    # A text alone is a column's kind.
    column = schema["$defs"][ColumnConfig.__name__]
    kinds = column["properties"]["kind"]["anyOf"]
    schema["$defs"][ColumnConfig.__name__] = {"anyOf": [column, *kinds]}
    # Dotted keys stand in quotes or as nested tables, whose values are lists and ranges.
    prose = schema["properties"]["sweep"]["description"]
    schema["properties"]["sweep"] = {"type": "object", "description": prose}
    return {**schema, "title": "A job file of dnnjob"}


def _profile_schema() -> dict[str, Any]:
    return {**ProfileConfig.model_json_schema(), "title": "A profile of dnnjob"}


_SCHEMAS = {"job": _job_schema, "profile": _profile_schema}


def _tidy(schema: Any) -> Any:
    """Prose on one line, and no null, which TOML has not."""
    if isinstance(schema, list):
        return [_tidy(one) for one in schema if one != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    tidy = {
        key: " ".join(value.split())
        if key == "description" and isinstance(value, str)
        else _tidy(value)
        for key, value in schema.items()
        if not (key == "default" and value is None)
    }
    match tidy:
        case {"anyOf": [only]}:
            del tidy["anyOf"]
            return {**only, **tidy}
    return tidy
