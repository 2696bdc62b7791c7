"""What one task has of an attempt, from its beginning to its end.

attempt = TaskAttempt(journal, crew, watch, stack)
with attempt.watch.time("load"): ...
attempt.check()                        # raises where the run shall stop
"""

from contextlib import ExitStack
from dataclasses import dataclass

from dnnjob.clock import Stopwatch
from dnnjob.runs import Journal
from dnnjob.tasks.company import Beside
from dnnjob.tasks.process_group import Crew


@dataclass(frozen=True)
class Until:
    """Where an attempt stops short of the job's last epoch.

    Attributes:
        epoch: After so many epochs.
        ends: Whether the run completes there, as if it had no more; else it goes on later.
        ends_above: Validation loss from above which it completes there, too; None is none.
    """

    epoch: int
    ends: bool = False
    ends_above: float | None = None

    def leaves_behind(self, val_loss: float) -> bool:
        """Whether a run with this validation loss there is surely worse than those that go on."""
        return self.ends_above is not None and not val_loss <= self.ends_above


@dataclass(frozen=True)
class TaskAttempt:
    """One task's part in an attempt of a run.

    Attributes:
        journal: The attempt's record; other tasks than the chief have one that writes nothing.
        crew: The tasks of the run.
        watch: Started when the run was.
        stack: Clears away what others may read until they have heard of the end.
        until: Where it stops short of the job's last epoch; None is nowhere.
        beside: The other runs of its process that it may train with in one call; None without.
    """

    journal: Journal
    crew: Crew
    watch: Stopwatch
    stack: ExitStack
    until: Until | None = None
    beside: Beside | None = None

    @property
    def is_alone(self) -> bool:
        """Whether no other task or run is at work at the same moment."""
        return self.crew.task.num_tasks == 1 and self.beside is None

    def check(self) -> None:
        """Makes sure that the run shall go on, and in this attempt.

        Raises:
            StoppedError: If a signal asked for a stop.
            PeerLostError: If another task is lost.
            SupersededError: If a later attempt has been claimed.
        """
        self.crew.check()
        self.journal.recheck()
