"""Which runs a command line names."""

from pathlib import Path

import pytest

from dnnjob.errors import JobError
from dnnjob.launch.watch.run_selection import open_runs, select_runs
from dnnjob.runs import RunPaths
from tests.launch.watch.made import make_run, make_sweep


@pytest.fixture
def runs(root: Path) -> list[RunPaths]:
    return [make_run(root, number) for number in (1, 2, 3)]


def test_a_root_a_run_and_a_sweep_give_their_runs_each_once(
    root: Path, runs: list[RunPaths]
) -> None:
    sweep = make_sweep(root, [runs[2], runs[0]])

    assert select_runs([root]) == tuple(runs)
    assert select_runs([runs[1].root]) == (runs[1],)
    assert select_runs([sweep]) == (runs[2], runs[0])
    assert select_runs([sweep, root]) == (runs[2], runs[0], runs[1])


def test_a_moved_root_keeps_its_sweeps_together(root: Path, runs: list[RunPaths]) -> None:
    sweep = make_sweep(root, runs)
    moved = root.rename(root.with_name("moved"))

    found = select_runs([moved / sweep.relative_to(root)])

    assert [paths.root for paths in found] == [moved / "tiny" / one.run_id for one in runs]
    assert all(paths.status.exists() for paths in found)


def test_one_place_is_a_run_or_a_sweep(
    root: Path, runs: list[RunPaths], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(root, runs[:2])
    monkeypatch.chdir(root)

    assert open_runs(sweep.relative_to(root)) == tuple(runs[:2])
    assert open_runs(runs[0].root.relative_to(root)) == (runs[0],)


def test_a_root_is_neither_and_the_message_says_what_to_give(
    root: Path, runs: list[RunPaths]
) -> None:
    with pytest.raises(JobError, match=r"neither.*dnnjob status ROOT"):
        open_runs(root)


@pytest.mark.parametrize("place", ["nowhere", "tiny"])
def test_what_is_not_there_or_no_run_is_refused(root: Path, place: str) -> None:
    make_run(root)
    with pytest.raises(JobError, match=r"run folder|neither"):
        open_runs(root / place)


def test_a_damaged_sweep_is_refused(root: Path, runs: list[RunPaths]) -> None:
    sweep = make_sweep(root, runs)
    (sweep / "sweep.json").write_text("{")

    with pytest.raises(JobError, match=r"none that can be read"):
        open_runs(sweep)
