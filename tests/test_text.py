"""Words for a screen."""

import pytest

from dnnjob.text import counted


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (12_000, "12,000 runs")]
)
def test_one_thing_is_told_in_the_singular(number: int, told: str) -> None:
    assert counted(number, "run") == told
