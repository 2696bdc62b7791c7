"""How the text of a table writes numbers and dates, said by a job or found.

found = TextFormat.of(job.data)
found.marks, found.dates, found.units
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dnnjob.config.data_section import DataConfig

# Blanks and apostrophes of other kinds as they are: RE2 and Python escape them differently.
_THOUSANDS = {"": "", ",": ",", ".": r"\.", " ": "[ \u00a0\u2009\u202f]", "'": "['\u2019]"}


class Marks(NamedTuple):
    """What stands before the fraction of a number, and between its thousands."""

    decimal: str
    thousands: str

    @property
    def pattern(self) -> str:
        """What a number looks like, as RE2 has it; thousands may be left together."""
        point, group = re.escape(self.decimal), self.group
        whole = rf"(?:[1-9]\d{{0,2}}(?:{group}\d{{3}})+|\d+)" if group else r"\d+"
        number = rf"(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?"
        return rf"^[+-]?(?:{number}|(?i:nan|inf|infinity))$"

    @property
    def group(self) -> str:
        """What stands between thousands, as RE2 has it."""
        return _THOUSANDS[self.thousands]

    @property
    def described(self) -> str:
        """In words, for whoever cannot set keys of a job."""
        between = repr(self.thousands) if self.thousands else "nothing"
        return f"{self.decimal!r} before their fraction and {between} between thousands"

    def __str__(self) -> str:
        """As keys of a job."""
        thousands = f' and data.thousands = "{self.thousands}"' if self.thousands else ""
        return f'data.decimal = "{self.decimal}"{thousands}'


PLAIN = Marks(".", "")
# Blanks and apostrophes stand in phone numbers, too: these are asked for.
GUESSED_MARKS = (PLAIN, Marks(".", ","), Marks(",", ""), Marks(",", "."))
ASKED_MARKS = tuple(Marks(decimal, thousands) for decimal in ".," for thousands in " '")


@dataclass(frozen=True)
class TextFormat:
    """How the text of a table writes what it holds, as far as it is known.

    Attributes:
        decimal: What stands before the fraction of a number.
        thousands: What stands between its thousands; "" for nothing.
        dates: Formats of dates beside ISO 8601.
        units: What the numbers of a column carry, by its name.
        encoding: Of the files; UTF-8, if None.
        warnings: What a person should know, by the column that it is about.
    """

    decimal: str | None = None
    thousands: str | None = None
    dates: tuple[str, ...] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    warnings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, data: "DataConfig") -> "TextFormat":
        """What a job says."""
        units = {name: one.unit for name, one in data.columns.items() if one.unit}
        return cls(data.decimal, data.thousands, data.date_format, units, data.encoding)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be found, as in the resolved job of a run."""
        return None not in (self.decimal, self.thousands, self.dates)

    def allows(self, marks: Marks) -> bool:
        """Whether numbers may be written so; marks that nobody guesses must be named."""
        if self.decimal not in (None, marks.decimal):
            return False
        if self.thousands is None:
            return marks not in ASKED_MARKS
        return marks.thousands == self.thousands

    @property
    def marks(self) -> Marks:
        """Those of numbers."""
        return Marks(self.decimal or ".", self.thousands or "")

    def doubts_of(self, names: Collection[str]) -> tuple[tuple[str, str], ...]:
        """The warnings that are about some columns, with their names."""
        wanted = set(names)
        return tuple((name, warning) for name, warning in self.warnings if name in wanted)

    @property
    def keys(self) -> dict[str, Any]:
        """As keys of the section [data] of a resolved job; units are keys of its columns."""
        return {
            "decimal": self.decimal,
            "thousands": self.thousands,
            "date_format": self.dates,
            "encoding": self.encoding or "utf-8",
        }


NO_FORMAT = TextFormat()
"""Nothing is known: the table shows it."""


def may_be_left_out(unit: str) -> bool:
    """Whether a plain number is one of a known unit: 0.34 may be 34 %."""
    return unit != "%"
