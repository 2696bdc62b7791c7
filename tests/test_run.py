"""A job from its file to a finished run folder, in real processes."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import load_job, to_toml
from dnnjob.data.split import split_rows
from dnnjob.errors import ExitCode
from dnnjob.launch.foreground import resume_foreground, run_foreground
from dnnjob.results import evaluation
from dnnjob.results.baselines import TreesBaseline
from dnnjob.results.report import read_report
from dnnjob.results.trees import Yardstick
from dnnjob.runs import RunPaths, claim_attempt, read_status
from tests.conftest import (
    FEATURES,
    Command,
    FinishedRun,
    Golden,
    WriteJob,
    command_line,
    make_frame,
)

Run = Callable[..., tuple[ExitCode, RunPaths]]

LOG = "logs/attempt-1-task-0.log"


def only_run(root: Path, name: str = "tiny") -> RunPaths:
    (folder,) = (root / name).iterdir()
    return RunPaths(folder)


def files_of(paths: RunPaths) -> list[str]:
    return sorted(
        str(path.relative_to(paths.root)) for path in paths.root.rglob("*") if path.is_file()
    )


@pytest.fixture
def run(write_job: WriteJob, tmp_path: Path) -> Run:
    """Runs the tiny job inside this process; its exit code and its only run folder."""

    def run_tiny(
        frame: pd.DataFrame | None = None, *overrides: str, **sections: Any
    ) -> tuple[ExitCode, RunPaths]:
        code = run_foreground(write_job(frame, **sections), overrides, root=tmp_path / "runs")
        return code, only_run(tmp_path / "runs")

    return run_tiny


# What a finished run leaves


def test_stdout_is_the_path_of_the_run_folder(finished: FinishedRun) -> None:
    assert finished.stdout == f"{finished.paths.root}\n"
    assert finished.paths.root.parent == finished.job_file.parent / "runs" / "tiny"


def test_stderr_tells_the_story_once(finished: FinishedRun) -> None:
    for told in ("Total params: 97", "Epoch 8/8: loss", "Trained 8 epochs in", "Test MSE"):
        assert finished.stderr.count(told) == 1, finished.stderr
    assert "warning" not in finished.stderr.lower()
    assert finished.stderr.startswith("Devices: "), finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_run_folder_holds_exactly_these_files(finished: FinishedRun, golden: Golden) -> None:
    golden("run-folder.txt", "\n".join(files_of(finished.paths)) + "\n")
    assert not finished.paths.checkpoints.exists()


def test_a_run_leaves_nothing_among_temporary_files(finished: FinishedRun) -> None:
    assert [*(finished.job_file.parent / "tmp").iterdir()] == []


def test_a_finished_run_says_so(finished: FinishedRun) -> None:
    status = read_status(finished.paths)
    assert (status.state, status.reason, status.error) == ("COMPLETED", None, None)
    assert status.progress.epoch == status.progress.epochs == 8
    (attempt,) = status.attempts
    assert attempt.ended_at is not None


def test_predictions_have_a_line_for_every_row_in_order(finished: FinishedRun) -> None:
    table = pd.read_parquet(finished.paths.predictions)
    split = split_rows(120, test_fraction=0.3, validation_fraction=0.2, seed=3)
    assert list(table.columns) == ["row_id", "split", "y_true", "y_pred", "y_lower", "y_upper"]
    assert table["row_id"].tolist() == list(range(120))
    for name in ("train", "validation", "test"):
        rows = np.flatnonzero(table["split"] == name)
        np.testing.assert_array_equal(rows, getattr(split, name))
    np.testing.assert_array_equal(table["y_true"], finished.frame["y"])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_reported_errors_are_those_of_the_predictions(finished: FinishedRun, split: str) -> None:
    table = pd.read_parquet(finished.paths.predictions).query("split == @split")
    metrics = getattr(read_report(finished.paths.report).metrics, split)
    errors = [math.pow(y - p, 2) for y, p in zip(table["y_true"], table["y_pred"], strict=True)]
    mse = math.fsum(errors) / len(errors)
    absolute = (table["y_true"] - table["y_pred"]).abs()
    assert metrics.num_rows == len(table)
    assert metrics.mse == pytest.approx(mse, rel=1e-9)
    assert metrics.rmse == pytest.approx(math.sqrt(mse), rel=1e-9)
    assert metrics.mae == pytest.approx(absolute.mean(), rel=1e-9)


def test_standardized_errors_are_in_units_of_the_training_targets(finished: FinishedRun) -> None:
    split = split_rows(120, test_fraction=0.3, validation_fraction=0.2, seed=3)
    std = finished.frame["y"].to_numpy()[split.train].std()
    test = read_report(finished.paths.report).metrics.test
    assert test is not None
    assert test.mse_standardized == pytest.approx(test.mse / std**2, rel=1e-9)


def test_history_has_a_line_for_every_epoch(finished: FinishedRun) -> None:
    history = pd.read_parquet(finished.paths.history)
    report = read_report(finished.paths.report)
    assert history["epoch"].tolist() == list(range(1, 9))
    assert history["loss"].iloc[-1] == report.training.final_loss
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    assert report.training.best_epoch == history["val_loss"].idxmin() + 1
    np.testing.assert_allclose(history["learning_rate"], 0.01)


def test_the_report_is_as_before_times_and_places_apart(
    finished: FinishedRun, golden: Golden
) -> None:
    report = json.loads(finished.paths.report.read_text())
    for volatile in ("run_id", "timing_s", "throughput", "resources", "provenance"):
        del report[volatile]
    del report["job"]["data"]["source"], report["data"]["source"]
    # The last bits differ between processors.
    text = json.dumps(report, indent=1, ensure_ascii=False)
    golden("report.json", re.sub(r"\d+\.\d{6,}", lambda found: f"{float(found[0]):.3g}", text))


def test_times_are_filled_in_and_add_up(finished: FinishedRun) -> None:
    timing = json.loads(finished.paths.report.read_text())["timing_s"]
    phases = [timing[key] for key in timing if not key.startswith("total")]
    assert all(seconds > 0 for seconds in phases)
    assert max(phases) < timing["total"] == timing["total_all_attempts"]


def test_the_page_stands_alone(finished: FinishedRun) -> None:
    page = finished.paths.page.read_text()
    assert not re.search(r'(src|href)="(?!data:|#)[^"]+"', page)
    assert page.count("data:image/png;base64,") == 6


# The model, without dnnjob

PLAIN_KERAS = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dnnjob":
            raise ImportError("dnnjob is blocked")
sys.meta_path.insert(0, Blocker())
import keras, numpy as np, pandas as pd
model = keras.models.load_model(sys.argv[1], safe_mode=True)
table = pd.read_csv(sys.argv[2])
y = model.predict({name: table[name].to_numpy() for name in model.input}, verbose=0)
np.save(sys.argv[3], y[:, 0])
print(*model.input, sep="|")
assert "dnnjob" not in sys.modules
"""


@pytest.mark.long
def test_the_model_predicts_in_plain_keras(finished: FinishedRun, tmp_path: Path) -> None:
    table = finished.job_file.parent / "table.csv"
    arguments = map(str, (finished.paths.model, table, tmp_path / "y.npy"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_KERAS, *arguments],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "|".join(FEATURES) + "\n"
    expected = pd.read_parquet(finished.paths.predictions)["y_pred"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=2e-6)


# Repeating


def test_the_resolved_job_is_complete_and_absolute(finished: FinishedRun) -> None:
    job = load_job(finished.paths.job)
    assert job.data.features == FEATURES
    assert job.data.source == str(finished.job_file.parent / "table.csv")
    assert job.data.split_seed == 3
    assert job.data.window_rows is not None
    assert (job.devices.threads, job.devices.xla) == (1, "on")
    assert to_toml(job) == finished.paths.job.read_text()


# Choices of output


def test_only_what_is_asked_for_is_written(run: Run) -> None:
    nothing = {"predictions": "none", "model": False, "plots": False}
    code, paths = run(None, "train.epochs=1", output=nothing)
    assert code == ExitCode.DONE
    assert files_of(paths) == [
        "history.parquet",
        "job.toml",
        LOG,
        "report.html",
        "report.json",
        "status.json",
    ]


def test_predictions_may_be_those_of_the_test_rows(run: Run) -> None:
    _, paths = run(None, "train.epochs=1", output={"predictions": "test"})
    table = pd.read_parquet(paths.predictions)
    split = split_rows(120, test_fraction=0.3, validation_fraction=0.2, seed=3)
    assert table["row_id"].tolist() == split.test.tolist()
    assert set(table["split"]) == {"test"}


def test_a_batch_larger_than_the_table_is_one_batch(run: Run) -> None:
    code, paths = run(None, "train.global_batch_size=100000", "train.epochs=2")
    assert code == ExitCode.DONE
    assert read_report(paths.report).training.steps == 2


def test_a_linear_network_without_hidden_layers_trains(run: Run) -> None:
    code, paths = run(None, "model.hidden_units=[]", "train.epochs=2")
    assert code == ExitCode.DONE
    assert read_report(paths.report).model.num_trainable_params == 7


def test_two_rows_are_enough(run: Run) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "y": [3.0, 5.0]})
    code, paths = run(frame, "train.epochs=1", data={"validation_fraction": 0.0})
    assert code == ExitCode.DONE
    metrics = read_report(paths.report).metrics
    assert metrics.train is not None
    assert (metrics.train.num_rows, metrics.validation) == (1, None)


def test_without_a_test_fraction_all_rows_train_and_no_test_figures_are_made(run: Run) -> None:
    code, paths = run(None, "data.test_fraction=0", "train.epochs=2", "output.plots=true")
    report = read_report(paths.report)
    assert code == ExitCode.DONE
    assert (report.metrics.test, report.baselines.test, report.importance) == (None, None, ())
    assert report.metrics.train is not None
    assert report.metrics.validation is not None
    assert report.metrics.train.num_rows + report.metrics.validation.num_rows == 120
    assert set(pd.read_parquet(paths.predictions)["split"]) == {"train", "validation"}


def test_early_stopping_keeps_the_best_weights(run: Run) -> None:
    overrides = ["train.epochs=200", "train.patience=2", "train.learning_rate=0.3"]
    code, paths = run(None, *overrides)
    report, history = read_report(paths.report), pd.read_parquet(paths.history)
    assert code == ExitCode.DONE
    assert report.training.stop_reason == "patience"
    best = history["val_loss"].idxmin()
    assert report.training.best_epoch == best + 1
    assert report.training.final_loss == history["loss"][best]
    assert read_status(paths).progress.end == (
        f"stopped at epoch {best + 3} of 200 (patience 2), epoch {best + 1} kept"
    )
    assert len(history) == best + 3
    assert report.metrics.validation is not None
    standardized = report.metrics.validation.mse_standardized
    assert standardized == pytest.approx(history["val_loss"][best], rel=1e-4)


# What bad input gets once a run has begun


def constant_target() -> pd.DataFrame:
    return make_frame().assign(y=2.5)


def infinite_feature() -> pd.DataFrame:
    return make_frame().assign(plain=np.inf)


def huge_feature() -> pd.DataFrame:
    return make_frame().assign(plain=lambda frame: frame["plain"] * 1e39)


def text_target() -> pd.DataFrame:
    return make_frame().assign(y="high")


def one_row() -> pd.DataFrame:
    return make_frame(1)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (constant_target, "all 120 rows are 2.5"),
        (infinite_feature, "'plain' is infinite in 120 of 120 rows"),
        (huge_feature, "'plain' is beyond the range of float32"),
        (text_target, "'y' in"),
        (one_row, "A split needs at least 2 rows"),
    ],
)
def test_bad_tables_end_with_3_and_a_failed_status(
    run: Run, make: Callable[[], pd.DataFrame], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    code, paths = run(make())
    assert code == ExitCode.DATA
    status = read_status(paths)
    assert (status.state, status.reason) == ("FAILED", "error")
    assert told in str(status.error)
    assert told in caplog.text
    assert "Traceback" not in caplog.text
    assert files_of(paths) == ["job.toml", LOG, "status.json"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.test_fraction=0.999"],
        ["data.validation_fraction=0.999"],
    ],
)
def test_a_fraction_that_leaves_a_split_empty_ends_with_3(run: Run, overrides: list[str]) -> None:
    code, paths = run(None, *overrides)
    assert code == ExitCode.DATA
    assert "_fraction = 0.999 of" in str(read_status(paths).error)


def test_a_feature_that_float32_blurs_is_warned_about(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    frame = make_frame()
    frame["plain"] = 1e9 + frame["plain"]
    code, _ = run(frame, "train.epochs=1")
    assert code == ExitCode.DONE
    assert "float32 cannot hold the differences within plain" in caplog.text


def test_a_huge_learning_rate_fails_with_epoch_and_batch(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    code, paths = run(None, "train.learning_rate=1e6", "train.epochs=50")
    status = read_status(paths)
    assert code == ExitCode.FAILED
    assert (status.state, status.reason) == ("FAILED", "nan")
    assert re.search(r"in epoch \d+, batch \d+\. Lower train\.learning_rate", str(status.error))
    assert "Traceback" not in caplog.text
    assert not paths.report.exists()
    assert not paths.predictions.exists()


def test_a_missing_gpu_ends_with_4(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # A run before it in this process may have been told to see none.
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    code, paths = run(None, devices={"kind": "gpu"})
    assert code == ExitCode.ENVIRONMENT
    assert "no driver tells of one" in str(read_status(paths).error)


# A full disk


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk of its own can only be mounted by root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_fails_the_run_which_goes_on_once_there_is_room(
    write_job: WriteJob, tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job_file = write_job()
    code = run_foreground(job_file, [], root=tiny_disk)
    paths = only_run(tiny_disk)
    status = read_status(paths)
    assert code == ExitCode.ENVIRONMENT
    assert (status.state, status.reason) == ("FAILED", "error")
    assert "the disk is full" in str(status.error)
    assert "Traceback" not in caplog.text
    assert not paths.report.exists()
    assert not list(paths.root.rglob("*.tmp"))

    subprocess.run(["mount", "-o", "remount,size=8m", str(tiny_disk)], check=True)
    assert resume_foreground(paths.root) == ExitCode.DONE
    assert read_status(paths).state == "COMPLETED"
    assert len(read_status(paths).attempts) == 2


# Signals


class Process:
    """A real `dnnjob run` of a job that trains for a minute."""

    def __init__(self, job_file: Path, root: Path) -> None:
        command = command_line("run", job_file, "train.epochs=20000", "--root", root)
        self.process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True)
        assert self.process.stdout is not None
        self.paths = RunPaths(Path(self.process.stdout.readline().strip()))

    def wait_until_training(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("Epoch"):
                return
        raise AssertionError("It ended before it trained.")

    def send(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


@pytest.fixture
def long_run(write_job: WriteJob, tmp_path: Path) -> Iterator[Process]:
    run = Process(write_job(), tmp_path / "runs")
    yield run
    run.process.kill()
    run.process.communicate()


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_training_cancels_the_run_with_a_checkpoint(
    long_run: Process, number: signal.Signals, code: int
) -> None:
    long_run.wait_until_training()
    returned, told = long_run.send(number)
    status = read_status(long_run.paths)
    assert returned == code
    assert (status.state, status.reason) == ("CANCELLED", "cancelled")
    assert f"Stopped by {number.name}. `dnnjob resume" in told
    assert "Traceback" not in told
    assert files_of(long_run.paths) == [
        "checkpoints/00000001-1.ckpt",
        "job.toml",
        LOG,
        "status.json",
    ]


@pytest.mark.long
def test_a_signal_before_training_cancels_the_run(long_run: Process) -> None:
    # While TensorFlow is imported.
    time.sleep(1)
    returned, told = long_run.send(signal.SIGINT)
    assert returned == 130
    assert read_status(long_run.paths).state == "CANCELLED"
    assert "Traceback" not in told
    assert files_of(long_run.paths) == ["job.toml", LOG, "status.json"]


# Sweeps


@pytest.mark.long
def test_a_sweep_ends_with_a_table_of_its_results(
    write_job: WriteJob, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    caplog.set_level("INFO", "dnnjob")
    job_file = write_job(sweep={"train.learning_rate": [0.01, 1e9], "seed": [1]})
    code = run_foreground(job_file, ["train.epochs=20"], root=tmp_path / "runs")
    folders = [Path(line) for line in capfd.readouterr().out.splitlines()]
    states = [read_status(RunPaths(folder)).state for folder in folders]
    table = caplog.messages[-1].splitlines()
    assert code == ExitCode.FAILED
    assert states == ["COMPLETED", "FAILED"]
    assert [line.split() for line in table if line] == [
        ["train.learning_rate", "seed", "state", "test", "MSE", "run", "folder"],
        ["0.01", "1", "COMPLETED", _test_mse(folders[0]), str(folders[0])],
        ["1000000000.0", "1", "FAILED", "-", str(folders[1])],
    ]
    ended = [message for message in caplog.messages if message.startswith("Run ")]
    assert sorted(ended) == [
        "Run 1 of 2: train.learning_rate = 0.01, seed = 1: completed.",
        "Run 2 of 2: train.learning_rate = 1000000000.0, seed = 1: failed.",
    ]


@pytest.mark.long
def test_what_a_run_makes_among_temporary_files_bears_its_name(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the next attempt finds them where a run was killed meanwhile."""
    made: list[Path] = []
    make = tempfile.mkdtemp

    def remember(*arguments: Any, **options: Any) -> str:
        made.append(Path(make(*arguments, **options)))
        return str(made[-1])

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tempfile.mkdtemp", remember)

    code, paths = run(model={"members": 2}, output={"tensorboard": True})

    assert code == ExitCode.DONE
    places = {path.relative_to(tmp_path).parts[0] for path in made}
    assert len(made) > len(places) >= 2
    assert all(place.startswith(f"dnnjob-{paths.run_id}-1-") for place in places)


@pytest.mark.long
def test_the_report_alone_waits_for_the_trees(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files: list[str] = []

    def measure(*_: object, **__: object) -> TreesBaseline:
        files.extend(files_of(only_run(tmp_path / "runs")))
        return TreesBaseline(mse=7.0, num_rows=5)

    monkeypatch.setattr(Yardstick, "measure", measure)

    _, paths = run(output={"model": True, "plots": True})

    assert {"predictions.parquet", "model/model.keras", "plots/boxplot.png"} <= {*files}
    assert "report.json" not in files
    test = read_report(paths.report).baselines.test
    assert test is not None
    assert test.trees == TreesBaseline(mse=7.0, num_rows=5)


def test_an_attempt_that_is_superseded_while_it_predicts_publishes_nothing(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def evaluate(*arguments: Any, **options: Any) -> Any:
        (folder,) = (tmp_path / "runs" / "tiny").iterdir()
        claim_attempt(RunPaths(folder))
        return evaluation.evaluate(*arguments, **options)

    monkeypatch.setattr(sys.modules["dnnjob.run"], "evaluate", evaluate)

    code = run_foreground(write_job(train={"epochs": 2}), [], root=tmp_path / "runs")

    paths = RunPaths(Path(capfd.readouterr().out.strip()))
    assert code == ExitCode.FAILED
    assert not any(path.exists() for path in (paths.predictions, paths.history, paths.report))
    assert read_status(paths).state == "RUNNING"


def test_a_sweep_whose_folders_find_no_room_leaves_nothing(
    write_job: WriteJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dnnjob.launch.sweep_folder.write_record", write)

    with pytest.raises(OSError, match="No space"):
        run_foreground(write_job(sweep={"seed": [1, 2, 3]}), [], root=tmp_path / "runs")

    assert not (tmp_path / "runs").exists()


def _test_mse(folder: Path) -> str:
    test = read_report(RunPaths(folder).report).metrics.test
    assert test is not None
    return f"{test.mse:.6g}"


@pytest.mark.long
def test_points_of_other_devices_run_in_processes_of_their_own(
    write_job: WriteJob, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job_file = write_job(train={"epochs": 2}, sweep={"devices.threads": [1, 2]})
    code = run_foreground(job_file, [], root=tmp_path / "runs")
    folders = [Path(line) for line in capfd.readouterr().out.splitlines()]
    reports = [read_report(RunPaths(folder).report) for folder in folders]
    pids = {report.provenance.attempts[0].pid for report in reports}
    assert code == ExitCode.DONE
    assert [report.strategy.threads for report in reports] == [1, 2]
    assert len(pids | {os.getpid()}) == 3


@pytest.mark.long
def test_a_point_gives_what_a_run_alone_gives(
    finished: FinishedRun, write_job: WriteJob, tmp_path: Path, dnnjob: Command
) -> None:
    job_file = write_job(sweep={"seed": [1, 3]}, devices={"xla": "auto"})
    done = dnnjob("run", job_file, "--root", tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    last = RunPaths(Path(done.stdout.splitlines()[-1]))
    assert last.predictions.read_bytes() == finished.paths.predictions.read_bytes()
    assert "dense_1 (Dense)" in read_report(last.report).model.summary
