"""Two runs side by side."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

from dnnjob.collect.compare import compare_runs, pair_squared_errors
from dnnjob.errors import DataError, JobError
from tests.collect.make_runs import Wish, make_report, write_json, write_run


def write(root: Path, number: int, **wish: object) -> Path:
    values = {"number": number, "predictions": True, "split_seed": 0, **wish}
    return write_run(root, Wish(**values))  # type: ignore[arg-type]


def test_what_differs_is_listed_by_part_and_nothing_else(root: Path) -> None:
    first, second = write(root, 0), write(root, 4, learning_rate=0.1)
    report = make_report(Wish(number=4, learning_rate=0.1, split_seed=0))
    report["provenance"] |= {"keras": "3.16.0", "cpu": "Another"}
    report["strategy"]["threads"] = 1
    write_json(second / "report.json", report)
    found = {(d.part, d.key): (d.first, d.second) for d in compare_runs(first, second).differences}
    assert found == {
        ("job", "train.learning_rate"): (0.01, 0.1),
        ("versions", "keras"): ("3.15.1", "3.16.0"),
        ("machine", "cpu"): ("A processor", "Another"),
        ("machine", "threads"): (2, 1),
    }


def test_a_key_that_one_version_lacks_is_a_difference(root: Path) -> None:
    first, second = write(root, 0), write(root, 4)
    report = make_report(Wish(number=4, split_seed=0))
    report["job"]["train"]["swing"] = 3
    write_json(second / "report.json", report)
    (found,) = compare_runs(first, second).differences
    assert (found.key, found.first, found.second) == ("train.swing", None, 3)


def test_what_training_rows_hold_of_each_column_is_not_listed(root: Path) -> None:
    first, second = write(root, 0), write(root, 4)
    report = make_report(Wish(number=4, split_seed=0))
    report["data"]["trained"] = {"RM": {"num_missing": 3, "minimum": 1.0, "maximum": 2.0}}
    write_json(second / "report.json", report)
    assert compare_runs(first, second).differences == ()


def test_metrics_stand_side_by_side(root: Path) -> None:
    comparison = compare_runs(write(root, 0, test_mse=10.0), write(root, 1, test_mse=12.0))
    pairs = {pair.name: (pair.first, pair.second) for pair in comparison.metrics}
    assert pairs["test_mse"] == (10.0, 12.0)
    assert pairs["baseline_linear_mse"] == (28.1, 28.1)
    assert pairs["train_s"] == (1.9, 2.9)
    assert not any(name.startswith("validation") for name in pairs)


def test_the_paired_difference_is_that_of_the_t_test_on_common_test_rows(root: Path) -> None:
    first, second = write(root, 0), write(root, 1, test_mse=30.0, split_seed=1)
    paired = compare_runs(first, second).paired
    frames = [pd.read_parquet(run / "predictions.parquet") for run in (first, second)]
    tests = [frame[frame["split"] == "test"].set_index("row_id") for frame in frames]
    both = tests[0].join(tests[1].add_suffix("_b"), how="inner")
    squares = (
        (both["y_pred"] - both["y_true"]) ** 2,
        (both["y_pred_b"] - both["y_true_b"]) ** 2,
    )
    truth = stats.ttest_rel(*squares)
    assert paired is not None
    assert 10 < paired.num_pairs == len(both) < len(tests[0])
    assert paired.mean == pytest.approx((squares[0] - squares[1]).mean())
    interval = truth.confidence_interval(0.95)
    assert (paired.low, paired.high) == pytest.approx((interval.low, interval.high))


def test_unlabelled_test_rows_are_left_out() -> None:
    table = pa.table(
        {
            "row_id": [0, 1, 2],
            "split": ["test", "test", "train"],
            "y_true": pa.array([1.0, None, 3.0]),
            "y_pred": [2.0, 2.0, 2.0],
        }
    )
    other = table.set_column(3, "y_pred", [[1.0, 1.0, 1.0]])
    assert pair_squared_errors(table, other).tolist() == [1.0]


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"fingerprint": "other"}, "the tables differ"),
        ({"predictions": False}, "has no predictions.parquet"),
    ],
)
def test_without_common_rows_the_reason_is_given(
    root: Path, wish: dict[str, object], reason: str
) -> None:
    comparison = compare_runs(write(root, 0), write(root, 1, **wish))
    assert comparison.paired is None
    assert reason in (comparison.unpaired_because or "")


def test_another_target_is_no_pair(root: Path) -> None:
    first, second = write(root, 0), write(root, 1)
    report = make_report(Wish(number=1, split_seed=0))
    report["data"]["columns"][-1] = "RM"
    write_json(second / "report.json", report)
    assert compare_runs(first, second).unpaired_because == "the targets differ"


def test_runs_that_share_no_test_row_say_so(root: Path) -> None:
    first, second = write(root, 0), write(root, 1)
    frame = pd.read_parquet(second / "predictions.parquet")
    frame.assign(split="train").to_parquet(second / "predictions.parquet", index=False)
    assert compare_runs(first, second).unpaired_because == "no row is a test row of both"


def test_other_observed_values_are_refused(root: Path) -> None:
    first, second = write(root, 0), write(root, 1)
    frame = pd.read_parquet(second / "predictions.parquet")
    frame["y_true"] += 1
    frame.to_parquet(second / "predictions.parquet", index=False)
    with pytest.raises(DataError, match="common test rows have two"):
        compare_runs(first, second)


def test_an_unfinished_run_is_refused(root: Path) -> None:
    with pytest.raises(JobError, match=r"A finished run holds a report.json"):
        compare_runs(write(root, 0), write_run(root, Wish(number=1), "RUNNING"))


def test_a_folder_that_is_no_run_is_refused(root: Path) -> None:
    with pytest.raises(JobError, match=r"A run folder holds a job.toml"):
        compare_runs(root, root)
