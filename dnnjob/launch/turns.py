"""The points of a sweep that wait, and the word that is left of those that could leave none.

turns = ListedTurns(order)
errand = turns.take()              # the next that nobody has cancelled
leave_word(paths, "CANCELLED", "cancelled", error)
"""

import logging
import os
from collections.abc import Sequence
from typing import Protocol

from dnnjob.errors import ExitCode
from dnnjob.launch.errand import Choose, Errand, choose_first
from dnnjob.launch.halving import Order
from dnnjob.machine import process_key
from dnnjob.runs import (
    Event,
    Reason,
    RunPaths,
    State,
    count_restarts,
    latest_attempt,
    leave_event,
    own_job_id,
    read_cancel,
    read_submission,
)
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)


class Turns(Protocol):
    """The points that wait, in the order of their turns."""

    def take(self, choose: Choose = choose_first) -> Errand | None:
        """The next point to run; None where there is none, or none as long as others run."""

    def put_back(self, errand: Errand) -> None:
        """Takes a point back that does not begin after all."""

    def again(self, errand: Errand) -> None:
        """Hears that a point that was at work begins again."""

    def end(self, errand: Errand, code: ExitCode) -> None:
        """Hears how a point has ended."""

    @property
    def waiting(self) -> Sequence[object]:
        """Those of which something is still to come, and that are not at work."""


class ListedTurns:
    """Points that are run unless somebody has cancelled them, or gone on with them elsewhere."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._attempts = {one.run: latest_attempt(RunPaths(one.run)) for one in order.waiting}

    def take(self, choose: Choose = choose_first) -> Errand | None:
        """The next that nobody has cancelled."""
        while (errand := self._order.pop(choose)) is not None:
            if self._is_taken(errand):
                logger.info("%s was taken up elsewhere since, and is left alone.", errand.run)
                self._order.note(errand)
            elif read_cancel(RunPaths(errand.run)) is not None:
                self._cancel(errand)
            else:
                # Another `resume` of the sweep may have passed the same look: one has the point.
                return errand.model_copy(update={"after": self._attempts[errand.run]})
        return None

    def put_back(self, errand: Errand) -> None:
        """Has one wait again."""
        self._order.put_back(errand)

    def again(self, errand: Errand) -> None:
        """Takes note of the attempt that it has had."""
        if self._is_taken(errand):
            # A lane that is killed at its start has claimed none.
            self._attempts[errand.run] += 1

    def end(self, errand: Errand, code: ExitCode) -> None:
        """Takes note of it."""
        self.again(errand)
        self._order.note(errand)

    @property
    def waiting(self) -> list[Errand]:
        """Those of which something is still to come, and that are not at work."""
        return self._order.waiting

    def cancel_rest(self) -> None:
        """Says of those that wait that they will not go on."""
        for errand in self.waiting:
            if not self._is_taken(errand):
                self._cancel(errand)

    def _is_taken(self, errand: Errand) -> bool:
        """Whether attempts were begun that are not known here."""
        return latest_attempt(RunPaths(errand.run)) > self._attempts[errand.run]

    def _cancel(self, errand: Errand) -> None:
        paths = RunPaths(errand.run)
        begun = "went on" if latest_attempt(paths) else "began"
        error = f"Cancelled before it {begun}. {quote_command('resume', paths.root)} goes on."
        leave_word(paths, "CANCELLED", "cancelled", error)
        self._order.note(errand)


def leave_word(paths: RunPaths, state: State, reason: Reason, error: str) -> None:
    """Says what became of a run that could not say it itself."""
    attempt, submission = latest_attempt(paths), read_submission(paths)
    # A local one is a process also inside a job of Slurm.
    is_local = submission is not None and submission.executor == "local"
    event = Event(
        writer="launcher",
        attempt=attempt,
        job_id=(not is_local and own_job_id(os.environ)) or str(os.getpid()),
        process=process_key(os.getpid()) if is_local else None,
        restarts=count_restarts(os.environ) or 0,
        state=state,
        reason=reason,
        error=error,
    )
    try:
        leave_event(paths, f"launcher-attempt-{attempt}", event)
    except OSError as late:
        logger.error("No event could be left in %s: %s", paths.root, late)
