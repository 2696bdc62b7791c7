"""Points of a sweep that one process trains in one compiled call, each a run of its own.

side_by_side = SideBySide(inbox, run, tell=tell, stop=stop)
side_by_side.work(errand, age_s=0.0)      # returns once it and those that joined it have ended
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from dnnjob.clock import Stopwatch
from dnnjob.errors import ExitCode
from dnnjob.launch.errand import Errand, News
from dnnjob.tasks import Beside, Company, Guest, StopFlag

if TYPE_CHECKING:
    from dnnjob.training.point_stack import PointStack

logger = logging.getLogger(__name__)

# Whoever is told of seats gives them away at once.
_GRACE_S = 0.5


@dataclass(frozen=True)
class Ended:
    """A point that has ended.

    Attributes:
        number: Its place in the sweep.
        code: How.
    """

    number: int
    code: ExitCode


Happening = Errand | Ended | Guest | None
"""What a lane waits for: a point to run, one that has ended, one to be trained; None ends it."""


@dataclass
class SideBySide:
    """Runs points in threads that meet where they train.

    Attributes:
        inbox: What happens; points to run come from whoever started this process.
        run: Runs a point to its end.
        tell: Tells news of the points.
        stop: What remembers the signals of this process.
    """

    inbox: "SimpleQueue[Happening]"
    run: Callable[..., ExitCode]
    tell: Callable[[News], object]
    stop: StopFlag
    company: Company = field(init=False)
    _on_way: set[int] = field(default_factory=set)
    """Points that have begun, and are not yet trained nor will be."""
    _at_work: int = 0
    _guests: list[Guest] = field(default_factory=list)
    _stack: "PointStack | None" = None
    _is_last: bool = False
    """Whether no point comes any more."""

    def __post_init__(self) -> None:
        self.company = Company(
            arrived=self.inbox.put, tell_seats=lambda seats: self.tell(News(seats=seats))
        )

    def work(self, first: Errand, *, age_s: float) -> None:
        """Runs a point, and those that come meanwhile, until all have ended.

        Args:
            first: The point.
            age_s: Time that has passed for it already.
        """
        self._begin(first, age_s=age_s)
        # Those that are on their way to the same start are waited for; later ones join.
        has_begun = False
        while self._at_work:
            if not self._guests:
                has_begun = False
            wait_s = 0.0 if has_begun else None if self._on_way or not self._guests else _GRACE_S
            try:
                self._hear(self.inbox.get(timeout=wait_s))
            except Empty:
                has_begun = True
                self._train()
        if self._stack is not None:
            self._stack.release()
        if self._is_last:
            # For whoever waits for more.
            self.inbox.put(None)

    def _begin(self, errand: Errand, *, age_s: float = 0.0) -> None:
        self._at_work += 1
        self._on_way.add(errand.number)
        watch = Stopwatch(age_s=age_s)
        self.company.begin(partial(self._work_through, errand, watch))

    def _work_through(self, errand: Errand, watch: Stopwatch) -> None:
        beside = Beside(self.company, errand.beside, errand.number)
        code = ExitCode.FAILED
        try:
            code = self.run(errand, stop=StopFlag(self.stop), watch=watch, beside=beside)
        except BaseException:
            # The others go on.
            logger.exception("%s ended without a word.", errand.run)
        finally:
            self.inbox.put(Ended(errand.number, code))

    def _hear(self, happening: Happening) -> None:
        match happening:
            case Errand():
                self._begin(happening)
            case Guest():
                self._on_way.discard(happening.number)
                self._guests.append(happening)
            case Ended():
                self._on_way.discard(happening.number)
                self._at_work -= 1
                self.tell(News(number=happening.number, code=happening.code))
            case None:
                self._is_last = True

    def _train(self) -> None:
        # TensorFlow has been imported as the first of them has it.
        from dnnjob.training.point_stack import PointStack

        self._stack = self._stack or PointStack()
        self._stack.take_round(self._guests)
        self._guests = [guest for guest in self._guests if not guest.is_gone]
