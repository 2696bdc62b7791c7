"""Raw rows of a table, column by column, as every reader hands them over.

block = {"age": np.array([31.0, np.nan]), "sex": Texts.of(["F", None])}
take_rows(block, [1])
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts of many rows, each distinct one held once.

    Attributes:
        codes: Place of each row's text in `values`, int32 `(num_rows,)`; -1 where missing.
        values: The distinct texts; some may belong to none of the rows.
    """

    codes: npt.NDArray[np.int32]
    values: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> "Texts":
        """The texts of rows, None where missing."""
        places: dict[str, int] = {}
        codes = [-1 if text is None else places.setdefault(text, len(places)) for text in texts]
        return cls(np.array(codes, dtype=np.int32), tuple(places))

    def __len__(self) -> int:
        """Rows."""
        return len(self.codes)

    @property
    def num_missing(self) -> int:
        """Rows without a text."""
        return int((self.codes < 0).sum())

    def take(self, rows: Any) -> "Texts":
        """The texts of some rows, by number, mask or slice."""
        return Texts(self.codes[rows], self.values)

    def first_of(self, texts: Collection[str]) -> str | None:
        """Which of these texts comes first; None if no row has one."""
        wanted = np.array([*(text in texts for text in self.values), False])[self.codes]
        return self.values[self.codes[wanted.argmax()]] if wanted.any() else None

    def without(self, missing: Collection[str]) -> "Texts":
        """The same rows, those missing whose text is empty or stands for a missing value."""
        gaps = {"", *missing}
        return self.renamed(lambda text: None if text.strip() in gaps else text)

    def renamed(self, rename: Callable[[str], str | None]) -> "Texts":
        """The same rows with other texts, None for missing; only texts that some row has."""
        used = np.zeros(len(self.values), dtype=bool)
        used[self.codes[self.codes >= 0]] = True
        places: dict[str, int] = {}
        new = [
            -1
            if not is_used or (name := rename(text)) is None
            else places.setdefault(name, len(places))
            for text, is_used in zip(self.values, used, strict=True)
        ]
        return Texts(np.array([*new, -1], dtype=np.int32)[self.codes], tuple(places))

    def counts(self) -> dict[str, int]:
        """Rows of each text that some row has."""
        rows = np.bincount(self.codes[self.codes >= 0], minlength=len(self.values))
        return {text: int(count) for text, count in zip(self.values, rows, strict=True) if count}

    def translated(self, numbers: Mapping[str, float], *, other: float, missing: float) -> Any:
        """Every row's text as the number it has, float32 `(num_rows,)`."""
        # Missing rows have the code -1, which is the last place.
        table = [*(numbers.get(text, other) for text in self.values), missing]
        return np.array(table, dtype=np.float32)[self.codes]


RawColumn = FloatArray | Texts
"""Values of a column: float64 with NaN for missing (numbers, booleans as 0 and 1, dates as seconds
since 1970), or texts (categories, and integer codes as decimal numbers)."""

Block = Mapping[str, RawColumn]
"""Columns of the same rows by name."""


def join_texts(parts: Sequence[Texts]) -> Texts:
    """The rows of several texts, one below the other."""
    places: dict[str, int] = {}
    codes = []
    for part in parts:
        new = [places.setdefault(text, len(places)) for text in part.values]
        codes.append(np.array([*new, -1], dtype=np.int32)[part.codes])
    return Texts(np.concatenate(codes), tuple(places))


def take_rows(block: Block, rows: Any) -> dict[str, RawColumn]:
    """Some rows of a block, by number, mask or slice."""
    return {
        name: column.take(rows) if isinstance(column, Texts) else column[rows]
        for name, column in block.items()
    }
