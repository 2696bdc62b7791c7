"""Tables on a screen."""

import pytest
from rich.cells import cell_len

from dnnjob.collect.terminal import Column, escape, fit_columns, render_table, to_cell

NAMES = Column("name", ("housing", "日本語の名前"), flexible=True)
ERRORS = Column("mse", ("1.5", "12.5"), side="right")


def test_columns_line_up_also_under_wide_letters() -> None:
    lines = render_table([NAMES, ERRORS], width=None).text.splitlines()
    assert lines[0] == "name           mse"
    assert lines[1] == "housing        1.5"
    assert cell_len(lines[2]) == cell_len(lines[0])


@pytest.mark.parametrize("width", [80, 40, 20, 12, 5])
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    columns = [
        Column("name", ("n" * 100,), flexible=True, rank=1),
        Column("reason", ("é日" * 50,), flexible=True, rank=2),
        Column("mse", ("12.5",), side="right"),
    ]
    screen = render_table(columns, width=width)
    assert all(cell_len(line) <= width for line in screen.text.splitlines())


def test_texts_are_cut_before_a_column_goes() -> None:
    long = Column("reason", ("x" * 50, ""), flexible=True, rank=1)
    screen = render_table([long, ERRORS], width=20)
    assert screen.dropped == ()
    assert "…" in screen.text


def test_the_column_of_the_highest_rank_goes_first() -> None:
    columns = [Column(str(rank), ("x" * 10,), rank=rank) for rank in (0, 2, 1)]
    screen = render_table(columns, width=23)
    assert screen.dropped == ("2",)


def test_a_pipe_gets_every_column_and_texts_of_500_letters() -> None:
    columns = [Column("a", ("x" * 500,), flexible=True), Column("b", ("y" * 10**6,), flexible=True)]
    shown, widths = fit_columns(columns, None)
    assert (len(shown), widths) == (2, [500, 500])


def test_the_head_is_bold_on_a_terminal() -> None:
    assert render_table([ERRORS], width=80, bold=True).text.startswith("\x1b[1m")


def test_control_characters_cannot_reach_the_terminal() -> None:
    assert escape("a\x1b[2Jb\r\n\u202e") == r"a\x1b[2Jb\r\n\u202e"


def test_markup_is_text() -> None:
    assert escape("[red]é & <b>[/red]") == "[red]é & <b>[/red]"


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (False, "no"), (0.1, "0.1"), (7, "7"), (None, "\N{EN DASH}")]
)
def test_values_read_as_people_write_them(value: object, text: str) -> None:
    assert to_cell(value) == text
