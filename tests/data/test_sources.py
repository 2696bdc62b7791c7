"""Tables from files, against pandas."""

import bz2
import gzip
import io
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from dnnjob.config.data_section import ColumnConfig, DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.inference_rows import read_rows
from dnnjob.data.parquet import ParquetRows
from dnnjob.data.raw_columns import RawColumn, Texts
from dnnjob.data.source_files import find_files
from dnnjob.data.sources import (
    peek_columns,
    peek_job,
    read_columns,
)
from dnnjob.errors import DataError, ExitCode
from tests.data.opened import OpenedTable, open_table

ROWS = pd.DataFrame(
    {
        "a": np.arange(40) / 7,
        "b": np.random.default_rng(0).normal(size=40),
        "c": np.arange(40) % 3 == 0,
        "y": np.arange(40) ** 2,
    }
)
TEXT = ROWS.to_csv(index=False)
KINDS: dict[str, FeatureKind] = {"a": "numeric", "b": "numeric", "c": "boolean"}


@pytest.fixture
def shared_data() -> Path:
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real tables are not there: {folder}")
    return folder


def config(
    source: object, target: str = "y", features: tuple[str, ...] | None = None
) -> DataConfig:
    return DataConfig(source=str(source), target=target, features=features)


def assert_is(table: OpenedTable, frame: pd.DataFrame) -> None:
    """The table holds exactly the frame's numbers."""
    features = frame.drop(columns="y")
    assert table.features == tuple(features.columns)
    np.testing.assert_array_equal(table.x, features.astype(float).to_numpy())
    np.testing.assert_array_equal(table.y, frame["y"].astype(float).to_numpy())
    assert table.x.dtype == table.y.dtype == np.float64


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        # Of 1980: the time of writing would be part of the names of tests.
        archive.writestr(zipfile.ZipInfo("table.csv"), content)
    return file.getvalue()


def zstandard(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


# Files that open


def test_the_housing_table_is_what_pandas_reads(shared_data: Path) -> None:
    table = open_table(config(shared_data / "housing.csv", "MEDV"))
    frame = pd.read_csv(shared_data / "housing.csv")
    np.testing.assert_array_equal(table.x, frame.drop(columns="MEDV").to_numpy())
    np.testing.assert_array_equal(table.y, frame["MEDV"].to_numpy())
    assert table.x.shape == (506, 12)
    assert table.x[:, 0].mean() == pytest.approx(3.613524, abs=5e-7)
    assert table.y.mean() == pytest.approx(22.532806, abs=5e-7)
    assert table.warnings == ()


def test_abalones_texts_and_numbers_are_what_pandas_reads(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "abalone.csv")
    table = open_table(config(shared_data / "abalone.csv", "rings"))
    assert table.kinds == {"sex": "text", **dict.fromkeys(frame.columns[1:-1], "numeric")}
    sex = table.block["sex"]
    assert isinstance(sex, Texts)
    assert [sex.values[code] for code in sex.codes] == frame["sex"].to_list()
    np.testing.assert_array_equal(table.block["shell_weight"], frame["shell_weight"])


def test_the_question_marks_of_autos_are_gaps(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "autos.csv", na_values="?")
    table = open_table(config(shared_data / "autos.csv", "price"))
    missing = {column.name: column.num_missing for column in table.columns}
    assert missing == frame.isna().sum().to_dict()
    assert missing["normalized_losses"] > 0
    numbers = [name for name, kind in table.kinds.items() if kind == "numeric"]
    assert numbers == list(frame.select_dtypes("number").columns.drop("price"))
    for name in numbers:
        np.testing.assert_array_equal(table.block[name], frame[name])


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_those_that_pandas_sniffs(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "table.csv"
    ROWS.to_csv(path, sep=delimiter, index=False)
    assert_is(open_table(config(path)), pd.read_csv(path, sep=None, engine="python"))


def test_columns_may_be_aligned_with_spaces(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    path.write_text(ROWS.to_string(index=False))
    assert_is(open_table(config(path)), pd.read_csv(path, sep=r"\s+"))


@pytest.mark.parametrize(
    "text",
    [
        '"a;1";y\n"1";2\n"3";4\n',
        "a note, with commas;y\n1;2\n3;4\n",
        'a,"y"\n1,2\n"3",4\n',
        '"two\nlines",y\n1,2\n3,4\n',
        "my target;y\r\n1;2\r\n3;4\r\n",
    ],
)
def test_quotes_and_odd_headers_do_not_mislead(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode())
    table = open_table(config(path))
    np.testing.assert_array_equal(table.x, [[1], [3]])
    np.testing.assert_array_equal(table.y, [2, 4])


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_and_blank_first_lines_do_not_matter(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(("\n\n" + TEXT).replace("\n", ending).encode())
    assert_is(open_table(config(path)), ROWS)


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TEXT, encoding="utf-8-sig")
    assert_is(open_table(config(path)), ROWS)


@pytest.mark.parametrize("suffix", ["by its suffix", "by its content"])
@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zip", zipped),
        (".zst", zstandard),
    ],
)
def test_compressed_files_open(
    tmp_path: Path, ending: str, compress: Callable[[bytes], bytes], suffix: str
) -> None:
    path = tmp_path / f"table.csv{ending if suffix == 'by its suffix' else ''}"
    path.write_bytes(compress(TEXT.encode()))
    assert_is(open_table(config(path)), ROWS)


def test_a_parquet_file_opens_by_its_suffix_or_content(tmp_path: Path) -> None:
    for name in ("table.parquet", "table.dat"):
        ROWS.to_parquet(tmp_path / name, row_group_size=7)
        assert_is(open_table(config(tmp_path / name)), ROWS)


def test_a_wide_parquet_file_keeps_its_order_of_columns(tmp_path: Path) -> None:
    wide = pd.DataFrame(np.random.default_rng(0).normal(size=(3, 150))).rename(columns=str)
    wide["y"] = [1.0, 2.0, 3.0]
    wide.to_parquet(tmp_path / "table.parquet")
    assert_is(open_table(config(tmp_path / "table.parquet")), wide)


def test_parquet_columns_with_dots_are_not_nested(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2], "a.b": [3, 4], "y": [5, 6]})
    table.to_parquet(tmp_path / "t.parquet")
    assert_is(open_table(config(tmp_path / "t.parquet")), table)


def test_the_index_that_pandas_hides_in_parquet_is_no_column(tmp_path: Path) -> None:
    ROWS[ROWS["a"] > 2].to_parquet(tmp_path / "table.parquet")
    assert peek_columns(config(tmp_path / "table.parquet")) == ("a", "b", "c", "y")


def test_features_come_in_the_jobs_order(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TEXT)
    table = open_table(config(path, features=("b", "a")))
    np.testing.assert_array_equal(table.x, ROWS[["b", "a"]].to_numpy())
    assert [column.name for column in table.columns] == ["a", "b", "c", "y"]


# Folders and globs


def test_a_folders_files_follow_each_other_bytewise(tmp_path: Path) -> None:
    for name, rows in (("b.csv", ROWS[20:30]), ("B.csv", ROWS[:10]), ("a10.csv", ROWS[10:20])):
        rows.to_csv(tmp_path / name, index=False)
    ROWS[30:].to_csv(tmp_path / "é.csv.gz", index=False)
    assert_is(open_table(config(tmp_path)), ROWS)


def test_a_folder_may_mix_csv_and_parquet_and_the_order_of_columns(tmp_path: Path) -> None:
    ROWS[:20].to_csv(tmp_path / "1.csv", index=False)
    ROWS[20:][["y", "c", "b", "a"]].to_parquet(tmp_path / "2.parquet")
    assert_is(open_table(config(tmp_path)), ROWS)


@pytest.mark.parametrize("ending", ["csv", "parquet", "csv.gz"])
def test_parts_without_rows_are_passed_over_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    def write(rows: pd.DataFrame, name: str) -> None:
        path = tmp_path / f"{name}.{ending}"
        rows.to_parquet(path) if ending == "parquet" else rows.to_csv(path, index=False)

    (tmp_path / f"0.{ending}").touch()
    for name, rows in (("1", ROWS[:0]), ("2", ROWS[:20]), ("3", ROWS[:0]), ("4", ROWS[20:])):
        write(rows, name)
    (tmp_path / "5.csv").write_bytes(b"")

    assert_is(open_table(config(tmp_path)), ROWS)
    warned = f"4 of 6 files without rows passed over: {tmp_path / f'0.{ending}'}"
    assert warned in caplog.text
    found = list(read_rows(str(tmp_path), KINDS, config(tmp_path)))
    assert sum(rows.num_rows for rows in found) == len(ROWS)
    assert caplog.text.count(warned) == 1


@pytest.mark.parametrize("key", ["source", "test_source"])
def test_a_source_of_nothing_but_parts_without_rows_is_refused(tmp_path: Path, key: str) -> None:
    for folder in ("full", "none"):
        (tmp_path / folder).mkdir()
    ROWS.to_csv(tmp_path / "full" / "1.csv", index=False)
    ROWS[:0].to_csv(tmp_path / "none" / "1.csv", index=False)
    (tmp_path / "none" / "2.csv").touch()
    sources = {"source": str(tmp_path / "full"), "split": "files"} if key != "source" else {}
    data = DataConfig(target="y", **{**sources, key: str(tmp_path / "none")})

    with pytest.raises(DataError, match=r"needs rows, but no(ne of the 2)? files? of .*none has"):
        peek_job(data)


def test_what_is_no_table_in_a_folder_is_left_alone(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "part.csv", index=False)
    for name in ("_SUCCESS", ".part.csv.crc", "._part.csv", "_metadata.parquet", "README.md"):
        (tmp_path / name).write_text("something else")
    (tmp_path / "folder.csv").mkdir()
    assert find_files(str(tmp_path)) == [tmp_path / "part.csv"]


def test_a_glob_reaches_where_it_says(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    ROWS[:20].to_csv(tmp_path / "a.csv", index=False)
    ROWS[20:].to_csv(tmp_path / "deep" / "b.csv", index=False)
    assert open_table(config(tmp_path / "*.csv")).num_rows == 20
    assert_is(open_table(config(tmp_path / "**" / "*.csv")), ROWS)


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "t[1].csv", index=False)
    assert_is(open_table(config(tmp_path / "t[1].csv")), ROWS)


def test_a_folder_of_mixed_schemas_names_files_and_columns(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "1.csv", index=False)
    ROWS.rename(columns={"b": "bb"}).to_csv(tmp_path / "2.csv", index=False)
    with pytest.raises(DataError) as caught:
        peek_columns(config(tmp_path))
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    assert f"compared with {first}, {second} lacks b and {second} has bb besides" in str(
        caught.value
    )


def test_files_whose_values_differ_in_kind_are_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,y\n1,2\n3,4\n")
    (tmp_path / "2.csv").write_text("a,y\nx,2\n3,4\n")
    with pytest.raises(DataError, match=r"'a' is numeric in .*1\.csv, text in .*2\.csv"):
        open_table(config(tmp_path))


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    ROWS.to_csv(tmp_path / "deep" / "a.csv")
    with pytest.raises(DataError, match=r"A folder needs tables .*\*\*/\*\.csv' reaches deeper"):
        peek_columns(config(tmp_path))


@pytest.mark.parametrize("name", ["nope.csv", "nope-*.csv"])
def test_a_source_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"There is no file .*nope.* Set data\.source") as caught:
        peek_columns(config(tmp_path / name))
    assert caught.value.exit_code == ExitCode.DATA


def test_a_path_that_the_system_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="File name too long"):
        peek_columns(config(tmp_path / ("x" * 300)))


# Files that do not open


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"needs a header and rows, but .*table\.csv is empty"):
        peek_columns(config(tmp_path / "table.csv"))


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n")
    ROWS[:0].to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(DataError, match="has only a header"):
            open_table(config(tmp_path / name))


# Of no time, which would be part of the names of tests and differ between the workers.
GZIPPED = gzip.compress(TEXT.encode(), mtime=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.csv.gz", GZIPPED[:-30]),
        ("wrong checksum.csv.gz", GZIPPED[:-8] + b"\0\0\0\0" + GZIPPED[-4:]),
        ("not gzip.csv.gz", b"\x1f\x8b" + b"x" * 200),
        ("truncated.csv.bz2", bz2.compress(TEXT.encode())[:-10]),
        ("truncated.csv.xz", lzma.compress(TEXT.encode())[:-30]),
        ("broken.csv.xz", b"\xfd7zXZ\0" + b"x" * 200),
        ("broken.csv.zst", b"\x28\xb5\x2f\xfd" + b"x" * 200),
        ("broken.zip", b"PK\x03\x04" + b"x" * 200),
        ("open quote.csv", b'a,y\n1,2\n3,"4\n'),
        ("text.parquet", b"hello world, this is no Parquet file"),
        ("truncated.parquet", b"PAR1" + b"x" * 100),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"reading .*{name} failed: .+\. Replace the file"):
        open_table(config(tmp_path / name))


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.encode("utf-16"), "utf-16"),
        ("größe,y\n1,2\n3,4\n".encode("latin-1"), "latin-1"),
        ((TEXT + "9,9,Größe,9\n").encode("cp1252"), "cp1252"),
    ],
)
def test_other_encodings_are_refused_with_the_cure_and_read_with_it(
    tmp_path: Path, content: bytes, encoding: str
) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"reading .*t\.csv failed: .+\. Set data\.encoding to"):
        open_table(config(tmp_path / "t.csv"))
    table = open_table(config(tmp_path / "t.csv").model_copy(update={"encoding": encoding}))
    assert table.num_rows == content.decode(encoding).count("\n") - 1


@pytest.mark.parametrize(
    "rows",
    ["1,2,3,4\n1,2,3\n" * 30, "1,2,3,4\n" * 40 + "1,2,3\n" * 30, "1,2,3,4\n" * 40 + "1,2,3,4,5\n"],
)
def test_a_row_of_more_or_fewer_fields_is_refused_with_its_line(tmp_path: Path, rows: str) -> None:
    (tmp_path / "t.csv").write_text(f"y,area,rooms,zone\n{rows}")
    line = next(n for n, row in enumerate(rows.split("\n"), 2) if row.count(",") != 3)
    with pytest.raises(
        DataError, match=rf"as the header \(4\), but line {line} of .* has [35]: '1,2,3"
    ) as told:
        open_table(config(tmp_path / "t.csv"))
    is_short = rows.count("1,2,3\n") == 30
    assert ("; so it is with 29 more rows" in str(told.value)) == is_short
    cure = "Leave the place between two ','" if is_short else "Put texts that hold ',' in quotes"
    assert cure in str(told.value)


def test_a_text_of_any_length_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f'a,note,y\n1,"{"x" * 140_000}",2\n3,z,4\n')
    np.testing.assert_array_equal(open_table(config(tmp_path / "t.csv", features=("a",))).y, [2, 4])


# Folders that are more than their files, files of other kinds


def test_the_same_table_twice_in_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TEXT)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(TEXT.encode()))
    with pytest.raises(DataError, match=r"a\.csv and a\.csv\.gz are one table by their names"):
        peek_columns(config(tmp_path))
    (tmp_path / "a.csv.gz").unlink()
    (tmp_path / "b.csv").write_text(TEXT)
    with pytest.raises(DataError, match=r"a\.csv and b\.csv have the same content"):
        peek_columns(config(tmp_path / "*.csv"))
    assert open_table(config(tmp_path / "a.csv")).num_rows == len(ROWS)


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("_delta_log/0.json", "Delta"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("metadata/1.metadata.json", "Iceberg"),
    ],
)
@pytest.mark.parametrize("files", [("p.parquet",), ("p.parquet", "q.parquet"), ("a=1/p.parquet",)])
@pytest.mark.parametrize("part", ["", "*.parquet", "**/*.parquet", "a=1"])
def test_a_folder_whose_files_a_log_names_is_refused(
    tmp_path: Path, log: str, kind: str, part: str, files: tuple[str, ...]
) -> None:
    folder = tmp_path / "t"
    (folder / log).parent.mkdir(parents=True)
    (folder / log).write_text("{}")
    (folder / "a=1").mkdir()
    for file in files:
        ROWS.to_parquet(folder / file)
    with pytest.raises(DataError, match=rf"t is a table of {kind}, whose log says which"):
        peek_columns(config(folder / part))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("t.json", b'[{"a": 1}]', "JSON"),
        ("t.xlsx", zipped(b""), "a spreadsheet"),
        ("t.csv", b"ARROW1\0\0", "an Arrow or Feather file"),
        ("t.csv", b"SQLite format 3\0", "an SQLite database"),
    ],
)
def test_files_of_other_kinds_are_named(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"t\.[a-z]+ is {kind}\. Write it as one of them"):
        peek_columns(config(tmp_path / name))


def test_a_file_without_a_header_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("0,1,0,2\n3,4,5,6\n")
    with pytest.raises(DataError, match=r"repeats '0' \(2 times\)\. Its first line holds only num"):
        peek_columns(config(tmp_path / "t.csv"))


def test_a_parquet_file_with_damaged_pages_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    ROWS.to_parquet(path, compression="zstd")
    content = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"of .*t\.parquet row group 0 at byte \d+ is not"):
        open_table(config(path))


def test_a_file_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text(TEXT)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # A test that runs as root can read everything.
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"reading .*t\.csv failed: .*Permission denied"):
        peek_columns(config(tmp_path / "t.csv"))


def test_a_zip_of_several_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", TEXT)
        archive.writestr("b.csv", TEXT)
    with pytest.raises(DataError, match=r"must hold one CSV file, but .* holds 2 files"):
        peek_columns(config(tmp_path / "t.zip"))


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\nrow1,1,2\nrow2,3,4\n")
    with pytest.raises(DataError, match="names 2 columns and has a row of 3: 'row1,1,2'"):
        peek_columns(config(tmp_path / "t.csv"))


def test_a_repeated_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,a,y,a\n1,2,3,4,5\n")
    repeated = pa.table([[1], [2], [3]], names=["b", "b", "y"])
    pq.write_table(repeated, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.csv repeats 'a' \(3 times\)\. Rename"):
        peek_columns(config(tmp_path / "t.csv"))
    with pytest.raises(DataError, match=r"t\.parquet repeats 'b' \(2 times\)\. Rename"):
        peek_columns(config(tmp_path / "t.parquet"))


def test_a_column_named_like_pandas_renames_repeats_is_fine(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,a.1,y\n1,2,3\n3,5,6\n")
    assert open_table(config(tmp_path / "t.csv")).features == ("a", "a.1")


# Peeking


def test_a_peek_reads_no_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text(TEXT)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a peek must not read the table")

    monkeypatch.setattr("dnnjob.data.csv_files.read_texts", refuse)
    assert peek_columns(config(tmp_path / "t.csv")) == ("a", "b", "c", "y")


@pytest.mark.parametrize("check", [peek_columns, open_table])
def test_a_peek_refuses_the_names_that_opening_refuses(
    tmp_path: Path, check: Callable[[DataConfig], object]
) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    with pytest.raises(DataError, match="no column 'z'"):
        check(config(tmp_path / "t.csv", "z"))
    with pytest.raises(DataError, match="no column 'z'"):
        check(config(tmp_path / "t.csv", features=("a", "z")))


def test_importing_and_peeking_at_a_csv_file_leaves_heavy_libraries_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    program = (
        "import sys; from dnnjob.config.job import DataConfig;"
        "from dnnjob.data.sources import peek_columns;"
        f"peek_columns(DataConfig(source={str(tmp_path / 't.csv')!r}, target='y'));"
        "print({'pandas', 'pyarrow', 'sklearn', 'scipy', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


# Rows to predict


NUMBERS: dict[str, FeatureKind] = {"a": "numeric", "b": "numeric"}


def test_rows_to_predict_come_by_name(tmp_path: Path) -> None:
    path = tmp_path / "new.csv"
    ROWS[["y", "c", "b", "a"]].assign(more="text").to_csv(path, index=False)
    rows, ids = read_columns(str(path), {"a": "numeric", "c": "boolean"})
    assert (list(rows), ids) == (["a", "c"], {})
    np.testing.assert_array_equal(rows["a"], ROWS["a"])
    np.testing.assert_array_equal(rows["c"], ROWS["c"].astype(float))


def test_one_row_can_be_predicted(tmp_path: Path) -> None:
    ROWS[:1].to_parquet(tmp_path / "new.parquet")
    rows, _ = read_columns(str(tmp_path / "new.parquet"), {"a": "numeric"})
    np.testing.assert_array_equal(rows["a"], [0.0])


def test_an_optional_target_may_be_there_with_gaps_or_not_at_all(tmp_path: Path) -> None:
    path = str(tmp_path / "new.csv")

    def read() -> dict[str, RawColumn]:
        return read_columns(path, {"a": "numeric"}, optional=("y",))[0]

    Path(path).write_text("a,y\n1,\n2,5\n")
    np.testing.assert_array_equal(read()["y"], [np.nan, 5.0])
    Path(path).write_text("a\n1\n2\n")
    assert list(read()) == ["a"]
    Path(path).write_text("a,y\n1,x\n2,z\n")
    assert list(read()) == ["a"]


def test_a_missing_column_to_predict_from_is_named(tmp_path: Path) -> None:
    ROWS.drop(columns="b").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match=r"no column 'b'\. It has: a, c, y\. Add it to the table"):
        read_columns(str(tmp_path / "new.csv"), NUMBERS)


def test_gaps_in_rows_to_predict_are_kept(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("a,b\n1,\n2,3\n?,4\n,5\n")
    rows, _ = read_columns(str(tmp_path / "new.csv"), NUMBERS)
    np.testing.assert_array_equal(rows["a"], [1, 2, np.nan, np.nan])
    np.testing.assert_array_equal(rows["b"], [np.nan, 3, 4, 5])


def test_infinities_in_rows_to_predict_are_counted(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("a,b\n1,inf\n2,3\n")
    with pytest.raises(DataError, match=r"'b' is infinite in 1 of 2 rows\. Repair these rows"):
        read_columns(str(tmp_path / "new.csv"), NUMBERS)


def test_rows_to_predict_are_read_as_the_kinds_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("zip,day,a\n01234,2026-01-31,7\n,,8\n")
    kinds: dict[str, FeatureKind] = {"zip": "text", "day": "datetime", "a": "codes"}
    rows, _ = read_columns(str(tmp_path / "new.csv"), kinds)
    codes, texts = rows["a"], rows["zip"]
    assert isinstance(codes, Texts)
    assert isinstance(texts, Texts)
    assert (codes.values, texts.values) == (("7", "8"), ("01234",))
    np.testing.assert_array_equal(texts.codes, [0, -1])
    day = pd.Timestamp("2026-01-31").timestamp()
    np.testing.assert_array_equal(rows["day"], [day, np.nan])


def test_a_value_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("a,b\n1,2\nred,3\n")
    with pytest.raises(DataError, match=r"'a' must be numeric.*it holds 'red'\. .*data\.missing"):
        read_columns(str(tmp_path / "new.csv"), NUMBERS)


def test_id_columns_come_as_the_file_has_them(tmp_path: Path) -> None:
    pa_rows = pa.table(
        {"id": [7, 9], "when": pa.array([0, 1], pa.timestamp("us")), "a": [1.0, 2.0]}
    )
    pq.write_table(pa_rows, tmp_path / "new.parquet")
    _, ids = read_columns(
        str(tmp_path / "new.parquet"), {"a": "numeric"}, ids=("id", "when", "absent")
    )
    assert pa.table(dict(ids)) == pa_rows.select(["id", "when"])


def test_a_table_without_rows_cannot_be_predicted(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="has only a header"):
        read_columns(str(tmp_path / "new.csv"), NUMBERS)


def test_a_builtin_table_can_be_predicted_for() -> None:
    rows, _ = read_columns(
        "builtin:diabetes", {"bmi": "numeric", "age": "numeric"}, optional=("progression",)
    )
    assert list(rows) == ["bmi", "age", "progression"]
    assert len(rows["bmi"]) == 442


# Decimal commas


def write_with_commas(folder: Path, **columns: list[str]) -> DataConfig:
    frame = pd.DataFrame(
        {"plain": ["1", "2", "3", "4"], "y": ["1,5", "2", "-0,25", "1e2"]} | columns
    )
    frame.to_csv(folder / "t.csv", index=False, sep=";")
    return DataConfig(source=str(folder / "t.csv"), target="y")


def test_numbers_with_decimal_commas_are_numbers(tmp_path: Path) -> None:
    data = write_with_commas(tmp_path, size=["1.234,5", "?", ",5", "+7"])

    table = open_table(data)

    np.testing.assert_array_equal(table.y, [1.5, 2.0, -0.25, 100.0])
    np.testing.assert_array_equal(table.number("size"), [1234.5, np.nan, 0.5, 7.0])
    assert table.kinds == {"plain": "numeric", "size": "numeric"}


@pytest.mark.parametrize("odd", ["1.5", "a,b", "1,2,3", "12.34,5"])
def test_other_texts_with_commas_stay_texts(tmp_path: Path, odd: str) -> None:
    table = open_table(write_with_commas(tmp_path, size=["1,5", "2", odd, "3"]))

    assert table.kinds["size"] == "text"


def test_texts_that_are_wanted_keep_their_commas(tmp_path: Path) -> None:
    data = write_with_commas(tmp_path, size=["1,5", "2", "2", "3"])

    table = open_table(data.model_copy(update={"columns": {"size": ColumnConfig(kind="text")}}))

    assert table.block["size"].values == ("1,5", "2", "3")


def test_an_unreadable_row_group_is_named_in_memory_too(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"x": np.arange(1000) * 0.1, "y": np.arange(1000) * 0.2})
    frame.to_parquet(path, row_group_size=100)
    broken = ParquetRows.open([path]).groups[3]
    content = bytearray(path.read_bytes())
    content[broken.offset : broken.offset + 64] = b"\xff" * 64
    path.write_bytes(content)

    with pytest.raises(DataError, match=rf"{path} row group 3 at byte {broken.offset} is not"):
        open_table(DataConfig(source=str(path), target="y"))


HOLD = """
import re, sys
from pathlib import Path
import pyarrow.compute, pyarrow.csv, pandas
from dnnjob.config.data_section import DataConfig
from dnnjob.data.sources import hold_table

def resident_bytes():
    return 1024 * int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = resident_bytes()
table = hold_table(DataConfig(source=sys.argv[1], target="c0"))
print(resident_bytes() - before)
"""


@pytest.mark.long
def test_what_a_tables_text_took_is_given_back(tmp_path: Path) -> None:
    """Without that Arrow keeps nearly three times the size of the file."""
    path = tmp_path / "table.csv"
    values = np.random.default_rng(0).normal(size=(21, 200_000))
    csv.write_csv(pa.table({f"c{n}": column for n, column in enumerate(values)}), path)

    done = subprocess.run(
        [sys.executable, "-c", HOLD, path], capture_output=True, text=True, check=True
    )

    assert values.nbytes < int(done.stdout) < 2 * path.stat().st_size
