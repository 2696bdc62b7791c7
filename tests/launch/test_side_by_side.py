"""Points of a sweep that one process trains in one compiled call, each against a run of its own."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.clock import Stopwatch
from dnnjob.config import load_job, make_points
from dnnjob.errors import ExitCode
from dnnjob.launch.errand import Errand, News
from dnnjob.launch.halving import ListedOrder
from dnnjob.launch.lane import run_point
from dnnjob.launch.lane_plan import LanePlan
from dnnjob.launch.lanes import Lanes
from dnnjob.launch.side_by_side import SideBySide
from dnnjob.launch.turns import ListedTurns
from dnnjob.results.report import read_report
from dnnjob.runs import (
    Cancel,
    RunPaths,
    create_run,
    load_run_job,
    read_settled,
    read_status,
    write_record,
)
from dnnjob.tasks import StopFlag, Task
from tests.conftest import WriteJob, limit_stacks, make_frame, said_by


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same code compiles here."""
    logging.getLogger("dnnjob").setLevel(logging.INFO)
    monkeypatch.setattr("dnnjob.training.stack_width.has_axis", lambda _: True)


def _write(
    write_job: WriteJob,
    train: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Any] | None = None,
    *,
    model: Mapping[str, Any] | None = None,
) -> Path:
    return write_job(
        make_frame(200),
        data={"test_fraction": 0.3, "validation_fraction": 0.2},
        model={"hidden_units": [8], **(model or {})},
        train={"epochs": 6, "global_batch_size": 32, "learning_rate": 0.01, **(train or {})},
        devices={"threads": 1, "xla": "on"},
        output={"plots": False, "trees": False, "model": False},
        sweep=sweep,
    )


def _make_runs(job: Path, root: Path, *, stack: int = 0) -> list[RunPaths]:
    points = make_points(load_job(job, overrides=[f"devices.stack={stack}"]))
    return [create_run(root, point.job) for point in points]


def _beside(
    runs: Sequence[RunPaths],
    *,
    beside: int | None = None,
    show: Callable[..., object] = lambda *_: None,
) -> list[News]:
    """Runs points side by side in this process."""
    told, stop, inbox = list[News](), StopFlag(), SimpleQueue[Any]()

    def run(errand: Errand, **given: Any) -> ExitCode:
        paths = RunPaths(errand.run)
        return run_point(paths, task=Task(), number=errand.number, show=show, **given)

    side_by_side = SideBySide(inbox, run, tell=told.append, stop=stop)
    first, *others = [
        Errand(run=paths.root, number=number, beside=beside or len(runs))
        for number, paths in enumerate(runs, start=1)
    ]
    for errand in others:
        inbox.put(errand)
    side_by_side.work(first, age_s=0.0)
    return told


def _alone(runs: Sequence[RunPaths]) -> None:
    for number, paths in enumerate(runs, start=1):
        run_point(paths, task=Task(), number=number, stop=StopFlag(), watch=Stopwatch())


def _history(paths: RunPaths) -> pd.DataFrame:
    return pd.read_parquet(paths.history)


def _assert_like_alone(together: Sequence[RunPaths], alone: Sequence[RunPaths]) -> None:
    for one, other in zip(together, alone, strict=True):
        found, expected = _history(one), _history(other)
        assert len(found) == len(expected)
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
        np.testing.assert_allclose(found["val_loss"], expected["val_loss"], rtol=1e-5)
        np.testing.assert_array_equal(found["learning_rate"], expected["learning_rate"])
        training, truth = read_report(one.report).training, read_report(other.report).training
        assert (training.best_epoch, training.stop_reason) == (truth.best_epoch, truth.stop_reason)


@pytest.mark.long
def test_points_of_other_seeds_splits_and_rates_train_as_they_do_alone(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = _write(write_job, sweep={"seed": [0, 1], "train.learning_rate": [0.01, 0.03]})
    together, alone = _make_runs(job, tmp_path / "together"), _make_runs(job, tmp_path / "alone")

    told = _beside(together)
    _alone(alone)

    assert sorted(news.number for news in told if news.code == ExitCode.DONE) == [1, 2, 3, 4]
    _assert_like_alone(together, alone)
    strategy = read_report(together[0].report).strategy
    assert (strategy.stack, strategy.stacked) == (4, "axis")
    assert load_run_job(together[0]).devices.stack == 4
    # Each log is of its run alone.
    assert all(said_by(paths).count("Devices: asked") == 1 for paths in together)


def test_that_no_point_comes_any_more_is_remembered_while_some_are_at_work(
    tmp_path: Path,
) -> None:
    """Else the process would wait for points for ever, whose launcher has hung up meanwhile."""
    inbox, told = SimpleQueue[Any](), list[News]()
    inbox.put(None)
    side_by_side = SideBySide(
        inbox, lambda *_, **__: ExitCode.DONE, tell=told.append, stop=StopFlag()
    )

    side_by_side.work(Errand(run=tmp_path, number=7, beside=2), age_s=0.0)

    assert [(news.number, news.code) for news in told] == [(7, ExitCode.DONE)]
    assert inbox.get(timeout=1) is None


CLIPPED = {"optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 1.0}


@pytest.mark.long
def test_a_point_that_diverges_fails_alone_and_changes_no_bit_of_the_others(
    write_job: WriteJob, tmp_path: Path
) -> None:
    ends = []
    for rate in (0.04, 1e6):
        job = _write(write_job, CLIPPED, {"train.learning_rate": [0.01, 0.02, rate, 0.03]})
        runs = _make_runs(job, tmp_path / str(rate))
        told = _beside(runs)
        codes = {news.number: news.code for news in told if news.code is not None}
        assert codes == {1: 0, 2: 0, 3: 0 if rate < 1 else ExitCode.FAILED, 4: 0}
        ends.append(runs)

    calm, mixed = ends
    status = read_status(mixed[2])
    assert (status.state, status.reason) == ("FAILED", "nan")
    assert "train.learning_rate (1000000.0)" in str(status.error)
    for place in (0, 1, 3):
        assert calm[place].predictions.read_bytes() == mixed[place].predictions.read_bytes()


@pytest.mark.long
def test_a_point_that_is_cancelled_leaves_the_others_alone_and_goes_on_to_its_own_bits(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _write(write_job, {"epochs": 400}, {"seed": [0, 1, 2]})
    runs, others = _make_runs(job, tmp_path / "cancelled"), _make_runs(job, tmp_path / "not")

    def show(*_: object) -> None:
        if not runs[1].cancel.exists():
            write_record(runs[1].cancel, Cancel(user="me", host="here"))

    with monkeypatch.context() as slow:
        # Rounds of a few steps, so that the wish is seen before the end.
        slow.setattr("dnnjob.runs.journal.SECONDS_BETWEEN_SIGNS", 0.2)
        slow.setattr("dnnjob.training.point_stack.SECONDS_A_ROUND", 0.0)
        told = _beside(runs, show=show)
    status = read_status(runs[1])
    _beside(others)
    # It goes on with the places of its stack, whoever else is there.
    runs[1].cancel.unlink()
    _beside(runs[1:2], beside=3)

    codes = {news.number: news.code for news in told if news.code is not None}
    assert codes == {1: 0, 2: ExitCode.TERMINATED, 3: 0}
    assert (status.state, status.reason) == ("CANCELLED", "cancelled")
    assert status.progress.epoch < 400
    for one, other in zip(runs, others, strict=True):
        assert one.predictions.read_bytes() == other.predictions.read_bytes()
        assert read_report(one.report).provenance.bit_exact


@pytest.mark.long
def test_points_stop_by_their_own_patience_and_others_take_their_places(
    write_job: WriteJob, tmp_path: Path
) -> None:
    """Two places for four points: whoever ends makes room."""
    train = {"epochs": 200, "patience": 4, "optimizer": "adam"}
    job = _write(write_job, train, {"train.learning_rate": [0.02, 0.1], "seed": [0, 1]})
    together, alone = _make_runs(job, tmp_path / "a", stack=2), _make_runs(job, tmp_path / "b")

    _beside(together)
    _alone(alone)

    _assert_like_alone(together, alone)
    assert len({len(_history(one)) for one in together}) > 1
    assert [read_report(one.report).strategy.stack for one in together] == [2] * 4


@pytest.mark.long
def test_points_of_other_numbers_of_rows_and_epochs_share_a_call(
    write_job: WriteJob, tmp_path: Path
) -> None:
    model = {"dropout_rate": 0.2, "numeric_embedding": "periodic"}
    sweep = {"data.test_fraction": [0.3, 0.35], "train.epochs": [3, 5]}
    job = _write(write_job, {"schedule": "cosine"}, sweep, model=model)
    together, alone = _make_runs(job, tmp_path / "together"), _make_runs(job, tmp_path / "alone")

    _beside(together)
    _alone(alone)

    _assert_like_alone(together, alone)
    assert {read_report(one.report).strategy.stack for one in together} == {4}


@pytest.mark.long
def test_too_little_memory_halves_the_width_once_and_a_later_attempt_knows(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _write(write_job, sweep={"seed": [0, 1, 2, 3]})
    runs, narrow = _make_runs(job, tmp_path / "a"), _make_runs(job, tmp_path / "b", stack=2)
    limit_stacks(monkeypatch, most=2)

    told = _beside(runs)

    assert sorted(news.number for news in told if news.code == ExitCode.DONE) == [1, 2, 3, 4]
    assert [news.seats for news in told if news.seats][-1] == 2
    for paths in runs:
        report = read_report(paths.report)
        assert (report.strategy.stack, report.job["devices"]["stack"]) == (2, 2)
        assert load_run_job(paths).devices.stack == 2
        assert report.provenance.bit_exact
    _beside(narrow)
    for one, other in zip(runs, narrow, strict=True):
        assert one.predictions.read_bytes() == other.predictions.read_bytes()


@pytest.mark.long
@pytest.mark.parametrize(("points", "state"), [(2, "COMPLETED"), (4, "FAILED")])
def test_points_without_memory_for_two_train_alone_or_fail_where_a_half_is_still_too_many(
    write_job: WriteJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    points: int,
    state: str,
) -> None:
    runs = _make_runs(_write(write_job, sweep={"seed": list(range(points))}), tmp_path)
    refused = limit_stacks(monkeypatch, most=1)

    _beside(runs)

    assert {read_status(paths).state for paths in runs} == {state}
    if state == "COMPLETED":
        assert refused == [2]
        assert {read_report(paths.report).strategy.stacked for paths in runs} == {None}
    else:
        assert {read_status(paths).reason for paths in runs} == {"out_of_memory"}


LANE = """
from dnnjob.training import stack_width
stack_width.has_axis = lambda _: True
from dnnjob.launch.lane import main
main()
"""


@dataclass
class Killer:
    """Kills the process of all points once one of them has come so far."""

    epoch: int
    ended: dict[int, ExitCode] = field(default_factory=dict)
    most_at_work: int = 0
    _at_work: int = 0

    def begin(self, errand: Errand) -> None:
        self._at_work += 1
        self.most_at_work = max(self.most_at_work, self._at_work)

    def hear(self, errand: Errand, news: News) -> None:
        if news.progress is not None and 0 < self.epoch <= news.progress.epoch:
            self.epoch = 0
            os.kill(read_status(RunPaths(errand.run)).attempts[-1].pid, signal.SIGKILL)

    def end(self, errand: Errand, code: ExitCode) -> None:
        self._at_work -= 1
        self.ended[errand.number] = code


def _in_a_lane(runs: Sequence[RunPaths], *, kill_at: int = 0) -> Killer:
    """Runs points in a process of their own, which has room for all of them."""
    errands = [
        Errand(run=paths.root, number=number, beside=len(runs))
        for number, paths in enumerate(runs, start=1)
    ]
    killer = Killer(kill_at)
    command = (sys.executable, "-P", "-c", LANE)
    lanes = Lanes(LanePlan(1, 1), task=Task(), stop=StopFlag(), watcher=killer, command=command)
    lanes.work(ListedTurns(ListedOrder(errands)))
    return killer


@pytest.mark.long
@pytest.mark.timeout(900)
def test_points_that_are_killed_go_on_to_the_bits_of_those_that_were_not(
    write_job: WriteJob, tmp_path: Path
) -> None:
    train = {**CLIPPED, "epochs": 1500, "checkpoint_every_s": 0.1}
    job = _write(write_job, train, {"seed": [0, 1, 2, 3]}, model={"dropout_rate": 0.2})
    runs, others = _make_runs(job, tmp_path / "killed"), _make_runs(job, tmp_path / "straight")

    killed = _in_a_lane(runs, kill_at=300)
    states = [read_settled(paths).state for paths in runs]
    done, straight = _in_a_lane(runs), _in_a_lane(others)

    assert set(killed.ended.values()) == {ExitCode.FAILED}
    assert states == ["FAILED"] * 4
    assert done.ended == straight.ended == dict.fromkeys(range(1, 5), ExitCode.DONE)
    assert (killed.most_at_work, straight.most_at_work) == (4, 4)
    for one, other in zip(runs, others, strict=True):
        assert one.predictions.read_bytes() == other.predictions.read_bytes()
        provenance = read_report(one.report).provenance
        assert provenance.bit_exact, provenance.bit_exact_reason
        assert provenance.attempts[-1].resumed_from is not None
