"""The commands from Python."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dnnjob
from dnnjob.config import load_job
from dnnjob.in_memory import hold_tables
from dnnjob.runs import RunPaths, create_run
from tests.conftest import FinishedRun, WriteJob, make_frame

# Its own file of the names that mypy reads.
SCRIPT = """
import pandas as pd

import dnnjob

job: dict[str, object] = {"name": "a", "data": {"source": pd.DataFrame(), "target": "y"}}
ran: dnnjob.Run | dnnjob.Sweep = dnnjob.run(job, "seed=1", root="runs")
sent = dnnjob.submit("job.toml", "seed=1", profile="local", root="runs", force=True)
sent.cancel()
code: dnnjob.ExitCode = sent.wait()
text: str = sent.logs(task=0)
sent.resume(here=True)
run: dnnjob.Run = dnnjob.open_run("runs/a/1")
mse: float | None = run.report.metrics.test.mse if run.report.metrics.test else None
epochs: int = run.job.train.epochs
state: str | None = run.state
error: str | None = run.status().error
frame: pd.DataFrame = run.predict(run.predictions(), keep=["a"])
history: pd.DataFrame = run.history()
paths: list[str] = [str(path) for path in run.plots.values()]
model = run.model()
served: object = run.export("saved-model", "served")
if isinstance(sent, dnnjob.Sweep):
    points: tuple[dnnjob.Run, ...] = sent.runs
    seen: pd.DataFrame = sent.status()
    lines: pd.DataFrame = sent.collect(by="auto")
    winner: dnnjob.Run = dnnjob.open_sweep(sent.path).best(metric="test_mse")
table: pd.DataFrame = dnnjob.collect("runs", where={"name": "a"}, by=["seed"], sort="-test_mse")
difference: float | None = dnnjob.compare(run, "runs/a/2").metrics[0].first
best: dnnjob.Run = dnnjob.best("runs", where="name=a")
try:
    dnnjob.run(run.job)
except dnnjob.DnnJobError as fault:
    number: int = fault.exit_code
"""


def test_importing_dnnjob_imports_nothing_heavy() -> None:
    code = "import dnnjob, sys; dir(dnnjob); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "numpy", "pyarrow", "pydantic", "tensorflow"} & set(done.stdout.split())


def test_a_job_that_names_files_waits_for_no_arrow(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from dnnjob.in_memory import hold_tables; "
        "values = {'name': 't', 'data': {'source': 't.csv'}}; "
        "hold_tables(values, root=pathlib.Path(sys.argv[1])).write(); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"numpy", "pyarrow"} & set(done.stdout.split())


def test_names_are_functions_though_modules_are_called_so_too() -> None:
    from dnnjob.collect.collected_runs import read_runs
    from dnnjob.run import run_job

    assert callable(run_job)
    assert callable(read_runs)
    assert callable(dnnjob.run)
    assert callable(dnnjob.collect)
    assert set(dnnjob.__all__) <= set(dir(dnnjob))
    assert all(getattr(dnnjob, name).__doc__ for name in dnnjob.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dnnjob.nothing  # noqa: B018


def test_a_run_gives_what_its_files_hold(finished: FinishedRun) -> None:
    run = dnnjob.open_run(finished.paths.root)
    report = json.loads(finished.paths.report.read_text())
    assert run.state == "COMPLETED"
    assert isinstance(run, dnnjob.Run)
    assert run.report.metrics.test is not None
    assert run.report.metrics.test.mse == report["metrics"]["test"]["mse"]
    assert run.job == load_job(finished.paths.job)
    assert run.plots["regplot"] == finished.paths.plots / "regplot.png"
    predictions = run.predictions()
    bounds = ["y_lower", "y_upper"]
    assert list(predictions.columns) == ["row_id", "split", "y_true", "y_pred", *bounds]
    test = predictions[predictions["split"] == "test"]
    mse = ((test["y_true"] - test["y_pred"]) ** 2).mean()
    assert mse == pytest.approx(report["metrics"]["test"]["mse"])
    history = run.history()
    assert list(history.columns) == ["epoch", "loss", "val_loss", "learning_rate", "seconds"]
    assert history["epoch"].tolist() == list(range(1, 9))
    assert "Epoch" in run.logs() or "Training on" in run.logs()


def test_a_notebook_shows_the_head_of_the_page(finished: FinishedRun) -> None:
    run = dnnjob.open_run(finished.paths.root)
    html = run._repr_html_()
    assert "COMPLETED" in html
    assert "linear regression" in html
    assert f"{run.report.metrics.test.num_rows:,}" in html  # type: ignore[union-attr]
    assert "data:image/png;base64," in html
    assert "<script" not in html


def test_a_run_that_waits_is_shown_with_its_state(write_job: WriteJob, root: Path) -> None:
    paths = create_run(root, load_job(write_job()))
    run = dnnjob.open_run(paths.root)
    assert "CREATED" in run._repr_html_()
    with pytest.raises(dnnjob.JobError, match=r"report.json.*dnnjob.open_run\(.*\).status\(\)"):
        _ = run.report
    with pytest.raises(dnnjob.JobError, match=r"\.resume\(\)"):
        run.predict(make_frame())


def test_a_report_of_a_later_format_says_so(finished: FinishedRun, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny" / finished.paths.run_id
    shutil.copytree(finished.paths.root, folder)
    run = dnnjob.open_run(folder)
    report = RunPaths(folder).report
    # As later versions may write it: known parts are gone, and the job has keys unheard of.
    report.write_text(json.dumps({"format_version": 99, "measures": {}}))
    RunPaths(folder).job.write_text(RunPaths(folder).job.read_text() + "\n[quantum]\nbits = 1\n")
    for look in (lambda: run.report, lambda: run.job):
        with pytest.raises(dnnjob.DataError, match=r"format 99\. Update dnnjob"):
            look()


def test_the_collected_table_has_the_types_of_the_command(finished: FinishedRun) -> None:
    root = finished.paths.root.parents[1]
    frame = dnnjob.collect(root, where={"state": "COMPLETED"})
    assert list(frame.columns[:4]) == ["run_id", "name", "state", "reason"]
    types = frame.dtypes.astype(str)
    assert types["num_rows"] == "Int64"
    assert types["test_mse"] == "float64"
    assert types["run_id"] == "string"
    assert frame["started_at"].dt.tz is not None
    assert types["job.train.epochs"] == "Int64"
    assert types["job.data.target"] == "string"
    assert frame["reason"].isna().all()
    assert dnnjob.collect(root, where="seed=99").empty
    assert dnnjob.collect(root, by=["seed"])["num_runs"].tolist() == [1]
    assert dnnjob.collect(root, by="auto", where=["name=tiny"])["num_runs"].tolist() == [1]


def test_the_collected_table_is_that_of_the_command(tmp_path: Path) -> None:
    from dnnjob.collect.commands import collect_command
    from tests.collect.make_runs import make_root

    make_root(tmp_path / "runs", num_runs=40, broken_fraction=0.1)
    collect_command(tmp_path / "runs", out=tmp_path / "table.parquet", where=["seed>2"])
    written = pd.read_parquet(tmp_path / "table.parquet")
    frame = dnnjob.collect(tmp_path / "runs", where="seed>2")
    assert list(frame.columns) == list(written.columns)
    pd.testing.assert_frame_equal(frame.isna(), written.isna())
    # Gaps have several signs in pandas.
    gapless = [one.astype(object).mask(one.isna(), None) for one in (frame, written)]
    pd.testing.assert_frame_equal(*gapless)


def test_best_and_compare_take_runs(finished: FinishedRun, tmp_path: Path) -> None:
    from tests.collect.make_runs import make_root

    root = finished.paths.root.parents[1]
    best = dnnjob.best(root)
    assert best.path == finished.paths.root
    comparison = dnnjob.compare(best, finished.paths.root)
    assert comparison.differences == ()
    assert "test" in str(comparison)
    assert comparison._repr_html_().startswith("<pre>")
    make_root(tmp_path / "runs", num_runs=3)
    with pytest.warns(dnnjob.DnnJobWarning, match="flatter") as told:
        dnnjob.best(tmp_path / "runs", metric="test_mse")
    assert Path(told[0].filename) == Path(__file__)


def test_errors_speak_of_arguments(finished: FinishedRun, tmp_path: Path) -> None:
    root = finished.paths.root.parents[1]
    with pytest.raises(dnnjob.JobError, match=r"^`where` reads COLUMN=VALUE") as raised:
        dnnjob.collect(root, where="nonsense")
    assert raised.value.exit_code == 2
    with pytest.raises(dnnjob.JobError, match="`metric` takes a column of numbers"):
        dnnjob.best(root, metric="name")
    with pytest.raises(dnnjob.JobError, match=r"`dnnjob\.run` made"):
        dnnjob.open_run(tmp_path)
    with pytest.raises(dnnjob.JobError, match="A job is a file, a dictionary"):
        dnnjob.run(7)  # type: ignore[arg-type]
    with pytest.raises(dnnjob.JobError, match=r"train.lr: no such key. Did you mean"):
        dnnjob.run({"name": "a", "data": {"source": "a", "target": "y"}, "train": {"lr": 1}})
    with pytest.raises(dnnjob.JobError, match="`dnnjob init TABLE` in a shell"):
        dnnjob.run(tmp_path / "none.toml")


def test_looking_at_runs_leaves_logging_as_it_was(finished: FinishedRun) -> None:
    import logging

    logger = logging.getLogger("dnnjob")
    before = logger.level, logger.propagate, list(logger.handlers)
    dnnjob.open_run(finished.paths.root)
    with pytest.raises(dnnjob.JobError):
        dnnjob.open_run("none")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_a_table_in_memory_is_kept_once_below_the_root(root: Path) -> None:
    frame = make_frame(20)
    held = [
        hold_tables({"name": "a", "data": {"source": source, "target": "y"}}, root=root)
        for source in (frame, frame.copy(), pa.Table.from_pandas(frame, preserve_index=False))
    ]
    (path,) = {one.values["data"]["source"] for one in held}
    assert not Path(path).exists()
    held[0].write()
    assert Path(path).is_relative_to(root)
    pd.testing.assert_frame_equal(pq.read_table(path).to_pandas(), frame)
    frame.loc[3, "y"] += 1
    other = hold_tables({"name": "a", "data": {"source": frame, "target": "y"}}, root=root)
    assert other.values["data"]["source"] != path


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (pd.DataFrame({0: [1.0]}), dnnjob.DataError, "Columns are named by text"),
        (pd.DataFrame({"a": [1, "b", b"c"]}), dnnjob.DataError, "values of one type"),
        ([1, 2], dnnjob.JobError, "a path or a table"),
    ],
)
def test_what_is_no_table_is_refused(
    source: Any, error: type[Exception], message: str, root: Path
) -> None:
    with pytest.raises(error, match=message):
        dnnjob.run({"name": "a", "data": {"source": source, "target": "y"}}, root=root)
    assert list(root.iterdir()) == []


@pytest.mark.long
def test_a_table_in_memory_is_trained_on_and_predicted_as_by_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = make_frame().rename(columns={"plain": "code"})
    frame["code"] = 1e-9 * frame["y"]
    job = {
        "name": "mem",
        "data": {"source": frame, "target": "y", "exclude": ["code"]},
        "model": {"hidden_units": [4]},
        "train": {"epochs": 3, "global_batch_size": 16},
        "devices": {"kind": "cpu", "threads": 1},
        "output": {"plots": False, "trees": False},
    }
    run = dnnjob.run(job, "seed=5")
    assert isinstance(run, dnnjob.Run)
    assert run.path.parent == tmp_path / "runs" / "mem"
    assert run.job.seed == 5
    assert run.history()["epoch"].tolist() == [1, 2, 3]
    said = capfd.readouterr()
    assert said.out == ""
    assert "Epoch 3/3" in said.err
    assert "tensorflow" not in said.err.lower()

    predicted = run.predict(frame.set_index(frame.index + 100), keep=["is_new"])
    assert predicted.index.tolist() == list(range(100, 220))
    assert list(predicted.columns) == ["row_id", "y_true", "y_pred", "is_new"]
    np.testing.assert_allclose(predicted["y_pred"], run.predictions()["y_pred"], rtol=1e-5)
    with pytest.raises(dnnjob.DataError, match=r"^The table has no column '0\.5'"):
        run.predict(frame.drop(columns=["0.5"]))

    # The run's own file repeats it, from the table that was kept.
    again = dnnjob.run(run.path / "job.toml")
    assert isinstance(again, dnnjob.Run)
    np.testing.assert_array_equal(again.predictions()["y_pred"], run.predictions()["y_pred"])

    frame.loc[:, "y"] = 1e300
    with pytest.raises(dnnjob.DnnJobError) as raised:
        dnnjob.run({**job, "data": {"source": frame, "target": "y"}}, "name=bad")
    assert raised.value.exit_code in (1, 3)


@pytest.mark.long
def test_a_sweep_gives_its_runs(write_job: WriteJob, root: Path) -> None:
    job = write_job(sweep={"seed": [1, 2]}, train={"epochs": 2})
    sweep = dnnjob.run(job, root=root)
    assert isinstance(sweep, dnnjob.Sweep)
    assert [run.job.seed for run in sweep.runs] == [1, 2]
    assert sweep.status()["state"].tolist() == ["COMPLETED", "COMPLETED"]
    assert sweep.wait() == dnnjob.ExitCode.DONE
    assert len(sweep.collect()) == 2
    assert sweep.best() in sweep.runs
    assert sweep.resume() == sweep
    assert "<table" in sweep._repr_html_()
    assert dnnjob.open_sweep(sweep.path) == sweep
    with pytest.raises(dnnjob.JobError, match=r"sweep\.json"):
        dnnjob.open_sweep(root)


@pytest.mark.long
def test_a_run_in_the_background_is_watched_cancelled_and_resumed(
    write_job: WriteJob, root: Path
) -> None:
    job = write_job(train={"epochs": 100_000, "checkpoint_every_s": 1})
    run = dnnjob.submit(job, profile="local", root=root)
    assert isinstance(run, dnnjob.Run)
    while run.status().progress.epoch == 0:
        assert run.state in ("CREATED", "RUNNING")
        time.sleep(0.2)
    with pytest.raises(dnnjob.JobError, match=r"alive.*\.cancel\(\)"):
        run.resume()
    run.cancel()
    assert run.wait() == dnnjob.ExitCode.TERMINATED
    assert run.state == "CANCELLED"
    assert "Training on" in run.logs()


@pytest.mark.long
def test_an_interrupt_ends_with_a_checkpoint(write_job: WriteJob, root: Path) -> None:
    job = write_job(train={"epochs": 100_000, "checkpoint_every_s": 600})

    def interrupt() -> None:
        while not any(root.glob("tiny/2*/logs/*")):
            time.sleep(0.1)
        (run,) = map(dnnjob.open_run, root.glob("tiny/2*"))
        while "Training on" not in run.logs():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt) as raised:
        dnnjob.run(job, root=root)
    thread.join()
    (folder,) = root.glob("tiny/2*")
    assert raised.value.__notes__ == [f"Run folder: {folder}"]
    assert dnnjob.open_run(folder).state == "CANCELLED"
    assert list(RunPaths(folder).checkpoints.glob("*.ckpt"))


@pytest.mark.long
def test_a_script_with_every_public_function_is_typed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for name in re.findall(r"^    (\w+)\b", "\n".join(dnnjob.__all__), re.MULTILINE):
        assert name in SCRIPT
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, str(script)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
