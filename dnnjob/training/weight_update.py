"""What a step does to the weights: penalty, clipping and decay around the optimizer's rule.

update = WeightUpdate(dnn, optimizer, job=job, strategy=strategy, is_fused=True)
gradients = update.penalize_and_clip(gradients)       # on each replica, after the reduction
update.apply_if(finite, gradients, rate)
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.training.model import kernels
from dnnjob.training.strategy import Placed


class WeightUpdate:
    """Changes the weights and the optimizer's variables in place."""

    def __init__(
        self,
        dnn: keras.Sequential,
        optimizer: keras.Optimizer,
        *,
        job: JobConfig,
        strategy: tf.distribute.Strategy,
        is_fused: bool,
    ) -> None:
        """Takes a network and its optimizer.

        Args:
            dnn: The network.
            optimizer: Gives the rule.
            job: Penalty, clipping and decay.
            strategy: Whose replicas each hold a copy of the weights.
            is_fused: Whether XLA compiles the whole loop that the update stands in.
        """
        self._optimizer, self._job = optimizer, job
        self._strategy, self._is_fused = strategy, is_fused
        self._variables = [variable.value for variable in dnn.trainable_variables]
        self._kernels = kernels(dnn)

    def penalize_and_clip(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Gradients with the l2 penalty, within the largest norm; called on each replica."""
        penalty = 2.0 * self._job.model.l2
        if penalty:
            gradients = [
                gradient + penalty * variable if is_kernel else gradient
                for gradient, variable, is_kernel in zip(
                    gradients, self._variables, self._kernels, strict=True
                )
            ]
        if self._job.train.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self._job.train.clip_norm)
        return gradients

    def apply_if(self, finite: tf.Tensor, gradients: Sequence[Placed], rate: tf.Tensor) -> None:
        """Updates all weights, or leaves everything as it is where the step is not finite."""
        if not self._is_fused:
            tf.cond(finite, lambda: self._apply(gradients, rate), tf.no_op)
            return
        # XLA makes one loop of an update and the choice after it, where it copies the variables
        # around a conditional.
        variables = [*self._variables, *(each.value for each in self._optimizer.variables)]
        before = [variable.read_value() for variable in variables]
        self._apply(gradients, rate)
        for variable, old in zip(variables, before, strict=True):
            variable.assign(tf.where(finite, variable.read_value(), old))

    def _apply(self, gradients: Sequence[Placed], rate: tf.Tensor) -> tf.Operation:
        """Lets the optimizer change every replica's copy of the weights.

        Keras's own `apply` would reduce over the replicas a second time.
        """
        train = self._job.train

        def change(
            variable: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor, decay: float | None
        ) -> None:
            if decay:
                variable.assign_sub(variable * (decay * rate))
            self._optimizer.update_step(gradient, variable, rate)

        for variable, gradient, is_kernel in zip(
            self._variables, gradients, self._kernels, strict=True
        ):
            decay = train.decay if is_kernel or train.decayed == "all" else None
            self._strategy.extended.update(
                variable, change, args=(gradient, rate, decay), group=False
            )
        self._optimizer.iterations.value.assign_add(1)
        return tf.no_op()
