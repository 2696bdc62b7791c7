"""A table of every kind of column, from its file to predictions of another file."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

from dnnjob.collect.predictions import join_predictions
from dnnjob.config import load_job
from dnnjob.data.draft import draft_job
from dnnjob.errors import ExitCode
from dnnjob.launch.foreground import run_foreground
from dnnjob.launch.job_check import check_job
from dnnjob.predict import predict_table
from dnnjob.results.report import BOUNDS, Report, read_report
from dnnjob.runs import RunPaths
from tests.conftest import WriteJob, run_here, said_by, write_tiny_job

NUM_ROWS = 240
DATA = {
    "id_columns": ["key", "when"],
    "weight_column": "weight",
    "target_transform": "log1p",
    "max_one_hot": 10,
    "columns": {"zip": "codes", "sold": {"cycles": ["year", "week"]}},
}


def make_houses(num_rows: int = NUM_ROWS) -> pd.DataFrame:
    """Houses with texts, gaps, dates, codes, keys, weights, and some without a price."""
    random = np.random.default_rng(11)
    size = random.normal(100, 25, num_rows).round(1)
    style = random.choice(["flat", "villa", "Hütte"], num_rows, p=[0.6, 0.3, 0.1])
    street = random.integers(0, 25, num_rows)
    price = 50 + 2 * size + 80 * (style == "villa") + 3 * street + random.normal(0, 10, num_rows)
    price = np.where(random.random(num_rows) < 0.05, np.nan, price.round(2))
    days = pd.Timestamp("2023-05-01") + pd.to_timedelta(random.integers(0, 900, num_rows), "D")
    frame = pd.DataFrame(
        {
            "key": [f"h{number:04}" for number in range(num_rows)],
            "when": range(1000, 1000 + num_rows),
            "size m²": np.where(random.random(num_rows) < 0.1, np.nan, size),
            "style": np.where(random.random(num_rows) < 0.1, None, style),
            "street": [f"street {number}" for number in street],
            "zip": random.choice([10115, 20095, 80331], num_rows),
            "sold": np.where(random.random(num_rows) < 0.1, None, days.strftime("%Y-%m-%d")),
            "new": random.random(num_rows) < 0.3,
            "weight": random.uniform(0.5, 2, num_rows).round(3),
            "price": price,
        }
    )
    return frame


@dataclass(frozen=True)
class Houses:
    paths: RunPaths
    frame: pd.DataFrame
    folder: Path

    @property
    def report(self) -> Report:
        return read_report(self.paths.report)


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Houses:
    folder = tmp_path_factory.mktemp("houses")
    frame = make_houses()
    job_file = write_tiny_job(folder, name="houses", data={"target": "price", **DATA})
    frame.to_csv(folder / "table.csv", index=False, na_rep="?")
    paths = run_here(job_file, "output.plots=true", root=folder / "runs")
    return Houses(paths, frame, folder)


def predictions_of(houses: Houses) -> pd.DataFrame:
    return pd.read_parquet(houses.paths.predictions)


def test_predictions_carry_the_ids_and_the_rows_without_a_target(houses: Houses) -> None:
    found, frame = predictions_of(houses), houses.frame
    assert list(found.columns) == ["row_id", "split", "y_true", "y_pred", *BOUNDS, "key", "when"]
    assert found["key"].tolist() == frame["key"].tolist()
    assert found["when"].tolist() == frame["when"].tolist()
    np.testing.assert_array_equal(found["y_true"], frame["price"])
    unlabelled = frame["price"].isna()
    assert unlabelled.sum() > 0
    np.testing.assert_array_equal(found["split"] == "unlabelled", unlabelled)
    assert np.isfinite(found["y_pred"]).all()


def test_labelled_rows_are_split_by_scikit_learn(houses: Houses) -> None:
    labelled = np.flatnonzero(houses.frame["price"].notna())
    _, test = train_test_split(labelled, test_size=0.3, random_state=3)
    found = predictions_of(houses)
    assert found.loc[found["split"] == "test", "row_id"].tolist() == sorted(test)


def test_errors_are_in_target_units_whatever_is_trained_on(houses: Houses) -> None:
    found, metrics = predictions_of(houses), houses.report.metrics.test
    rows = found[found["split"] == "test"]
    assert metrics is not None
    assert metrics.num_rows == len(rows)
    assert metrics.mse == pytest.approx(((rows["y_true"] - rows["y_pred"]) ** 2).mean(), rel=1e-9)
    train = found.loc[found["split"] == "train", "y_true"]
    assert metrics.mse_standardized == pytest.approx(metrics.mse / train.var(ddof=0), rel=1e-9)
    assert (rows["y_pred"] > 0).all()


def test_the_report_says_how_many_inputs_each_column_became(houses: Houses) -> None:
    model = houses.report.model
    assert model.num_inputs == {
        "size m²": 2,
        "style": 4,
        "street": 1,
        "zip": 3,
        "sold": 6,
        "new": 1,
    }
    types = {"style": "string", "street": "string", "sold": "string"}
    assert model.inputs == {**dict.fromkeys(model.num_inputs, "float32"), **types}
    assert "embedding_1" in model.summary
    for told in (model.summary, said_by(houses.paths)):
        assert "6 columns become 20 inputs:" in told
        assert "  style: 4 inputs (3 values, gaps)" in told
    assert f"Total params: {model.num_trainable_params:,}" in model.summary
    assert "17 inputs" in houses.paths.page.read_text()


def test_every_feature_has_a_worth(houses: Houses) -> None:
    worth = houses.report.importance
    assert {one.column for one in worth} == set(houses.report.model.num_inputs)
    gains = [one.mse_increase for one in worth]
    assert gains == sorted(gains, reverse=True)
    assert (houses.paths.plots / "importance.png").is_file()


def test_what_a_person_should_know_is_told(houses: Houses) -> None:
    missing = int(houses.frame["price"].isna().sum())
    told = f"price is missing in {missing} of {NUM_ROWS} rows"
    assert told in said_by(houses.paths)
    assert told in " ".join(houses.report.data.warnings)
    assert told[1:] in houses.paths.page.read_text()


def test_the_resolved_job_holds_the_kinds_and_repeats_the_run(
    houses: Houses, tmp_path: Path
) -> None:
    job = load_job(houses.paths.job)
    kinds = {name: column.kind for name, column in job.data.columns.items()}
    assert kinds == {
        "style": "text",
        "street": "text",
        "zip": "codes",
        "sold": "datetime",
        "new": "boolean",
    }
    assert job.data.columns["sold"].cycles == ("year", "week")
    again = run_here(houses.paths.job, "output.plots=false", root=tmp_path)
    assert again.predictions.read_bytes() == houses.paths.predictions.read_bytes()
    first, second = (pd.read_parquet(paths.history) for paths in (houses.paths, again))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_predict_says_what_the_run_said(houses: Houses, tmp_path: Path) -> None:
    table = str(houses.folder / "table.csv")
    predict_table(houses.paths.root, table, out=tmp_path / "p.parquet")
    found = pd.read_parquet(tmp_path / "p.parquet")
    assert list(found.columns) == ["row_id", "y_true", "y_pred", *BOUNDS, "key", "when"]
    np.testing.assert_allclose(found["y_pred"], predictions_of(houses)["y_pred"], rtol=5e-6)
    assert found["key"].tolist() == houses.frame["key"].tolist()


def test_predict_takes_new_values_gaps_and_parquet(houses: Houses, tmp_path: Path) -> None:
    new = houses.frame.drop(columns=["price", "key", "weight"])
    new["style"], new["zip"] = "castle", 99999
    new["sold"] = pd.to_datetime(new["sold"])
    new["size m²"] = np.nan
    new.to_parquet(tmp_path / "new.parquet")
    predict_table(houses.paths.root, str(tmp_path / "new.parquet"), out=tmp_path / "p.parquet")
    found = pd.read_parquet(tmp_path / "p.parquet")
    assert list(found.columns) == ["row_id", "y_pred", *BOUNDS, "when"]
    assert np.isfinite(found["y_pred"]).all()


PLAIN_KERAS = """
import sys
import keras, numpy as np, pandas as pd
model = keras.models.load_model(sys.argv[1], safe_mode=True)
table = pd.read_csv(sys.argv[2], na_values="?")
columns = {}
for name, tensor in model.input.items():
    if tensor.dtype == "string":
        columns[name] = table[name].fillna("").astype(object).to_numpy()
    else:
        columns[name] = table[name].to_numpy()
np.save(sys.argv[3], model.predict(columns, verbose=0)[:, 0])
assert "dnnjob" not in sys.modules
"""


@pytest.mark.long
def test_the_model_takes_the_files_own_columns_in_plain_keras(
    houses: Houses, tmp_path: Path
) -> None:
    arguments = [houses.paths.model, houses.folder / "table.csv", tmp_path / "y.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_KERAS, *map(str, arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = predictions_of(houses)["y_pred"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=5e-6)


def test_validate_counts_what_the_run_counted(houses: Houses) -> None:
    check = check_job(houses.folder / "job.toml")
    (point,) = check.points
    assert point.num_trainable_params == houses.report.model.num_trainable_params
    assert point.num_unlabelled_rows == houses.frame["price"].isna().sum()
    inputs = {column.name: column.num_inputs for column in check.columns}
    assert {name: inputs[name] for name in houses.report.model.num_inputs} == (
        houses.report.model.num_inputs
    )
    roles = {column.name: column.role for column in check.columns}
    assert (roles["key"], roles["weight"], roles["price"]) == ("id", "weight", "target")


@pytest.mark.long
def test_runs_of_each_fold_join_out_of_fold(write_job: WriteJob, root: Path) -> None:
    job_file = write_job(data={"folds": 2, "split_seed": 0}, train={"epochs": 2})
    runs = [run_here(job_file, f"data.fold={fold}", root=root) for fold in (0, 1)]
    joined = join_predictions([run.root for run in runs])
    assert joined.num_rows == 120
    assert joined.table["row_id"].to_pylist() == list(range(120))
    errors = np.square(joined.table["y_pred_mean"].to_numpy() - joined.table["y_true"].to_numpy())
    assert joined.mse == pytest.approx(errors.mean())


@pytest.mark.slow
@pytest.mark.parametrize("table", ["abalone", "autos"])
def test_what_init_writes_beats_a_linear_model(
    table: str, shared_data: Path, tmp_path: Path
) -> None:
    job_file = tmp_path / "job.toml"
    job_file.write_text(draft_job(shared_data / f"{table}.csv"))
    sweep = f"sweep.seed={list(range(10))}"
    plain = ["output.plots=false", "output.model=false", 'output.predictions="none"']
    assert run_foreground(job_file, [sweep, *plain], root=tmp_path / "runs") == ExitCode.DONE
    reports = [read_report(path) for path in (tmp_path / "runs").rglob("report.json")]
    assert len(reports) == 10
    errors = [report.metrics.test.mse for report in reports if report.metrics.test]
    linear = [report.baselines.test.linear.mse for report in reports]
    assert np.median(errors) < np.median(linear)
