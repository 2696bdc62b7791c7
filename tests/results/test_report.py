"""The report and its tables, written and read back."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from dnnjob.errors import DataError, JobError
from dnnjob.results.report import (
    HISTORY_SCHEMA,
    PREDICTIONS_SCHEMA,
    Report,
    Training,
    make_predictions,
    read_history,
    read_predictions,
    read_report,
    write_history,
    write_report,
)
from dnnjob.runs import RunPaths
from dnnjob.training.history import History

KEYS = {
    "": "format_version run_id name state job metrics baselines importance members intervals "
    "training model data strategy timing_s throughput resources provenance",
    "metrics": "train validation test",
    "metrics.test": "num_rows mse rmse mae r2 mse_standardized median_absolute_error "
    "mape mape_num_rows",
    "baselines": "test",
    "baselines.test": "mean linear trees",
    "baselines.test.linear": "mse",
    "training": "epochs steps final_loss best_epoch stop_reason warnings",
    "model": "num_trainable_params summary inputs num_inputs file_mb load_s",
    "data": "source num_rows num_features columns trained fingerprint warnings",
    "data.fingerprint": "method value",
    "strategy": "kind num_replicas num_tasks devices threads xla stack stacked",
    "timing_s": "import load compile train evaluate predict report total total_all_attempts",
    "throughput": "steps_per_s rows_per_s",
    "resources": "peak_rss_mb cpu_s gpu_peak_mb",
    "provenance": "dnnjob python tensorflow keras host cpu gpus git_commit git_dirty image slurm "
    "command started_at ended_at attempts bit_exact bit_exact_reason",
}


@pytest.mark.parametrize("place", KEYS)
def test_report_json_has_exactly_the_keys_it_promises(
    paths: RunPaths, report: Report, place: str
) -> None:
    write_report(paths, report)

    found = json.loads(paths.report.read_text())
    for key in filter(None, place.split(".")):
        found = found[key]
    assert " ".join(found) == KEYS[place]


def test_a_report_reads_back_as_it_was_written(paths: RunPaths, report: Report) -> None:
    write_report(paths, report)

    assert read_report(paths.report) == report


def test_an_absent_split_is_null(paths: RunPaths, report: Report) -> None:
    write_report(paths, report)

    assert json.loads(paths.report.read_text())["metrics"]["validation"] is None


def test_keys_of_a_later_dnnjob_are_ignored(paths: RunPaths, report: Report) -> None:
    write_report(paths, report)
    values = json.loads(paths.report.read_text())
    paths.report.write_text(json.dumps(values | {"new": 1}))

    assert read_report(paths.report) == report


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_non_finite_number_is_no_part_of_a_report(loss: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Training(epochs=1, steps=1, final_loss=loss, best_epoch=None, stop_reason="epochs")


def test_a_missing_report_points_to_status(paths: RunPaths) -> None:
    with pytest.raises(JobError, match=r"there is no .*report\.json.*dnnjob status"):
        read_report(paths.report)


def test_an_unreadable_report_is_named(paths: RunPaths) -> None:
    paths.report.mkdir(parents=True)

    with pytest.raises(DataError, match=r"report\.json cannot be read"):
        read_report(paths.report)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run_id": 3}'])
def test_what_is_no_report_is_refused(paths: RunPaths, text: str) -> None:
    paths.root.mkdir()
    paths.report.write_text(text)

    with pytest.raises(DataError, match=r"is not a report of dnnjob.*Restore the file"):
        read_report(paths.report)


def test_a_later_format_asks_for_an_update(paths: RunPaths, report: Report) -> None:
    write_report(paths, report.model_copy(update={"format_version": 2}))

    with pytest.raises(DataError, match=r"up to format 1.*has format 2\. Update dnnjob"):
        read_report(paths.report)


def test_predictions_have_one_schema_and_a_null_for_the_unlabelled(tmp_path: Path) -> None:
    table = make_predictions(
        row_id=np.arange(3),
        split=np.array([2, 0, 3]),
        y_true=np.array([1.5, 2.5, np.nan]),
        y_pred=np.array([1, 2, 3], np.float32),
    )
    pq.write_table(table, tmp_path / "p.parquet")

    assert pq.read_schema(tmp_path / "p.parquet") == PREDICTIONS_SCHEMA
    assert read_predictions(tmp_path / "p.parquet")["y_true"].null_count == 1
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert isinstance(frame.split.dtype, pd.CategoricalDtype)
    assert frame.split.tolist() == ["test", "train", "unlabelled"]
    assert frame.y_true.isna().tolist() == [False, False, True]


def test_history_counts_epochs_from_one(paths: RunPaths) -> None:
    write_history(
        paths,
        History(
            loss=np.array([2.0, 1.0]),
            val_loss=np.array([3.0, np.nan]),
            learning_rate=np.array([0.1, 0.05]),
            seconds=np.array([0.5, 0.25]),
        ),
    )

    table = pd.read_parquet(paths.history)
    assert pq.read_schema(paths.history) == HISTORY_SCHEMA
    assert table.epoch.tolist() == [1, 2]
    assert table.val_loss.isna().tolist() == [False, True]
    assert table.learning_rate.tolist() == [0.1, 0.05]


def test_history_without_validation_reads_back(paths: RunPaths) -> None:
    losses = np.array([2.0, 1.0])
    write_history(paths, History(loss=losses, val_loss=None, learning_rate=losses, seconds=losses))

    found = read_history(paths.history)

    assert found.val_loss is None
    assert found.loss.tolist() == [2.0, 1.0]


def test_a_table_with_other_columns_is_refused(paths: RunPaths) -> None:
    paths.root.mkdir()
    pd.DataFrame({"a": [1]}).to_parquet(paths.history)

    with pytest.raises(DataError, match="not a Parquet file with the columns epoch, loss"):
        read_history(paths.history)


@pytest.mark.parametrize("content", [None, b"", b"PAR1"])
def test_what_is_no_parquet_file_is_refused(paths: RunPaths, content: bytes | None) -> None:
    paths.root.mkdir()
    if content is not None:
        paths.predictions.write_bytes(content)

    with pytest.raises(DataError, match=r"not a Parquet file.*Restore the file"):
        read_predictions(paths.predictions)
