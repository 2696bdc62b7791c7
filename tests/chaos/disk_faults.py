"""What happens to the disk under a run: full, or closed to whoever would write.

fill(scene, "all")
empty(scene)
"""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.chaos.scene import Scene

_SMALL = "size=24m"
# A file system that can limit its users is none below a hundred megabytes.
_IMAGE_BYTES = 160 * 2**20
# The first of its kind; limits are changed from outside, since a change is a write, too.
_SUBVOLUME, _QGROUP, _QUOTA = "runs", "0/256", "16K"


class SmallDisk:
    """A file system of little room, mounted where the root is to be."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir()
        _do("mount", "-t", "tmpfs", "-o", _SMALL, "chaos", root)

    def close(self) -> None:
        """Unmounts it."""
        self._root.mkdir(parents=True, exist_ok=True)
        _unmount(self._root)
        shutil.rmtree(self._root.parent, ignore_errors=True)


class LimitedDisk(SmallDisk):
    """A file system that can limit what its users take, mounted where the root is to be."""

    def __init__(self, root: Path) -> None:
        self._root = root
        image, outside = _outside(root).with_suffix(".image"), _outside(root)
        for folder in (root, outside):
            folder.mkdir(parents=True)
        with image.open("wb") as file:
            file.truncate(_IMAGE_BYTES)
        try:
            _do("mkfs.btrfs", "--quiet", image)
            _do("mount", "-o", "loop", image, outside)
            _do("btrfs", "subvolume", "create", outside / _SUBVOLUME)
            _do("btrfs", "quota", "enable", outside)
            _do("mount", "--bind", outside / _SUBVOLUME, root)
        except subprocess.CalledProcessError:
            self.close()
            raise

    def close(self) -> None:
        """Unmounts it."""
        super().close()
        _unmount(_outside(self._root))
        shutil.rmtree(_outside(self._root), ignore_errors=True)
        _outside(self._root).with_suffix(".image").unlink(missing_ok=True)


def _outside(root: Path) -> Path:
    """Where the whole file system is mounted, out of sight of the run."""
    return root.parent.with_name(f"{root.parent.name}-disk")


def limit(scene: Scene, target: str) -> None:
    """Takes its owner's room away: what is written is refused, as is what is made or renamed."""
    _do("btrfs", "qgroup", "limit", _QUOTA, _QGROUP, _outside(scene.root))
    scene.wake()
    time.sleep(2.0)
    if scene.rng.random() < 0.5:
        lift(scene)


def lift(scene: Scene) -> None:
    """Gives the room back."""
    if _outside(scene.root).exists():
        _do("btrfs", "qgroup", "limit", "none", _QGROUP, _outside(scene.root))


def fill(scene: Scene, target: str) -> None:
    """Takes all room of the file system that the root is on."""
    with suppress(OSError), (scene.root / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    with suppress(OSError), (scene.root / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"x")
    scene.wake()
    time.sleep(2.0)
    if scene.rng.random() < 0.5:
        empty(scene)


def empty(scene: Scene) -> None:
    """Gives the room back."""
    (scene.root / "filler").unlink(missing_ok=True)


def freeze_for_now(scene: Scene, target: str) -> None:
    """Forbids all to change any folder, for some seconds or until it is healed."""
    _freeze(scene, frozen=True)
    scene.wake()
    time.sleep(2.0)
    if scene.rng.random() < 0.5:
        thaw(scene)


def thaw(scene: Scene) -> None:
    """Lets everybody write again."""
    _freeze(scene, frozen=False)


def _freeze(scene: Scene, *, frozen: bool) -> None:
    sign = "+i" if frozen else "-i"
    folders = [path for path in scene.root.rglob("*") if path.is_dir()]
    subprocess.run(["chattr", sign, *map(str, folders)], check=False, capture_output=True)


def remount_for_now(scene: Scene, target: str) -> None:
    """Has all who look from now on find a file system that nobody may write, not even root."""
    root = str(scene.root)
    for words in (["--bind", root, root], ["-o", "remount,bind,ro", root]):
        _do("mount", *words)
    scene.wake()
    time.sleep(2.0)
    if scene.rng.random() < 0.5:
        unmount(scene)


def unmount(scene: Scene) -> None:
    """Takes away what was mounted over the root, and nothing that is below."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    if any(one[1] == str(scene.root) and "ro" in one[3].split(",") for one in mounts):
        _unmount(scene.root)


def needs_root() -> str | None:
    """Why not all may be done here; None if it may."""
    return "only root may do this" if os.geteuid() else None


def needs_mounts() -> str | None:
    """Why nothing may be mounted; None if it may."""
    if (missing := needs_root()) is not None:
        return missing
    # Root of a container may have no right to it.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "chaos", folder], check=False, capture_output=True
        )
        if done.returncode:
            return "nothing may be mounted"
        subprocess.run(["umount", folder], check=False, capture_output=True)
    return None


def needs_limits() -> str | None:
    """Why nobody's room can be limited; None if it can."""
    if (missing := needs_mounts()) is not None:
        return missing
    if not shutil.which("mkfs.btrfs"):
        return "there is no mkfs.btrfs"
    with tempfile.TemporaryDirectory() as folder:
        try:
            LimitedDisk(Path(folder) / "probe" / "root").close()
        except subprocess.CalledProcessError as error:
            return f"`{error.cmd[0]}` says: {error.stderr.decode().strip()}"
    return None


def needs_immutable() -> str | None:
    """Why no folder can be frozen; None if it can."""
    return needs_root() or (None if shutil.which("chattr") else "there is no chattr")


def _do(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=False, capture_output=True)
