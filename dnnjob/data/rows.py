"""The rows of a table behind one interface, wherever they are.

rows = ArrowRows(pa.table({"x": [1.0, 2.0], "y": [3.0, 4.0]}))
for first, table in rows.batches(size=65_536): ...    # in order, cut at will
table = rows.read(range(0, 1))                        # some row groups, any thread
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

# Of a table in memory, which could be cut anywhere.
_GROUP_ROWS = 2**14


class Rows(Protocol):
    """Typed columns in row groups; several threads may read."""

    @property
    def schema(self) -> pa.Schema:
        """The columns and their types."""
        ...

    @property
    def num_rows(self) -> int:
        """How many there are."""
        ...

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """First row of each row group, and the number of rows, `(num_groups + 1,)`."""
        ...

    @property
    def num_read_bytes(self) -> int:
        """Bytes of files that were asked for so far."""
        ...

    def select(self, names: Sequence[str]) -> "Rows":
        """The same rows, of which these columns are read."""
        ...

    def read(self, groups: range) -> pa.Table:
        """Consecutive row groups.

        Raises:
            DataError: If one cannot be read.
        """
        ...

    def batches(self, *, size: int, first: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """First row and rows of consecutive pieces of `size` rows, the last one shorter.

        Args:
            size: Rows of a piece.
            first: The row to begin with.

        Raises:
            DataError: If rows cannot be read.
        """
        ...


@dataclass(frozen=True, eq=False)
class ArrowRows:
    """Rows in memory."""

    table: pa.Table

    num_read_bytes = 0

    @property
    def schema(self) -> pa.Schema:
        """As `Rows` has it, like all that follows."""
        return self.table.schema

    @property
    def num_rows(self) -> int:
        """See there."""
        return int(self.table.num_rows)

    @cached_property
    def starts(self) -> npt.NDArray[np.int64]:
        """See there."""
        return np.append(np.arange(0, self.num_rows, _GROUP_ROWS, dtype=np.int64), self.num_rows)

    def select(self, names: Sequence[str]) -> "ArrowRows":
        """See there."""
        return ArrowRows(self.table.select(list(names)))

    def read(self, groups: range) -> pa.Table:
        """See there."""
        first, stop = self.starts[groups.start], self.starts[groups.stop]
        return self.table.slice(first, stop - first)

    def batches(self, *, size: int, first: int = 0) -> Iterator[tuple[int, pa.Table]]:
        """See there."""
        for start in range(first, self.num_rows, size):
            yield start, self.table.slice(start, size)
