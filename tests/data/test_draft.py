"""The job file that `dnnjob init` writes."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel

from dnnjob.config.job import JobConfig
from dnnjob.data.draft import draft_job, job_name
from dnnjob.data.recipe import TableShape, choose_start
from dnnjob.errors import DataError, JobError
from dnnjob.launch.job_check import check_job
from tests.data.opened import open_table


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real tables are not there: {folder}")
    return folder


def load(text: str) -> JobConfig:
    return JobConfig.model_validate(tomllib.loads(text))


def uncommented(text: str) -> dict[str, Any]:
    """The draft with its commented keys switched on, placeholders aside."""
    lines = [re.sub(r"^# (?=\[[a-z_.]+\]$|[a-z0-9_]+ = )", "", line) for line in text.splitlines()]
    return tomllib.loads("\n".join(line for line in lines if not line.endswith(" = ...")))


@pytest.mark.parametrize(
    ("table", "target", "num_features"),
    [("housing", "MEDV", 12), ("abalone", "rings", 8), ("autos", "price", 25)],
)
def test_a_real_tables_draft_opens_as_it_is(
    shared_data: Path, table: str, target: str, num_features: int
) -> None:
    job = load(draft_job(shared_data / f"{table}.csv"))
    opened = open_table(job.data)
    assert (job.name, job.data.target, len(opened.features)) == (table, target, num_features)


def test_columns_are_told_with_what_they_hold(shared_data: Path) -> None:
    text = draft_job(shared_data / "autos.csv")
    assert "#   make               text, 22 values, such as alfa-romero" in text
    assert "#   bore               numeric, 2.54 to 3.94, 4 missing" in text
    assert "#   wheel_base         numeric, 86.6 to 120.9" in text
    assert load(text).data.features is None


def test_columns_that_tell_nothing_are_left_out_with_the_reason(tmp_path: Path) -> None:
    rows = "".join(f"{n},name {n},,{n},inf,2026-01-0{n},{n * n}\n" for n in range(1, 6))
    (tmp_path / "t.csv").write_text(f"a,name,empty,b,wild,day,y\n{rows}")
    text = draft_job(tmp_path / "t.csv")
    assert "#   name: text that differs in all 5 rows, as names and keys do" in text
    assert load(text).data.id_columns == ("name",)
    assert "#   empty: missing in all 5 rows" in text
    assert "#   wild: infinite in 5 of 5 rows" in text
    assert "#   day    datetime, 2026-01-01 to 2026-01-05" in text
    assert load(text).data.exclude == ("empty", "wild")
    assert load(text).data.features is None


def test_every_default_is_shown_as_the_records_have_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n3,5\n")
    shown = uncommented(draft_job(tmp_path / "t.csv"))
    start = choose_start(TableShape(num_rows=2, num_columns=2, num_numbers=1))
    expected = JobConfig(
        name="t",
        data={"source": str(tmp_path / "t.csv"), "target": "y", **start.pop("data")},
        **start,
    )
    held = expected.model_dump(mode="json", exclude_none=True)
    # A resolved job says it where it is asked for.
    assert shown == held | {"search": {"start": False}}


def test_every_key_and_its_documentation_are_there(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n3,5\n")
    text = draft_job(tmp_path / "t.csv")
    prose = " ".join(text.replace("\n#", " ").split())

    def check(section: type[BaseModel]) -> None:
        for name, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                assert f"\n[{name}]\n" in text
                check(field.annotation)
            else:
                assert re.search(rf"^(# )?\[?([a-z]+\.)?{name}\b", text, re.MULTILINE), name
                assert " ".join((field.description or "?").split()) in prose

    check(JobConfig)
    assert all(len(line) <= 100 for line in text.splitlines() if line.startswith("#"))


def test_gaps_infinities_and_ranges_are_told(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"gap": [1.0, None, 3.0], "wild": [1, float("inf"), 2], "a": [0, 1, 2.5], "y": [4, 5, 7]}
    )
    table.to_parquet(tmp_path / "t.parquet")
    text = draft_job(tmp_path / "t.parquet")
    assert "#   gap   numeric, 1 to 3, 1 missing" in text
    assert "#   wild  numeric, 1 to 2, 1 infinite" in text
    assert load(text).data.exclude == ("wild",)


def test_the_target_is_the_last_number_that_varies(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "a,price,flag,same,note\n1,2,True,7,x\n3,5,False,7,y\n4,6,True,7,z\n"
    )
    data = load(draft_job(tmp_path / "t.csv")).data
    assert data.target == "price"
    assert data.id_columns == ("note",)


def test_odd_column_names_survive(tmp_path: Path) -> None:
    names = ['say "hi"', "back\\slash", "tab\there", "line\nbreak", "Größe = 3 # m²", "a.b", "y"]
    table = pd.DataFrame([range(7), range(2, 9)], columns=names)
    table["text\x07"] = ["bell\x07", "x"]
    table.to_parquet(tmp_path / "t.parquet")
    data = load(draft_job(tmp_path / "t.parquet")).data
    assert data.target == "y"
    assert data.id_columns == ("text\x07",)
    assert open_table(data).features == tuple(names[:-1])


def test_the_table_can_be_named_from_the_job_files_folder(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "t.csv").write_text("a,y\n1,2\n3,5\n")
    text = draft_job(tmp_path / "tables" / "t.csv", folder=tmp_path / "jobs")
    assert load(text).data.source == "../tables/t.csv"


def test_a_relative_table_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n3,5\n")
    monkeypatch.chdir(tmp_path)
    assert load(draft_job("t.csv")).data.source == str(tmp_path / "t.csv")


def test_a_builtin_table_keeps_its_name() -> None:
    job = load(draft_job("builtin:diabetes"))
    assert (job.name, job.data.source) == ("diabetes", "builtin:diabetes")
    assert job.data.target == "progression"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("data/housing.csv", "housing"),
        ("my table (2024).CSV.gz", "my-table-2024"),
        ("runs/", "runs"),
        ("part-*.parquet", "part"),
        ("_hidden.csv", "hidden"),
        ("größe.csv", "gr-e"),
        ("表.csv", "job"),
        ("v1.2.tsv", "v1.2"),
        ("x" * 200 + ".csv", "x" * 64),
        ("builtin:diabetes", "diabetes"),
    ],
)
def test_a_job_name_is_made_from_the_table(source: str, name: str) -> None:
    assert job_name(source) == name
    assert JobConfig(name=name, data={"source": source, "target": "y"}).name == name


@pytest.mark.parametrize(
    ("text", "usable"),
    [("a,b\nx,1\ny,2\n", "b"), ("a,b\n1,1\n1,1\n", "a, b"), ("a,b\nx,\ny,\n", "none")],
)
def test_a_table_without_target_and_feature_is_refused(
    tmp_path: Path, text: str, usable: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=rf"usable are: {usable}\."):
        draft_job(tmp_path / "t.csv")


def test_of_a_large_file_of_text_the_first_rows_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.draft.MAX_READ_VALUES", 100)
    monkeypatch.setattr("dnnjob.data.draft.read_all", lambda source: 1 / 0)
    monkeypatch.setattr("dnnjob.data.heads._NUM_ROWS", 30)
    frame = pd.DataFrame({"x": np.arange(100, 300), "y": np.arange(100, 300)[::-1]})
    frame.to_csv(tmp_path / "big.csv", index=False)

    text = draft_job(tmp_path / "big.csv")

    assert "# Told from the first 30 of its about 197 rows." in text
    assert JobConfig.model_validate(tomllib.loads(text)).data.target == "y"


def test_of_a_large_parquet_table_a_sample_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.data.draft.MAX_READ_VALUES", 100)
    monkeypatch.setattr("dnnjob.data.sample._NUM_GROUPS", 3)
    frame = pd.DataFrame({"x": np.arange(200.0), "y": np.arange(200.0) ** 2})
    frame.to_parquet(tmp_path / "big.parquet", row_group_size=10, index=False)

    text = draft_job(tmp_path / "big.parquet")

    assert "# Told from 30 of its 200 rows." in text
    assert JobConfig.model_validate(tomllib.loads(text)).data.target == "y"


def write_houses(path: Path, num_rows: int = 60) -> str:
    rows = np.arange(num_rows)
    frame = pd.DataFrame(
        {"id": rows + 1, "size": rows * 1.5, "zip": rows % 7 + 8000, "price": rows * 10.0}
    )
    frame.loc[::9, "price"] = np.nan
    frame.to_csv(path, index=False)
    return str(path)


def test_a_target_may_have_gaps_and_ids_are_carried_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_houses(tmp_path / "t.csv")
    with caplog.at_level("INFO", "dnnjob"):
        data = load(draft_job(source)).data
    assert (data.target, data.id_columns, data.exclude) == ("price", ("id",), ())
    assert open_table(data).features == ("size", "zip")
    assert (
        "Target: price. A guess: the last column of numbers that vary (missing in 7" in caplog.text
    )
    assert "--target COLUMN names another" in caplog.text
    assert "id is in data.id_columns, carried along as no feature: another number" in caplog.text


def test_a_named_target_of_texts_is_read_by_its_unit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="dnnjob")
    table = tmp_path / "t.csv"
    table.write_text("x,y\n" + "".join(f"{n % 7},{n}.5 km\n" for n in range(30)))

    job = load(draft_job(table, target="y"))

    assert job.data.columns["y"].unit == "km"
    assert "The target y carries the unit 'km': its numbers are read." in caplog.messages
    np.testing.assert_array_equal(open_table(job.data).y, np.arange(30) + 0.5)


def test_a_named_target_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_houses(tmp_path / "t.csv")
    with caplog.at_level("INFO", "dnnjob"):
        data = load(draft_job(source, target="zip")).data
    assert data.target == "zip"
    assert open_table(data).features == ("size", "price")
    assert "guess" not in caplog.text
    with pytest.raises(DataError, match=r"no column 'prize' \(did you mean 'price'\?\)"):
        draft_job(source, target="prize")


def test_a_column_of_mostly_gaps_is_no_guess(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(40) * 0.5, "y": np.arange(40.0) ** 2, "late": np.nan})
    frame.loc[30:, "late"] = 1.0 * frame.loc[30:, "x"]
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert load(draft_job(tmp_path / "t.csv")).data.target == "y"


TABLES = ("autos", "abalone", "housing", "concrete", "wine", "kin8nm")


@pytest.mark.parametrize("change", ["as it is", "shuffled, 5 % emptied"])
@pytest.mark.parametrize("table", TABLES)
def test_a_draft_of_each_real_table_is_fit_to_run(
    shared_data: Path, tmp_path: Path, table: str, change: str
) -> None:
    frame = pd.read_csv(shared_data / f"{table}.csv", dtype=str, keep_default_na=False)
    target = frame.columns[-1]
    if change != "as it is":
        rng = np.random.default_rng(1)
        frame = frame[rng.permutation(frame.columns)].mask(rng.random(frame.shape) < 0.05, "")
    frame.to_csv(tmp_path / "t.csv", index=False)
    named = None if change == "as it is" else target
    (tmp_path / "job.toml").write_text(draft_job(tmp_path / "t.csv", target=named))

    check = check_job(tmp_path / "job.toml")

    assert check.target == target
    (point,) = check.points
    assert point.num_rows == len(frame)
    assert point.num_unlabelled_rows == int(frame[target].isin(["", "?"]).sum())
    roles = {column.name: column.role for column in check.columns}
    assert [name for name, role in roles.items() if role != "feature"] == [target]


def test_a_table_in_another_encoding_is_drafted_once_its_encoding_is_named(tmp_path: Path) -> None:
    rows = "".join(f"Zürich {n % 3},{n},{n * n}\n" for n in range(30))
    (tmp_path / "t.csv").write_text(f"größe,a,y\n{rows}", encoding="latin-1")

    with pytest.raises(DataError, match="Set --encoding to what wrote it") as caught:
        draft_job(tmp_path / "t.csv")
    assert "data." not in str(caught.value)

    with pytest.raises(JobError, match="--encoding must be one that Python knows"):
        draft_job(tmp_path / "t.csv", encoding="latin-9000")
    job = load(draft_job(tmp_path / "t.csv", encoding="latin-1"))
    assert job.data.encoding == "iso8859-1"
    assert open_table(job.data).features == ("größe", "a")


@pytest.mark.parametrize("target", [None, "a", "none"])
def test_errors_of_a_draft_name_no_key_that_it_cannot_take(
    tmp_path: Path, target: str | None
) -> None:
    (tmp_path / "1.csv").write_text("a,y\n1,2\n3,4\n")
    (tmp_path / "2.csv").write_text("a,y\nx,2\n3,4\n")

    for table in (tmp_path, tmp_path / "nowhere.csv", "builtin:none"):
        with pytest.raises(DataError) as caught:
            draft_job(table, target=target)
        assert "data." not in str(caught.value)
