"""A search with halving, from its job file to its reports."""

import os
import signal
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dnnjob.clock import Stopwatch
from dnnjob.config import JobConfig, load_job
from dnnjob.errors import ExitCode
from dnnjob.launch.watch.resume_verb import add_epochs
from dnnjob.launch.worker import run_attempt
from dnnjob.results.report import read_report
from dnnjob.runs import Progress, RunPaths, Show, create_run, read_status
from dnnjob.tasks import StopFlag, Until
from tests.conftest import Command, WriteJob, command_line, run_here
from tests.waiting import wait_until


def attempt(paths: RunPaths, until: Until | None = None, show: Show = lambda *_: None) -> ExitCode:
    return run_attempt(paths, watch=Stopwatch(), until=until, stop=StopFlag(), show=show)


@pytest.fixture
def paths(write_job: WriteJob, tmp_path: Path) -> RunPaths:
    return create_run(tmp_path / "runs", load_job(write_job(train={"epochs": 9})))


def test_a_run_waits_at_a_rung_and_goes_on_to_the_bits_of_one_that_did_not(
    paths: RunPaths, write_job: WriteJob, tmp_path: Path
) -> None:
    assert attempt(paths, Until(1)) == ExitCode.DONE
    first = read_status(paths)
    assert attempt(paths, Until(3)) == ExitCode.DONE
    second = read_status(paths)
    assert attempt(paths) == ExitCode.DONE

    straight = run_here(write_job(train={"epochs": 9}), root=tmp_path / "others")

    assert (first.state, first.progress.epoch) == ("REQUEUED", 1)
    assert second.progress.epoch == 3
    rungs = [one.rung for one in read_status(paths).attempts]
    history = pd.read_parquet(paths.history)
    assert [rung and (rung.epoch, rung.val_loss) for rung in rungs] == [
        (1, history["val_loss"][0]),
        (3, history["val_loss"][2]),
        None,
    ]
    assert paths.predictions.read_bytes() == straight.predictions.read_bytes()
    assert read_report(paths.report).provenance.bit_exact


def test_members_wait_at_a_rung_by_the_loss_on_the_rows_they_left_out(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(
        train={"epochs": 9, "patience": 9},
        data={"validation_fraction": 0.0},
        model={"members": 2, "bagging": "folds"},
    )
    paths = create_run(tmp_path / "runs", load_job(job))
    assert attempt(paths, Until(3)) == ExitCode.DONE
    waiting = read_status(paths)
    assert attempt(paths) == ExitCode.DONE
    straight = run_here(job, root=tmp_path / "others")

    losses = pd.read_parquet(straight.history)["val_loss"]
    assert (waiting.state, waiting.progress.epoch) == ("REQUEUED", 3)
    assert waiting.progress.val_loss == pytest.approx(losses[2])
    assert waiting.attempts[0].rung is not None
    assert paths.predictions.read_bytes() == straight.predictions.read_bytes()


def test_a_process_reads_a_table_once_for_its_runs_and_again_once_it_holds_something_else(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_file = write_job(train={"epochs": 2})
    source = Path(load_job(job_file).data.source)
    opened = list[str]()
    # The package has a function of this name.
    run = import_module("dnnjob.run")
    open_table = run.open_table

    def count(job: JobConfig, **given: Any) -> Any:
        opened.append(job.data.source)
        return open_table(job, **given)

    monkeypatch.setattr(run, "open_table", count)
    first, second = (create_run(tmp_path / "runs", load_job(job_file)) for _ in range(2))
    assert (attempt(first), attempt(second)) == (ExitCode.DONE, ExitCode.DONE)
    assert len(opened) == 1
    assert first.predictions.read_bytes() == second.predictions.read_bytes()

    # As long, and as old.
    written_at, text = source.stat().st_mtime_ns, source.read_text()
    lines = text.splitlines()
    source.write_text("\n".join([lines[0], *reversed(lines[1:]), ""]))
    os.utime(source, ns=(written_at, written_at))
    third = create_run(tmp_path / "runs", load_job(job_file))
    assert attempt(third) == ExitCode.DONE
    assert len(opened) == 2
    of_second, of_third = (pd.read_parquet(one.predictions) for one in (second, third))
    assert list(of_third["y_true"]) == list(of_second["y_true"])[::-1]


def test_a_run_that_is_left_behind_completes_with_what_it_has(paths: RunPaths) -> None:
    attempt(paths, Until(3))
    assert attempt(paths, Until(3, ends=True)) == ExitCode.DONE

    report = read_report(paths.report)
    assert read_status(paths).state == "COMPLETED"
    assert (report.training.stop_reason, report.training.epochs) == ("halved", 3)
    assert len(pd.read_parquet(paths.history)) == 3
    assert paths.predictions.is_file()
    assert paths.model.is_file()
    assert "halved" in paths.page.read_text()


def test_a_run_that_comes_to_a_rung_behind_enough_others_completes_there_at_once(
    paths: RunPaths,
) -> None:
    assert attempt(paths, Until(1, ends_above=1e9)) == ExitCode.DONE
    assert read_status(paths).state == "REQUEUED"
    shown = list[tuple[Progress, float, float]]()

    def show(progress: Progress, steps_per_s: float, seconds_left: float) -> None:
        shown.append((progress, steps_per_s, seconds_left))

    assert attempt(paths, Until(3, ends_above=1e-9), show) == ExitCode.DONE

    status, report = read_status(paths), read_report(paths.report)
    assert status.state == "COMPLETED"
    assert (report.training.stop_reason, report.training.epochs) == ("halved", 3)
    assert [one.rung and one.rung.epoch for one in status.attempts] == [1, 3]
    assert "better points of its search went on" in (status.progress.end or "")
    progress, steps_per_s, seconds_left = shown[-1]
    assert progress == status.progress
    assert steps_per_s > 0
    assert seconds_left == 0


@pytest.mark.long
def test_one_that_was_left_behind_may_go_on_to_its_end(
    paths: RunPaths, write_job: WriteJob, tmp_path: Path
) -> None:
    attempt(paths, Until(3, ends=True))
    add_epochs(paths, "train.epochs=9")
    assert attempt(paths) == ExitCode.DONE

    straight = run_here(write_job(train={"epochs": 9}), root=tmp_path / "others")
    assert paths.predictions.read_bytes() == straight.predictions.read_bytes()


def test_with_patience_a_run_is_compared_by_its_best_epoch(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(train={"epochs": 30, "patience": 25, "learning_rate": 0.05})
    paths = create_run(tmp_path / "runs", load_job(job))
    attempt(paths, Until(10))
    rung = read_status(paths).attempts[0].rung
    attempt(paths)
    assert rung is not None
    assert rung.val_loss == pd.read_parquet(paths.history)["val_loss"][:10].min()


@pytest.mark.long
def test_one_whose_patience_ends_before_a_rung_is_compared_there_by_its_best_epoch(
    write_job: WriteJob, tmp_path: Path
) -> None:
    job = write_job(train={"epochs": 900, "patience": 1, "learning_rate": 0.05})
    paths = create_run(tmp_path / "runs", load_job(job))
    assert attempt(paths, Until(300)) == ExitCode.DONE
    status, losses = read_status(paths), pd.read_parquet(paths.history)["val_loss"]
    assert (status.state, read_report(paths.report).training.stop_reason) == (
        "COMPLETED",
        "patience",
    )
    assert status.attempts[0].rung is not None
    assert status.attempts[0].rung.val_loss == losses.min() < status.progress.val_loss


@pytest.mark.slow
def test_a_search_that_was_disturbed_goes_on_to_the_bits_of_one_that_was_not(
    write_job: WriteJob, tmp_path: Path, dnnjob: Command
) -> None:
    """A lane is killed, then Ctrl-C comes; `resume` of the sweep does the rest."""
    rates = [0.01, 0.02, 0.03, 0.04]
    words = {"sweep": {"train.learning_rate": rates}, "search": {"halving": 3}}
    job = write_job(train={"epochs": 2700}, **words)
    command = command_line("run", job, "--root", tmp_path / "runs")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        runs = [RunPaths(Path(process.stdout.readline().strip())) for _ in rates]
        _wait_for_epoch(runs[0])
        os.kill(read_status(runs[0]).attempts[-1].pid, signal.SIGKILL)
        _wait_for_epoch(runs[2])
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == ExitCode.INTERRUPTED
    (sweep,) = (tmp_path / "runs" / "tiny" / "sweeps").iterdir()

    resumed = dnnjob("resume", sweep)
    straight = dnnjob("run", job, "--root", tmp_path / "others")

    assert (resumed.returncode, straight.returncode) == (0, 0), resumed.stderr
    others = [RunPaths(Path(line)) for line in straight.stdout.splitlines()]
    for paths, other in zip(runs, others, strict=True):
        assert paths.predictions.read_bytes() == other.predictions.read_bytes()
        assert read_report(paths.report).training == read_report(other.report).training


def _wait_for_epoch(paths: RunPaths) -> None:
    def has_come() -> bool:
        status = read_status(paths)
        return status.state == "RUNNING" and status.progress.epoch > 0

    wait_until(has_come, seconds=120, every=0.05)


@pytest.mark.long
def test_a_search_with_halving_leaves_the_worst_behind(
    write_job: WriteJob, tmp_path: Path, dnnjob: Command
) -> None:
    rates = [1e-6, 2e-6, 0.01, 3e-6, 4e-6, 5e-6, 6e-6, 7e-6, 1e9]
    job = write_job(
        train={"epochs": 18},
        sweep={"train.learning_rate": rates},
        search={"halving": 3},
    )
    done = dnnjob("run", job, "--root", tmp_path / "runs")
    runs = [RunPaths(Path(line)) for line in done.stdout.splitlines()]
    assert done.returncode == ExitCode.FAILED, done.stderr
    assert [read_status(paths).state for paths in runs] == ["COMPLETED"] * 8 + ["FAILED"]
    trained = {
        rate: read_report(paths.report).training
        for rate, paths in zip(rates[:-1], runs, strict=False)
    }
    assert (trained[0.01].epochs, trained[0.01].stop_reason) == (18, "epochs")
    assert sorted(one.epochs for one in trained.values()) == [2, 2, 2, 2, 2, 6, 6, 18]
    assert "left behind after 2 epochs" in done.stderr
