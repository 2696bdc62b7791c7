"""Attempts of one process that meet in one compiled call, and take turns with all else.

company = Company(arrived=inbox.put, tell_seats=tell)
company.begin(lambda: run_point(..., beside=Beside(company, most=100, number=3)))
result = beside.meet(training)         # in an attempt's thread: returns once it has trained
guest.leave(result)                    # in the thread that trains them all
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class Guest:
    """An attempt that waits while it is trained with others.

    Attributes:
        given: What it has brought.
        number: What it is called.
    """

    given: Any
    number: int
    is_gone: bool = False
    """Whether it works on by itself."""
    # Whatever is done for it is logged where it logs.
    _context: Any = field(default_factory=copy_context)
    _answer: "Future[Any]" = field(default_factory=Future)

    def does(self, act: Callable[..., object], *args: Any) -> bool:
        """Does something on its behalf; whether it goes on: an error is its own."""
        try:
            self._context.run(act, *args)
        except BaseException as error:
            self.fail(error)
        return not self.is_gone

    def leave(self, result: Any) -> None:
        """Has it go on with a result."""
        self.is_gone = True
        self._answer.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Has it go on with an error."""
        self.is_gone = True
        self._answer.set_exception(error)

    def wait(self) -> Any:
        """What it goes on with."""
        return self._answer.result()


class Company:
    """Those attempts: at any moment one of them works, beside the call that trains others.

    So each is alone with what libraries do not share between threads.
    """

    def __init__(
        self, *, arrived: Callable[[Guest], object], tell_seats: Callable[[int], object]
    ) -> None:
        """Nobody has come.

        Args:
            arrived: Told of each attempt that waits to be trained.
            tell_seats: Told how many there is room for, whenever that is another number.
        """
        self._arrived, self._tell_seats = arrived, tell_seats
        self._turn = threading.Lock()
        self._seats, self._most = 1, 0

    def begin(self, work: Callable[[], object]) -> None:
        """Has an attempt work in a thread of its own, whenever it is its turn."""

        def wait_for_turn() -> None:
            with self._turn:
                work()

        threading.Thread(target=wait_for_turn, daemon=True).start()

    def seat(self, room: int) -> int:
        """How many may go side by side where there is room for so many."""
        room = min(room, self._most) if self._most else room
        if max(1, room) != self._seats:
            self._seats = max(1, room)
            self._tell_seats(self._seats)
        return room

    def narrow(self, most: int) -> None:
        """Has no more go side by side from here on."""
        self._most = most
        self.seat(most)

    def meet(self, given: Any, *, number: int) -> Any:
        """Waits until the attempt of this thread has been trained; others take their turns."""
        guest = Guest(given, number)
        self._arrived(guest)
        self._turn.release()
        try:
            return guest.wait()
        finally:
            self._turn.acquire()


@dataclass(frozen=True)
class Beside:
    """What an attempt has of the others in its process.

    Attributes:
        company: The others.
        most: Runs that may go side by side with it, itself among them.
        number: What it is called.
    """

    company: Company
    most: int
    number: int

    def choose_width(self, fitting: int, *, asked: int) -> int:
        """Networks that one call trains: as many as asked, else as fit; 0 where it trains alone.

        Args:
            fitting: Networks that the device has memory for; 0 where each has calls of its own.
            asked: `devices.stack`.
        """
        if not fitting:
            return 0
        # A run that goes on has the width that it had, whoever else goes on.
        room = self.company.seat(asked or fitting)
        width = min(room, asked or self.most)
        return width if width > 1 else 0

    def meet(self, given: Any) -> Any:
        """Has this thread's attempt trained with others; what it goes on with."""
        return self.company.meet(given, number=self.number)
