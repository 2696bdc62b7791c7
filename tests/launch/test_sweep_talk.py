"""What is said of the points of a sweep while they run."""

import logging
from pathlib import Path

import pytest

from dnnjob.config import load_job
from dnnjob.errors import ExitCode
from dnnjob.launch.errand import Errand, News
from dnnjob.launch.sweep_talk import SweepTalk
from dnnjob.runs import Progress, RunPaths, Status, create_run, write_status
from tests.conftest import WriteJob


@pytest.fixture
def errands(write_job: WriteJob, tmp_path: Path) -> list[Errand]:
    job = load_job(write_job())
    runs = [create_run(tmp_path / "runs", job) for _ in range(3)]
    return [Errand(run=paths.root, number=n) for n, paths in enumerate(runs, start=1)]


@pytest.fixture
def talk() -> SweepTalk:
    return SweepTalk(3, lambda number: f"seed = {number}", batch_sizes=[10, 20, 30])


def at(epoch: int, *, val_loss: float | None = None, steps_per_s: float = 0.0) -> News:
    progress = Progress(epoch=epoch, epochs=10, val_loss=val_loss)
    return News(progress=progress, steps_per_s=steps_per_s)


def test_points_at_work_count_by_their_epochs(talk: SweepTalk, errands: list[Errand]) -> None:
    for errand in errands[:2]:
        talk.begin(errand)
    talk.hear(errands[0], at(5, steps_per_s=3))
    talk.hear(errands[1], at(2, steps_per_s=4))
    assert talk.share_done == pytest.approx(0.7)
    assert talk.rows_per_s == 3 * 10 + 4 * 20
    assert talk.counts == "2 at work, 0 completed"


def test_the_least_validation_loss_of_all_is_shown(talk: SweepTalk, errands: list[Errand]) -> None:
    assert talk.losses == ""
    for errand, loss in zip(errands, (0.5, 0.25, 0.75), strict=True):
        talk.hear(errand, at(1, val_loss=loss))
    assert talk.losses == "best validation loss 0.25"


def test_each_point_is_said_once_with_how_it_ended(
    talk: SweepTalk, errands: list[Errand], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dnnjob")
    write_status(RunPaths(errands[0].run), Status(state="COMPLETED"))
    write_status(RunPaths(errands[2].run), Status(state="FAILED", reason="nan"))
    talk.end(errands[0], ExitCode.DONE)
    talk.end(errands[2], ExitCode.FAILED)
    assert caplog.messages == [
        "Run 1 of 3: seed = 1: completed.",
        "Run 3 of 3: seed = 3: failed.",
    ]
    assert talk.counts == "0 at work, 1 completed, 1 failed"


def test_a_trouble_of_several_points_is_told_once(
    talk: SweepTalk, errands: list[Errand], caplog: pytest.LogCaptureFixture
) -> None:
    for errand in errands:
        talk.hear(errand, News(trouble="Half the rows are equal.", level=logging.WARNING))
    assert caplog.messages == ["Half the rows are equal."]
