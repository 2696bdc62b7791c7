"""Successive halving (arXiv:1502.07943): which points go on, by their folders alone.

rungs = rung_epochs(90, halving=3)                  # (10, 30)
steps = next_steps(standings, rungs=rungs, halving=3)

A point trains to the epoch of a rung and leaves a checkpoint there. Once all points that can come
to a rung are there, the best part of them goes on to the next, and the others end. What follows
from the folders alone needs no other memory, so that whoever takes up the points decides alike.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dnnjob.config import JobConfig
from dnnjob.errors import JobError
from dnnjob.launch.errand import Choose, Errand, choose_first
from dnnjob.runs import (
    OVER,
    RunPaths,
    Status,
    read_settled,
    read_state,
    read_submission,
    state_before,
)
from dnnjob.tasks import Until


@dataclass(frozen=True)
class Standing:
    """How far a point has come.

    Attributes:
        losses: Its validation loss at each rung that it has reached, by the rung's epoch.
        is_over: Whether nothing more is to come of it.
        end_loss: Its validation loss where it has completed, before or after that rung.
    """

    losses: Mapping[int, float]
    is_over: bool = False
    end_loss: float | None = None


Step = Until | Literal["to its end"]
"""How far a point goes next."""


def refuse_halving_of_tasks(halving: int | None, *, num_tasks: int) -> None:
    """Ends a search with halving whose runs would be given several tasks by what starts them.

    Raises:
        JobError: If so.
    """
    if halving is not None and num_tasks > 1:
        raise JobError(
            f"search.halving = {halving} is for runs of one task, but each is given {num_tasks}. "
            "Set profile.nodes=1 and profile.tasks_per_node=1 (with srun: -n 1), or leave halving "
            "out."
        )


def rung_epochs(epochs: int, *, halving: int) -> tuple[int, int]:
    """Epochs at which points are compared."""
    return epochs // halving**2, epochs // halving


def next_steps(
    standings: Sequence[Standing], *, rungs: Sequence[int], halving: int
) -> list[Step | None]:
    """What each point is to do next; None of one that waits for others, or is over.

    Args:
        standings: How far each has come.
        rungs: Epochs at which they are compared, ascending.
        halving: One of so many goes on.
    """
    steps: list[Step | None] = [None] * len(standings)
    running = set(range(len(standings)))
    for epoch in rungs:
        losses = {n: loss for n in running if (loss := _loss(standings[n], epoch)) is not None}
        missing = {n for n in running if n not in losses and not standings[n].is_over}
        if missing:
            # A point behind as many as can go on is left behind, whatever others come to.
            best = sorted(losses.values())
            most = math.ceil((len(losses) + len(missing)) / halving)
            ends_above = best[most - 1] if len(best) >= most else None
            for n in missing:
                steps[n] = Until(epoch, ends_above=ends_above)
            return steps
        ranked = sorted(losses, key=lambda n: (losses[n], n))
        running = set(ranked[: math.ceil(len(ranked) / halving)])
        for n in set(ranked) - running:
            steps[n] = None if standings[n].is_over else Until(epoch, ends=True)
    for n in running:
        steps[n] = None if standings[n].is_over else "to its end"
    return steps


def _loss(standing: Standing, epoch: int) -> float | None:
    """The loss by which a point is compared at a rung; of one that has ended before, its least."""
    loss = standing.losses.get(epoch)
    if loss is None and standing.end_loss is not None:
        loss = min([standing.end_loss, *standing.losses.values()])
    return None if loss is None else loss if math.isfinite(loss) else math.inf


def read_standing(paths: RunPaths) -> Standing:
    """How far the point of a run folder has come."""
    try:
        status, submission = read_settled(paths), read_submission(paths)
    except (OSError, ValueError):
        return Standing({}, is_over=True)
    state = state_before(status, submission)
    last = status.progress.val_loss
    end_loss = (math.inf if last is None else last) if state == "COMPLETED" else None
    return Standing(_losses(status), is_over=state in OVER, end_loss=end_loss)


def _reopen(standing: Standing) -> Standing:
    """One that has not completed may go on."""
    return replace(standing, is_over=standing.end_loss is not None)


def _losses(status: Status) -> dict[int, float]:
    rungs = [attempt.rung for attempt in status.attempts if attempt.rung is not None]
    return {rung.epoch: math.inf if rung.val_loss is None else rung.val_loss for rung in rungs}


class ListedOrder:
    """Points in the order of a list."""

    def __init__(self, errands: Sequence[Errand]) -> None:
        self.waiting = list(errands)

    def pop(self, choose: Choose = choose_first) -> Errand | None:
        """The next, as it is chosen."""
        if (errand := choose(self.waiting)) is not None:
            self.waiting.remove(errand)
        return errand

    def put_back(self, errand: Errand) -> None:
        """Has one be the next again."""
        self.waiting.insert(0, errand)

    def note(self, errand: Errand) -> None:
        """Makes no difference to the others."""


class HalvingOrder:
    """Points in the order in which halving lets them go on.

    Those that train on come first: whatever ends at its rung is reported while others train.
    """

    def __init__(self, errands: Sequence[Errand], *, epochs: int, halving: int) -> None:
        """Nothing of them is at work.

        Args:
            errands: All points.
            epochs: Epochs of each.
            halving: One of so many goes on.
        """
        self._errands, self._halving = list(errands), halving
        self._rungs = rung_epochs(epochs, halving=halving)
        # Whoever takes points up again goes on with those that were stopped, too.
        self._standings = [_reopen(read_standing(RunPaths(errand.run))) for errand in errands]
        self._at_work: set[int] = set()

    def pop(self, choose: Choose = choose_first) -> Errand | None:
        """The next, as it is chosen; None where there is none, or until others have come as far."""
        steps = self._steps
        ready = [n for n, step in enumerate(steps) if step and n not in self._at_work]
        ready.sort(key=lambda n: (_ends(steps[n]), n))
        if (errand := choose([self._errands[n] for n in ready])) is None:
            return None
        place = self._place(errand)
        self._at_work.add(place)
        step = steps[place]
        until = step if isinstance(step, Until) else None
        return self._errands[place].model_copy(update={"until": until})

    def put_back(self, errand: Errand) -> None:
        """Has one wait again."""
        self._at_work.discard(self._place(errand))

    def note(self, errand: Errand) -> None:
        """Looks at what has become of one that was at work or never began."""
        place = self._place(errand)
        self._at_work.discard(place)
        before, now = self._standings[place], read_standing(RunPaths(errand.run))
        if now == before:
            # It came no further, nor will it by being begun again.
            now = Standing(now.losses, is_over=True, end_loss=now.end_loss)
        self._standings[place] = now

    @property
    def waiting(self) -> list[Errand]:
        """Those of which something is still to come, and that are not at work."""
        pairs = enumerate(zip(self._errands, self._standings, strict=True))
        return [e for n, (e, one) in pairs if not one.is_over and n not in self._at_work]

    @property
    def _steps(self) -> list[Step | None]:
        return next_steps(self._standings, rungs=self._rungs, halving=self._halving)

    def _place(self, errand: Errand) -> int:
        return next(n for n, one in enumerate(self._errands) if one.run == errand.run)


Order = ListedOrder | HalvingOrder
"""Which point is the next."""


def put_in_order(
    errands: Sequence[Errand], jobs: Sequence[JobConfig], *, halving: int | None
) -> Order:
    """The order of points that are not complete: that of their list, or as halving lets them.

    Args:
        errands: All points.
        jobs: The job of each.
        halving: One of so many goes on; None is no halving.
    """
    if halving is None:
        left = [one for one in errands if read_state(RunPaths(one.run)) != "COMPLETED"]
        return ListedOrder(left)
    return HalvingOrder(errands, epochs=jobs[0].train.epochs, halving=halving)


def _ends(step: Step | None) -> bool:
    return isinstance(step, Until) and step.ends
