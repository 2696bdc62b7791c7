"""What is read of runs in every state."""

import json
import os
import pickle
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dnnjob.collect import cache, collected_runs
from dnnjob.collect.collected_runs import read_runs, read_side_by_side
from dnnjob.collect.record import Run
from dnnjob.config import resolve_job
from dnnjob.errors import JobError
from dnnjob.machine import process_key
from dnnjob.runs import Event, Journal, Progress, RunPaths, create_run, leave_event
from tests.collect.make_runs import (
    START,
    Wish,
    make_job,
    make_report,
    make_status,
    write_json,
    write_run,
    write_toml,
)


def read_one(root: Path, *, now: datetime | None = None) -> Run:
    (run,) = read_runs(root, now=now)
    return run


def read_all(root: Path) -> dict[str, Run]:
    return {run.folder.name: run for run in read_runs(root)}


def test_a_complete_run_is_what_its_report_says(root: Path) -> None:
    folder = write_run(root)
    report = json.loads((folder / "report.json").read_text())
    line = read_one(root).line
    test, origin = report["metrics"]["test"], report["provenance"]
    assert (line.run_id, line.name, line.state, line.path) == (
        folder.name, "housing", "COMPLETED", str(folder),
    )  # fmt: skip
    assert (line.test_mse, line.test_rmse, line.test_mae, line.test_r2) == (
        test["mse"], test["rmse"], test["mae"], test["r2"],
    )  # fmt: skip
    assert (line.validation_mse, line.train_mse) == (None, report["metrics"]["train"]["mse"])
    assert line.test_mse_standardized == test["mse_standardized"]
    assert (line.baseline_mean_mse, line.baseline_linear_mse) == (83.7, 28.1)
    assert (line.num_rows, line.num_features, line.num_trainable_params) == (506, 11, 204601)
    assert (line.seed, line.train_s, line.total_s, line.rows_per_s) == (0, 1.9, 8.0, 88000.0)
    assert (line.devices, line.num_replicas, line.num_tasks) == ("/device:CPU:0", 1, 1)
    assert (line.host, line.slurm_job_id, line.num_attempts) == ("n0", "5000", 1)
    assert (line.started_at, line.ended_at) == (START, START + timedelta(seconds=20))
    assert line.dnnjob_version == origin["dnnjob"]
    assert line.data_fingerprint == "sha256-bytes:2e164947a745110ec49182f4076bc26f"
    assert line.reason is None


def test_the_job_comes_as_dotted_keys_with_lists_as_text(root: Path) -> None:
    write_run(root)
    job = read_one(root).job
    assert job["train.learning_rate"] == 0.01
    assert job["model.hidden_units"] == "[200, 1000]"
    assert job["train.clip_norm"] is None


def test_a_run_of_this_version_reads_as_what_it_wrote(root: Path) -> None:
    job = resolve_job({**make_job(Wish()), "name": "own"}, origin="test")
    paths = create_run(root, job)
    assert read_one(root).line.state == "CREATED"
    journal = Journal(paths)
    journal.show_progress(Progress(epoch=3, epochs=9, loss=0.5), 100.0, 1.0)
    journal.finish("FAILED", reason="nan", error="The loss became NaN.")
    run = read_one(root)
    assert (run.line.state, run.line.reason, run.error) == ("FAILED", "nan", "The loss became NaN.")
    assert (run.line.name, run.line.seed, run.line.num_attempts) == ("own", 0, 1)
    assert run.progress == "epoch 3 of 9, loss 0.5"
    assert run.job["train.epochs"] == 500


def test_a_failed_run_has_its_reason_and_its_error(root: Path) -> None:
    write_run(root, state="FAILED")
    run = read_one(root)
    assert (run.line.state, run.line.reason) == ("FAILED", "nan")
    assert run.error is not None
    assert run.fault is None


def test_a_running_run_that_signs_says_so(root: Path) -> None:
    write_run(root, state="RUNNING")
    assert str(read_one(root).line.reason).startswith("last sign of life just now")


@pytest.mark.parametrize("state", ["RUNNING", "CREATED"])
def test_a_run_that_nobody_here_can_ask_tells_its_last_sign_of_life(root: Path, state: str) -> None:
    folder = write_run(root, state=state)
    seen = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    write_json(folder / "status.json", make_status(Wish(), state, updated_at=seen))
    line = read_one(root, now=seen + timedelta(minutes=11)).line
    assert line.state == state
    assert str(line.reason).startswith("last sign of life 11 min ago")


def test_a_time_without_a_zone_is_taken_for_utc(root: Path) -> None:
    folder = write_run(root, state="RUNNING")
    seen = datetime(2026, 5, 1, 12, 0)
    write_json(folder / "status.json", make_status(Wish(), "RUNNING", updated_at=seen))
    line = read_one(root, now=datetime(2026, 5, 1, 12, 30, tzinfo=UTC)).line
    assert str(line.reason).startswith("last sign of life 30 min ago")


def test_a_run_whose_process_was_killed_has_vanished_at_once(root: Path) -> None:
    folder = write_run(root, state="RUNNING")
    with subprocess.Popen(["sleep", "60"]) as process:
        begun = {"process": process_key(process.pid), "pid": process.pid}
        status = make_status(Wish(), "RUNNING", updated_at=datetime.now(UTC))
        here = {**begun, "host": socket.gethostname(), "slurm_job_id": None}
        status["attempts"] = [{**one, **here} for one in status["attempts"]]
        write_json(folder / "status.json", status)
        assert read_one(root).line.state == "RUNNING"
        process.kill()
    run = read_one(root)
    assert (run.line.state, run.line.reason) == ("FAILED", "vanished")
    assert "dnnjob logs" in str(run.error)


def test_what_others_than_the_chief_have_left_word_of_counts(root: Path) -> None:
    folder = write_run(root, state="RUNNING")
    event = Event(writer="launcher", attempt=9, state="FAILED", reason="peer_lost", error="Lost.")
    leave_event(RunPaths(folder), "launcher-9", event)
    run = read_one(root)
    assert (run.line.state, run.line.reason, run.error) == ("FAILED", "peer_lost", "Lost.")


def test_slurm_is_asked_once_for_all_runs_that_have_not_ended(
    root: Path, no_slurm: list[set[str]]
) -> None:
    for number, state in enumerate(["RUNNING", "RUNNING", "FAILED", "COMPLETED"]):
        write_run(root, Wish(number=number), state)
    read_runs(root)
    assert len(no_slurm) == 1
    assert len(no_slurm[0]) == 2


@pytest.mark.parametrize("state", ["REQUEUED", "CREATED"])
def test_a_submitted_run_may_wait_in_the_queue_for_days(root: Path, state: str) -> None:
    folder = write_run(root, state=state)
    write_json(folder / "status.json", make_status(Wish(), state, updated_at=START))
    write_json(folder / "submission.json", make_submission("slurm"))
    line = read_one(root).line
    assert (line.state, line.sweep_id) == (state, "s1")
    assert state == "REQUEUED" or line.slurm_job_id == "77_4"


def test_a_run_that_was_sent_again_waits_although_the_clock_was_set_back_since(root: Path) -> None:
    folder = write_run(root, state="FAILED")
    sent = {**make_submission("slurm"), "after_attempt": 1}
    write_json(folder / "submission.json", sent)
    assert read_one(root).line.state == "REQUEUED"
    write_json(folder / "submission.json", {**sent, "after_attempt": 0})
    assert read_one(root).line.state == "FAILED"


def test_a_local_process_is_no_slurm_job(root: Path) -> None:
    folder = write_run(root, state="CREATED")
    write_json(folder / "submission.json", make_submission("local"))
    line = read_one(root).line
    assert (line.slurm_job_id, line.sweep_id) == (None, "s1")


def test_a_run_asked_to_stop_says_so(root: Path) -> None:
    folder = write_run(root, state="RUNNING")
    write_json(folder / "cancel.json", {})
    assert "asked to stop" in str(read_one(root).line.reason)


def test_a_truncated_report_leaves_state_and_job_to_the_other_files(root: Path) -> None:
    folder = write_run(root)
    report = folder / "report.json"
    report.write_bytes(report.read_bytes()[:1000])
    run = read_one(root)
    assert (run.line.state, run.line.test_mse, run.line.seed) == ("COMPLETED", None, 0)
    assert run.fault is not None
    assert run.fault.startswith("report.json: Invalid JSON")


def test_a_complete_run_without_its_report_says_so(root: Path) -> None:
    (write_run(root) / "report.json").unlink()
    line = read_one(root).line
    assert (line.state, line.reason) == (
        "COMPLETED",
        "no report.json, though its status says COMPLETED",
    )


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_job(folder: Path) -> None:
    _empty(folder)
    write_toml(folder / "job.toml", make_job(Wish()))


def _garbage(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"\x00\xff")


def _foreign(folder: Path) -> None:
    _empty(folder)
    write_json(folder / "report.json", {"accuracy": 1})


def _later(folder: Path) -> None:
    _empty(folder)
    write_json(folder / "report.json", {**make_report(Wish()), "format_version": 2})


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_empty, "no run of dnnjob: it has neither report nor status"),
        (_only_job, "no status.json: half-written, or being made just now"),
        (_garbage, "job.toml: "),
        (_foreign, "report.json: run_id: Field required"),
        (_later, "report.json: its format 2 is later than 1, update dnnjob"),
    ],
)
def test_a_broken_folder_is_a_line_with_its_reason(
    root: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    spoil(write_run(root))
    run = read_one(root)
    assert run.line.state is None
    assert (run.line.reason or "").startswith(reason)
    assert run.fault == run.line.reason


@pytest.mark.parametrize("text", ['{"state": "DREAMING"}', "[]", "", '"text"', "[" * 100_000])
def test_a_status_that_is_none_is_a_fault_and_no_crash(root: Path, text: str) -> None:
    (write_run(root, state="RUNNING") / "status.json").write_text(text)
    run = read_one(root)
    assert (run.line.state, run.line.name) == (None, "housing")
    assert (run.fault or "").startswith("status.json: ")


def test_a_submission_that_is_none_is_a_fault(root: Path) -> None:
    folder = write_run(root, state="RUNNING")
    (folder / "submission.json").write_text("[1]")
    assert (read_one(root).fault or "").startswith("submission.json: ")


def test_a_folder_that_vanishes_while_it_is_read_is_a_line(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(root)
    found = SimpleNamespace(runs=(folder,), sweeps=(), oddities=())
    monkeypatch.setattr(collected_runs, "find_runs", lambda root, pool: found)
    shutil.rmtree(folder)
    assert read_one(root).fault == "unreadable: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_run_nobody_else_may_read_is_a_line(root: Path) -> None:
    write_run(root).chmod(0)
    assert read_one(root).fault == "unreadable: Permission denied"


def test_numbers_that_fit_no_column_are_left_out(root: Path) -> None:
    folder = write_run(root)
    report = make_report(Wish())
    report["metrics"]["test"]["mse"] = float("nan")
    report["data"]["num_rows"] = 10**30
    report["job"]["train"]["learning_rate"] = float("inf")
    report["job"]["seed"] = 10**30
    (folder / "report.json").write_text(json.dumps(report))
    run = read_one(root)
    assert (run.line.test_mse, run.line.num_rows, run.line.seed) == (None, None, None)
    assert (run.job["train.learning_rate"], run.job["seed"]) == ("inf", str(10**30))


def test_names_that_are_no_utf8_are_spelled_out(root: Path) -> None:
    job = os.fsdecode(os.fsencode(root) + b"/caf\xe9")
    folder = write_run(root, folder=Path(job) / Wish().run_id)
    run = read_one(root)
    assert run.line.path == f"{root}/caf\\xe9/{folder.name}"
    assert run.folder == folder


def test_a_pickle_is_never_opened(root: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    folder = write_run(root)
    for path in folder.iterdir():
        path.write_bytes(pickle.dumps(Trap()))
    (folder / "submitted.pkl").write_bytes(pickle.dumps(Trap()))
    assert read_one(root).line.state is None
    assert not (tmp_path / "sprung").exists()
    sources = Path(cast(str, collected_runs.__file__)).parent.glob("*.py")
    assert not any("pickle" in source.read_text() for source in sources)


def test_a_re_run_in_the_same_folder_shows_its_new_report(root: Path) -> None:
    folder = write_run(root, Wish(test_mse=10.0))
    for mse in (11.0, 12.0, 13.0):
        assert read_one(root).line.test_mse == mse - 1
        beside = folder / ".report.json.tmp"
        write_json(beside, make_report(Wish(test_mse=mse)))
        beside.replace(folder / "report.json")
    assert read_one(root).line.test_mse == 13.0


def test_the_second_reading_parses_no_report_and_reads_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SETTLED_NS", -1)
    write_run(root)
    write_run(root, Wish(number=1), "FAILED")
    now = datetime.now(UTC)
    first = read_runs(root, now=now)
    for name in ("parse_report", "parse_status", "parse_job"):
        monkeypatch.setattr(collected_runs, name, None)
    assert read_runs(root, now=now) == first


def test_without_the_cache_the_same_is_read(root: Path, cache_home: Path) -> None:
    write_run(root)
    first = read_runs(root)
    shutil.rmtree(cache_home, ignore_errors=True)
    assert read_runs(root) == first


def make_submission(executor: str) -> dict[str, object]:
    """A `submission.json`."""
    return {
        "executor": executor,
        "job_id": "77_4",
        "host": "login",
        "user": "anna",
        "submitted_at": "2026-01-01T00:00:00Z",
        "command": "dnnjob submit",
        "folder": "../sweeps/s1/submission",
        "sweep_id": "s1",
    }


def _write_sweep(root: Path, runs: list[object]) -> Path:
    sweep = root / "housing" / "sweeps" / "20260101-120000-abcdef"
    sweep.mkdir(parents=True)
    write_json(sweep / "sweep.json", {"points": [{"values": {}, "run": run} for run in runs]})
    return sweep


def test_runs_know_their_sweep_also_where_it_was_moved(root: Path) -> None:
    folders = [write_run(root, Wish(number=number)) for number in range(3)]
    sweep = _write_sweep(root, [*(f"housing/{folder.name}" for folder in folders[:2]), None, 7])
    moved = root.rename(root.with_name("moved"))
    runs = read_all(moved)
    sweep_ids = [runs[folder.name].line.sweep_id for folder in folders]
    assert sweep_ids == [sweep.name, sweep.name, None]


def test_a_run_alone_knows_its_sweep_too(root: Path) -> None:
    folder = write_run(root)
    sweep = _write_sweep(root, [f"housing/{folder.name}"])
    assert read_one(folder).line.sweep_id == sweep.name


def test_a_sweep_gives_its_runs_and_names_the_missing(root: Path) -> None:
    ours, other = write_run(root), write_run(root, Wish(number=1))
    sweep = _write_sweep(root, [f"housing/{ours.name}", "housing/20260101-000000-dddddd"])
    runs = read_all(sweep)
    assert other.name not in runs
    assert runs[ours.name].line.state == "COMPLETED"
    missing = runs["20260101-000000-dddddd"].line
    assert (missing.state, missing.reason) == (None, "unreadable: No such file or directory")


@pytest.mark.parametrize("text", ["{", "[]", '{"points": 3}'])
def test_a_broken_sweep_is_a_line_and_its_runs_stay(root: Path, text: str) -> None:
    write_run(root)
    sweep = _write_sweep(root, [])
    (sweep / "sweep.json").write_text(text)
    runs = read_all(root)
    assert runs[Wish().run_id].line.state == "COMPLETED"
    assert (runs[sweep.name].fault or "").startswith("sweep.json: ")


def test_a_root_that_is_none_is_refused(root: Path) -> None:
    with pytest.raises(JobError, match="is unreadable"):
        read_runs(root / "nowhere")


def test_a_slow_disk_is_read_side_by_side() -> None:
    def read_slowly(folder: Path) -> Run:
        time.sleep(0.002)
        return cast(Run, folder)

    folders = [Path(str(number)) for number in range(1000)]
    began = time.monotonic()
    assert read_side_by_side(read_slowly, folders) == folders
    assert time.monotonic() - began < 1.5  # 2 s in turn
