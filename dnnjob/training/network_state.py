"""What training changes in a network: variables that enter the compiled call as arguments.

state = make_state(dnn, job.train, devices.strategy)
state.keep_best(), state.restore_best()
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dnnjob.config import TrainConfig
from dnnjob.training.optimizer import count_slots


class NetworkState(NamedTuple):
    """The variables of one network; one compiled call serves all of equal shapes.

    Attributes:
        weights: Trainable weights of the network.
        slots: What the optimizer remembers of each weight.
        iterations: Updates so far, int64.
        best: Weights of the least validation loss, where patience goes back to them; else empty.
    """

    weights: list[tf.Variable]
    slots: list[list[tf.Variable]]
    iterations: tf.Variable
    best: list[tf.Variable]

    @property
    def optimizer(self) -> list[tf.Variable]:
        """What the optimizer remembers, as a checkpoint has it."""
        return [self.iterations, *chain.from_iterable(self.slots)]

    @property
    def num_bytes(self) -> int:
        """What all variables take."""
        return sum(int(one.shape.num_elements()) * one.dtype.size for one in self._all)

    def keep_best(self) -> None:
        """Keeps the present weights as the best, where patience goes back to them."""
        for best, weight in zip(self.best, self.weights, strict=False):
            best.assign(weight)

    def restore_best(self) -> None:
        """Gives the network the weights of its best validation loss."""
        for weight, best in zip(self.weights, self.best, strict=True):
            weight.assign(best)

    def values(self) -> list[np.ndarray]:
        """Values of all variables, for `assign`."""
        return [variable.numpy() for variable in self._all]

    def at_start(self, weights: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Values of all variables before the first update of these weights."""
        rest = [np.zeros(variable.shape, variable.dtype.as_numpy_dtype) for variable in self._rest]
        return [*weights, *rest]

    def assign(self, values: Sequence[np.ndarray]) -> None:
        """Takes the values of a network of equal shapes."""
        for variable, value in zip(self._all, values, strict=True):
            variable.assign(value)

    @property
    def _all(self) -> list[tf.Variable]:
        return [*self.weights, *self._rest]

    @property
    def _rest(self) -> list[tf.Variable]:
        return [*self.optimizer, *self.best]


def make_state(
    dnn: keras.Sequential, train: TrainConfig, strategy: tf.distribute.Strategy
) -> NetworkState:
    """The variables of a network as its first update finds them; made before any tracing."""
    weights = [variable.value for variable in dnn.trainable_variables]
    with strategy.scope():
        return NetworkState(
            weights=weights,
            slots=[[_zeros(weight) for _ in range(count_slots(train))] for weight in weights],
            iterations=tf.Variable(
                0,
                trainable=False,
                dtype=tf.int64,
                name="iterations",
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            ),
            best=[_zeros(weight) for weight in weights] if train.patience else [],
        )


def _zeros(weight: tf.Variable) -> tf.Variable:
    return tf.Variable(tf.zeros_like(weight), trainable=False)
