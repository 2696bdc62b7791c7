"""What text is understood as: whole, in pieces, and as the documentation says."""

import csv
from pathlib import Path

import numpy as np
import pytest

from dnnjob.config import DataConfig
from dnnjob.data import csv_reader
from dnnjob.data.csv_files import look_over, read_typed
from dnnjob.data.kinds import ReadAs, as_kind, infer_arrow
from dnnjob.data.raw_columns import Texts
from dnnjob.data.schema import ColumnData
from dnnjob.data.source_files import peek_source
from dnnjob.data.sources import read_all
from tests.data.understood import CASES, Case

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"
BEGIN, END = "<!-- cases -->", "<!-- end of cases -->"


def write(case: Case, path: Path) -> DataConfig:
    columns = {"x": case.written}
    if case.beside:
        columns["beside"] = case.beside
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow([*columns, "y"])
        for number in range(60 * len(case.written)):
            place = number % len(case.written)
            row = [values[place % len(values)] for values in columns.values()]
            writer.writerow([*row, number])
    return DataConfig.model_validate({"source": str(path), "target": "y", **dict(case.keys)})


def values_of(data: ColumnData) -> list[object]:
    if isinstance(data.raw, Texts):
        return [None if code < 0 else data.raw.values[code] for code in data.raw.codes]
    if data.column.kind == "datetime":
        return list(data.raw.astype("M8[s]").astype(object))
    return [None if np.isnan(value) else value for value in data.raw]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.written))
@pytest.mark.parametrize("way", ["whole", "in pieces"])
def test_text_is_what_the_page_says(
    tmp_path: Path, case: Case, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(case, tmp_path / "t.tsv")
    wanted = ReadAs.of(data)
    if way == "whole":
        parts = [read_all(data.source, wanted=wanted)["x"]]
    else:
        monkeypatch.setattr(csv_reader, "_BLOCK_BYTES", 200)
        (file,) = peek_source(data.source) or ()
        look = look_over([file], wanted, check=lambda: None)
        tables = read_typed(file, look.outlines[0], look.format, ["x"], data.missing)
        columns = [infer_arrow("x", table.column("x")) for table in tables if table.num_rows]
        assert len(columns) > 1
        kind = wanted.kind_of("x")
        parts = [
            as_kind(one, kind, source="t", text_format=look.format) if kind else one
            for one in columns
        ]
    assert {part.column.kind for part in parts} == {case.kind}
    found = [value for part in parts for value in values_of(part)]
    assert found == list(case.values) * 60


def page_table() -> str:
    lines = []
    for topic in dict.fromkeys(case.topic for case in CASES):
        lines += [f"\n### {topic}\n", "| written | read as | values | with |", "|---|---|---|---|"]
        for case in (case for case in CASES if case.topic == topic):
            said = [f"`data.{key} = {_toml(value)}`" for key, value in case.keys]
            cells = [
                ", ".join(f"`{one}`" for one in case.written),
                case.kind,
                ", ".join("gap" if one is None else f"{one}" for one in case.values),
                "; ".join([*said, case.note] if case.note else said),
            ]
            lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    match value:
        case dict():
            return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
        case tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return f"'{value}'" if "\\" in str(value) else f'"{value}"'


def test_the_page_lists_the_cases(request: pytest.FixtureRequest) -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    written, _, after = rest.partition(END)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(f"{before}{BEGIN}\n{page_table()}\n{END}{after}")
        return
    assert written.strip() == page_table().strip()
