"""The reference job against Keras's `fit` on the course's table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from scipy.stats import zscore
from sklearn.model_selection import train_test_split

from tests.training.conftest import predict_rows
from tests.training.test_step import fit_with_keras

TABLE = Path(__file__).parents[3] / "shared" / "data" / "housing.csv"

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason=f"needs the housing table at {TABLE}")


@dataclass(frozen=True)
class ReferenceJob:
    """The course's recipe on one split, with scikit-learn's split and scipy's z-scores."""

    training: Any
    x_test: np.ndarray
    y_test: np.ndarray

    def test_mse(self, predicted: np.ndarray) -> float:
        """Test MSE in z-units."""
        return float(np.mean((predicted.ravel().astype(np.float64) - self.y_test) ** 2))


def make_job(make_training: Any, *, seed: int, epochs: int, batch: int = 64) -> ReferenceJob:
    z = zscore(pd.read_csv(TABLE).to_numpy())
    train, test = train_test_split(np.arange(len(z)), test_size=0.3, random_state=seed)
    train, test = np.sort(train), np.sort(test)
    training = make_training(
        table=(z[train, :-1], z[train, -1]),
        seed=seed,
        model={"hidden_units": (200, 1000)},
        train={"epochs": epochs, "global_batch_size": batch},
        devices={"threads": 2},
    )
    return ReferenceJob(training, z[test, :-1].astype(np.float32), z[test, -1])


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
def test_the_first_epochs_lose_as_in_keras(make_training: Any, seed: int) -> None:
    job = make_job(make_training, seed=seed, epochs=3)
    history = fit_with_keras(job.training, keras.optimizers.SGD(0.01))

    state = job.training.train()

    assert job.training.dnn.count_params() == 204_601
    np.testing.assert_allclose(state.log.losses, history.history["loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_training_ends_within_one_percent_of_keras(make_training: Any, seed: int) -> None:
    job = make_job(make_training, seed=seed, epochs=500)
    history = fit_with_keras(job.training, keras.optimizers.SGD(0.01))
    theirs = job.test_mse(history.model.predict(job.x_test, verbose=0))

    job.training.train()

    ours = job.test_mse(predict_rows(job.training.dnn, job.x_test))
    assert ours == pytest.approx(theirs, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thirty_splits_give_the_test_error_known_for_the_recipe(make_training: Any) -> None:
    errors = []
    for seed in range(30):
        job = make_job(make_training, seed=seed, epochs=500)
        job.training.train()
        errors.append(job.test_mse(predict_rows(job.training.dnn, job.x_test)))

    print(f"mean {np.mean(errors):.4f}, median {np.median(errors):.4f}")
    assert 0.128 <= np.mean(errors) <= 0.144
