"""What tells the files of one table from those of another.

fingerprint = fingerprint_files(paths)
fingerprint.method, fingerprint.value, fingerprint.stamp
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dnnjob.data.partitions import folder_values
from dnnjob.data.reading import reading_file

# Hashing a GiB takes about a second; beyond it parts must do.
MAX_HASHED_BYTES = 2**30
# Of a text that is not hashed whole: so many blocks, shared between many files.
_BLOCKS, _LEAST_BLOCKS = 64, 4
_BLOCK_BYTES = 2**16


@dataclass(frozen=True)
class Fingerprint:
    """What tells one table from another: `method` says what the SHA-256 `value` covers.

    `sha256-bytes`: the bytes of all files one after the other, and what the names of their folders
    hold where that differs; `sha256-footers`: that, their names, sizes and Parquet footers;
    `sha256-blocks`: the same where some are text, with blocks of the text in place of a footer, at
    its start, at its end and evenly in between; `sha256-values`: the numbers of a table that has no
    file.

    Attributes:
        method: What `value` covers.
        value: Hexadecimal digits.
        stamp: A hash of where the files are and when they were written, for those who must not
            take a table for its edited copy; empty where `value` covers all they hold.
    """

    method: Literal["sha256-bytes", "sha256-footers", "sha256-blocks", "sha256-values"]
    value: str
    stamp: str = ""


def fingerprint_files(paths: Sequence[Path]) -> Fingerprint:
    """What tells these files from others.

    Raises:
        DataError: If one cannot be read.
    """
    folders = _describe_folders(paths)
    if sum(path.stat().st_size for path in paths) <= MAX_HASHED_BYTES:
        return Fingerprint("sha256-bytes", _hash_bytes(paths, folders))
    # Before what they hold: a file that is written meanwhile is another one.
    stamp = _hash_places(paths)
    digest, has_text = hashlib.sha256(folders), False
    for path in paths:
        with reading_file(path):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            footer = _parquet_footer(path)
            has_text |= footer is None
            for part in _blocks(path, share=len(paths)) if footer is None else [footer]:
                digest.update(part)
    method: Literal["sha256-blocks", "sha256-footers"]
    method = "sha256-blocks" if has_text else "sha256-footers"
    return Fingerprint(method, digest.hexdigest(), stamp)


def _describe_folders(paths: Sequence[Path]) -> bytes:
    """What the folders of the files hold in their names, where that differs; else nothing."""
    values = [sorted(folder_values(path).items()) for path in paths]
    return repr(values).encode() if any(one != values[0] for one in values) else b""


def _hash_bytes(paths: Sequence[Path], folders: bytes) -> str:
    digest = hashlib.sha256(folders)
    for path in paths:
        with reading_file(path), path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _hash_places(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with reading_file(path):
            digest.update(f"{path.resolve()}\0{path.stat().st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def _parquet_footer(path: Path) -> bytes | None:
    """The metadata at the end of a Parquet file; None of another file."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        tail = file.read(8)
        if tail[4:] != b"PAR1":
            return None
        length = int.from_bytes(tail[:4], "little")
        file.seek(max(size - 8 - length, 0))
        return file.read(length)


def _blocks(path: Path, *, share: int) -> Iterator[bytes]:
    """Blocks of a file from its start to its end: all of it, where it is as short.

    Args:
        path: The file.
        share: Files that share the blocks.
    """
    count = max(_LEAST_BLOCKS, _BLOCKS // share)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        last = size - _BLOCK_BYTES
        if last <= count * _BLOCK_BYTES:
            starts = list(range(0, size, _BLOCK_BYTES))
        else:
            starts = [place * last // (count - 1) for place in range(count)]
        for start in starts:
            file.seek(start)
            yield file.read(_BLOCK_BYTES)
