"""Predictions of many runs, against pandas."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.collect.predictions import join_predictions
from dnnjob.errors import DataError
from tests.collect.make_runs import Wish, make_report, write_json, write_run


def write(root: Path, number: int, **wish: object) -> Path:
    values = {"number": number, "predictions": True, "split_seed": 0, **wish}
    return write_run(root, Wish(**values))  # type: ignore[arg-type]


def change(folder: Path, **columns: object) -> None:
    """Rewrites columns of a run's predictions; a callable gets the frame."""
    frame = pd.read_parquet(folder / "predictions.parquet")
    for name, value in columns.items():
        frame[name] = value(frame) if callable(value) else value
    frame.to_parquet(folder / "predictions.parquet", index=False)


def test_the_mean_and_its_error_are_those_of_pandas(root: Path) -> None:
    folders = [write(root, number) for number in range(3)]
    joined = join_predictions(folders)
    frames = [pd.read_parquet(folder / "predictions.parquet") for folder in folders]
    mean = sum(frame["y_pred"] for frame in frames) / 3
    test = frames[0]["split"] == "test"
    mse = ((mean - frames[0]["y_true"])[test] ** 2).mean()
    assert joined.mse == pytest.approx(mse, rel=1e-12)
    assert joined.num_rows == test.sum()
    np.testing.assert_allclose(joined.table["y_pred_mean"].to_numpy(), mean, rtol=1e-12)


def test_every_run_has_its_column_beside_the_mean(root: Path) -> None:
    folders = [write(root, number) for number in range(2)]
    table = join_predictions(folders).table
    labels = [f"y_pred.housing/{folder.name}" for folder in folders]
    assert table.column_names == ["row_id", "split", "y_true", "y_pred_mean", *labels]
    stored = pd.read_parquet(folders[1] / "predictions.parquet")["y_pred"]
    assert table[labels[1]].to_pylist() == stored.tolist()


def test_a_run_that_kept_its_test_rows_alone_joins_one_that_kept_all(root: Path) -> None:
    all_rows, test_only = write(root, 0), write(root, 1)
    frame = pd.read_parquet(test_only / "predictions.parquet")
    frame[frame["split"] == "test"].to_parquet(test_only / "predictions.parquet", index=False)
    joined = join_predictions([all_rows, test_only])
    assert set(joined.table["split"].to_pylist()) == {"test"}
    assert joined.num_rows == joined.table.num_rows == (frame["split"] == "test").sum()


def test_unlabelled_rows_have_a_mean_and_no_error(root: Path) -> None:
    folders = [write(root, number) for number in range(2)]
    for folder in folders:
        change(folder, y_true=lambda frame: frame["y_true"].where(frame["row_id"] > 9))
    joined = join_predictions(folders)
    assert joined.table["y_true"].null_count == 10
    assert joined.mse is not None
    assert np.isfinite(joined.mse)
    assert joined.table["y_pred_mean"].null_count == 0


def test_without_test_rows_there_is_no_error(root: Path) -> None:
    folder = write(root, 0)
    change(folder, split="train")
    assert join_predictions([folder]).mse is None


def test_other_splits_are_refused_with_the_rows_that_differ(root: Path) -> None:
    with pytest.raises(DataError, match=r"rows are test rows of .* alone: row \d+ only in housing"):
        join_predictions([write(root, 0), write(root, 1, split_seed=1)])


def test_a_filter_is_proposed_that_keeps_some_and_leaves_others_out(root: Path) -> None:
    houses = write_run(root, Wish(number=1, name="houses", split_seed=0, predictions=True))
    others = {
        "name=housing": write_run(
            root, Wish(number=2, split_seed=0, predictions=True, fingerprint="other")
        ),
        "data.split_seed=0": write_run(
            root, Wish(number=3, name="houses", split_seed=1, predictions=True)
        ),
    }
    for proposed, other in others.items():
        kept, left = (other, houses) if proposed == "name=housing" else (houses, other)
        with pytest.raises(DataError, match=f"Choose with --where {proposed}\\.$"):
            join_predictions([kept, left])


def test_other_splits_are_refused_where_only_test_rows_were_kept(root: Path) -> None:
    folders = [write(root, 0), write(root, 1, split_seed=1)]
    for folder in folders:
        frame = pd.read_parquet(folder / "predictions.parquet")
        frame[frame["split"] == "test"].to_parquet(folder / "predictions.parquet", index=False)
    with pytest.raises(DataError, match="equal splits"):
        join_predictions(folders)


def test_rows_that_trained_one_run_and_validated_another_are_refused(root: Path) -> None:
    folders = [write(root, 0), write(root, 1)]
    change(
        folders[1], split=lambda frame: frame["split"].astype(str).replace("train", "validation")
    )
    with pytest.raises(DataError, match=r"rows differ: row \d+ is train in .* and validation in"):
        join_predictions(folders)


def test_another_table_is_refused(root: Path) -> None:
    with pytest.raises(DataError, match=r"on one table, but housing/.* has 2e16.* has other"):
        join_predictions([write(root, 0), write(root, 1, fingerprint="other")])


def test_another_target_is_refused(root: Path) -> None:
    folders = [write(root, 0), write(root, 1)]
    report = make_report(Wish(number=1, split_seed=0))
    report["data"]["columns"][-1] = "RM"
    write_json(folders[1] / "report.json", report)
    with pytest.raises(DataError, match=r"on one target, but .* has MEDV and .* has RM"):
        join_predictions(folders)


def test_other_observed_values_are_refused(root: Path) -> None:
    folders = [write(root, 0), write(root, 1)]
    change(folders[1], y_true=lambda frame: frame["y_true"].where(frame["row_id"] != 5, 0.0))
    with pytest.raises(DataError, match=r"1 observed values differ: row 5 is .* and 0.0 in"):
        join_predictions(folders)


def test_rows_out_of_order_are_refused(root: Path) -> None:
    folder = write(root, 0)
    change(folder, row_id=lambda frame: frame["row_id"][::-1].to_numpy())
    with pytest.raises(DataError, match="must list every row once, in order"):
        join_predictions([folder])


# Folds


def write_fold(root: Path, number: int, *, fold: int, folds: int = 3, split_by: int = 3) -> Path:
    folder = write(root, number)
    report = make_report(Wish(number=number, split_seed=0))
    report["job"]["data"] |= {"folds": folds, "fold": fold}
    write_json(folder / "report.json", report)
    held_out = {True: "test", False: "train"}
    change(folder, split=lambda frame: (frame["row_id"] % split_by == fold).map(held_out))
    return folder


def test_folds_are_joined_out_of_fold(root: Path) -> None:
    folders = [write_fold(root, number, fold=fold) for number, fold in enumerate([2, 0, 1])]
    joined = join_predictions(folders)
    frames = [pd.read_parquet(folder / "predictions.parquet") for folder in folders]
    out_of_fold = pd.concat([frame[frame["split"] == "test"] for frame in frames])
    out_of_fold = out_of_fold.sort_values("row_id")
    table = joined.table.to_pandas()
    assert joined.num_rows == len(frames[0])
    np.testing.assert_array_equal(table["row_id"], out_of_fold["row_id"])
    np.testing.assert_array_equal(table["fold"], out_of_fold["row_id"] % 3)
    np.testing.assert_array_equal(table["y_pred_mean"], out_of_fold["y_pred"])
    mse = ((out_of_fold["y_pred"] - out_of_fold["y_true"]) ** 2).mean()
    assert joined.mse == pytest.approx(mse, rel=1e-12)
    own = table[f"y_pred.housing/{folders[0].name}"]
    assert own.notna().sum() == (frames[0]["split"] == "test").sum()


def test_several_runs_of_a_fold_are_averaged(root: Path) -> None:
    folders = [write_fold(root, number, fold=fold) for number, fold in enumerate([0, 0, 1, 2])]
    table = join_predictions(folders).table.to_pandas().set_index("row_id")
    first, second = (
        pd.read_parquet(folder / "predictions.parquet").set_index("row_id")["y_pred"]
        for folder in folders[:2]
    )
    np.testing.assert_allclose(table["y_pred_mean"][3], (first[3] + second[3]) / 2, rtol=1e-12)


def test_runs_of_one_fold_are_joined_as_any_others(root: Path) -> None:
    joined = join_predictions([write_fold(root, number, fold=1) for number in range(2)])
    assert "split" in joined.table.column_names


def test_folds_of_other_splits_are_refused(root: Path) -> None:
    folders = [write_fold(root, 0, fold=0), write_fold(root, 1, fold=1, split_by=2)]
    with pytest.raises(DataError, match=r"row 3 is a test row of fold 0 and of fold 1\. "):
        join_predictions(folders)


def test_folds_of_another_table_are_refused(root: Path) -> None:
    folders = [write_fold(root, 0, fold=0), write_fold(root, 1, fold=1)]
    report = json.loads((folders[1] / "report.json").read_text())
    report["data"]["fingerprint"]["value"] = "other"
    write_json(folders[1] / "report.json", report)
    with pytest.raises(DataError, match="on one table"):
        join_predictions(folders)


def test_no_runs_are_refused() -> None:
    with pytest.raises(DataError, match=r"joins runs with predictions.parquet, but none was found"):
        join_predictions([])


def test_the_file_carries_its_error(root: Path, tmp_path: Path) -> None:
    joined = join_predictions([write(root, 0)])
    pq.write_table(joined.table, tmp_path / "joined.parquet")
    metadata = pq.read_schema(tmp_path / "joined.parquet").metadata
    assert json.loads(metadata[b"dnnjob.mean_mse"]) == joined.mse
    assert joined.table.schema.field("row_id").type == pa.int64()
