"""Whether a lane should compile a call that another has: that may take longer than to wait.

times = CompileTimes()
times.note(0.6)
times.outlast(3, waited_s=0.0)        # three such points are done before it has compiled
"""

from collections import deque

# To trace and compile a network of two or three layers; docs/decisions/lanes.md.
_COMPILE_S = 4.0
_REMEMBERED = 16


class CompileTimes:
    """How long points take whose call is compiled."""

    def __init__(self) -> None:
        """Nothing known."""
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def note(self, seconds: float) -> None:
        """Takes note of how long a point took."""
        self._seconds.append(seconds)

    def outlast(self, num_points: int, *, waited_s: float) -> bool:
        """Whether compiling takes longer than the lanes that have the call need for some points.

        Args:
            num_points: Points that wait for them.
            waited_s: How long a lane has waited already: who has waited as long as compiling takes
                does it.
        """
        if not self._seconds:
            return False
        mean_s = sum(self._seconds) / len(self._seconds)
        return max(num_points * mean_s, waited_s) < _COMPILE_S
