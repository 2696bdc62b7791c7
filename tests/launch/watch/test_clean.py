"""Old runs go, and nothing else."""

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path

import pytest

from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.watch.clean import clean_command, parse_age
from dnnjob.runs import RunPaths, statistics_folder, tables_folder
from tests.launch.watch.made import attempt, attempt_here, make_run, make_sweep, send, status

DAY_S = 86400


def age(folder: Path, *, days: float = 60) -> Path:
    """Makes all of a folder look old."""
    then = time.time() - days * DAY_S
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then), follow_symlinks=False)
    return folder


def old_run(root: Path, number: int = 1, state: str = "COMPLETED") -> RunPaths:
    paths = make_run(root, number, status(state, silent_s=60 * DAY_S))
    (paths.root / "logs").mkdir()
    (paths.root / "logs" / "attempt-1-task-0.log").write_text("said")
    age(paths.root)
    return paths


def clean(root: Path, *, older: str = "30d", dry_run: bool = False) -> ExitCode:
    return clean_command(root, older=older, dry_run=dry_run)


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED", "CANCELLED"])
def test_a_run_that_ended_long_ago_goes_and_is_named(
    root: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, young = old_run(root, state=state), make_run(root, 2, status("COMPLETED"))

    assert clean(root) == ExitCode.DONE

    assert not paths.root.exists()
    assert young.root.exists()
    assert capsys.readouterr().out == f"{paths.root}\n"


def test_a_dry_run_names_and_keeps(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = old_run(root)

    clean(root, dry_run=True)

    assert paths.status.exists()
    assert capsys.readouterr().out == f"{paths.root}\n"


def test_a_run_that_may_be_alive_stays_however_old(root: Path) -> None:
    at_work = make_run(root, 1, status("RUNNING", [attempt_here()], silent_s=60 * DAY_S))
    elsewhere = make_run(root, 2, status("RUNNING", [attempt(host="far")], silent_s=60 * DAY_S))
    waiting = make_run(root, 3, status("CREATED", silent_s=60 * DAY_S))
    for paths in (at_work, elsewhere, waiting):
        send(paths, "7") if paths is waiting else None
        age(paths.root)

    clean(root)

    assert all(paths.status.exists() for paths in (at_work, elsewhere, waiting))


def test_a_run_with_a_file_changed_of_late_stays(root: Path) -> None:
    paths = old_run(root)
    os.utime(paths.status)

    clean(root)

    assert paths.status.exists()


def test_a_run_whose_folder_changed_of_late_stays(root: Path) -> None:
    paths = old_run(root)
    (paths.root / "notes.txt").write_text("the best of May")

    clean(root)

    assert paths.status.exists()


def test_a_run_that_is_resumed_while_others_go_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = old_run(root, 1), old_run(root, 2)
    for paths in (first, second):
        send(paths, "7")
        age(paths.root)
    remove = shutil.rmtree

    def resume_meanwhile(folder: Path) -> None:
        os.utime((second if first.root in Path(folder).parents else first).submission)
        remove(folder)

    monkeypatch.setattr("shutil.rmtree", resume_meanwhile)

    assert clean(root) == ExitCode.FAILED
    assert sorted((first.root.exists(), second.root.exists())) == [False, True]


def test_the_runs_of_other_users_stay(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = old_run(root)
    sweep = age(make_sweep(root, [paths]))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    with caplog.at_level("INFO"):
        assert clean(root) == ExitCode.DONE

    assert paths.status.exists()
    assert sweep.exists()
    assert "1 run of other users left alone" in caplog.text


def test_what_only_resembles_a_run_stays(root: Path, tmp_path: Path) -> None:
    renamed = old_run(root, 1).root.rename(root / "tiny" / "the best of May")
    half = old_run(root, 2)
    half.job.unlink()
    foreign = root / "tiny" / "20260101-000000-00000f"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    broken = old_run(root, 4)
    broken.status.write_text("{")
    for folder in (half.root, foreign, broken.root):
        age(folder)

    clean(root)

    assert (renamed / "status.json").exists()
    assert half.status.exists()
    assert (foreign / "thesis.tex").exists()
    assert broken.status.exists()


def test_statistics_go_that_no_run_has_asked_for_since(root: Path) -> None:
    folder = statistics_folder(root)
    folder.mkdir(parents=True)
    for name in ("old", "new"):
        (folder / f"{name}.npz").write_text("kept")
        (folder / f".{name}.npz.12-abc.tmp").write_text("half")
    age(folder / "old.npz")
    age(folder / ".old.npz.12-abc.tmp")

    clean(root, dry_run=True)
    assert (folder / "old.npz").exists()
    clean(root)

    assert {path.name for path in folder.iterdir()} == {"new.npz", ".new.npz.12-abc.tmp"}


def test_tables_from_memory_go_once_no_run_names_them(root: Path) -> None:
    folder = tables_folder(root)
    folder.mkdir(parents=True)
    run = make_run(root, 1, status("COMPLETED"))
    for name in ("named", "forgotten", "new"):
        (folder / f"{name}.parquet").write_text("rows")
    age(folder)
    (folder / "new.parquet").touch()
    source = f'source = "{folder / "named.parquet"}"'
    run.job.write_text(f"{run.job.read_text()}\n# {source}\n")

    clean(root, dry_run=True)
    assert (folder / "forgotten.parquet").exists()
    clean(root)

    assert {path.name for path in folder.iterdir()} == {"named.parquet", "new.parquet"}


def test_links_are_not_followed_out_of_the_root_or_into_others_data(
    root: Path, tmp_path: Path
) -> None:
    theirs = old_run(tmp_path / "theirs")
    (root / "tiny").mkdir()
    (root / "tiny" / theirs.run_id).symlink_to(theirs.root)
    (root / "other").symlink_to(tmp_path / "theirs")
    data = tmp_path / "data"
    data.mkdir()
    (data / "table.csv").write_text("a,b")
    ours = old_run(root, 2)
    (ours.root / "data").symlink_to(data)
    age(ours.root)

    clean(root)

    assert theirs.status.exists()
    assert not ours.root.exists()
    assert (data / "table.csv").exists()


def test_a_sweep_goes_with_its_last_run(root: Path) -> None:
    runs = [old_run(root, 1), old_run(root, 2)]
    sweep = age(make_sweep(root, runs))
    kept = make_run(root, 3, status("COMPLETED"))
    mixed = age(make_sweep(root, [old_run(root, 4), kept], "20260101-000000-bbbbbb"))

    clean(root)

    assert not sweep.exists()
    assert (mixed / "sweep.json").exists()
    assert kept.status.exists()


def test_a_folder_that_cannot_go_is_told_and_remains_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = old_run(root)

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("shutil.rmtree", refuse)

    assert clean(root) == ExitCode.FAILED
    assert paths.job.exists()
    assert paths.status.exists()


@pytest.mark.parametrize(
    ("text", "span"),
    [("12h", timedelta(hours=12)), ("30d", timedelta(days=30)), ("8w", timedelta(weeks=8))],
)
def test_ages_are_hours_days_and_weeks(text: str, span: timedelta) -> None:
    assert parse_age(text) == span


@pytest.mark.parametrize("text", ["30", "d", "-3d", "1.5d", "3 d", "3m", ""])
def test_other_ages_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(JobError, match="12h, 30d or 8w"):
        parse_age(text)
