"""The container image this process runs in: what it holds, and which mount it lacks.

image = read_image()                         # None outside of dnnjob's images
message += mount_hint(path, to="read")       # nothing outside, and where a mount is there
"""

import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

IMAGE_FILE = Path(sys.prefix) / "image.json"
"""Written when the image is built, into the environment that it describes."""
MOUNTS = Path("/proc/self/mountinfo")


def read_image() -> dict[str, Any] | None:
    """What the image says of itself: target, versions, commit, packages; None outside of one."""
    try:
        image: dict[str, Any] = json.loads(IMAGE_FILE.read_bytes())
    except FileNotFoundError:
        return None
    return image


def is_lost(path: Path) -> bool:
    """Whether `path` lies in the image itself, which no host sees and no container outlives."""
    if not IMAGE_FILE.is_file():
        return False
    points, place = set(_mount_points()), path.resolve()
    return next(str(one) for one in (place, *place.parents) if str(one) in points) == "/"


def mount_hint(path: Path, *, to: Literal["read", "write"]) -> str:
    """How to start the container so that `path` can be read or written, to end a message with.

    Empty outside of an image, and where a file to read is missing on a mount that is there.
    """
    if not IMAGE_FILE.is_file():
        return ""
    if not is_lost(path):
        return _user_hint() if to == "write" else ""
    if Path.cwd() in path.absolute().parents and is_lost(Path.cwd()):
        volume, bind = '--volume "$PWD:$PWD" --workdir "$PWD"', '--bind "$PWD" --pwd "$PWD"'
    else:
        # Where a link leads; and before the first wildcard.
        folder = next(one for one in path.resolve().parents if not glob.has_magic(str(one)))
        volume, bind = f"--volume {folder}:{folder}", f"--bind {folder}"
    return (
        f" A container sees only what is mounted: give docker or podman run {volume}, apptainer "
        f"exec {bind}, or use docker/dnnjob, which mounts what the command names."
    )


def _user_hint() -> str:
    return (
        f" The container runs as user {os.getuid()} and may write what that user may: give docker "
        'or podman run --user "$(id -u):$(id -g)", and leave :ro out of --volume.'
    )


def _mount_points() -> Iterator[str]:
    yield "/"
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        # Blanks, backslashes and line ends in a path are octal escapes.
        path = line.split(" ")[4]
        for code in ("040", "011", "012", "134"):
            path = path.replace(f"\\{code}", chr(int(code, 8)))
        yield path
