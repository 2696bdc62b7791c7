"""What a step does to the weights: penalty, clipping and decay around the optimizer's rule.

update = WeightUpdate(dnn, job=job, strategy=strategy, is_fused=True)
gradients = update.penalize_and_clip(state.weights, gradients, values)   # by replica
update.apply_if(finite, state, gradients, rate, values)
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.training.hyperparameters import Hyperparameters
from dnnjob.training.model import kernels
from dnnjob.training.network_state import NetworkState
from dnnjob.training.optimizer import updated
from dnnjob.training.strategy import Placed


class WeightUpdate:
    """Changes a network's weights and what its optimizer remembers in place."""

    def __init__(
        self,
        dnn: keras.Sequential,
        *,
        job: JobConfig,
        strategy: tf.distribute.Strategy,
        is_fused: bool,
    ) -> None:
        """Takes what the networks share.

        Args:
            dnn: A network of their kind.
            job: The rule, and whether there is penalty, clipping or decay.
            strategy: Whose replicas each hold a copy of the weights.
            is_fused: Whether XLA compiles the whole loop that the update stands in.
        """
        self._job, self._strategy, self._is_fused = job, strategy, is_fused
        self._kernels = kernels(dnn)

    def penalize_and_clip(
        self,
        weights: Sequence[tf.Variable],
        gradients: list[tf.Tensor],
        values: Hyperparameters,
    ) -> list[tf.Tensor]:
        """Gradients with the l2 penalty, within the largest norm; called on each replica."""
        if self._job.model.l2:
            gradients = [
                gradient + values.penalty * weight if is_kernel else gradient
                for gradient, weight, is_kernel in zip(
                    gradients, weights, self._kernels, strict=True
                )
            ]
        if self._job.train.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, values.clip_norm)
        return gradients

    def apply_if(
        self,
        finite: tf.Tensor,
        state: NetworkState,
        gradients: Sequence[Placed],
        rate: tf.Tensor,
        values: Hyperparameters,
    ) -> None:
        """Updates all weights, or leaves everything as it is where the step is not finite."""
        if not self._is_fused:
            tf.cond(finite, lambda: self._apply(state, gradients, rate, values), tf.no_op)
            return
        # XLA makes one loop of an update and the choice after it, where it copies the variables
        # around a conditional.
        self._apply(state, gradients, rate, values, finite=finite)

    def _apply(
        self,
        state: NetworkState,
        gradients: Sequence[Placed],
        rate: tf.Tensor,
        values: Hyperparameters,
        *,
        finite: tf.Tensor | None = None,
    ) -> tf.Operation:
        """Changes every replica's copy of the weights; where not finite, back to what they were."""
        train = self._job.train
        number = tf.cast(state.iterations + 1, tf.float32)

        def change(
            variable: tf.Variable,
            slots: Sequence[tf.Variable],
            gradient: tf.Tensor,
            rate: tf.Tensor,
            number: tf.Tensor,
            values: Hyperparameters,
            decays: bool,
        ) -> None:
            old = [each.read_value() for each in (variable, *slots)]
            weight = old[0] - old[0] * (values.decay * rate) if decays else old[0]
            new = updated(
                train,
                weight,
                old[1:],
                gradient,
                rate=rate,
                momentum=values.momentum,
                number=number,
            )
            for each, before, after in zip((variable, *slots), old, (new[0], *new[1]), strict=True):
                each.assign(after if finite is None else tf.where(finite, after, before))

        for variable, slots, gradient, is_kernel in zip(
            state.weights, state.slots, gradients, self._kernels, strict=True
        ):
            decays = bool(train.decay) and (is_kernel or train.decayed == "all")
            args = slots, gradient, rate, number, values, decays
            self._strategy.extended.update(variable, change, args=args, group=False)
        state.iterations.assign_add(
            tf.constant(1, tf.int64) if finite is None else tf.cast(finite, tf.int64)
        )
        return tf.no_op()
