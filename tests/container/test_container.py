"""The image in use: built by `make image`, run by `docker/dnnjob` and by podman itself.

pytest -m container; DNNJOB_TEST_STORE=FOLDER keeps the image there for the next time.
"""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dnnjob.results.report import read_predictions, read_report
from dnnjob.runs import RunPaths, read_status
from tests.conftest import CHECKOUT, run_command, write_tiny_job
from tests.container.conftest import IMAGE, Podman, build

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(2400)]

DIABETES = CHECKOUT / "jobs" / "diabetes.toml"
# As a cautious host might start it; podman by itself would put a writable /tmp in.
HOSTILE = (
    *("--read-only", "--read-only-tmpfs=false", "--network", "none"),
    *("--user", "12345", "--env", "HOME=/nonexistent"),
)


def mounted(folder: Path) -> tuple[str, ...]:
    return "--volume", f"{folder}:{folder}", "--workdir", str(folder)


def run_folder(stdout: str) -> RunPaths:
    return RunPaths(Path(stdout.strip()))


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that any user may write, with a tiny job in it."""
    folder = tmp_path / "open"
    folder.mkdir()
    write_tiny_job(folder, output={"plots": True})
    folder.chmod(0o777)
    # pytest's own folders are closed to others.
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    return folder


# What the image is


def test_the_image_is_small_labelled_and_has_no_root(podman: Podman) -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE).stdout)
    labels = image["Labels"]
    assert image["Size"] < 2.2e9
    assert image["Config"]["User"] == "1000:1000"
    assert labels["org.opencontainers.image.version"] == "0.1.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels["org.opencontainers.image.revision"])


def test_the_image_holds_what_the_lock_says_and_no_tools(podman: Podman) -> None:
    lock = (CHECKOUT / "requirements" / "cpu.txt").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)(?! ;)", lock, re.MULTILINE))
    pins.pop("colorama")  # for Windows alone
    done = podman("run", "--rm", "--entrypoint", "cat", IMAGE, "/opt/dnnjob/image.json")
    packages = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in json.loads(done.stdout)["packages"].items()
    }
    assert packages.pop("dnnjob") == "0.1.0"
    assert packages == pins
    found = podman(
        *("run", "--rm", "--user", "0", "--entrypoint", "find", IMAGE, "/opt", "/root", "/tmp"),
        *("(", "-path", "*/.cache*", "-o", "-name", "pip", "-o", "-name", "gcc*", ")", "-print"),
    )
    assert found.stdout == ""


def test_everything_is_byte_compiled(podman: Podman) -> None:
    code = (
        "import dnnjob, importlib.util, pathlib, keras, pandas, tensorflow\n"
        "for package in (dnnjob, keras, pandas, tensorflow):\n"
        "    for source in pathlib.Path(package.__file__).parent.rglob('*.py'):\n"
        "        compiled = importlib.util.cache_from_source(source)\n"
        "        assert pathlib.Path(compiled).is_file(), source\n"
    )
    done = podman("run", "--rm", "--entrypoint", "python", IMAGE, "-c", code)
    assert done.returncode == 0, done.stderr


def test_without_arguments_it_helps(podman: Podman) -> None:
    done = podman("run", "--rm", IMAGE)
    assert done.returncode == 0, done.stderr
    assert "Usage: dnnjob" in done.stdout


def test_doctor_says_why_there_is_no_gpu(podman: Podman, tmp_path: Path) -> None:
    done = podman.dnnjob("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "none: this is the cpu image" in done.stdout
    assert "GFLOP/s" in done.stdout


@pytest.mark.timeout(3600)
def test_the_same_commit_gives_the_same_files(podman: Podman) -> None:
    def files() -> str:
        command = "cd /opt/dnnjob && find . -type f -print0 | sort -z | xargs -0 sha256sum"
        return podman("run", "--rm", "--entrypoint", "sh", IMAGE, "-c", command).stdout

    before = files()
    done = build(podman, "cpu", "--no-cache")
    assert done.returncode == 0, done.stderr
    assert before.count("\n") > 10_000
    assert files() == before


# The reference job


def test_a_run_in_the_image_equals_one_on_the_host(podman: Podman, tmp_path: Path) -> None:
    inside = podman.dnnjob("run", DIABETES, "devices.threads=2", cwd=tmp_path)
    assert inside.returncode == 0, inside.stderr
    paths = run_folder(inside.stdout)
    assert paths.root.parent == tmp_path / "runs" / "diabetes"
    assert {path.stat().st_uid for path in paths.root.rglob("*")} == {os.getuid()}

    outside = run_command("run", DIABETES, "devices.threads=2", cwd=tmp_path)
    assert outside.returncode == 0, outside.stderr
    theirs, ours = (
        read_predictions(run.predictions)["y_pred"].to_numpy()
        for run in (paths, run_folder(outside.stdout))
    )
    np.testing.assert_array_equal(theirs, ours)

    image = read_report(paths.report).provenance.image
    assert image is not None
    assert image.target == "cpu"
    assert image.packages["tensorflow_cpu"] == read_report(paths.report).provenance.tensorflow
    assert "libc6" in image.system
    assert read_report(paths.report).provenance.host == os.uname().nodename


def test_tasks_of_one_run_meet_in_a_container_without_network(
    podman: Podman, open_folder: Path
) -> None:
    done = podman(
        *("run", "--rm", *HOSTILE, *mounted(open_folder), IMAGE),
        *("run", "job.toml", "devices.tasks=2"),
    )
    assert done.returncode == 0, done.stderr
    assert read_report(run_folder(done.stdout).report).strategy.num_tasks == 2


# Hostile starts


def test_it_runs_read_only_without_network_user_and_home(podman: Podman, open_folder: Path) -> None:
    done = podman("run", "--rm", *HOSTILE, *mounted(open_folder), IMAGE, "run", "job.toml")
    assert done.returncode == 0, done.stderr
    paths = run_folder(done.stdout)
    assert read_status(paths).state == "COMPLETED"
    assert paths.root.stat().st_uid == 12345
    assert (paths.plots / "regplot.png").is_file()
    # matplotlib does not complain about its caches, and nothing is left beside the run.
    assert "writable" not in done.stderr
    assert {path.name for path in open_folder.iterdir()} == {"job.toml", "table.csv", "runs"}


@pytest.mark.parametrize("words", [["doctor"], ["validate", "job.toml"], ["collect", "."]])
def test_other_verbs_run_so_too(podman: Podman, open_folder: Path, words: list[str]) -> None:
    done = podman("run", "--rm", *HOSTILE, *mounted(open_folder), IMAGE, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "writable" not in done.stderr


def test_a_user_without_a_name_has_no_caches_in_the_working_directory(
    podman: Podman, open_folder: Path
) -> None:
    done = podman("run", "--rm", "--user", "12345", *mounted(open_folder), IMAGE, "run", "job.toml")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in open_folder.iterdir()} == {"job.toml", "table.csv", "runs"}


# Mounts that are missing


def test_a_root_that_is_not_mounted_names_the_mount(podman: Podman) -> None:
    words = ("run", "/jobs/job.toml", "--root", "/scratch/runs")
    job = ("--volume", f"{DIABETES}:/jobs/job.toml:ro")
    for user in ("0", "1000"):
        done = podman("run", "--rm", "--user", user, *job, IMAGE, *words)
        assert done.returncode == 4, done.stderr
        assert "--volume /scratch/runs:/scratch/runs" in done.stderr


def test_a_root_of_another_user_names_the_user_option(podman: Podman, open_folder: Path) -> None:
    open_folder.chmod(0o755)
    done = podman("run", "--rm", "--user", "12345", *mounted(open_folder), IMAGE, "run", "job.toml")
    assert done.returncode == 4, done.stderr
    assert "runs as user 12345" in done.stderr
    assert '--user "$(id -u):$(id -g)"' in done.stderr


def test_a_table_or_job_that_is_not_mounted_names_the_mount(
    podman: Podman, open_folder: Path
) -> None:
    words = ("run", "job.toml", "data.source=/data/2026/table.csv")
    done = podman("run", "--rm", *mounted(open_folder), IMAGE, *words)
    assert done.returncode == 3, done.stderr
    assert "--volume /data/2026:/data/2026" in done.stderr
    done = podman("run", "--rm", IMAGE, "run", "job.toml")
    assert done.returncode == 2, done.stderr
    assert '--volume "$PWD:$PWD" --workdir "$PWD"' in done.stderr


# Signals and exit codes


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_a_signal_stops_the_run_and_it_goes_on(
    podman: Podman, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    write_tiny_job(tmp_path, train={"epochs": 100_000, "checkpoint_every_s": 1})
    process = podman.start("run", "job.toml", cwd=tmp_path)
    paths = _await_checkpoint(tmp_path / "runs" / "tiny")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert read_status(paths).state == "CANCELLED"

    resumed = podman.dnnjob("resume", paths.root, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert read_status(paths).attempts[-1].resumed_from is not None
    assert read_report(paths.report).provenance.bit_exact


def test_sigterm_ends_a_verb_that_does_not_listen(podman: Podman, tmp_path: Path) -> None:
    (tmp_path / "table.csv").symlink_to("fifo.csv")
    os.mkfifo(tmp_path / "fifo.csv")
    process = podman.start("init", "table.csv", cwd=tmp_path)
    # It waits for somebody to write; this opens once it reads.
    with (tmp_path / "fifo.csv").open("w"):
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143


def test_exit_codes_and_streams_come_through(podman: Podman, tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path)
    done = podman.dnnjob("run", job, "train.epochs=0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "train.epochs" in done.stderr
    drafted = podman.dnnjob("init", "table.csv", cwd=tmp_path)
    assert drafted.stdout == run_command("init", "table.csv", cwd=tmp_path).stdout


def _await_checkpoint(folder: Path) -> RunPaths:
    """The only run under `folder`, once it has a checkpoint."""
    for _ in range(1200):
        for checkpoints in folder.glob("*/checkpoints/*"):
            return RunPaths(checkpoints.parents[1])
        time.sleep(0.1)
    raise AssertionError(f"no run in {folder} wrote a checkpoint")
