"""Predictions for other tables."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnnjob.data.split import split_rows
from dnnjob.errors import DataError, ExitCode, JobError, MissingError
from dnnjob.predict import predict_table
from dnnjob.runs import RunPaths
from tests.conftest import FEATURES, Command, FinishedRun, make_frame


@pytest.fixture
def predicted(finished: FinishedRun) -> np.ndarray[Any, Any]:
    """What the run itself predicted for its table."""
    return pd.read_parquet(finished.paths.predictions)["y_pred"].to_numpy()


@pytest.fixture
def copied(finished: FinishedRun, tmp_path: Path) -> RunPaths:
    """The run, to be spoiled."""
    shutil.copytree(finished.paths.root, tmp_path / "copy")
    return RunPaths(tmp_path / "copy")


def test_the_command_predicts_what_the_run_predicted(
    finished: FinishedRun, predicted: Any, dnnjob: Command, tmp_path: Path
) -> None:
    table = finished.job_file.parent / "table.csv"
    done = dnnjob("predict", finished.paths.root, table, "--out", "p.parquet", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "p.parquet\n"), done.stderr
    found = pd.read_parquet(tmp_path / "p.parquet")
    assert list(found.columns) == ["row_id", "y_true", "y_pred", "y_lower", "y_upper"]
    assert found["row_id"].tolist() == list(range(120))
    np.testing.assert_array_equal(found["y_true"], finished.frame["y"])
    np.testing.assert_allclose(found["y_pred"], predicted, rtol=2e-6)
    assert "Predicted 120 rows" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


def test_intervals_are_those_of_the_run(finished: FinishedRun, tmp_path: Path) -> None:
    run = pd.read_parquet(finished.paths.predictions)
    unseen = run[run["split"] == "validation"]
    errors = sorted((unseen["y_true"] - unseen["y_pred"]).abs())
    # Of 17 rows the 17th: ceil(18 * 0.9).
    half_width = errors[16]

    table = str(finished.job_file.parent / "table.csv")
    predict_table(finished.paths.root, table, out=tmp_path / "p.parquet")

    intervals = json.loads(finished.paths.report.read_text())["intervals"]
    assert (len(errors), intervals["half_width"]) == (17, pytest.approx(half_width))
    tests = run[run["split"] == "test"]
    held = tests["y_true"].between(tests["y_lower"], tests["y_upper"]).mean()
    assert intervals["coverage_test"] == pytest.approx(held)
    for found in (run, pd.read_parquet(tmp_path / "p.parquet")):
        np.testing.assert_allclose(found["y_pred"] - found["y_lower"], half_width)
        np.testing.assert_allclose(found["y_upper"] - found["y_pred"], half_width)


def test_columns_may_be_more_and_in_any_order_and_the_target_absent(
    finished: FinishedRun, predicted: Any, tmp_path: Path
) -> None:
    frame = make_frame()[[*reversed(FEATURES)]].assign(comment="new")
    frame.iloc[::-1].to_parquet(tmp_path / "new.parquet", index=False)
    predict_table(finished.paths.root, str(tmp_path / "new.parquet"), out=tmp_path / "p.parquet")
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert [(field.name, str(field.type)) for field in schema] == [
        ("row_id", "int64"),
        ("y_pred", "double"),
        ("y_lower", "double"),
        ("y_upper", "double"),
    ]
    found = pd.read_parquet(tmp_path / "p.parquet")["y_pred"]
    np.testing.assert_allclose(found, predicted[::-1], rtol=2e-6)


def test_a_row_alone_and_many_blocks_are_predicted_alike(
    finished: FinishedRun, predicted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.training.export._BLOCK_ROWS", 7)
    make_frame().to_csv(tmp_path / "all.csv", index=False)
    make_frame().head(1).to_csv(tmp_path / "one.csv", index=False)
    for name, rows in {"all": 120, "one": 1}.items():
        out = tmp_path / f"{name}.parquet"
        predict_table(finished.paths.root, str(tmp_path / f"{name}.csv"), out=out)
        found = pd.read_parquet(out)["y_pred"]
        np.testing.assert_allclose(found, predicted[:rows], rtol=2e-6)


def test_gaps_are_predicted_as_the_median(finished: FinishedRun, tmp_path: Path) -> None:
    frame = make_frame()
    split = split_rows(120, test_fraction=0.3, validation_fraction=0.2, seed=3)
    filled = frame.assign(plain=frame["plain"][split.train].median())
    frame.assign(plain="?").to_csv(tmp_path / "gaps.csv", index=False)
    filled.to_csv(tmp_path / "filled.csv", index=False)
    for name in ("gaps", "filled"):
        out = tmp_path / f"{name}.parquet"
        predict_table(finished.paths.root, str(tmp_path / f"{name}.csv"), out=out)
    found, expected = (
        pd.read_parquet(tmp_path / f"{name}.parquet")["y_pred"] for name in ("gaps", "filled")
    )
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_gaps_in_the_target_are_null(finished: FinishedRun, tmp_path: Path) -> None:
    frame = make_frame()
    frame.loc[3, "y"] = np.nan
    frame.to_csv(tmp_path / "new.csv", index=False)
    predict_table(finished.paths.root, str(tmp_path / "new.csv"), out=tmp_path / "p.parquet")
    y_true = pq.read_table(tmp_path / "p.parquet")["y_true"]
    assert y_true.null_count == 1
    assert y_true[3].as_py() is None


# Files, in pieces


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 16 rows, and models that take 8 at once."""
    monkeypatch.setattr("dnnjob.data.inference_rows.PIECE_ROWS", 16)
    monkeypatch.setattr("dnnjob.training.export._BLOCK_ROWS", 8)


@pytest.mark.usefixtures("pieces")
def test_pieces_are_predicted_as_the_whole_table(
    finished: FinishedRun,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    frame = make_frame()
    frame.loc[[3, 40], "y"] = np.nan
    frame.to_csv(tmp_path / "text.csv", index=False)
    (tmp_path / "parts").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(120), 7)):
        part = tmp_path / "parts" / f"{number}.parquet"
        frame.iloc[rows].to_parquet(part, index=False, row_group_size=9)
    for source in ("text.csv", "parts"):
        out = tmp_path / f"{source}.out.parquet"
        predict_table(finished.paths.root, str(tmp_path / source), out=out)
    monkeypatch.setattr("dnnjob.data.inference_rows.PIECE_ROWS", 2**16)
    predict_table(
        finished.paths.root, str(tmp_path / "text.csv"), out=tmp_path / "whole.out.parquet"
    )
    text, parts, whole = (
        pd.read_parquet(tmp_path / f"{name}.out.parquet") for name in ("text.csv", "parts", "whole")
    )
    pd.testing.assert_frame_equal(text, whole)
    pd.testing.assert_frame_equal(parts, whole)
    told = [line for line in caplog.messages if line.startswith("MSE")]
    assert told[0] == told[1] == told[2]
    assert "on the 118 rows whose target is known;" in told[0]


@pytest.mark.usefixtures("pieces")
def test_a_bad_row_late_in_the_table_is_named_and_nothing_written(
    finished: FinishedRun, tmp_path: Path
) -> None:
    frame = make_frame()
    frame.loc[100, "plain"] = np.inf
    frame.to_parquet(tmp_path / "new.parquet", index=False)
    with pytest.raises(DataError, match=r"\(rows 96 to 111\) 'plain' is infinite in 1 of 16 rows"):
        predict_table(
            finished.paths.root, str(tmp_path / "new.parquet"), out=tmp_path / "p.parquet"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["new.parquet"]


def test_a_column_that_parquet_files_lack_is_refused(finished: FinishedRun, tmp_path: Path) -> None:
    frame = make_frame().rename(columns={"plain": "plian"})
    frame.to_parquet(tmp_path / "new.parquet", index=False)
    with pytest.raises(DataError, match=r"no column 'plain' \(did you mean 'plian'\?\)"):
        predict_table(
            finished.paths.root, str(tmp_path / "new.parquet"), out=tmp_path / "p.parquet"
        )


# What bad input gets


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda frame: frame.drop(columns="größe"), "has no column 'größe'"),
        (lambda frame: frame.rename(columns={"plain": "plian"}), "did you mean 'plian'?"),
        (lambda frame: frame.assign(plain="high"), "'plain' must be numeric, that is numbers"),
        (lambda frame: frame.assign(plain=np.inf), "'plain' is infinite in 120 of 120 rows"),
        (lambda frame: frame.head(0), "only a header"),
    ],
)
def test_an_unfit_table_is_refused_and_nothing_written(
    finished: FinishedRun, tmp_path: Path, change: Any, told: str
) -> None:
    change(make_frame()).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError) as caught:
        predict_table(finished.paths.root, str(tmp_path / "new.csv"), out=tmp_path / "p.parquet")
    assert told in str(caught.value)
    assert not (tmp_path / "p.parquet").exists()


def test_a_missing_table_is_refused_without_the_keys_of_a_job(
    finished: FinishedRun, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"There is no file .*none\.csv") as caught:
        predict_table(finished.paths.root, str(tmp_path / "none.csv"), out=tmp_path / "p.parquet")
    assert "data.source" not in str(caught.value)
    assert "Give a CSV or Parquet file" in str(caught.value)


def test_a_missing_column_is_refused_as_bad_data(finished: FinishedRun, tmp_path: Path) -> None:
    make_frame().drop(columns="plain").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(DataError, match="has no column 'plain'") as caught:
        predict_table(finished.paths.root, str(tmp_path / "new.csv"), out=tmp_path / "p.parquet")
    assert caught.value.exit_code == ExitCode.DATA


@pytest.mark.parametrize(
    "name", ["p.json", "p", "folder.parquet", "none/p.parquet", "file/p.parquet"]
)
def test_an_output_that_cannot_be_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="--out") as caught:
        predict_table(tmp_path / "no-run", "no-table.csv", out=tmp_path / name)
    assert caught.value.exit_code == ExitCode.USAGE


def test_an_output_in_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="must be in a folder that can be written"):
        predict_table(tmp_path, "no-table.csv", out=Path("/proc/p.parquet"))


def test_an_unfinished_run_is_refused_with_the_way_out(copied: RunPaths, tmp_path: Path) -> None:
    copied.report.unlink()
    with pytest.raises(JobError, match="Finish it with `dnnjob resume"):
        predict_table(copied.root, "no-table.csv", out=tmp_path / "p.parquet")


def test_a_model_that_is_gone_and_one_never_kept_are_told_apart(
    copied: RunPaths, tmp_path: Path
) -> None:
    copied.model.unlink()
    with pytest.raises(JobError, match=r"model\.keras is gone.*output\.model=true"):
        predict_table(copied.root, "table.csv", out=tmp_path / "p.parquet")
    copied.job.write_text(copied.job.read_text().replace("model = true", "model = false"))
    with pytest.raises(JobError, match=r"was told not to keep it.*output\.model=true"):
        predict_table(copied.root, "table.csv", out=tmp_path / "p.parquet")


@pytest.fixture(autouse=True)
def in_the_folder(finished: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.job_file.parent)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a model"])
def test_a_damaged_model_is_refused(copied: RunPaths, tmp_path: Path, content: bytes) -> None:
    copied.model.write_bytes(content)
    with pytest.raises(JobError, match=rf"is damaged: its {len(content)} bytes.*Run the job again"):
        predict_table(copied.root, "table.csv", out=tmp_path / "p.parquet")


def test_the_model_of_another_run_is_refused(copied: RunPaths, tmp_path: Path) -> None:
    import keras

    inputs = {name: keras.Input((1,), name=name) for name in ("plain", "b")}
    keras.Model(inputs, keras.layers.Dense(1)(inputs["plain"])).save(copied.model)
    with pytest.raises(JobError, match=r"is another one: it does not take .*größe.* it takes b"):
        predict_table(copied.root, "table.csv", out=tmp_path / "p.parquet")


# What is written, and where


def test_csv_holds_what_parquet_holds(finished: FinishedRun, tmp_path: Path) -> None:
    for suffix in ("csv", "parquet"):
        predict_table(finished.paths.root, "table.csv", out=tmp_path / f"p.{suffix}")
    assert (tmp_path / "p.csv").read_text().startswith("row_id,y_true,y_pred,y_lower,y_upper\n0,")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "p.csv"), pd.read_parquet(tmp_path / "p.parquet")
    )


@pytest.mark.usefixtures("pieces")
def test_columns_are_passed_through_in_the_types_of_the_file(
    finished: FinishedRun, tmp_path: Path
) -> None:
    table = pa.Table.from_pandas(make_frame(), preserve_index=False)
    ids = [None if row == 3 else 1582218195625938901 + row for row in range(120)]
    table = table.append_column("id", pa.array(ids, pa.int64()))
    table = table.append_column("region", pa.array(["a,b", "c"] * 60).dictionary_encode())
    pq.write_table(table, tmp_path / "new.parquet")
    for out in ("p.parquet", "p.csv"):
        predict_table(
            finished.paths.root,
            str(tmp_path / "new.parquet"),
            out=tmp_path / out,
            keep=["region", "id", "plain"],
        )
    found = pq.read_table(tmp_path / "p.parquet")
    assert found.column_names == [
        "row_id",
        "y_true",
        "y_pred",
        "y_lower",
        "y_upper",
        "region",
        "id",
        "plain",
    ]
    assert found["id"].to_pylist() == ids
    assert found["region"].to_pylist() == ["a,b", "c"] * 60
    assert found["plain"].to_pylist() == table["plain"].to_pylist()
    assert '"a,b",1582218195625938901,' in (tmp_path / "p.csv").read_text()


def test_a_column_to_be_kept_must_be_there(finished: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'plian' \(did you mean 'plain'\?\).*--keep"):
        predict_table(finished.paths.root, "table.csv", out=tmp_path / "p.csv", keep=["plian"])


def test_predictions_are_printed_as_csv(
    finished: FinishedRun, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    table = finished.job_file.parent / "table.csv"
    with caplog.at_level("INFO"):
        predict_table(finished.paths.root, str(table), out=Path("-"))
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "row_id,y_true,y_pred,y_lower,y_upper"
    assert len(lines) == 121
    assert "rows that trained the run are among them" in caplog.text


def test_rows_that_trained_may_stand_in_another_file(
    finished: FinishedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_frame().to_parquet(tmp_path / "same.parquet")
    with caplog.at_level("INFO"):
        predict_table(finished.paths.root, str(tmp_path / "same.parquet"), out=tmp_path / "p.csv")
    assert "trained on other files, which may hold rows of these" in caplog.text


@pytest.mark.parametrize(
    ("out", "told"),
    [
        ("table.csv", "never replaces an input"),
        ("link.csv", "never replaces an input"),
        ("hard.csv", "never replaces an input"),
        ("none/../table.csv", "never replaces an input"),
        ("run/predictions.parquet", "never goes into a run folder"),
        ("run/plots/new.csv", "never goes into a run folder"),
        ("report.csv", "never replaces a file of a run"),
        ("folder/p.csv", "would be part of the table"),
    ],
)
def test_no_output_replaces_an_input_or_a_file_of_a_run(
    copied: RunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_frame().to_csv("table.csv", index=False)
    for folder in ("folder", "none"):
        Path(folder).mkdir()
    make_frame().to_csv("folder/a.csv", index=False)
    Path("link.csv").symlink_to("table.csv")
    Path("hard.csv").hardlink_to("table.csv")
    Path("report.csv").hardlink_to(copied.report)
    Path("run").symlink_to(copied.root)
    data = "folder" if out.startswith("folder") else "table.csv"
    with pytest.raises(JobError, match=told):
        predict_table(copied.root, data, out=Path(out))


def test_the_json_tells_what_the_words_tell(
    finished: FinishedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = make_frame().assign(plain=np.nan)
    frame.to_csv(tmp_path / "new.csv", index=False)
    predicted = predict_table(
        finished.paths.root, str(tmp_path / "new.csv"), out=tmp_path / "p.csv"
    )
    values = predicted.to_json(tmp_path / "p.csv")
    (finding,) = values["drift"]
    assert (finding["column"], finding["kind"], finding["num_rows"]) == (
        "plain", "missing_throughout", 120,
    )  # fmt: skip
    found = pd.read_csv(tmp_path / "p.csv")
    assert values["mse"] == pytest.approx(((found["y_true"] - found["y_pred"]) ** 2).mean())
    assert values["holds_training_rows"] is False
    assert "'plain' is missing in all 120 rows, and in none of training" in caplog.text


def test_predictions_that_are_not_finite_are_told(
    finished: FinishedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frame = make_frame()
    frame.loc[0, "plain"] = 3e38
    frame.loc[0, "with space"] = 3e38
    frame.to_csv(tmp_path / "new.csv", index=False)
    predict_table(finished.paths.root, str(tmp_path / "new.csv"), out=tmp_path / "p.parquet")
    strange = (~np.isfinite(pd.read_parquet(tmp_path / "p.parquet")["y_pred"])).sum()
    assert (f"{strange} predictions not finite" in caplog.text) == bool(strange)


def test_the_run_is_left_as_it_was(finished: FinishedRun) -> None:
    assert json.loads(finished.paths.status.read_text())["state"] == "COMPLETED"
    assert not list(finished.paths.root.rglob("*.tmp"))
