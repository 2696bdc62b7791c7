"""The reference job and a small one on 1, 2 and 3 tasks: the same batches, the same losses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from tests.conftest import make_frame, write_tiny_job
from tests.launch.test_local_tasks import Done, run
from tests.training.test_reference_job import TABLE


def write_reference_job(folder: Path, *, batch: int, epochs: int) -> Path:
    job = {
        "name": "reference",
        "seed": 0,
        "data": {
            "source": str(TABLE),
            "target": "MEDV",
            "test_fraction": 0.3,
            "standardize": "table",
        },
        "model": {"hidden_units": [200, 1000]},
        "train": {"epochs": epochs, "global_batch_size": batch, "learning_rate": 0.01},
        "devices": {"kind": "cpu", "threads": 1},
        "output": {"plots": False, "model": False},
    }
    path = folder / "job.toml"
    path.write_text(tomli_w.dumps(job))
    return path


def error_of(done: Done) -> float:
    test = done.report.metrics.test
    assert test is not None
    return test.mse


def run_on_tasks(job: Path, folder: Path, numbers: Sequence[int]) -> list[Done]:
    done = [run(job, folder / str(tasks), f"devices.tasks={tasks}") for tasks in numbers]
    assert [one.report.strategy.num_replicas for one in done] == [*numbers]
    return done


@pytest.mark.long
def test_three_tasks_train_as_one_does(tmp_path: Path) -> None:
    # Of 134 training rows, batches of 63 leave one of 8: tasks with 3, 3 and 2 rows of it.
    job = write_tiny_job(tmp_path, make_frame(240), train={"epochs": 20, "global_batch_size": 63})

    alone, together = run_on_tasks(job, tmp_path, (1, 3))

    np.testing.assert_allclose(together.losses, alone.losses, rtol=1e-5)
    np.testing.assert_allclose(together.predictions, alone.predictions, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not TABLE.exists(), reason=f"needs the housing table at {TABLE}")
@pytest.mark.parametrize(("batch", "epochs"), [(64, 500), (63, 20)])
def test_the_reference_job_ends_alike_on_1_2_and_3_tasks(
    tmp_path: Path, batch: int, epochs: int
) -> None:
    job = write_reference_job(tmp_path, batch=batch, epochs=epochs)
    done = run_on_tasks(job, tmp_path, (1, 2, 3))

    alone, *others = done
    print(f"batch {batch}, {epochs} epochs: test MSE {[error_of(one) for one in done]}")
    for other in others:
        np.testing.assert_allclose(other.losses[:20], alone.losses[:20], rtol=1e-5)
        assert error_of(other) == pytest.approx(error_of(alone), rel=0.005)
