"""The container image this process runs in: what it holds, and which mount it lacks.

image = read_image()                         # None outside of dnnjob's images
message += mount_hint(path, to="read")       # nothing outside, and where a mount is there
"""

import glob
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

IMAGE_FILE = Path(sys.prefix) / "image.json"
"""Written when the image is built, into the environment that it describes."""
MOUNTS = Path("/proc/self/mountinfo")
USERS = Path("/proc/self/uid_map")
LABEL = Path("/proc/self/attr/current")
MOUNTED = "DNNJOB_MOUNTED"
"""Variable with the folders of the host that `docker/dnnjob` has mounted, between colons."""

_MEMORY = ("tmpfs", "ramfs", "devtmpfs")


@dataclass(frozen=True)
class _Mount:
    """A line of the table of mounts.

    Attributes:
        point: Where it is mounted.
        root: The folder of its file system that is seen there.
        kind: The kind of file system.
    """

    point: str
    root: str
    kind: str

    @property
    def is_the_containers(self) -> bool:
        """Whether it ends with the container: the image, or memory that was made for it."""
        return self.point == "/" or (self.root == "/" and self.kind in _MEMORY)


def read_image() -> dict[str, Any] | None:
    """What the image says of itself: target, versions, commit, packages; None outside of one."""
    try:
        image: dict[str, Any] = json.loads(IMAGE_FILE.read_bytes())
    except FileNotFoundError:
        return None
    return image


def is_lost(path: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether what is written to `path` ends with the container, and no host sees it.

    So does what is in the image, and on a tmpfs of the container's own. One of the host's looks
    like that where all of it is mounted, so whoever mounts it says so; Apptainer mounts the host's.
    """
    if not IMAGE_FILE.is_file():
        return False
    place = path.resolve()
    mounts = {one.point: one for one in _read_mounts()}
    mount = next(mounts[str(one)] for one in (place, *place.parents) if str(one) in mounts)
    if mount.point == "/" or "APPTAINER_CONTAINER" in environ or "SINGULARITY_NAME" in environ:
        return mount.point == "/"
    return mount.is_the_containers and mount.point not in environ.get(MOUNTED, "").split(":")


def mount_hint(path: Path, *, to: Literal["read", "write"]) -> str:
    """How to start the container so that `path` can be read or written, to end a message with.

    Empty outside of an image, and where a file to read is missing on a mount that is there.
    """
    if not IMAGE_FILE.is_file():
        return ""
    if not is_lost(path):
        return _user_hint() if to == "write" else ""
    if Path.cwd() in path.absolute().parents and is_lost(Path.cwd()):
        volume, bind = '"$PWD:$PWD" --workdir "$PWD"', '"$PWD" --pwd "$PWD"'
    else:
        # Where a link leads; and before the first wildcard.
        folder = next(one for one in path.resolve().parents if not glob.has_magic(str(one)))
        volume, bind = shlex.quote(f"{folder}:{folder}"), shlex.quote(str(folder))
    return (
        " A container sees only what is mounted: give docker or podman run "
        f"--volume {volume}, apptainer exec --bind {bind}, or use docker/dnnjob, which mounts what "
        "the command names."
    )


def lost_reason(path: Path) -> str:
    """Why `path` is lost, for a message."""
    return f"{path} is in the container alone, and would be gone with it"


def _user_hint() -> str:
    """Which user to run as, after what the kernel says of the container's users and labels."""
    user = '--user "$(id -u):$(id -g)"'
    if _numbers_users_anew():
        user = (
            f"podman run --userns=keep-id, a rootless docker run --user 0:0, any other docker run "
            f"--userns=host {user}"
        )
    else:
        user = f"docker or podman run {user}"
    label = ""
    if "container_t" in _read(LABEL):
        label = ", add --security-opt label=disable, since SELinux labels files here,"
    return (
        f" The container runs as user {os.getuid()} and may write what that user may: give {user}"
        f"{label} and leave :ro out of --volume."
    )


def _numbers_users_anew() -> bool:
    """Whether users have other numbers in the container than on the host."""
    lines = (line.split() for line in _read(USERS).splitlines())
    return any(inside != outside for inside, outside, _ in lines)


def _read_mounts() -> Iterator[_Mount]:
    yield _Mount("/", "/", "")
    for line in _read(MOUNTS).splitlines():
        # id, parent, device, root, point, options, optional fields, "-", kind, source, options
        mount, _, system = line.partition(" - ")
        root, point = map(_unescape, mount.split(" ")[3:5])
        yield _Mount(point, root, system.split(" ")[0])


def _unescape(path: str) -> str:
    # Blanks, backslashes and line ends in a path are octal escapes.
    for code in ("040", "011", "012", "134"):
        path = path.replace(f"\\{code}", chr(int(code, 8)))
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
