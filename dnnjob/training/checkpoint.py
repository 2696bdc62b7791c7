"""Checkpoints: one atomic, checksummed file with all that a later attempt needs.

store = CheckpointStore(paths.checkpoints)
store.write(checkpoint)
found = store.read_newest()           # None where there is none to read
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnnjob.runs import Position, write_bytes

logger = logging.getLogger(__name__)

_MAGIC = b"dnnjob checkpoint 1\n"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state of training between two calls.

    Attributes:
        position: The next batch to train.
        facts: JSON values: identity of job and table, fingerprint of the machine, stopping state.
        arrays: Weights, optimizer variables, best weights, history; by name.
    """

    position: Position
    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Found:
    """A checkpoint and the name of its file."""

    name: str
    checkpoint: Checkpoint


class CheckpointStore:
    """The checkpoints of one run; the newest valid one wins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, checkpoint: Checkpoint, *, attempt: int) -> bool:
        """Writes a checkpoint and drops old ones; False, with a warning, where the disk refuses."""
        try:
            number = max(self._numbers(), default=0) + 1
            write_checkpoint(self._folder / f"{number:08d}-{attempt}.ckpt", checkpoint)
        except OSError as error:
            logger.warning("The checkpoint could not be written, training goes on: %s.", error)
            return False
        with suppress(OSError):
            # What stays of old ones goes with a later writing.
            for old in self._files()[:-_KEPT]:
                old.unlink(missing_ok=True)
        return True

    def read(self, name: str) -> Checkpoint:
        """The checkpoint of a file.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is damaged.
        """
        return read_checkpoint(self._folder / name)

    def read_newest(self) -> Found | None:
        """The newest checkpoint that is whole; damaged ones are skipped with a warning."""
        for path in reversed(self._files()):
            try:
                return Found(path.name, self.read(path.name))
            except (OSError, ValueError, KeyError) as error:
                logger.warning("Skipping the damaged checkpoint %s: %s.", path, error)
        return None

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.ckpt"))

    def _numbers(self) -> list[int]:
        return [int(path.name.partition("-")[0]) for path in self._files()]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the file in one step.

    Raises:
        OSError: If the disk refuses.
    """
    write_bytes(path, _encode(checkpoint))


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    return _decode(path.read_bytes())


def _encode(checkpoint: Checkpoint) -> bytes:
    facts = {"position": checkpoint.position.model_dump(), "facts": dict(checkpoint.facts)}
    arrays = io.BytesIO()
    named: dict[str, Any] = {**checkpoint.arrays, "facts": np.array(json.dumps(facts))}
    np.savez(arrays, **named)
    body = arrays.getvalue()
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _decode(content: bytes) -> Checkpoint:
    header = len(_MAGIC)
    digest, body = content[header : header + 64], content[header + 65 :]
    if content[:header] != _MAGIC or hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("its checksum does not match its content")
    with np.load(io.BytesIO(body), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    facts = json.loads(str(arrays.pop("facts")))
    return Checkpoint(Position(**facts["position"]), facts["facts"], arrays)
