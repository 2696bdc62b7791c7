"""What a run keeps outside its folder goes at its end, or with the attempt after a kill."""

import os
import tempfile
from pathlib import Path

import pytest

from dnnjob.config.data_section import DataConfig
from dnnjob.data.scratch import clear_scratch, scratch_folder, temporary_files
from dnnjob.errors import JobError


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process."""
    folder = tmp_path / "usual"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def make_data(scratch: Path) -> DataConfig:
    return DataConfig(source="table.csv", target="y", scratch=str(scratch))


def test_the_scratch_folder_goes_and_takes_what_a_killed_attempt_left(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    with scratch_folder(data, "run", attempt=2) as folder:
        here = folder.name.split("-")[3]
    names = {
        f"dnnjob-run-2-{here}-999999999-a": False,
        f"dnnjob-run-2-{here}-{os.getppid()}-b": True,
        # Of a task on another machine, of an attempt before, of another run.
        "dnnjob-run-2-0123456789ab-999999999-c": True,
        "dnnjob-run-1-0123456789ab-999999999-d": False,
        f"dnnjob-other-2-{here}-999999999-e": True,
    }
    for name in names:
        (tmp_path / name).mkdir()

    with scratch_folder(data, "run", attempt=2) as folder:
        (folder / "part").write_text("x")
        assert {name: (tmp_path / name).exists() for name in names} == names

    assert not folder.exists()


def test_a_scratch_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "nowhere")

    with (
        pytest.raises(JobError, match=r"data\.scratch must be a folder"),
        scratch_folder(data, "r", attempt=1),
    ):
        pass


def test_temporary_files_lie_in_a_folder_of_the_run_and_go_with_it(
    usual: Path,
) -> None:
    with temporary_files("run", attempt=2):
        made = Path(tempfile.mkdtemp())
        (made / "asset").write_text("x")

    assert made.parent.parent == usual
    assert made.parent.name.startswith("dnnjob-run-2-")
    assert not list(usual.iterdir())
    assert tempfile.gettempdir() == str(usual)


def test_temporary_files_of_a_killed_attempt_go_with_the_next_one(usual: Path) -> None:
    (usual / "dnnjob-run-1-0123456789ab-999999999-d").mkdir()

    with temporary_files("run", attempt=2):
        assert len(list(usual.iterdir())) == 1


def test_what_killed_attempts_left_is_found_in_scratch_and_among_temporary_files(
    usual: Path, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    left = [folder / "dnnjob-run-1-0123456789ab-9-d" for folder in (usual, tmp_path / "scratch")]
    for folder in left:
        folder.mkdir()

    clear_scratch(make_data(tmp_path / "scratch"), "run", attempt=2)

    assert not any(folder.exists() for folder in left)
