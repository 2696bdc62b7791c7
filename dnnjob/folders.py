"""Where dnnjob keeps things for a user, who may have no home.

user_cache()                    # ~/.cache/dnnjob
"""

import os
from pathlib import Path


def user_cache() -> Path | None:
    """`$XDG_CACHE_HOME/dnnjob`, by default `~/.cache/dnnjob`; None where nothing can be kept.

    A home that nobody knows of, that is not there, as in many containers, or that may not be looked
    into, is never made.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification says to ignore a relative path.
    if base.is_absolute():
        return base / "dnnjob"
    try:
        home = Path.home()
        return home / ".cache" / "dnnjob" if home.is_dir() else None
    except (OSError, RuntimeError):
        return None
