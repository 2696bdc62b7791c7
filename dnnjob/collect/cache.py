"""Files of runs read once: what was made of each, kept by path, size, times and inode.

cache = load_cache(root)
facts = cache.read(paths.report, parse_report)   # a dict, or None without such a file
cache.save()
"""

import errno
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pydantic_core

from dnnjob.collect.record import Line
from dnnjob.machine import user_cache
from dnnjob.runs import write_bytes

logger = logging.getLogger(__name__)

Facts = dict[str, Any]
Parser = Callable[[bytes], Facts]
Key = tuple[int, int, int, int]

FORMAT = 3
MAX_FILE_BYTES = 1 << 26
# Within a tick of the file system's clock a second change may leave size and time as they were.
SETTLED_NS = 2_000_000_000


@dataclass
class Cache:
    """What earlier reads made of files; `read` may be called from many threads."""

    path: Path | None
    """Where it is kept; None keeps nothing."""
    known: dict[str, list[Any]] = field(default_factory=dict)
    used: dict[str, list[Any]] = field(default_factory=dict)

    def recall(self, path: Path) -> Facts | None:
        """What is known of `path`, if the file is what it was then; None otherwise."""
        name = str(path)
        if (entry := self.known.get(name)) is None:
            return None
        try:
            unchanged = list(_key(path.stat())) == entry[0]
        except OSError:
            return None
        if not unchanged:
            return None
        self.used[name] = entry
        facts: Facts = entry[1]
        return facts

    def read(self, path: Path, parse: Parser) -> Facts | None:
        """What `parse` makes of the file, None where there is none.

        A file that cannot be read or parsed gives `{"fault": why}`.
        """
        if (facts := self.recall(path)) is not None:
            return facts
        try:
            content, seen = _read_plain_file(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return {"fault": f"{path.name} cannot be read: {error.strerror}"}
        facts = _parse(path, content, parse)
        if time.time_ns() - max(seen.st_mtime_ns, seen.st_ctime_ns) > SETTLED_NS:
            self.used[str(path)] = [list(_key(seen)), facts]
        return facts

    def save(self) -> None:
        """Keeps what was used for the next time, if that changed; failing that is no failure."""
        if self.path is None or self.used == self.known:
            return
        content = {"format": _format(), "files": self.used}
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=True).encode()
        try:
            write_bytes(self.path, text)
        except OSError as error:
            logger.debug("The cache %s was not written: %s", self.path, error)


def load_cache(root: Path) -> Cache:
    """The cache of `root` in the user's cache folder; an empty one if none is to be read."""
    if (folder := user_cache()) is None:
        return Cache(None)
    name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:24]
    path = folder / f"collect-{name}.json"
    return Cache(path, known=_load_known(path))


def _load_known(path: Path) -> dict[str, list[Any]]:
    try:
        content = pydantic_core.from_json(path.read_bytes())
        if content["format"] == _format():
            known: dict[str, list[Any]] = content["files"]
            return known
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.debug("The cache %s is not used: %s", path, error)
    return {}


def _format() -> str:
    """Changes with what is kept, so that another version's cache is not misread."""
    return f"{FORMAT} {' '.join(column.name for column in fields(Line))}"


def _key(seen: os.stat_result) -> Key:
    # The change time tells apart what keeps size and modification time, as rsync -t does.
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino


def _parse(path: Path, content: bytes, parse: Parser) -> Facts:
    try:
        return parse(content)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return {"fault": f"{path.name}: {error}"}


def _read_plain_file(path: Path) -> tuple[bytes, os.stat_result]:
    # Opened without blocking: a foreign folder may hold a pipe of that name.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(errno.EINVAL, "It is no plain file")
        if seen.st_size > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, f"It has {seen.st_size:,} bytes")
        content = os.read(handle, seen.st_size)
        while len(content) < seen.st_size and (more := os.read(handle, seen.st_size)):
            content += more
        return content, seen
    finally:
        os.close(handle)
