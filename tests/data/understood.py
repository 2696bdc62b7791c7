"""What dnnjob understands in a file of text: each case is a test and a line of docs/tables.md."""

import datetime
from dataclasses import dataclass
from typing import Any

Expected = float | str | bool | datetime.datetime | None


def day(year: int, month: int, date: int, hour: int = 0, minute: int = 0) -> datetime.datetime:
    return datetime.datetime(year, month, date, hour, minute)


@dataclass(frozen=True)
class Case:
    """Values of a column, and what they are.

    Attributes:
        topic: Heading of the lines of its like.
        written: The values as the file has them.
        kind: What the column holds.
        values: What they are.
        beside: Values of another column of the same file, which helps to tell.
        keys: Of the section [data].
        note: For the reader of the page.
    """

    topic: str
    written: tuple[str, ...]
    kind: str
    values: tuple[Expected, ...]
    beside: tuple[str, ...] = ()
    keys: tuple[tuple[str, Any], ...] = ()
    note: str = ""


NUMBERS, DATES, GAPS, OTHERS = "Numbers", "Dates and times", "Gaps and blanks", "Other texts"
CASES = (
    Case(NUMBERS, ("1", "-2", "+3"), "numeric", (1, -2, 3)),
    Case(NUMBERS, ("1.5", ".5", "2.", "3e-2"), "numeric", (1.5, 0.5, 2, 0.03)),
    Case(NUMBERS, ("1,5", ",25", "7"), "numeric", (1.5, 0.25, 7), note="decimal commas"),
    Case(NUMBERS, ("7.804,5", "15608"), "numeric", (7804.5, 15608)),
    Case(NUMBERS, ("1,234.5", "12"), "numeric", (1234.5, 12)),
    Case(NUMBERS, ("1,234,567", "12"), "numeric", (1234567, 12)),
    Case(
        NUMBERS,
        ("1,202", "939"),
        "numeric",
        (1202, 939),
        beside=("1.5", "2.25"),
        note="another column has decimal points",
    ),
    Case(
        NUMBERS,
        ("1.000", "12.343"),
        "numeric",
        (1000, 12343),
        beside=("1,5", "2,25"),
        note="another column has decimal commas",
    ),
    Case(NUMBERS, ("1.234", "12.343"), "numeric", (1.234, 12.343), note="nothing tells: a warning"),
    Case(NUMBERS, ("1,234", "939"), "numeric", (1234, 939), note="nothing tells: a warning"),
    Case(NUMBERS, ("1,234", "1500"), "numeric", (1.234, 1500), note="1500 has no thousands mark"),
    Case(NUMBERS, ("1 234", "12"), "numeric", (1234, 12), keys=(("thousands", " "),)),
    Case(NUMBERS, ("1'234", "12"), "numeric", (1234, 12), keys=(("thousands", "'"),)),
    Case(NUMBERS, ("$1,200", "-$3"), "numeric", (1200, -3), note="every value carries the sign"),
    Case(NUMBERS, ("1,50 €", "3,25 €"), "numeric", (1.5, 3.25)),
    Case(NUMBERS, ("34 %", "7%"), "numeric", (34, 7), note="the number is kept as it is written"),
    Case(
        NUMBERS,
        ("78.3 m2", "9 m2"),
        "numeric",
        (78.3, 9),
        keys=(("columns", {"x": {"unit": "m2"}}),),
    ),
    Case(NUMBERS, ("78.3 m2", "9 m2"), "text", ("78.3 m2", "9 m2"), note="a warning names the key"),
    Case(NUMBERS, ("inf", "-Infinity", "1"), "numeric", (float("inf"), float("-inf"), 1)),
    Case(NUMBERS, ("007", "12"), "numeric", (7, 12), note="a warning: codes are texts"),
    Case(NUMBERS, ("1_10", "11_0"), "text", ("1_10", "11_0")),
    Case(NUMBERS, ("١", "٢"), "text", ("١", "٢"), note="digits of other scripts"),  # noqa: RUF001
    Case(NUMBERS, ("0x1F", "7"), "text", ("0x1F", "7")),
    Case(NUMBERS, ("(1,200)", "5"), "text", ("(1,200)", "5"), note="a warning"),
    Case(NUMBERS, ("\u22125", "5"), "text", ("\u22125", "5"), note="another minus: a warning"),
    Case(
        DATES,
        ("2024-01-31", "2024-02-29 12:30"),
        "datetime",
        (day(2024, 1, 31), day(2024, 2, 29, 12, 30)),
    ),
    Case(
        DATES,
        ("2024-01-31T10:30:00.75+02:00", "2024-01-31T10:30Z"),
        "datetime",
        (day(2024, 1, 31, 10, 30), day(2024, 1, 31, 10, 30)),
        note="as the clock shows it, without its zone",
    ),
    Case(DATES, ("31.12.2020", "1.2.2021"), "datetime", (day(2020, 12, 31), day(2021, 2, 1))),
    Case(DATES, ("31/12/2020", "01/02/2021"), "datetime", (day(2020, 12, 31), day(2021, 2, 1))),
    Case(
        DATES,
        ("12/31/2020", "01/02/2021 8:15"),
        "datetime",
        (day(2020, 12, 31), day(2021, 1, 2, 8, 15)),
    ),
    Case(
        DATES,
        ("01/02/2021", "03/04/2021"),
        "datetime",
        (day(2021, 2, 1), day(2021, 4, 3)),
        beside=("31/12/2020", "01/01/2021"),
        note="another column tells the order",
    ),
    Case(
        DATES,
        ("01/02/2021", "03/04/2021"),
        "text",
        ("01/02/2021", "03/04/2021"),
        note="nothing tells: a warning",
    ),
    Case(
        DATES,
        ("01/02/2021", "03/04/2021"),
        "datetime",
        (day(2021, 2, 1), day(2021, 4, 3)),
        keys=(("date_format", "%d/%m/%Y"),),
    ),
    Case(
        DATES,
        ("31 Dec 2020", "1 Feb 2021"),
        "datetime",
        (day(2020, 12, 31), day(2021, 2, 1)),
        keys=(("date_format", "%d %b %Y"),),
    ),
    Case(
        DATES,
        ("31 Dec 2020", "1 Feb 2021"),
        "text",
        ("31 Dec 2020", "1 Feb 2021"),
        note="a warning names the key",
    ),
    Case(
        DATES,
        ("2024-01-31", "31.12.2020"),
        "datetime",
        (day(2024, 1, 31), day(2020, 12, 31)),
        keys=(("date_format", "%d.%m.%Y"), ("columns", {"x": {"kind": "datetime"}})),
        note="a warning names the keys",
    ),
    Case(
        DATES,
        ("20240131", "20201231"),
        "datetime",
        (day(2024, 1, 31), day(2020, 12, 31)),
        keys=(("date_format", "%Y%m%d"), ("columns", {"x": {"kind": "datetime"}})),
        note="a warning names the keys",
    ),
    Case(DATES, ("14:30", "8:05"), "datetime", (day(1970, 1, 1, 14, 30), day(1970, 1, 1, 8, 5))),
    Case(
        DATES,
        ("3:15 PM", "12:05 AM"),
        "datetime",
        (day(1970, 1, 1, 15, 15), day(1970, 1, 1, 0, 5)),
        keys=(("date_format", "%I:%M %p"),),
        note="a warning names the key",
    ),
    Case(
        DATES,
        ("2023-02-29", "2024-01-01"),
        "text",
        ("2023-02-29", "2024-01-01"),
        note="no such day",
    ),
    Case(GAPS, ("1", "", "NA", "?", " - "), "numeric", (1, None, None, None, None)),
    Case(GAPS, ("red", "null", "N/A"), "text", ("red", None, None)),
    Case(GAPS, ("1", r"\N"), "numeric", (1, None), keys=(("missing", (r"\N",)),)),
    Case(GAPS, ("1", "-999"), "numeric", (1, None), keys=(("missing", ("-999",)),)),
    Case(GAPS, (" 2024-01-01", "2024-01-02 "), "datetime", (day(2024, 1, 1), day(2024, 1, 2))),
    Case(GAPS, (" True", "False "), "boolean", (True, False)),
    Case(GAPS, (" Bern", "Bern"), "text", ("Bern", "Bern")),
    Case(OTHERS, ("True", "false", "TRUE"), "boolean", (True, False, True)),
    Case(OTHERS, ("yes", "no"), "text", ("yes", "no")),
    Case(OTHERS, ("yes", "no"), "boolean", (True, False), keys=(("columns", {"x": "boolean"}),)),
    Case(OTHERS, ("007", "12"), "text", ("007", "12"), keys=(("columns", {"x": "text"}),)),
    Case(OTHERS, ("007", "7.0"), "codes", ("7", "7"), keys=(("columns", {"x": "codes"}),)),
)
