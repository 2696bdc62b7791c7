"""What the predictions of a table in memory give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from dnnjob.config import JobConfig, resolve_job
from dnnjob.data.sources import open_table
from dnnjob.data.splitter import split_table
from dnnjob.data.statistics import fit_encoding
from dnnjob.results.evaluated import Evaluated
from dnnjob.results.held import evaluate_table


def evaluated(frame: pd.DataFrame, folder: Path) -> Evaluated:
    """A table seen through a network that predicts zero, with z-scores and filled gaps."""
    frame.to_csv(folder / "t.csv", index=False)
    data = {"source": str(folder / "t.csv"), "target": "y", "split": "column", "split_column": "s"}
    job: JobConfig = resolve_job({"name": "held", "data": data}, origin="test")
    table = open_table(job.data)
    split = split_table(table, job)
    x = frame["x"].fillna(frame["x"][split.train].median())
    z = (x - x[split.train].mean()) / x[split.train].std(ddof=0)
    return evaluate_table(
        table,
        split,
        fit_encoding(table, split, job.data),
        z.to_numpy(np.float32)[:, None],
        lambda inputs: np.zeros(len(inputs)),
        y_pred=np.zeros(len(frame)),
        job=job,
    )


def make_frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(1000, 5, 200)
    frame = pd.DataFrame({"x": x, "y": 3 * x + rng.normal(0, 1, 200)})
    frame["s"] = np.where(np.arange(200) < 100, "train", "test")
    return frame


def test_a_gap_among_the_test_rows_alone_leaves_the_linear_baseline_a_baseline(
    tmp_path: Path,
) -> None:
    frame = make_frame()
    frame.loc[150, "x"] = np.nan
    filled = frame.fillna(frame["x"][:100].median())
    linear = LinearRegression().fit(filled[["x"]][:100], filled["y"][:100])
    mse = np.mean((linear.predict(filled[["x"]][100:]) - filled["y"][100:]) ** 2)

    found = evaluated(frame, tmp_path).baselines.test

    assert found.linear.mse == pytest.approx(mse, rel=1e-3)


def test_errors_are_those_of_the_rows_of_each_split(tmp_path: Path) -> None:
    frame = make_frame()

    metrics = evaluated(frame, tmp_path).metrics

    assert metrics.test is not None
    assert metrics.test.mse == pytest.approx((frame["y"][100:] ** 2).mean(), rel=1e-12)
    assert metrics.validation is None
