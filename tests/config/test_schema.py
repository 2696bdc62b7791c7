"""JSON Schemas of job files and profiles."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dnnjob.config import load_job, to_toml
from dnnjob.config.overrides import valid_keys
from dnnjob.config.schema import SchemaKind, render_schema, schema_file
from tests.conftest import CHECKOUT

FILES = [
    *(("job", path) for path in sorted((CHECKOUT / "jobs").glob("*.toml"))),
    *(("profile", path) for path in sorted((CHECKOUT / "slurm").glob("*.toml"))),
]


def faults(kind: SchemaKind, values: dict[str, Any]) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(render_schema(kind))
    jsonschema.Draft202012Validator.check_schema(schema)
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(values)]


@pytest.mark.parametrize("kind", ["job", "profile"])
def test_the_package_holds_the_schema_of_its_records(
    kind: SchemaKind, request: pytest.FixtureRequest
) -> None:
    if request.config.getoption("--update-golden"):
        schema_file(kind).write_text(render_schema(kind), encoding="utf-8")
    assert schema_file(kind).read_text(encoding="utf-8") == render_schema(kind)


@pytest.mark.parametrize(("kind", "path"), FILES, ids=lambda value: getattr(value, "stem", value))
def test_every_file_of_the_checkout_meets_its_schema(kind: SchemaKind, path: Path) -> None:
    assert faults(kind, tomllib.loads(path.read_text())) == []


@pytest.mark.parametrize("path", [path for kind, path in FILES if kind == "job"])
def test_a_resolved_job_meets_the_schema(path: Path) -> None:
    assert faults("job", tomllib.loads(to_toml(load_job(path)))) == []


def test_columns_and_sweeps_may_be_written_as_files_write_them() -> None:
    job: dict[str, Any] = {
        "name": "a",
        "data": {"source": "t.csv", "target": "y", "columns": {"a": "codes", "b": {"fill": 1.5}}},
        "sweep": {"train": {"epochs": [1, 2]}, "train.learning_rate": {"low": 0.1, "high": 1}},
    }
    assert faults("job", job) == []


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("train", "lr", 0.1), ("train", "epochs", 0), ("model", "hidden_units", 64),
     ("train", "optimizer", "adma"), ("output", "plots", "yes")],
)  # fmt: skip
def test_what_a_job_refuses_the_schema_refuses(table: str, key: str, value: Any) -> None:
    least = {"name": "a", "data": {"source": "t.csv", "target": "y"}}
    assert faults("job", {**least, table: {key: value}})


def test_every_key_has_its_prose() -> None:
    schema = json.loads(render_schema("job"))
    for key in valid_keys():
        *tables, name = key.split(".")
        section = schema
        for table in tables:
            reference = section["properties"][table]["$ref"].rpartition("/")[2]
            section = schema["$defs"][reference]
        assert section["properties"][name]["description"], key
