"""Where runs are found."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dnnjob.errors import JobError
from dnnjob.runs.run_discovery import Found, find_runs
from tests.collect.make_runs import Wish, write_json, write_run


def find(root: Path) -> Found:
    with ThreadPoolExecutor(2) as pool:
        return find_runs(root, pool=pool)


def reasons(found: Found) -> dict[str, str]:
    return {oddity.path.name: oddity.reason for oddity in found.oddities}


def test_runs_are_found_from_the_root_a_job_and_the_run_itself(root: Path) -> None:
    run = write_run(root)
    assert find(root).runs == find(run.parent).runs == find(run).runs == (run,)


def test_runs_of_several_roots_are_found_from_a_folder_above(root: Path) -> None:
    ours = write_run(root / "anna" / "runs")
    theirs = write_run(root / "bernd" / "runs", Wish(number=1))
    assert find(root).runs == (ours, theirs)


def test_a_run_folder_that_was_renamed_is_still_a_run(root: Path) -> None:
    run = write_run(root, folder=root / "housing" / "the best of May")
    assert find(root).runs == (run,)


def test_a_sweep_is_no_run_and_its_files_are_not_searched(root: Path) -> None:
    run = write_run(root)
    sweep = root / "housing" / "sweeps" / "20260101-000000-aaaaaa"
    write_run(sweep, folder=sweep / "20260101-000000-bbbbbb")
    write_json(sweep / "sweep.json", {"points": []})
    assert find(root) == Found(runs=(run,), sweeps=(sweep,))


def test_a_job_may_be_called_sweeps(root: Path) -> None:
    run = write_run(root, Wish(name="sweeps"))
    assert find(root).runs == (run,)


def test_an_empty_folder_for_sweeps_is_nothing_odd(root: Path) -> None:
    write_run(root)
    (root / "housing" / "sweeps").mkdir()
    assert find(root).oddities == ()


def test_a_folder_without_runs_is_named_once_at_its_top(root: Path) -> None:
    write_run(root)
    (root / "notes" / "of" / "May").mkdir(parents=True)
    (root / "housing" / "backup").mkdir()
    assert reasons(find(root)) == {
        "notes": "a folder without runs",
        "backup": "a folder without runs",
    }


def test_hidden_folders_and_plain_files_are_passed_over(root: Path) -> None:
    write_run(root, folder=root / ".snapshot" / "20260101-000000-aaaaaa")
    (root / "README").write_text("")
    assert find(root) == Found()


def test_links_that_loop_are_named_and_not_followed(root: Path) -> None:
    run = write_run(root)
    (root / "housing" / "up").symlink_to(root)
    (root / "housing" / "self").symlink_to("self")
    found = find(root)
    assert found.runs == (run,)
    assert reasons(found) == {
        "up": "a link that loops back to a folder it lies in",
        "self": "a link that leads to itself",
    }


def test_a_link_to_a_run_within_the_root_does_not_count_twice(root: Path) -> None:
    run = write_run(root)
    (root / "housing" / "latest").symlink_to(run.name)
    (root / "housing" / "20260101-000000-cccccc").symlink_to(run.name)
    assert find(root) == Found(runs=(run,))


def test_a_link_that_leads_nowhere_is_named(root: Path) -> None:
    (root / "gone").symlink_to(root / "not there")
    assert reasons(find(root)) == {"gone": "a link that leads nowhere"}


def test_links_to_another_disk_are_followed_once(root: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other disk")
    for name in ("a", "b"):
        (root / name).symlink_to(tmp_path / "other disk" / "housing")
    (tmp_path / "other disk" / "housing" / "back").symlink_to(root)
    assert find(root).runs == (root / "a" / Wish().run_id,)


@pytest.mark.parametrize("name", ["not there", "a file"])
def test_a_root_that_is_no_folder_is_refused(root: Path, name: str) -> None:
    (root / "a file").write_text("")
    with pytest.raises(JobError, match=r"is unreadable.*Give the root"):
        find(root / name)
