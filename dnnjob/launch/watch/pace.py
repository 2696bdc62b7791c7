"""How often a waiting command looks: at files every second or so, at Slurm far more rarely.

pace = Pace()
while not over:
    if pace.is_due(): ask_slurm()
    pace.sleep()
"""

import time

LOOK_S = 1.0
"""Between two looks at files, of which there are few."""
# Slurm answers all its users: a site's own advice is minutes between two questions.
FIRST_ASK_S = 30.0
LAST_ASK_S = 180.0
_GROWTH = 1.5


class Pace:
    """Says when to ask Slurm again: at once, after 30 s, and so on up to every 180 s."""

    def __init__(self) -> None:
        self._wait_s = FIRST_ASK_S
        self._due_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether the time has come; if so, sets the next one."""
        now = time.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + self._wait_s
        self._wait_s = min(self._wait_s * _GROWTH, LAST_ASK_S)
        return True

    def sleep(self) -> None:
        """Until the next look at files."""
        time.sleep(LOOK_S)
