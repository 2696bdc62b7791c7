"""What runs of one process leave for those after them, which often take the same.

_calls = Latest[Call](most=8)
call = _calls.find(lambda one: one.kind == kind) or _calls.keep(Call(kind))
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The few of some things that were of use last."""

    def __init__(self, *, most: int) -> None:
        """Nothing yet, and never more than so many."""
        self._most = most
        self._kept: list[T] = []

    def __iter__(self) -> Iterator[T]:
        """All, the latest first."""
        return iter(tuple(self._kept))

    def find(self, fits: Callable[[T], bool]) -> T | None:
        """The latest that fits, if any; from here on the last of all to go."""
        found = next(filter(fits, self._kept), None)
        return None if found is None else self.keep(found)

    def keep(self, one: T) -> T:
        """Keeps one as the latest."""
        self._kept = [one, *(other for other in self._kept if other != one)][: self._most]
        return one

    def clear(self) -> None:
        """Lets go of all."""
        self._kept = []
