"""What a GPU must show: the CPU's numbers, the same bits again, and runs that go on after a kill.

Marked `gpu`, and skipped without one: `make test PYTEST_ARGS="-m gpu"`.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.machine import list_gpus
from dnnjob.results.report import Report, read_report
from dnnjob.runs import RunPaths
from tests.conftest import command_line, make_frame, run_command, write_tiny_job

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not shutil.which("nvidia-smi") or not list_gpus(), reason="there is no NVIDIA GPU here"
    ),
]

Run = Callable[..., RunPaths]
MODEL = {"hidden_units": [200, 1000]}


def ran(folder: Path, *overrides: str) -> RunPaths:
    done = run_command("run", folder / "job.toml", *overrides, cwd=folder)
    assert done.returncode == 0, done.stderr
    return RunPaths(Path(done.stdout.strip()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job of the reference network on 700 rows, that takes a GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    write_tiny_job(
        folder,
        make_frame(1000),
        model={**MODEL, "dropout_rate": 0.2},
        train={"epochs": 20, "global_batch_size": 64, "patience": 20},
        devices={"kind": "gpu", "require_gpu": True},
    )
    return folder


@pytest.fixture(scope="module")
def on_gpu(folder: Path) -> RunPaths:
    return ran(folder)


def report_of(paths: RunPaths) -> Report:
    return read_report(paths.report)


def losses(paths: RunPaths) -> np.ndarray:
    return pd.read_parquet(paths.history)["loss"].to_numpy()


def test_a_run_takes_the_gpu_and_says_so(on_gpu: RunPaths) -> None:
    report = report_of(on_gpu)

    assert all("GPU" in name for name in report.strategy.devices)
    assert report.resources.gpu_peak_mb
    assert report.provenance.gpus


def test_the_gpu_has_the_losses_of_the_cpu(folder: Path, on_gpu: RunPaths) -> None:
    on_cpu = ran(folder, "devices.kind=cpu", "devices.require_gpu=false")

    np.testing.assert_allclose(losses(on_gpu), losses(on_cpu), rtol=1e-4)
    gpu, cpu = report_of(on_gpu).metrics.test, report_of(on_cpu).metrics.test
    assert gpu is not None
    assert cpu is not None
    assert gpu.mse == pytest.approx(cpu.mse, rel=5e-3)


def test_two_runs_on_one_gpu_are_equal_bit_for_bit(folder: Path, on_gpu: RunPaths) -> None:
    again = ran(folder)

    np.testing.assert_array_equal(losses(again), losses(on_gpu))
    assert again.predictions.read_bytes() == on_gpu.predictions.read_bytes()


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_other_arithmetic_is_used_where_asked_and_close(
    folder: Path, on_gpu: RunPaths, precision: str
) -> None:
    other = ran(folder, f"devices.precision={precision}")

    assert not np.array_equal(losses(other), losses(on_gpu))
    np.testing.assert_allclose(losses(other), losses(on_gpu), rtol=0.05)


def test_without_xla_the_gpu_has_nearly_the_same_losses(folder: Path, tmp_path: Path) -> None:
    plain = ["model.dropout_rate=0.0"]  # without XLA other masks are drawn

    on, off = (ran(folder, *plain, f"devices.xla={xla}") for xla in ("on", "off"))

    np.testing.assert_allclose(losses(off), losses(on), rtol=1e-4)


def test_members_in_one_call_train_as_members_on_the_cpu(folder: Path) -> None:
    on_gpu = ran(folder, "model.members=8")
    on_cpu = ran(folder, "model.members=8", "devices.kind=cpu", "devices.require_gpu=false")

    found = report_of(on_gpu)
    assert (found.strategy.stack, found.strategy.stacked) == (8, "axis")
    np.testing.assert_allclose(losses(on_gpu), losses(on_cpu), rtol=1e-4)
    for gpu, cpu in zip(found.members, report_of(on_cpu).members, strict=True):
        assert gpu.test_mse == pytest.approx(cpu.test_mse, rel=1e-2)


@pytest.mark.parametrize("members", [1, 8])
def test_a_run_killed_on_the_gpu_goes_on_to_the_same_bits(folder: Path, members: int) -> None:
    long = ["train.epochs=4000", "train.checkpoint_every_s=0.2", f"model.members={members}"]
    whole = ran(folder, *long)
    process = subprocess.Popen(
        command_line("run", folder / "job.toml", *long),
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert process.stdout is not None
    paths = RunPaths(Path(process.stdout.readline().strip()))
    deadline = time.monotonic() + 120
    while not any(paths.checkpoints.glob("*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()

    done = run_command("resume", paths.root)

    assert done.returncode == 0, done.stderr
    report = report_of(paths)
    assert report.provenance.bit_exact is True
    assert len(report.provenance.attempts) == 2
    assert paths.predictions.read_bytes() == whole.predictions.read_bytes()


def test_more_tasks_than_gpus_are_refused(folder: Path) -> None:
    tasks = len(list_gpus()) + 1

    done = run_command("run", folder / "job.toml", f"devices.tasks={tasks}", cwd=folder)

    assert done.returncode == 4, done.stderr
    assert "Each task needs a GPU of its own" in done.stderr
