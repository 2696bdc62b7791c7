"""What is remembered of files, and what must not be."""

import os
import time
from pathlib import Path

import pytest

from dnnjob.collect import cache as cache_module
from dnnjob.collect.cache import Cache, Facts, load_cache

LONG_AGO_S = 1_000_000_000


def parse(content: bytes) -> Facts:
    return {"text": content.decode()}


def refuse(content: bytes) -> Facts:
    raise AssertionError("The file was parsed again.")


def make_old(path: Path) -> None:
    """Leaves it as a file whose change the clock can tell from a later one."""
    os.utime(path, (LONG_AGO_S, LONG_AGO_S))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are taken for settled at once, for their change time cannot be set back."""
    monkeypatch.setattr(cache_module, "SETTLED_NS", -1)


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_parsed_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    cache = load_cache(tmp_path)
    cache.read(tmp_path / "a", parse)
    cache.save()
    assert load_cache(tmp_path).read(tmp_path / "a", refuse) == {"text": "one"}


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("text", ["two", "longer"])
def test_a_changed_file_is_parsed_again(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    make_old(path)
    cache = load_cache(tmp_path)
    cache.read(path, parse)
    cache.save()
    path.write_text(text)
    make_old(path)
    assert load_cache(tmp_path).read(path, parse) == {"text": text}


def test_a_file_that_may_still_change_within_its_clock_tick_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    cache = load_cache(tmp_path)
    cache.read(tmp_path / "a", parse)
    assert cache.used == {}


@pytest.mark.usefixtures("settled")
def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    cache = load_cache(tmp_path)
    for name in ("a", "b"):
        cache.read(tmp_path / name, parse)
    cache.save()
    later = load_cache(tmp_path)
    later.read(tmp_path / "a", refuse)
    later.save()
    assert list(load_cache(tmp_path).known) == [str(tmp_path / "a")]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"format": "another", "files": {}}'])
def test_a_spoilt_cache_is_no_cache(tmp_path: Path, content: bytes) -> None:
    cache = load_cache(tmp_path)
    assert cache.path is not None
    cache.path.parent.mkdir(parents=True)
    cache.path.write_bytes(content)
    assert load_cache(tmp_path).known == {}


@pytest.mark.usefixtures("settled")
def test_a_cache_folder_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "a").write_text("one")
    cache = load_cache(tmp_path)
    assert cache.read(tmp_path / "a", parse) == {"text": "one"}
    cache.save()


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", no_home)
    cache = load_cache(tmp_path)
    cache.save()
    assert cache.path is None


def test_a_missing_file_gives_nothing(tmp_path: Path) -> None:
    assert Cache(None).read(tmp_path / "a", parse) is None


def test_a_fault_is_a_fact(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff")
    facts = Cache(None).read(tmp_path / "a", parse)
    assert facts is not None
    assert facts["fault"].startswith("a: 'utf-8' codec")


def test_a_folder_in_place_of_a_file_is_named_as_such(tmp_path: Path) -> None:
    facts = Cache(None).read(tmp_path, parse)
    assert facts == {"fault": f"{tmp_path.name} cannot be read: It is no plain file"}


@pytest.mark.timeout(20)
def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    began = time.monotonic()
    facts = Cache(None).read(tmp_path / "a", parse)
    assert facts == {"fault": "a cannot be read: It is no plain file"}
    assert time.monotonic() - began < 10


def test_a_file_far_too_large_for_a_report_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "MAX_FILE_BYTES", 2)
    (tmp_path / "a").write_text("one")
    assert Cache(None).read(tmp_path / "a", refuse) == {"fault": "a cannot be read: It has 3 bytes"}
