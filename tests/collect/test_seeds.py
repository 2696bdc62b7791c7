"""Seeds together, against pandas and scipy."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.collected_table import make_table
from dnnjob.collect.seeds import make_settings, setting_keys
from dnnjob.errors import JobError
from tests.collect.make_runs import Wish, make_root, write_run

RATE = "job.train.learning_rate"


def load(root: Path) -> pa.Table:
    return make_table(read_runs(root))


def test_each_setting_has_its_mean_spread_and_counts(sweep_root: Path) -> None:
    table = load(sweep_root)
    best, other, failed = make_settings(table, [RATE]).to_pylist()
    assert (best[RATE], best["best"], best["num_runs"], best["num_scored"]) == (0.01, True, 3, 3)
    assert (best["test_mse_mean"], best["test_mse_std"], best["test_mse_min"]) == (11.0, 1.0, 10.0)
    assert (other[RATE], other["best"], other["test_mse_mean"]) == (0.1, False, 15.0)
    assert (failed[RATE], failed["num_runs"], failed["num_failed"]) == (1.0, 1, 1)
    assert (failed["test_mse_mean"], failed["best"], failed["num_scored"]) == (None, False, 0)


def test_the_difference_to_the_next_is_paired_by_split(sweep_root: Path) -> None:
    best, other, _ = make_settings(load(sweep_root), [RATE]).to_pylist()
    truth = stats.ttest_rel([10.0, 12.0, 11.0], [14.0, 13.0, 18.0])
    assert best["next_difference"] == pytest.approx(-4.0)
    assert best["next_num_pairs"] == 3
    ends = (best["next_difference_low"], best["next_difference_high"])
    assert ends == pytest.approx(tuple(truth.confidence_interval(0.95)))
    assert other["next_num_pairs"] is None  # the next has no errors


def test_runs_on_other_splits_are_no_pairs(root: Path) -> None:
    write_run(root, Wish(number=0, learning_rate=0.01, split_seed=1))
    write_run(root, Wish(number=1, learning_rate=0.1, split_seed=2))
    assert make_settings(load(root), [RATE])["next_num_pairs"].to_pylist() == [None, None]


def test_runs_on_another_table_are_no_pairs(root: Path) -> None:
    write_run(root, Wish(number=0, learning_rate=0.01))
    write_run(root, Wish(number=1, learning_rate=0.1, fingerprint="other"))
    assert make_settings(load(root), [RATE])["next_num_pairs"].to_pylist() == [None, None]


def test_several_runs_on_one_split_count_as_their_mean(root: Path) -> None:
    for number, mse in enumerate((10.0, 14.0)):
        write_run(root, Wish(number=number, seed=number, split_seed=0, test_mse=mse))
    write_run(root, Wish(number=2, split_seed=0, learning_rate=0.1, test_mse=13.0))
    best = make_settings(load(root), [RATE]).to_pylist()[0]
    assert (best["next_difference"], best["next_num_pairs"]) == (-1.0, 1)
    assert best["next_difference_low"] is None


def test_by_default_everything_that_varies_makes_a_setting(root: Path) -> None:
    write_run(root, Wish(number=0, seed=0))
    write_run(root, Wish(number=1, seed=1, learning_rate=0.1))
    assert setting_keys(load(root)) == [RATE]
    write_run(root, Wish(number=2, name="other"))
    (root / "housing" / "notes").mkdir()
    assert setting_keys(load(root)) == ["name", RATE]


def test_the_keys_may_be_named(sweep_root: Path) -> None:
    assert setting_keys(load(sweep_root), "seed, train.optimizer,seed") == [
        "seed",
        "job.train.optimizer",
    ]


def test_a_key_that_is_no_column_is_refused(sweep_root: Path) -> None:
    with pytest.raises(JobError, match=r"Did you mean job.train.learning_rate"):
        setting_keys(load(sweep_root), "train.learnin_rate")


def test_the_end_of_a_key_names_it(sweep_root: Path) -> None:
    assert setting_keys(load(sweep_root), "learning_rate") == ["job.train.learning_rate"]


def test_settings_are_ranked_by_validation_rows_where_runs_have_them(root: Path) -> None:
    for number, (rate, validation, test) in enumerate([(0.1, 2.0, 9.0), (0.2, 4.0, 1.0)]):
        write_run(
            root,
            Wish(number=number, learning_rate=rate, validation_mse=validation, test_mse=test),
        )
    first, second = make_settings(load(root), ["job.train.learning_rate"]).to_pylist()
    assert (first["job.train.learning_rate"], first["best"], second["best"]) == (0.1, True, False)
    assert (first["validation_mse_mean"], first["test_mse_mean"]) == (2.0, 9.0)
    assert first["next_difference"] == -2.0


def test_a_setting_is_not_made_of_its_own_measure(sweep_root: Path) -> None:
    table = load(sweep_root).append_column("best", pa.array([True] * 7))
    with pytest.raises(JobError, match="--by takes columns that tell runs apart, but got best"):
        make_settings(table, ["best"])


def test_folders_of_which_nothing_is_known_are_no_setting(sweep_root: Path) -> None:
    (sweep_root / "notes").mkdir()
    assert make_settings(load(sweep_root), [RATE]).num_rows == 3


def test_without_runs_there_are_no_settings(root: Path) -> None:
    assert make_settings(load(root), []).num_rows == 0


def test_pandas_finds_the_same(root: Path) -> None:
    make_root(root, num_runs=200, broken_fraction=0.05, num_jobs=1)
    table = load(root)
    keys = setting_keys(table)
    ours = make_settings(table, keys).to_pandas().set_index(keys).sort_index()
    frame = table.to_pandas()
    groups = frame[frame["state"].notna()].groupby(keys)
    truth = groups["test_mse"].agg(["mean", "std", "min", "count"]).sort_index()
    failed = groups["state"].agg(lambda states: (states == "FAILED").sum()).sort_index()
    for mine, theirs in (
        (ours["test_mse_mean"], truth["mean"]),
        (ours["test_mse_std"], truth["std"]),
        (ours["test_mse_min"], truth["min"]),
        (ours["num_scored"], truth["count"]),
        (ours["num_failed"], failed),
    ):
        pd.testing.assert_series_equal(mine, theirs, check_names=False, check_dtype=False)
