"""Runs that wait to be trained in one call, without the call."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from dnnjob.errors import StoppedError
from dnnjob.tasks import Crew, Guest, StopFlag
from dnnjob.training import point_stack
from dnnjob.training.point_stack import PointStack


def wait_to_train(kind: str) -> tuple[Guest, StopFlag]:
    """A run of a kind that waits, and what may stop it."""
    stop = StopFlag()
    loop = SimpleNamespace(
        crew=Crew(stop), step=None, job=SimpleNamespace(train=None), end_round=lambda *_: None
    )
    given = SimpleNamespace(
        key=(kind, 2),
        kind=kind,
        width=2,
        stacked=None,
        loop=loop,
        member=SimpleNamespace(state=SimpleNamespace(stop_reason=None)),
        compile_s=0.0,
        pace=point_stack.Pace(),
    )
    return Guest(given, 1), stop


def test_a_run_that_waits_for_a_call_of_another_kind_is_stopped_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = list[Any]()

    def train_together(_: Any, group: list[Any], **__: Any) -> list[int]:
        trained.extend(one.member for one in group)
        return [1] * len(group)

    monkeypatch.setattr(point_stack, "train_together", train_together)
    (first, _), (other, stop) = wait_to_train("a"), wait_to_train("b")
    stop.want(signal.SIGTERM)

    PointStack().take_round([first, other])

    assert set(map(id, trained)) == {id(first.given.member)}
    assert not first.is_gone
    with pytest.raises(StoppedError):
        other.wait()
