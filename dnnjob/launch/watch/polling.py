"""How often a waiting command looks: at a few files every second, at Slurm far more rarely.

pace = Pace()
while not over:
    if pace.is_due(): ask_slurm()
    pace.sleep(num_runs=3)
"""

import time

LOOK_S = 1.0
"""Between two looks at the files of few runs."""
# A login node and shared storage have other work: of many runs, this many a second.
_RUNS_A_SECOND = 50
_LONGEST_LOOK_S = 30.0
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

    def sleep(self, *, num_runs: int = 1) -> None:
        """Until the next look at the files of so many runs."""
        time.sleep(max(LOOK_S, min(num_runs / _RUNS_A_SECOND, _LONGEST_LOOK_S)))
