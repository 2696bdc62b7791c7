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
from dnnjob.training.optimizer import new_slots, new_weight
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
        train = job.train
        self._decays = [
            bool(train.decay) and (is_kernel or train.decayed == "all")
            for is_kernel in self._kernels
        ]

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
            # TensorFlow's own norm cannot be mapped over networks. Compiled by XLA, the bits of
            # this one are the same.
            norm = _global_norm(gradients) if self._is_fused else None
            gradients, _ = tf.clip_by_global_norm(gradients, values.clip_norm, use_norm=norm)
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
        number = tf.cast(state.iterations + 1, tf.float32)
        taken = finite

        def change(
            variable: tf.Variable,
            slots: Sequence[tf.Variable],
            gradient: tf.Tensor,
            rate: tf.Tensor,
            number: tf.Tensor,
            values: Hyperparameters,
            decays: bool,
        ) -> None:
            nonlocal taken
            old = [each.read_value() for each in (variable, *slots)]
            new = self._changed(old, gradient, rate, number, values, decays, taken)
            for each, value in zip((variable, *slots), new, strict=True):
                each.assign(value)
            if taken is not None:
                taken = known_after(new[-1], taken)

        for variable, slots, gradient, decays in zip(
            state.weights, state.slots, gradients, self._decays, strict=True
        ):
            args = slots, gradient, rate, number, values, decays
            self._strategy.extended.update(variable, change, args=args, group=False)
        state.iterations.assign_add(
            tf.constant(1, tf.int64) if finite is None else tf.cast(finite, tf.int64)
        )
        return tf.no_op()

    def changed(
        self,
        weights: Sequence[tf.Tensor],
        slots: Sequence[Sequence[tf.Tensor]],
        gradients: Sequence[tf.Tensor],
        *,
        updates: tf.Tensor,
        rate: tf.Tensor,
        values: Hyperparameters,
        taken: tf.Tensor,
    ) -> tuple[list[tf.Tensor], list[list[tf.Tensor]]]:
        """Weights and slots after an update, as values; the old ones where it is not taken.

        Args:
            weights: Trainable weights of a network.
            slots: What the optimizer remembers of each.
            gradients: Of each, penalized and clipped.
            updates: Updates so far, an int64 scalar.
            rate: Learning rate.
            values: With decay and momentum.
            taken: Whether the update is made, a scalar.
        """
        number = tf.cast(updates + 1, tf.float32)
        new = [
            self._changed([weight, *of_weight], gradient, rate, number, values, decays, taken)
            for weight, of_weight, gradient, decays in zip(
                weights, slots, gradients, self._decays, strict=True
            )
        ]
        return [weight for weight, *_ in new], [of_weight for _, *of_weight in new]

    def _changed(
        self,
        old: Sequence[tf.Tensor],
        gradient: tf.Tensor,
        rate: tf.Tensor,
        number: tf.Tensor,
        values: Hyperparameters,
        decays: bool,
        taken: tf.Tensor | None,
    ) -> list[tf.Tensor]:
        """A weight and its slots after an update; where one is not taken, as they were."""
        weight, *slots = old
        train, momentum = self._job.train, values.momentum

        def choose(after: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
            return after if taken is None else tf.where(taken, after, before)

        new = new_slots(train, slots, gradient, rate=rate, momentum=momentum)
        # The weight goes by the slots that were chosen: of the old ones, which it would otherwise
        # read while they are written, XLA makes copies in every step.
        slots = [choose(after, before) for after, before in zip(new, slots, strict=True)]
        decayed = weight - weight * (values.decay * rate) if decays else weight
        changed = new_weight(
            train, decayed, slots, gradient, rate=rate, momentum=momentum, number=number
        )
        return [choose(changed, weight), *slots]


def known_after(value: tf.Tensor, flag: tf.Tensor) -> tf.Tensor:
    """The flag, known once the value is.

    XLA's executor on CPUs (TensorFlow 2.21, `ThunkExecutor`) hands half of what is ready to the
    pool of the process where more than eight kernels are, as all updates at once would be, and the
    loop goes on in a thread of that pool: networks in lanes of their own would meet there.
    """
    first = tf.reshape(value, [-1])[0]
    return flag & ((first == first) | (first != first))


def _global_norm(gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    halves = [0.5 * tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
    return tf.sqrt(2.0 * tf.add_n(halves))
