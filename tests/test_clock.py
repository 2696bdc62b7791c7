"""Times of a run."""

import time

from dnnjob.clock import Stopwatch


def test_phases_add_up_and_the_age_of_the_process_counts() -> None:
    watch = Stopwatch(age_s=100.0)

    for _ in range(2):
        with watch.time("load"):
            time.sleep(0.02)

    assert 0.04 <= watch.seconds["load"] < 10
    assert 100.04 <= watch.total < 110


def test_processor_time_before_a_later_run_of_the_process_is_not_its_own() -> None:
    sum(range(10**6))

    assert Stopwatch(age_s=1.0).cpu_s > Stopwatch().cpu_s
    assert Stopwatch().cpu_s < 0.1
