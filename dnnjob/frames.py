"""Collected and single tables of runs as frames of pandas.

frame = collect_frame(Path("runs"), where={"name": "houses"}, by="auto", sort=None)
folder = best_folder(Path("runs"), metric="validation_mse", where="seed=0")
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Where = str | Sequence[str] | Mapping[str, object]
"""Conditions: "COLUMN=VALUE", several of them, or columns with their values."""


def collect_frame(
    root: Path, *, where: Where, by: str | Sequence[str] | None, sort: str | None
) -> "pd.DataFrame":
    """The collected table; arguments and errors are those of `dnnjob.collect`."""
    from dnnjob.collect.collected_runs import read_runs
    from dnnjob.collect.selection import choose_lines, shape_lines

    lines = choose_lines(read_runs(root), _conditions(where))
    keys = by if by is None or isinstance(by, str) else ",".join(by)
    keys = "" if keys == "auto" else keys
    return to_frame(shape_lines(lines, sort=sort, by=keys, columns=None))


def best_folder(root: Path, *, metric: str, where: Where) -> Path:
    """The folder of the best run; arguments and errors are those of `dnnjob.best`."""
    from dnnjob.collect.best import choose_best

    return choose_best(root, metric=metric, where=_conditions(where)).absolute()


def to_frame(table: "pa.Table") -> "pd.DataFrame":
    """The table with types of pandas that know gaps."""
    import pandas as pd
    import pyarrow as pa

    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get)
    return frame


def _conditions(where: Where) -> list[str]:
    if isinstance(where, str):
        return [where]
    if isinstance(where, Mapping):
        return [f"{column}={_as_text(value)}" for column, value in where.items()]
    return list(where)


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
