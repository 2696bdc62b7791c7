"""Numbers as people read them."""

import pytest

from dnnjob.results.notation import (
    format_change,
    format_number,
    format_seconds,
    format_share,
    say_against,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.09322, "0.09322"),
        (7.87, "7.870"),
        (91_700.0, "91,700"),
        (0.000123, "0.0001230"),
        (999_499.4, "999,499"),
        (999_999.6, "1.000e6"),
        (0.99996, "1.000"),
        (4_256_213_540.0, "4.256e9"),
        (1.5e-9, "1.500e-9"),
        (2e12, "2.000e12"),
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


@pytest.mark.parametrize("size", range(-9, 13))
def test_no_figure_of_any_size_takes_more_than_nine_letters(size: int) -> None:
    assert all(len(format_number(lead * 10.0**size)) <= 9 for lead in (1.0, 3.3333, 9.99996))


def test_a_share_is_a_percentage() -> None:
    assert [format_share(value) for value in (0.0342, 1.5, 250.0)] == [
        "3.42 %",
        "150 %",
        "25,000 %",
    ]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (7.0, "30 % better"),
        (12.3, "23 % worse"),
        (10.01, "equal"),
        (3110.0, "311 times worse"),
        (0.1, "100 times better"),
        (0.0, "100 % better"),
    ],
)
def test_an_error_is_said_to_be_better_or_worse(error: float, text: str) -> None:
    assert say_against(error, 10.0) == text
