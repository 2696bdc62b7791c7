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
        subprocess.run(["mount", *words], check=True, capture_output=True)
    scene.wake()
    time.sleep(2.0)
    if scene.rng.random() < 0.5:
        unmount(scene)


def unmount(scene: Scene) -> None:
    """Takes away what was mounted over the root, and nothing that is below."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    if any(one[1] == str(scene.root) and "ro" in one[3].split(",") for one in mounts):
        subprocess.run(["umount", "--lazy", scene.root], check=False, capture_output=True)


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


def needs_immutable() -> str | None:
    """Why no folder can be frozen; None if it can."""
    return needs_root() or (None if shutil.which("chattr") else "there is no chattr")
