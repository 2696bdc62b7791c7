"""Words for a screen."""

import pytest

from dnnjob.text import counted, spanned


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (12_000, "12,000 runs")]
)
def test_one_thing_is_told_in_the_singular(number: int, told: str) -> None:
    assert counted(number, "run") == told


@pytest.mark.parametrize(("numbers", "told"), [([3, 3], "3"), ([5, 3, 7], "3 to 7")])
def test_numbers_are_told_by_the_least_and_the_largest(numbers: list[int], told: str) -> None:
    assert spanned(numbers) == told
