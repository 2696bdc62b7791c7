"""What a person should know of a table, from what its columns add up to."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.config import DataConfig
from dnnjob.data.data_warnings import facts_of_totals, find_weaknesses
from dnnjob.data.running_statistics import NumberTotals, measure_column
from dnnjob.data.schema import Column
from tests.data.opened import open_table

# More than are held one by one.
NUM_ROWS = 200_000
ROWS = np.arange(1.0, NUM_ROWS + 1)


@pytest.mark.parametrize(
    ("values", "is_id"),
    [
        (ROWS, True),
        (ROWS[::-1] + 10_000, True),
        (np.random.default_rng(0).permutation(ROWS), True),
        (ROWS / 2, False),
        (np.random.default_rng(0).integers(1, NUM_ROWS + 1, NUM_ROWS).astype(float), False),
        (np.where(ROWS < NUM_ROWS, np.minimum(ROWS, 100_000), NUM_ROWS), False),
    ],
    ids=["in order", "from the last", "shuffled", "halves", "drawn", "held"],
)
def test_numbers_from_one_on_are_ids_in_a_long_table(values: np.ndarray, is_id: bool) -> None:
    found = measure_column(values)
    assert isinstance(found, NumberTotals)
    assert (found.sketch.samples()[1] > 1).any()

    assert facts_of_totals(Column("n", "numeric"), found, is_target=False).is_id == is_id


@pytest.mark.parametrize("name", ["customer_id", "price"])
def test_ids_with_gaps_are_told_in_a_long_table(tmp_path: Path, name: str) -> None:
    ids = np.random.default_rng(0).choice(10 * NUM_ROWS, NUM_ROWS, replace=False)
    y = np.random.default_rng(1).integers(0, 90, NUM_ROWS)
    pq.write_table(pa.table({name: ids, "y": y}), tmp_path / "t.parquet")

    warnings = open_table(DataConfig(source=str(tmp_path / "t.parquet"), target="y")).warnings

    expected = f'If it is one, set data.id_columns = ["{name}"].'
    assert any(expected in one for one in warnings) == (name == "customer_id")


def tell(*names: str) -> list[str]:
    found = measure_column(np.arange(30.0) ** 2)
    facts = [facts_of_totals(Column(name, "numeric"), found, is_target=False) for name in names]
    data = DataConfig(source="t.csv", target=names[-1])
    return [
        warning for warning in find_weaknesses(data, facts[:-1], facts[-1]) if "add a" in warning
    ]


def test_names_that_are_numbers_may_be_a_row() -> None:
    assert tell("0.00632", "18", "24.5") == [
        "the names of the columns are numbers: 0.00632, 18, 24.5. If the first line is a row, "
        "add a line with names above it."
    ]


@pytest.mark.parametrize(
    "names",
    [
        ("0", "1", "2"),
        ("2019", "2020", "2021", "2022"),
        ("1.5", "y"),
        # Years, wavelengths and some of many columns that are counted, whatever the target is.
        ("1960", "1970", "1980", "1990", "2000", "2010", "5"),
        ("700.5", "698.2", "695.1", "640", "612.5", "600", "1"),
        ("3", "40", "77", "250", "512", "783", "0"),
    ],
)
def test_names_that_count_or_say_something_are_names(names: tuple[str, ...]) -> None:
    assert not tell(*names)
