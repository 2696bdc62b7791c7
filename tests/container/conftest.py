"""The image, built for real by `make image` with podman, from an empty store."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, write_tiny_job

BASE = "dnnjob-base:test"
IMAGE = "dnnjob:cpu"
# Together less than a test may take, since the first one waits for both.
BASE_LIMIT_S = 600
BUILD_LIMIT_S = 1500
KEPT = "DNNJOB_TEST_STORE"
"""Folder in which the images stay between test runs, where one is named."""


@dataclass(frozen=True)
class Podman:
    """Podman with a store and settings of its own, and the image in it."""

    environ: Mapping[str, str]
    image: str = IMAGE
    wrapper: Path = field(default=CHECKOUT / "docker" / "dnnjob")

    def __call__(self, *words: object, timeout: int = 300) -> "subprocess.CompletedProcess[str]":
        return self.call("podman", *words, timeout=timeout)

    def call(
        self,
        *words: object,
        cwd: Path | None = None,
        timeout: int = 300,
        user: int | None = None,
        **environ: str,
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            cwd=cwd,
            env={**self.environ, **environ},
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )

    def dnnjob(self, *words: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
        """What a person calls: the script, in a working directory."""
        return self.call(self.wrapper, *words, cwd=cwd)

    def start(self, *words: object, cwd: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.wrapper, *map(str, words)],
            cwd=cwd,
            env=self.environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Podman and the base of images, shared by the workers of one test run."""
    _require("podman", "runc", "debootstrap")
    kept = os.environ.get(KEPT)
    top = tmp_path_factory.getbasetemp()
    users = (top.parent if "PYTEST_XDIST_WORKER" in os.environ else top) / "container-users"
    users.mkdir(exist_ok=True)
    with locked(users):
        store = Path(kept or _read_or_make_store(users))
        made = Podman(_configure(store))
        if made("image", "exists", BASE).returncode:
            _check(made.call(CHECKOUT / "tests/container/make_base.sh", BASE, timeout=BASE_LIMIT_S))
        (users / str(os.getpid())).touch()
    yield made
    with locked(users):
        (users / str(os.getpid())).unlink()
        if not kept and not any(path.name.isdecimal() for path in users.iterdir()):
            made("rmi", "--all", "--force")
            # Podman leaves its folder of layers mounted on itself.
            made.call("umount", store / "graph" / "overlay")
            shutil.rmtree(store, ignore_errors=True)
            (users / "store").unlink()


@pytest.fixture(scope="session")
def podman(engine: Podman) -> Podman:
    """Podman and the cpu image."""
    with locked(Path(engine.environ["CONTAINERS_STORAGE_CONF"]).parent):
        if engine("image", "exists", IMAGE).returncode:
            _check(build(engine, "cpu"))
    return engine


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one worker at a time does what the block does."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_or_make_store(users: Path) -> str:
    """The folder that the first worker has drawn."""
    said = users / "store"
    if not said.exists():
        # Not in one of pytest's folders: any user reads the settings there.
        store = tempfile.mkdtemp(prefix="dnnjob-store-")
        Path(store).chmod(0o755)
        said.write_text(store)
    return said.read_text()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may write, with a tiny job in it."""
    # Pytest closes its own folders to others, whenever another pytest starts.
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        folder = Path(top) / "open"
        folder.mkdir()
        write_tiny_job(folder, output={"plots": True})
        folder.chmod(0o777)
        yield folder


@pytest.fixture
def service(podman: Podman, open_folder: Path) -> Iterator[str]:
    """An engine that runs as root and answers whoever may use its socket, as Docker's does."""
    socket = open_folder.parent / "engine.sock"
    words = ["podman", "system", "service", "--time", "0", f"unix://{socket}"]
    with subprocess.Popen(words, env=podman.environ, stderr=subprocess.DEVNULL) as process:
        try:
            while not socket.exists():
                assert process.poll() is None
                time.sleep(0.05)
            socket.chmod(0o666)
            yield f"podman --remote --url unix://{socket}"
        finally:
            process.terminate()


def build(podman: Podman, target: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """What `make image` says; the certificates of a mirror of the package index are handed in."""
    arguments = ["--build-arg", f"BASE_IMAGE={BASE}", *options]
    if index := os.environ.get("PIP_INDEX_URL"):
        arguments += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if certificates := os.environ.get("PIP_CERT"):
        arguments += ["--secret", f"id=ca,src={certificates}"]
    words = ["make", "image", f"IMAGE_TARGET={target}", f"IMAGE_ARGS={' '.join(arguments)}"]
    return podman.call(*words, "ENGINE=podman", cwd=CHECKOUT, timeout=BUILD_LIMIT_S)


def _configure(store: Path) -> dict[str, str]:
    """An environment in which podman works without systemd and its own network, too."""
    (store / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{store}/graph"\nrunroot = "{store}/run"\n'
    )
    # runc, since crun refuses cgroups of both versions side by side.
    (store / "containers.conf").write_text(
        '[containers]\nnetns = "host"\n'
        'default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\nruntime = "runc"\n'
    )
    return {
        **os.environ,
        "CONTAINERS_STORAGE_CONF": f"{store}/storage.conf",
        "CONTAINERS_CONF": f"{store}/containers.conf",
        "BUILDAH_ISOLATION": "chroot",
        "DNNJOB_ENGINE": "podman",
        "DNNJOB_IMAGE": IMAGE,
    }


def _require(*commands: str) -> None:
    """Skips where a command is missing, but not where CI runs."""
    lacking = [command for command in commands if shutil.which(command) is None]
    if os.getuid() != 0:
        lacking.append("root")
    if lacking and os.environ.get("CI"):
        pytest.fail(f"CI has all that the container tests need, but not {', '.join(lacking)}")
    if lacking:
        pytest.skip(f"needs {', '.join(lacking)}")


def _check(done: "subprocess.CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
