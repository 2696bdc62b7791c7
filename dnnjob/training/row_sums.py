"""Sums over the rows of a batch, and over all replicas: gradients, and squared errors.

sums = RowSums(dnn, job=job, devices=devices, update=update)
gradients, error, finite = sums.gradients(state.weights, x, y, indices, stream, values)
total = sums.squared_errors(state.weights, x, y, places)
"""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from dnnjob.config import JobConfig
from dnnjob.training.dropout import Draw, draw_masks, draw_uniform
from dnnjob.training.finite import all_finite
from dnnjob.training.hyperparameters import Hyperparameters
from dnnjob.training.losses import robust_error, squared_error
from dnnjob.training.model import dropout_units, forward
from dnnjob.training.row_chunks import chunk_rows, cut
from dnnjob.training.strategy import Devices, Placed
from dnnjob.training.weight_update import WeightUpdate


class RowSums:
    """What rows give, summed over all replicas; traced inside the compiled call.

    Attributes:
        fixed: Values of the network's weights that never train, where its variables cannot stand
            for them; else empty.
    """

    def __init__(
        self,
        dnn: keras.Sequential,
        *,
        job: JobConfig,
        devices: Devices,
        update: WeightUpdate,
        draw: Draw = draw_uniform,
    ) -> None:
        """Takes what the networks share.

        Args:
            dnn: A network of their kind.
            job: Loss, and whether anything is dropped.
            devices: The replicas.
            update: Penalizes and clips the gradients.
            draw: Draws the uniform numbers of dropout masks.
        """
        self.fixed: Sequence[tf.Tensor] = ()
        self._draw = draw
        self._dnn, self._job, self._update = dnn, job, update
        self._strategy, self._num_replicas = devices.strategy, devices.num_replicas
        self._chunk_rows = chunk_rows(devices, threads=job.devices.threads)
        # One device compiles the whole loop. Several compile what each computes alone, since
        # XLA cannot compile the reduction between them.
        self.compiles_apart = devices.xla and devices.num_replicas > 1
        self._local: Callable[..., list[tf.Tensor]] = self._local_gradients
        if self.compiles_apart:
            self._local = tf.function(self._local_gradients, jit_compile=True, autograph=False)

    def gradients(
        self,
        weights: Sequence[tf.Variable],
        x: Placed,
        y: Placed,
        indices: tf.Tensor,
        stream: tf.Tensor,
        values: Hyperparameters,
    ) -> tuple[list[Placed], tf.Tensor, tf.Tensor]:
        """Gradients of the global batch's mean squared error, its sum of squared errors, its end.

        Every replica has the gradients; the sum, and whether all of them are finite, are scalars.

        Args:
            weights: The network's.
            x: Inputs of all training rows.
            y: Their targets.
            indices: Rows of the batch, `(num_replicas, rows_per_replica)`; -1 is padding.
            stream: Seed and number of the step, `(2,)` int64.
            values: Dropout rate, penalty and largest norm.
        """
        num_rows = tf.reduce_sum(tf.cast(indices >= 0, tf.float32))

        def on_replica(x: tf.Tensor, y: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            places = tf.gather(indices, replica)
            return self.replica_gradients(weights, x, y, places, num_rows, stream, replica, values)

        gradients, error, finite = self._strategy.run(on_replica, args=(x, y))
        return gradients, self._first(error), self._first(finite)

    def replica_gradients(
        self,
        weights: Sequence[tf.Tensor],
        x: tf.Tensor,
        y: tf.Tensor,
        places: tf.Tensor,
        num_rows: tf.Tensor,
        stream: tf.Tensor,
        replica: tf.Tensor,
        values: Hyperparameters,
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
        """What `gradients` gives, as each replica computes it of its rows, `places`."""
        parts = self._local(weights, x, y, places, num_rows, stream, replica, values)
        *gradients, error = self._add_over_replicas(parts)
        gradients = self._update.penalize_and_clip(weights, gradients, values)
        return gradients, error, all_finite([error, *gradients])

    def squared_errors(
        self, weights: Sequence[tf.Variable], x: Placed, y: Placed, places: tf.Tensor
    ) -> tf.Tensor:
        """Sum of squared errors of some rows, a scalar.

        Args:
            weights: The network's.
            x: Inputs that every replica holds.
            y: Their targets.
            places: Rows of each replica, `(num_chunks, num_replicas, rows)`; -1 is padding.
        """

        def on_replica(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            return self.replica_squared_errors(weights, x, y, places, replica)

        return self._first(self._strategy.run(on_replica, args=(x, y)))

    def replica_squared_errors(
        self,
        weights: Sequence[tf.Tensor],
        x: tf.Tensor,
        y: tf.Tensor,
        places: tf.Tensor,
        replica: tf.Tensor,
    ) -> tf.Tensor:
        """What `squared_errors` gives, as each replica computes it."""
        num_chunks = int(places.shape[0])

        def add_chunk(chunk: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            indices = tf.gather(tf.gather(places, chunk), replica)
            return chunk + 1, total + squared_error(*self._residuals(weights, x, y, indices))

        _, total = tf.while_loop(
            lambda chunk, _: chunk < num_chunks,
            add_chunk,
            (tf.constant(0), tf.constant(0.0)),
            parallel_iterations=1,
        )
        (total,) = self._add_over_replicas([total])
        return total

    def _first(self, values: Placed) -> tf.Tensor:
        """What the first local replica has: after a reduction, all have the same."""
        return self._strategy.experimental_local_results(values)[0]

    def _local_gradients(
        self,
        weights: Sequence[tf.Tensor],
        x: tf.Tensor,
        y: tf.Tensor,
        indices: tf.Tensor,
        num_rows: tf.Tensor,
        stream: tf.Tensor,
        replica: tf.Tensor,
        values: Hyperparameters,
    ) -> list[tf.Tensor]:
        """One replica's share of the gradients, and of the sum of squared errors."""
        rows = int(indices.shape[0])
        masks = draw_masks(
            dropout_units(self._dnn),
            values=values,
            stream=stream,
            replica=replica,
            num_replicas=self._num_replicas,
            rows=rows,
            draw=self._draw,
        )
        num_chunks = math.ceil(rows / self._chunk_rows)
        if num_chunks == 1:
            return self._chunk_gradients(weights, x, y, indices, num_rows, masks)
        places = cut(indices, num_chunks, padding=-1)
        masks = [cut(mask, num_chunks, padding=0.0) for mask in masks]

        def add_chunk(chunk: tf.Tensor, *totals: tf.Tensor) -> tuple[tf.Tensor, ...]:
            chunk_masks = [tf.gather(mask, chunk) for mask in masks]
            chunk_indices = tf.gather(places, chunk)
            parts = self._chunk_gradients(weights, x, y, chunk_indices, num_rows, chunk_masks)
            return chunk + 1, *(total + part for total, part in zip(totals, parts, strict=True))

        zeros = [*(tf.zeros(weight.shape) for weight in weights), tf.constant(0.0)]
        totals: list[tf.Tensor]
        _, *totals = tf.while_loop(
            lambda chunk, *_: chunk < num_chunks,
            add_chunk,
            (tf.constant(0), *zeros),
            parallel_iterations=1,
        )
        return totals

    def _chunk_gradients(
        self,
        weights: Sequence[tf.Tensor],
        x: tf.Tensor,
        y: tf.Tensor,
        indices: tf.Tensor,
        num_rows: tf.Tensor,
        masks: Sequence[tf.Tensor],
    ) -> list[tf.Tensor]:
        train = self._job.train
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            residuals, roots = self._residuals(weights, x, y, indices, masks)
            # The squared error is what is shown, whatever is minimised.
            error = squared_error(residuals, roots)
            total = error if train.loss == "mse" else robust_error(train, residuals, roots)
            loss = total / num_rows
        # An embedding's gradient comes as the rows it touches.
        return [*map(tf.convert_to_tensor, tape.gradient(loss, weights)), error]

    def _residuals(
        self,
        weights: Sequence[tf.Tensor],
        x: tf.Tensor,
        y: tf.Tensor,
        indices: tf.Tensor,
        masks: Sequence[tf.Tensor] = (),
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """What is predicted less what is observed, 0 for padding, and the roots of the weights."""
        rows = tf.maximum(indices, 0)
        mapping = [
            *zip(self._dnn.trainable_variables, weights, strict=True),
            *zip(self._dnn.non_trainable_variables[: len(self.fixed)], self.fixed, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping):
            predicted = forward(self._dnn, tf.gather(x, rows), masks=masks)
        observed = tf.gather(y, rows)
        observed, roots = (
            tf.unstack(observed, axis=1) if observed.shape.rank == 2 else (observed, None)
        )
        return tf.where(indices >= 0, predicted - observed, 0.0), roots

    def _add_over_replicas(self, parts: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums over all replicas, in one reduction among the devices; called by each of them."""
        if self._num_replicas == 1:
            return parts
        packed = tf.concat([tf.reshape(part, (-1,)) for part in parts], 0)
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, packed)
        totals = tf.split(total, [part.shape.num_elements() for part in parts])
        return [tf.reshape(each, part.shape) for each, part in zip(totals, parts, strict=True)]
