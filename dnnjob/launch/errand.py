"""What a lane is told, a point to run, and what it tells of it; a line of JSON each.

line = Errand(run=paths.root, number=3).model_dump_json()
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from dnnjob.errors import ExitCode
from dnnjob.runs import Progress, Record
from dnnjob.tasks import Until


class Errand(Record):
    """A point that a lane is to run."""

    run: Path
    """Its run folder."""
    number: int
    """Its place in the sweep, from 1."""
    cores: int = 1
    """Cores that it keeps busy."""
    after: int | None = None
    """The attempt after which this one must come, where it matters."""
    until: Until | None = None
    """Where it stops short of its end."""
    beside: int = 1
    """Points that may train in one call, it and others of its sweep; 1 trains alone."""
    kind: str = ""
    """What a process takes once: points of another kind need another lane."""
    call: str = ""
    """Names what points share that a lane compiles one call for."""


Choose = Callable[[Sequence[Errand]], Errand | None]
"""Which of the points that may begin does, of these in their order; None leaves all for later."""


def choose_first(ready: Sequence[Errand]) -> Errand | None:
    """The first, if there is one."""
    return ready[0] if ready else None


class News(Record):
    """What a lane tells; what it leaves out is no news."""

    number: int = 0
    """Of the point that it is about, where a lane may be at several."""
    seats: int = 0
    """How many points the lane may be at from here on."""
    code: ExitCode | None = None
    """How its point has ended."""
    progress: Progress | None = None
    """How far its point has come."""
    steps_per_s: float = 0.0
    """With it."""
    trouble: str | None = None
    """A warning or an error."""
    level: int = logging.WARNING
    """Of the trouble."""
