"""What tells the files of one table from those of another."""

import hashlib
import os
from pathlib import Path

import pandas as pd
import pytest

from dnnjob.config.data_section import DataConfig
from dnnjob.data import fingerprint
from dnnjob.data.fingerprint import fingerprint_files
from tests.data.opened import open_table

ROWS = pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0]})


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "MAX_HASHED_BYTES", 10)


def test_that_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    ROWS.to_csv(path, index=False)

    found = open_table(DataConfig(source=str(path), target="y")).fingerprint

    assert found.method == "sha256-bytes"
    assert found.value == hashlib.sha256(path.read_bytes()).hexdigest()


def test_that_of_several_files_is_that_of_their_bytes_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,y\n1,2\n")
    (tmp_path / "b.csv").write_text("a,y\n3,4\n")

    found = open_table(DataConfig(source=str(tmp_path), target="y")).fingerprint

    assert found.value == hashlib.sha256(b"a,y\n1,2\na,y\n3,4\n").hexdigest()


def test_files_that_are_hashed_whole_may_move_and_be_touched(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ROWS.to_csv(tmp_path / name / "t.csv", index=False)
    os.utime(tmp_path / "two" / "t.csv", (0, 0))

    one, two = (fingerprint_files([tmp_path / name / "t.csv"]) for name in ("one", "two"))

    assert one == two


@pytest.mark.usefixtures("small_limit")
def test_beyond_the_limit_names_sizes_and_footers_are_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    ROWS.to_parquet(path)
    before = fingerprint_files([path])
    assert before.method == "sha256-footers"
    assert fingerprint_files([path]) == before

    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[-8:-4], "little")
    footer = bytes(content[-8 - length : -8])
    size = len(content)
    expected = hashlib.sha256(f"t.parquet\0{size}\0".encode() + footer).hexdigest()
    assert before.value == expected

    content[-20] ^= 1
    path.write_bytes(content)
    assert fingerprint_files([path]).value != before.value


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("place", [0, 5000, 9999], ids=["start", "middle", "end"])
def test_beyond_the_limit_a_short_text_counts_with_all_it_holds(
    tmp_path: Path, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_BLOCK_BYTES", 1000)
    path = tmp_path / "t.csv"
    path.write_bytes(b"1" * 10_000)
    before = fingerprint_files([path])

    content = bytearray(path.read_bytes())
    content[place] = ord("2")
    path.write_bytes(content)

    assert before.method == "sha256-blocks"
    assert fingerprint_files([path]).value != before.value


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(
    ("place", "is_seen"), [(0, True), (15, False), (20, True), (40, True), (99, True)]
)
def test_beyond_the_limit_a_long_text_counts_with_blocks_from_start_to_end(
    tmp_path: Path, place: int, is_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(fingerprint, "_BLOCKS", 6)
    path = tmp_path / "t.csv"
    path.write_bytes(b"1" * 100)
    before = fingerprint_files([path])

    content = bytearray(path.read_bytes())
    content[place] = ord("2")
    path.write_bytes(content)

    assert (fingerprint_files([path]).value != before.value) == is_seen


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_beyond_the_limit_an_edit_that_is_not_seen_shows_in_the_stamp(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    ROWS.to_csv(path) if name.endswith("csv") else ROWS.to_parquet(path)
    before = fingerprint_files([path])

    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))

    after = fingerprint_files([path])
    assert after.value == before.value
    assert after.stamp != before.stamp


@pytest.mark.usefixtures("small_limit")
def test_beyond_the_limit_a_file_elsewhere_has_another_stamp(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        ROWS.to_csv(tmp_path / name / "t.csv")
        os.utime(tmp_path / name / "t.csv", (0, 0))

    one, two = (fingerprint_files([tmp_path / name / "t.csv"]) for name in ("one", "two"))

    assert one.value == two.value
    assert one.stamp != two.stamp
