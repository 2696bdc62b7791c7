"""The image in use: built by `make image`, run by `docker/dnnjob` and by podman itself.

pytest -m container; DNNJOB_TEST_STORE=FOLDER keeps the image there for the next time.
"""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from dnnjob.launch.watch.run_views import look
from dnnjob.machine import find_process
from dnnjob.results.report import read_predictions, read_report
from dnnjob.runs import RunPaths, read_status
from tests.conftest import CHECKOUT, run_command, write_tiny_job
from tests.container.conftest import IMAGE, Podman

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(2400)]

# Nobody whom this machine or the image knows.
CALLER = 51234
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
        "import importlib.util, pathlib\n"
        "for package in ('dnnjob', 'keras', 'pandas', 'tensorflow'):\n"
        "    (folder,) = importlib.util.find_spec(package).submodule_search_locations\n"
        "    for source in pathlib.Path(folder).rglob('*.py'):\n"
        "        compiled = importlib.util.cache_from_source(source)\n"
        "        assert pathlib.Path(compiled).is_file(), source\n"
    )
    done = podman("run", "--rm", "--entrypoint", "python", IMAGE, "-c", code)
    assert done.returncode == 0, done.stderr


def test_without_arguments_it_helps(podman: Podman) -> None:
    done = podman("run", "--rm", IMAGE)
    assert done.returncode == 0, done.stderr
    assert "Usage: dnnjob" in done.stdout


# The reference job


def test_a_run_in_the_image_equals_one_on_the_host_and_names_the_commit_of_its_folder(
    podman: Podman, tmp_path: Path
) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init"], ["commit", "--allow-empty", "--message=one"]):
        podman.call(*git, *words, cwd=tmp_path)
    commit = podman.call("git", "rev-parse", "HEAD", cwd=tmp_path).stdout.strip()

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

    provenance = read_report(paths.report).provenance
    image = provenance.image
    assert image is not None
    assert image.target == "cpu"
    assert image.packages["tensorflow_cpu"] == provenance.tensorflow
    assert "libc6" in image.system
    assert provenance.host == os.uname().nodename
    assert (provenance.git_commit, provenance.git_dirty) == (commit, False)


def test_a_run_belongs_to_a_caller_who_is_not_root(
    podman: Podman, service: str, open_folder: Path
) -> None:
    os.chown(open_folder, CALLER, CALLER)
    open_folder.chmod(0o755)
    environ = {"DNNJOB_ENGINE": service, "HOME": str(open_folder)}
    # The checkout may stand where others do not come.
    wrapper = shutil.copy(podman.wrapper, open_folder.parent)
    done = podman.call(wrapper, "run", "job.toml", cwd=open_folder, user=CALLER, **environ)
    assert done.returncode == 0, done.stderr
    made = [open_folder / "runs", *run_folder(done.stdout).root.rglob("*")]
    assert {path.stat().st_uid for path in made} == {CALLER}
    assert read_status(run_folder(done.stdout)).state == "COMPLETED"


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


def test_tasks_of_a_user_without_a_name_meet_without_network_and_leave_no_caches(
    podman: Podman, open_folder: Path
) -> None:
    done = podman(
        *("run", "--rm", "--network", "none", "--user", "12345", *mounted(open_folder), IMAGE),
        *("run", "job.toml", "devices.tasks=2"),
    )
    assert done.returncode == 0, done.stderr
    assert read_report(run_folder(done.stdout).report).strategy.num_tasks == 2
    assert {path.name for path in open_folder.iterdir()} == {"job.toml", "table.csv", "runs"}


def test_it_needs_no_working_directory_that_can_be_written(
    podman: Podman, open_folder: Path
) -> None:
    scratch = ("--volume", f"{open_folder}:/scratch")
    done = podman(
        *("run", "--rm", *HOSTILE, *scratch, IMAGE),
        *("run", "/scratch/job.toml", "--root", "/scratch/runs"),
    )
    assert done.returncode == 0, done.stderr
    (report,) = open_folder.glob("runs/tiny/*/report.json")
    assert report.stat().st_uid == 12345
    (table,) = open_folder.glob("*.csv")
    run = f"/scratch/{report.parent.relative_to(open_folder)}"
    for words in (
        ["validate", "/scratch/job.toml"],
        ["predict", run, f"/scratch/{table.name}", "--out", "/scratch/new.parquet"],
        ["collect", "/scratch/runs", "--out", "/scratch/table.csv"],
        ["cancel", run],
    ):
        done = podman("run", "--rm", *HOSTILE, *scratch, IMAGE, *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        assert "writable" not in done.stderr
    assert (open_folder / "new.parquet").stat().st_uid == 12345


def test_doctor_runs_so_too_and_says_why_there_is_no_gpu(podman: Podman, open_folder: Path) -> None:
    done = podman("run", "--rm", *HOSTILE, *mounted(open_folder), IMAGE, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "writable" not in done.stderr
    assert "none: this is the cpu image" in done.stdout
    assert "GFLOP/s" in done.stdout


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


def test_a_root_that_is_only_read_names_the_option(podman: Podman, open_folder: Path) -> None:
    volume = f"{open_folder}:{open_folder}:ro"
    done = podman(
        *("run", "--rm", "--volume", volume, "--workdir", open_folder, IMAGE),
        *("run", "job.toml"),
    )
    assert done.returncode == 4, done.stderr
    assert "leave :ro out of --volume" in done.stderr


def test_a_mount_at_another_path_names_the_right_one(podman: Podman, open_folder: Path) -> None:
    done = podman(
        *("run", "--rm", "--volume", f"{open_folder}:/data", "--workdir", "/data", IMAGE),
        *("run", "job.toml", "--root", open_folder / "runs"),
    )
    assert done.returncode == 4, done.stderr
    assert f"--volume {open_folder}/runs:{open_folder}/runs" in done.stderr


@pytest.mark.parametrize("root", ["/tmp/runs", "/dev/shm/runs"])
def test_memory_of_the_container_is_no_root(podman: Podman, open_folder: Path, root: str) -> None:
    # Podman gives a read-only container a /tmp in memory.
    done = podman(
        *("run", "--rm", "--read-only", *mounted(open_folder), IMAGE),
        *("run", "job.toml", "--root", root),
    )
    assert done.returncode == 4, done.stderr
    assert f"--volume {root}:{root}" in done.stderr


def test_what_would_be_lost_with_the_container_is_not_written(
    podman: Podman, open_folder: Path
) -> None:
    done = podman(
        "run", "--rm", *mounted(open_folder), IMAGE, "collect", ".", "--out", "/tmp/table.csv"
    )
    assert done.returncode == 4, done.stderr
    assert "--volume /tmp:/tmp" in done.stderr


def test_a_chain_of_links_leads_into_the_hosts_memory_from_a_home_that_is_only_read(
    podman: Podman, tmp_path: Path
) -> None:
    home, work = (tmp_path / name for name in ("home", "work"))
    home.mkdir()
    work.mkdir()
    write_tiny_job(work)
    (work / "table.csv").rename(home / "table.csv")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        Path(memory, "runs").mkdir()
        (home / "scratch").symlink_to(memory)
        (work / "runs").symlink_to(home / "scratch" / "runs")
        words = ("run", "job.toml", f"data.source={home}/table.csv")
        done = podman.call(podman.wrapper, *words, cwd=work, HOME=str(home))
        assert done.returncode == 0, done.stderr
        assert list(Path(memory).glob("runs/tiny/*/report.json"))
    assert (home / ".cache" / "dnnjob").is_dir()


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


def test_sigterm_stops_the_run_and_it_goes_on(podman: Podman, tmp_path: Path) -> None:
    write_tiny_job(tmp_path, train={"epochs": 100_000, "checkpoint_every_s": 1})
    process = podman.start("run", "job.toml", cwd=tmp_path)
    paths = _await_checkpoint(tmp_path / "runs" / "tiny")
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 143, stderr
    assert read_status(paths).state == "CANCELLED"

    resumed = podman.dnnjob("resume", paths.root, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert read_status(paths).attempts[-1].resumed_from is not None
    assert read_report(paths.report).provenance.bit_exact


@pytest.mark.parametrize("presses", [1, 2], ids=["once", "twice"])
def test_ctrl_c_in_a_terminal_stops_the_run(podman: Podman, tmp_path: Path, presses: int) -> None:
    write_tiny_job(tmp_path, train={"epochs": 1_000_000, "checkpoint_every_s": 1})
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execve(podman.wrapper, [str(podman.wrapper), "run", "job.toml"], dict(podman.environ))
    shown = Screen(terminal)
    paths = _await_checkpoint(tmp_path / "runs" / "tiny")
    # The terminal's own signal, to all its foreground.
    for _ in range(presses):
        os.write(terminal, b"\x03")
        time.sleep(0.05)
    _, status = os.waitpid(child, 0)
    shown.join(timeout=30)
    assert os.waitstatus_to_exitcode(status) == 130, shown.text
    # The second one interrupts at once, and may come before the status is written.
    assert read_status(paths).state in ("CANCELLED", "RUNNING")[:presses]


def test_a_run_at_work_is_not_to_be_killed_by_a_number_of_its_container(
    podman: Podman, tmp_path: Path
) -> None:
    process, paths = _start_long_run(podman, tmp_path)
    for resumed in (
        podman.dnnjob("resume", paths.root, cwd=tmp_path),
        run_command("resume", paths.root, cwd=tmp_path),
    ):
        assert resumed.returncode == 2, resumed.stderr
        assert "`kill" not in resumed.stderr
        assert "`dnnjob cancel" in resumed.stderr
    cancelled = podman.dnnjob("cancel", paths.root, cwd=tmp_path)
    assert cancelled.returncode == 0, cancelled.stderr
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert read_status(paths).state == "CANCELLED"


def test_the_host_sees_at_once_that_a_run_in_a_container_was_killed(
    podman: Podman, tmp_path: Path
) -> None:
    process, paths = _start_long_run(podman, tmp_path)
    (before,) = look([paths])
    attempt = read_status(paths).attempts[-1]
    pid = find_process(attempt.pid, attempt.process, host=attempt.host)
    if pid is None:
        # Where these tests are in a container themselves, others are out of sight.
        assert before.asked == "unknown"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        return

    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)

    (after,) = look([paths])
    assert (before.state, before.asked, before.process) == ("RUNNING", "process", pid)
    assert (after.state, after.reason) == ("FAILED", "vanished")


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
    # The first line names the schema of the installation that wrote it.
    here = run_command("init", "table.csv", cwd=tmp_path).stdout
    assert drafted.stdout.splitlines()[1:] == here.splitlines()[1:]
    assert drafted.stdout.startswith("#:schema file:///opt/dnnjob/")


class Screen(threading.Thread):
    """Reads what a terminal shows, since one that nobody reads holds its programs up."""

    def __init__(self, terminal: int) -> None:
        super().__init__(daemon=True)
        self.terminal, self.text = terminal, ""
        self.start()

    def run(self) -> None:
        # Linux ends a terminal that nobody holds any more with an error.
        with suppress(OSError):
            while part := os.read(self.terminal, 4096):
                self.text += part.decode(errors="replace")


def _start_long_run(podman: Podman, folder: Path) -> "tuple[subprocess.Popen[str], RunPaths]":
    """A run that does not end by itself, and has a checkpoint."""
    write_tiny_job(folder, train={"epochs": 1_000_000, "checkpoint_every_s": 1})
    process = podman.start("run", "job.toml", cwd=folder)
    return process, _await_checkpoint(folder / "runs" / "tiny")


def _await_checkpoint(folder: Path) -> RunPaths:
    """The only run under `folder`, once it has a checkpoint."""
    for _ in range(1200):
        for checkpoints in folder.glob("*/checkpoints/*"):
            return RunPaths(checkpoints.parents[1])
        time.sleep(0.1)
    raise AssertionError(f"no run in {folder} wrote a checkpoint")
