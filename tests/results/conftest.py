"""A finished run, made up."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dnnjob.config import DataConfig, JobConfig
from dnnjob.results.baselines import Baseline, Baselines
from dnnjob.results.metrics import Metrics
from dnnjob.results.report import (
    Data,
    Fingerprint,
    Model,
    Provenance,
    Report,
    Resources,
    SplitBaselines,
    SplitMetrics,
    Strategy,
    Throughput,
    Timing,
    Training,
)
from dnnjob.runs import RunPaths


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run folder that is not there yet."""
    return RunPaths(tmp_path / "20260301-120355-3fa9c1")


@pytest.fixture
def report() -> Report:
    """A report of a run on the housing table."""
    job = JobConfig(name="housing", data=DataConfig(source="/data/housing.csv", target="MEDV"))
    return Report(
        run_id="20260301-120355-3fa9c1",
        name="housing",
        state="COMPLETED",
        job=job.model_dump(mode="json"),
        metrics=SplitMetrics(train=_make_metrics(354, 2.5), test=_make_metrics(152, 12.25)),
        baselines=SplitBaselines(
            test=Baselines(mean=Baseline(mse=90.0), linear=Baseline(mse=24.5))
        ),
        training=Training(
            epochs=500, steps=3000, final_loss=0.0381, best_epoch=None, stop_reason="epochs"
        ),
        model=Model(
            num_trainable_params=204_601,
            summary='Model: "dnn"\n',
            inputs={"CRIM": "float32", "ZN": "float32"},
        ),
        data=Data(
            source="/data/housing.csv",
            num_rows=506,
            num_features=2,
            columns=("CRIM", "ZN", "MEDV"),
            fingerprint=Fingerprint(method="sha256", value="9f2c" * 16),
        ),
        strategy=Strategy(
            kind="OneDeviceStrategy",
            num_replicas=1,
            num_tasks=1,
            devices=("CPU:0",),
            threads=2,
            xla="on",
        ),
        timing_s=_make_timing(),
        throughput=Throughput(steps_per_s=1554.2, rows_per_s=91_700.0),
        resources=Resources(peak_rss_mb=812.4, cpu_s=9.3),
        provenance=_make_provenance(),
    )


def _make_metrics(num_rows: int, mse: float) -> Metrics:
    return Metrics(
        num_rows=num_rows, mse=mse, rmse=mse**0.5, mae=1.5, r2=0.86, mse_standardized=mse / 81
    )


def _make_timing() -> Timing:
    return Timing.model_validate(
        {
            "import": 3.4,
            "load": 0.05,
            "compile": 1.02,
            "train": 1.93,
            "evaluate": 0.04,
            "predict": 0.11,
            "report": 0.9,
            "total": 7.8,
            "total_all_attempts": 7.8,
        }
    )


def _make_provenance() -> Provenance:
    return Provenance(
        dnnjob="0.1.0",
        python="3.11.9",
        tensorflow="2.21.0",
        keras="3.15.1",
        host="node17",
        cpu="a processor",
        command="dnnjob run jobs/housing.toml",
        started_at=datetime(2026, 3, 1, 12, 3, 55, tzinfo=UTC),
        ended_at=datetime(2026, 3, 1, 12, 4, 3, tzinfo=UTC),
    )
