"""Imports that wait until they are needed.

with hidden("sklearn", "matplotlib"):
    import tensorflow
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Makes packages that are not yet imported look absent inside.

    TensorFlow imports Keras, and Keras imports scikit-learn and matplotlib for features that
    dnnjob does not use, taking their absence in its stride: two of six seconds (measured with
    Keras 3.15.1). What is needed of them is imported later, while the network trains.
    """
    waiting = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(waiting))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in waiting:
            del sys.modules[name]
