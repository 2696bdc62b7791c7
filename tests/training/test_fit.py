"""What is made ready for a training."""

import numpy as np
import pytest

from dnnjob.data.split import Split
from dnnjob.errors import DataError
from dnnjob.training.fit import root_weights

NONE = np.zeros(0, dtype=np.int64)


def test_weights_have_the_mean_one_in_each_split() -> None:
    weights = np.array([1.0, 3.0, 0.0, 4.0, 5.0])
    split = Split(np.array([0, 1]), np.array([2, 3]), np.array([4]))
    roots = root_weights(weights, split)
    np.testing.assert_allclose(np.square(roots), [0.5, 1.5, 0, 2, 5], rtol=1e-6)


def test_a_split_of_zero_weights_is_refused() -> None:
    weights = np.array([0.0, 1.0, 0.0])
    with pytest.raises(DataError, match="none of the 2 training rows has one"):
        root_weights(weights, Split(np.array([0, 2]), NONE, np.array([1])))
    with pytest.raises(DataError, match="none of the 1 validation rows has one"):
        root_weights(weights, Split(np.array([1]), np.array([0]), np.array([2])))
