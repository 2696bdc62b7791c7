"""Learning rates, checked by hand."""

import numpy as np
import pytest

from dnnjob.config import TrainConfig
from dnnjob.training.schedule import learning_rates


def rates_of(steps: list[int], **settings: object) -> np.ndarray:
    train = TrainConfig(learning_rate=0.1, **settings)
    return learning_rates(train, steps=np.array(steps), num_steps=100)


def test_a_constant_rate_stays() -> None:
    assert rates_of([0, 50, 99]) == pytest.approx([0.1, 0.1, 0.1])


def test_a_cosine_starts_at_the_peak_halves_in_the_middle_and_ends_near_zero() -> None:
    assert rates_of([0, 50, 99], schedule="cosine") == pytest.approx(
        [0.1, 0.05, 0.0000247], rel=0.01
    )


def test_an_exponential_loses_a_factor_of_ten_by_the_middle() -> None:
    assert rates_of([0, 50, 99], schedule="exponential") == pytest.approx(
        [0.1, 0.01, 0.1 * 0.01**0.99]
    )


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential"])
def test_a_warm_up_rises_linearly_to_the_schedules_peak(schedule: str) -> None:
    rates = rates_of(list(range(6)), schedule=schedule, warmup_steps=4)

    assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert rates[5] <= rates[4]


def test_rates_are_float32_of_the_shape_of_the_steps() -> None:
    rates = rates_of([3, 1, 2], schedule="cosine")

    assert rates.dtype == np.float32
    assert rates[1] > rates[2] > rates[0]
