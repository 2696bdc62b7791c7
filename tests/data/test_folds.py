"""Which member leaves which training rows out."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import resolve_job
from dnnjob.data.folds import deal_folds
from dnnjob.errors import JobError
from tests.data.opened import OpenedTable, split_table


def open_split(tmp_path: Path, num_rows: int = 103, **data: Any) -> OpenedTable:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=num_rows),
            "when": rng.permutation(num_rows).astype(float),
            "who": [f"w{number}" for number in rng.integers(0, 17, size=num_rows)],
            "y": rng.normal(size=num_rows),
            "few": np.arange(num_rows) % 50 == 0,
            "some": np.arange(num_rows) % 3 > 0,
        }
    ).astype({"few": float, "some": float})
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    section = {"source": str(path), "target": "y", "test_fraction": 0.2, **data}
    return split_table(resolve_job({"name": "folds", "data": section}, origin="test"))


def column(opened: OpenedTable, tmp_path: Path, name: str) -> np.ndarray:
    """A column of the training rows, in the order of the table."""
    return pd.read_csv(tmp_path / "table.csv")[name].to_numpy()[opened.split.train]


def test_rows_are_dealt_to_folds_of_equal_size_by_the_seed(tmp_path: Path) -> None:
    opened = open_split(tmp_path)
    folds = deal_folds(opened.table, count=5, seed=1)
    sizes = np.bincount(folds)
    assert (len(folds), len(sizes)) == (len(opened.split.train), 5)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(folds, deal_folds(opened.table, count=5, seed=1))
    assert (folds != deal_folds(opened.table, count=5, seed=2)).any()
    # No runs of neighbours.
    assert np.mean(folds[1:] == folds[:-1]) < 0.5


def test_groups_stay_together_in_folds_of_nearly_equal_size(tmp_path: Path) -> None:
    opened = open_split(tmp_path, split="group", split_column="who")
    folds, who = deal_folds(opened.table, count=3, seed=1), column(opened, tmp_path, "who")
    assert all(len(set(folds[who == name])) == 1 for name in set(who))
    sizes, largest = np.bincount(folds), max(np.sum(who == name) for name in set(who))
    assert sizes.max() - sizes.min() <= largest


def test_time_is_cut_into_stretches(tmp_path: Path) -> None:
    opened = open_split(tmp_path, split="time", split_column="when")
    folds, when = deal_folds(opened.table, count=4, seed=1), column(opened, tmp_path, "when")
    ends = [(when[folds == fold].min(), when[folds == fold].max()) for fold in range(4)]
    assert all(last < first for (_, last), (first, _) in pairwise(ends))


@pytest.mark.parametrize(
    ("data", "count", "told"),
    [
        ({}, 9, "9 members, but there are 8 training rows"),
        ({"split": "group", "split_column": "who"}, 50, "groups of 'who'"),
    ],
)
def test_more_members_than_rows_or_groups_are_refused(
    tmp_path: Path, data: dict[str, Any], count: int, told: str
) -> None:
    opened = open_split(tmp_path, num_rows=10 if not data else 200, **data)
    with pytest.raises(JobError, match=told):
        deal_folds(opened.table, count=count, seed=0)


def test_a_fold_whose_rows_weigh_nothing_is_refused(tmp_path: Path) -> None:
    opened = open_split(tmp_path, weight_column="few", test_fraction=0.0)

    with pytest.raises(JobError, match=r"[2-4] of 5 have none by 'few'\. Lower model\.members"):
        deal_folds(opened.table, count=5, seed=0)


def test_weights_do_not_change_how_rows_are_dealt(tmp_path: Path) -> None:
    weighted, plain = open_split(tmp_path, weight_column="some"), open_split(tmp_path)

    folds = [deal_folds(opened.table, count=5, seed=0) for opened in (weighted, plain)]

    np.testing.assert_array_equal(*folds)
