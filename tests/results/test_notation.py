"""Numbers as people read them."""

import pytest

from dnnjob.results.notation import format_change, format_number, format_seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.09322, "0.09322"),
        (7.87, "7.870"),
        (91_700.0, "91,700"),
        (1.5e-9, "1.500e-09"),
        (2e12, "2.000e+12"),
        (-3.14159, "-3.142"),
    ],
)
def test_numbers_keep_four_digits(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.423, "0.42 s"),
        (59.94, "59.9 s"),
        (59.97, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18_725, "5 h 12 min"),
    ],
)
def test_durations_are_said_as_people_do(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "\N{MINUS SIGN}50 %"), (1.0, "+0 %"), (2.2, "+120 %"), (12.0, "12 times")],
)
def test_changes_are_signed_percentages(value: float, text: str) -> None:
    assert format_change(value, 1.0) == text
