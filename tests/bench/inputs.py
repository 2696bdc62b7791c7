"""The benchmark's tables, as dnnjob reads them and as its peers do.

housing = write_housing(Path("housing.csv"), folder=Path("build/bench"))
housing.source  # for dnnjob and the course's script
housing.arrays  # for the peers: the training rows as z-scores
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

HOUSING_COLUMNS = "CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO LSTAT MEDV".split()
HOUSING_ROWS = 506
LARGE_ROWS = 200_000
LARGE_FEATURES = 12
SPLIT_SEED = 0
"""Seed of the split, as `data.split_seed` of the job files beside this module."""


@dataclass(frozen=True)
class Table:
    """One table in both forms."""

    source: Path
    """The whole table, a CSV or Parquet file, target last."""
    arrays: Path
    """The training rows as z-scores, an .npz with x and y in float32."""
    num_train_rows: int
    """Rows of the training split."""


def write_housing(given: Path | None, *, folder: Path) -> Table:
    """The housing table, or a seeded one of its shape where none is given."""
    if given is None:
        source = folder / "housing.csv"
        frame = make_frame(HOUSING_ROWS, names=HOUSING_COLUMNS)
        frame.to_csv(source, index=False)
    else:
        source = given.resolve()
        frame = pd.read_csv(source)
    # Scaled by all rows, as the course does and standardize = "table" in housing.toml.
    return write_arrays(frame, source, folder / "housing.npz", test_fraction=0.3, scaled_by="table")


def write_large(*, folder: Path) -> Table:
    """A seeded table of 200,000 rows and 12 features."""
    source = folder / "large.parquet"
    names = [f"x{column}" for column in range(LARGE_FEATURES)] + ["y"]
    frame = make_frame(LARGE_ROWS, names=names)
    frame.to_parquet(source, index=False)
    return write_arrays(frame, source, folder / "large.npz", test_fraction=0.1, scaled_by="train")


def make_frame(num_rows: int, *, names: list[str]) -> pd.DataFrame:
    """A smooth nonlinear target of normal features, with noise; float32, target last."""
    rng = np.random.default_rng(20)
    x = rng.standard_normal((num_rows, len(names) - 1))
    directions = rng.standard_normal((len(names) - 1, 3)) / np.sqrt(len(names) - 1)
    y = np.tanh(x @ directions).sum(axis=1) + 0.2 * rng.standard_normal(num_rows)
    return pd.DataFrame(np.column_stack([x, y]).astype(np.float32), columns=names)


def write_arrays(
    frame: pd.DataFrame, source: Path, arrays: Path, *, test_fraction: float, scaled_by: str
) -> Table:
    """Writes the training rows of dnnjob's split as z-scores of all rows or of these."""
    values = frame.to_numpy(np.float64)
    train, _ = train_test_split(values, test_size=test_fraction, random_state=SPLIT_SEED)
    scale = values if scaled_by == "table" else train
    scores = ((train - scale.mean(axis=0)) / scale.std(axis=0)).astype(np.float32)
    np.savez(arrays, x=scores[:, :-1], y=scores[:, -1:])
    return Table(source=source, arrays=arrays, num_train_rows=len(train))
