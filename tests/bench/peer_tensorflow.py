"""Bare TensorFlow: one tf.function over epochs and batches, with or without XLA.

python peer_tensorflow.py --table table.npz --batch 64 --epochs 500 --xla
"""

import tensorflow as tf
from task import Stopwatch, Task, load_task, parse_arguments, print_result


class Trainer:
    """The network's variables and the compiled function that trains them."""

    def __init__(self, task: Task, *, xla: bool) -> None:
        """Makes the variables with the task's first weights."""
        self._layers = [(tf.Variable(kernel), tf.Variable(bias)) for kernel, bias in task.weights]
        self._learning_rate = task.learning_rate
        self.train = tf.function(self._train, jit_compile=xla)

    def _train(
        self, x: tf.Tensor, y: tf.Tensor, full: tf.Tensor, tail: tf.Tensor, epochs: tf.Tensor
    ) -> tf.Tensor:
        last = tf.constant(0.0)
        for epoch in tf.range(epochs):
            last = tf.constant(0.0)
            for step in tf.range(full.shape[1]):
                last += self._step(x, y, full[epoch, step])
            if tail.shape[1]:
                last += self._step(x, y, tail[epoch])
        return last

    def _step(self, x: tf.Tensor, y: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        num_rows = float(rows.shape[0])
        variables = [variable for layer in self._layers for variable in layer]
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(tf.square(self._predict(tf.gather(x, rows)) - tf.gather(y, rows)))
        gradients = tape.gradient(total, variables)
        for variable, gradient in zip(variables, gradients, strict=True):
            variable.assign_sub(self._learning_rate / num_rows * gradient)
        return total

    def _predict(self, x: tf.Tensor) -> tf.Tensor:
        hidden = x
        for kernel, bias in self._layers[:-1]:
            hidden = tf.nn.relu(tf.linalg.matmul(hidden, kernel) + bias)
        kernel, bias = self._layers[-1]
        return tf.linalg.matmul(hidden, kernel) + bias


def train(task: Task, *, xla: bool) -> tuple[float, float, float]:
    """Trains; seconds of compiling and of steps, and the last epoch's loss."""
    trainer = Trainer(task, xla=xla)
    x, y = tf.constant(task.x), tf.constant(task.y)
    full, tail = tf.constant(task.full_order), tf.constant(task.tail_order)
    watch = Stopwatch()
    # Traced, optimized and compiled by a call that trains no epoch.
    float(trainer.train(x, y, full, tail, tf.constant(0)))
    compile_s = watch.lap()
    last = float(trainer.train(x, y, full, tail, tf.constant(task.epochs)))
    return compile_s, watch.lap(), last / len(task.x)


def main() -> None:
    """Runs the peer."""
    arguments = parse_arguments("TensorFlow", "xla")
    task = load_task(arguments)
    tf.config.threading.set_intra_op_parallelism_threads(task.threads)
    tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    compile_s, train_s, final_loss = train(task, xla=arguments.xla)
    print_result(
        task,
        library=f"tensorflow {tf.__version__}",
        compile_s=compile_s,
        train_s=train_s,
        final_loss=final_loss,
    )


if __name__ == "__main__":
    main()
