"""Imports that wait until they are needed, and TensorFlow's without its talk.

with importing_tensorflow():
    import tensorflow
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# What the libraries say at every import, also where the log level asks for silence.
_NOTICES = (
    b"All log messages before absl::InitializeLog() is called",
    b"oneDNN custom operations are on.",
)


@contextmanager
def importing_tensorflow() -> Iterator[None]:
    """Keeps what TensorFlow imports and says at its import, and what nobody needs of it, away.

    TensorFlow imports Keras, and Keras imports scikit-learn and matplotlib for features that
    dnnjob does not use, taking their absence in its stride: two of six seconds (measured with
    Keras 3.15.1). What is needed of them is imported later, while the network trains.
    """
    with hidden("sklearn", "matplotlib"), without_notices():
        yield


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Makes packages that are not yet imported look absent inside."""
    waiting = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(waiting))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in waiting:
            del sys.modules[name]


@contextmanager
def without_notices() -> Iterator[None]:
    """Holds back what is written to stderr inside, and passes on all but known notices after.

    The libraries write them while they are loaded, past Python and every setting.
    """
    try:
        stderr = os.dup(2)
    except OSError:  # started with stderr closed
        yield
        return
    held = os.memfd_create("dnnjob-stderr")
    os.dup2(held, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.lseek(held, 0, os.SEEK_SET)
        with os.fdopen(held, "rb") as lines:
            kept = [line for line in lines if not any(notice in line for notice in _NOTICES)]
        os.close(stderr)
        # A full disk or a lost terminal is no reason to fail.
        with suppress(OSError), os.fdopen(os.dup(2), "wb") as told:
            told.writelines(kept)
