"""Which points go on, by what their folders say."""

import math
from pathlib import Path

import pytest

from dnnjob.config import load_job
from dnnjob.errors import JobError
from dnnjob.launch import foreground
from dnnjob.launch.errand import Errand
from dnnjob.launch.halving import HalvingOrder, Standing, next_steps, read_standing, rung_epochs
from dnnjob.launch.submit import submit_job
from dnnjob.launch.turns import ListedTurns
from dnnjob.runs import Journal, Progress, RunPaths, create_run, read_settled
from dnnjob.tasks import Task, Until
from tests.conftest import WriteJob

RUNGS = (10, 30)


def steps(*standings: Standing) -> list[object]:
    return list(next_steps(standings, rungs=RUNGS, halving=3))


def at(**losses: float) -> Standing:
    return Standing({int(name[1:]): loss for name, loss in losses.items()})


def over(end_loss: float | None = None, **losses: float) -> Standing:
    reached = at(**losses).losses
    return Standing(reached, is_over=True, end_loss=end_loss)


def test_rungs_are_at_a_ninth_and_a_third_of_the_epochs() -> None:
    assert rung_epochs(90, halving=3) == (10, 30)
    assert rung_epochs(100, halving=2) == (25, 50)


def test_all_points_train_to_the_first_rung() -> None:
    assert steps(at(), at(), at()) == [Until(10)] * 3


def test_those_that_are_there_wait_for_the_others() -> None:
    assert steps(at(e10=0.5), at(), at()) == [None, *[Until(10, ends_above=0.5)] * 2]


def test_one_behind_as_many_as_can_go_on_ends_at_the_rung_without_waiting_for_the_others() -> None:
    told = [at(e10=0.5), at(e10=0.1), at(), at(), over()]
    assert steps(*told)[2:] == [Until(10, ends_above=0.5)] * 2 + [None]
    assert steps(*told[:3])[2] == Until(10, ends_above=0.1)


def test_the_best_third_goes_on_and_the_others_end_there() -> None:
    losses = [0.6, 0.1, 0.5, 0.4, 0.2, 0.3]
    left = Until(10, ends=True)
    assert steps(*(at(e10=loss) for loss in losses)) == [
        left,
        Until(30),
        left,
        left,
        Until(30),
        left,
    ]


def test_the_best_third_of_these_trains_to_its_end() -> None:
    done = over(e10=0.9, end_loss=0.9)
    told = [done] * 6 + [at(e10=0.3, e30=0.2), at(e10=0.2, e30=0.3), at(e10=0.1, e30=0.25)]
    assert steps(*told) == [None] * 6 + ["to its end", Until(30, ends=True), Until(30, ends=True)]


def test_of_equal_losses_the_first_goes_on() -> None:
    assert steps(at(e10=0.1), at(e10=0.1), at(e10=0.1))[0] == Until(30)


def test_a_point_that_failed_is_not_waited_for_and_takes_no_place() -> None:
    assert steps(over(), at(e10=0.2), at(e10=0.1), at(e10=0.3)) == [
        None,
        Until(10, ends=True),
        Until(30),
        Until(10, ends=True),
    ]


def test_a_loss_that_is_not_finite_is_the_worst() -> None:
    assert steps(at(e10=float("inf")), at(e10=9e9), at(e10=float("nan"))) == [
        Until(10, ends=True),
        Until(30),
        Until(10, ends=True),
    ]


def test_a_point_whose_patience_ended_before_a_rung_is_compared_by_its_least_loss() -> None:
    told = [over(0.9, e10=0.1), at(e10=0.2, e30=0.2), at(e10=0.2, e30=0.2)]
    assert steps(*told, over(e10=9.0), *[at(e10=9.0, e30=9.0)] * 3)[1] == Until(30, ends=True)


def test_a_point_that_completed_before_a_rung_is_compared_by_its_last_loss() -> None:
    assert steps(over(end_loss=0.1), at(e10=0.2), at(e10=0.3)) == [
        None,
        Until(10, ends=True),
        Until(10, ends=True),
    ]


def test_one_of_two_points_goes_on() -> None:
    assert steps(at(e10=0.2), at(e10=0.1)) == [Until(10, ends=True), Until(30)]


def test_halving_is_refused_where_what_starts_the_runs_gives_them_several_tasks(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"train.learning_rate": [0.01, 0.02]}
    job = write_job(train={"epochs": 9}, sweep=rates, search={"halving": 3})
    profile = tmp_path / "two.toml"
    profile.write_text('executor = "slurm"\ntime_limit_min = 5\ntasks_per_node = 2\n')
    with pytest.raises(JobError, match="one task, but each is given 2"):
        submit_job(job, [], profile=str(profile), root=tmp_path / "runs")
    monkeypatch.setattr(foreground, "find_task", lambda: Task(0, 2, "x", launcher="slurm"))
    with pytest.raises(JobError, match="one task, but each is given 2"):
        foreground.run_foreground(job, [], root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


# Folders


@pytest.fixture
def runs(write_job: WriteJob, tmp_path: Path) -> list[RunPaths]:
    job = load_job(write_job())
    return [create_run(tmp_path / "runs", job) for _ in range(3)]


def pause(paths: RunPaths, *, epoch: int, val_loss: float) -> None:
    journal = Journal(paths)
    progress = Progress(epoch=epoch, epochs=90, loss=0.5, val_loss=val_loss)
    journal.show_progress(progress, 100.0, 1.0)
    journal.mark_rung(epoch, val_loss)
    journal.finish("REQUEUED", error="waits")


def order(runs: list[RunPaths]) -> HalvingOrder:
    errands = [Errand(run=paths.root, number=n) for n, paths in enumerate(runs, start=1)]
    return HalvingOrder(errands, epochs=90, halving=3)


def test_a_run_remembers_the_rungs_that_it_has_reached(runs: list[RunPaths]) -> None:
    pause(runs[0], epoch=10, val_loss=0.5)
    pause(runs[0], epoch=30, val_loss=0.25)
    assert read_standing(runs[0]) == Standing({10: 0.5, 30: 0.25})
    Journal(runs[0]).finish("FAILED", reason="nan")
    assert read_standing(runs[0]) == Standing({10: 0.5, 30: 0.25}, is_over=True)


def test_a_loss_at_a_rung_that_is_not_finite_leaves_the_status_whole(runs: list[RunPaths]) -> None:
    for paths, loss in zip(runs, (math.inf, math.nan, 0.1), strict=True):
        pause(paths, epoch=10, val_loss=loss)
    assert [read_standing(paths).losses[10] for paths in runs] == [math.inf, math.inf, 0.1]


def test_one_that_waits_and_is_cancelled_there_has_ended_until_it_is_taken_up_again(
    runs: list[RunPaths],
) -> None:
    pause(runs[0], epoch=10, val_loss=0.5)
    turns = ListedTurns(order(runs[:1]))
    turns.cancel_rest()
    assert read_settled(runs[0]).state == "CANCELLED"
    assert read_standing(runs[0]) == Standing({10: 0.5}, is_over=True)
    following = order(runs[:1]).pop()
    assert following is not None
    assert following.until == Until(30)


def test_whoever_takes_the_points_up_goes_on_where_they_were_left(runs: list[RunPaths]) -> None:
    for paths, loss in zip(runs, (0.3, 0.1, 0.2), strict=True):
        pause(paths, epoch=10, val_loss=loss)
    points = order(runs)
    told = [points.pop() for _ in range(4)]
    # What trains on comes first.
    assert [(one.number, one.until) for one in told if one] == [
        (2, Until(30)),
        (1, Until(10, ends=True)),
        (3, Until(10, ends=True)),
    ]
    assert told[3] is None


def test_a_point_at_work_is_waited_for(runs: list[RunPaths]) -> None:
    points = order(runs)
    begun = [points.pop() for _ in range(3)]
    assert points.pop() is None
    for paths, loss, errand in zip(runs, (0.3, 0.1, 0.2), begun, strict=True):
        assert errand is not None
        pause(paths, epoch=10, val_loss=loss)
        points.note(errand)
    following = points.pop()
    assert following is not None
    assert (following.number, following.until) == (2, Until(30))


def test_a_point_that_comes_no_further_is_not_begun_again(runs: list[RunPaths]) -> None:
    points = order(runs[:1])
    errand = points.pop()
    assert errand is not None
    points.note(errand)
    assert points.pop() is None
    assert points.waiting == []
