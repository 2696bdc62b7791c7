"""Files that are replaced in one step: readers see the old one or the new one.

write_text(paths.job, text)
write_bytes(paths.model, content)
write_file(paths.history, lambda file: pq.write_table(table, file))
"""

import json
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` by `value` as JSON in one step; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_bytes(path: Path, content: bytes | memoryview, *, mode: int = 0o666) -> None:
    """Replaces `path` by `content` in one step; `mode` is that of `write_file`."""
    write_file(path, lambda file: file.write(content), mode=mode)


def write_file(path: Path, fill: Callable[[BinaryIO], Any], *, mode: int = 0o666) -> None:
    """Replaces `path` in one step by what `fill` writes, or leaves it as it was.

    The new content is written beside its place, flushed to the disk and renamed; its permissions
    are those of `mode` that the umask leaves, as shared storage needs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        with open(beside, "xb", opener=partial(os.open, mode=mode)) as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def clear_folder(folder: Path) -> None:
    """Removes a folder of plain files; nothing happens where there is none."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
