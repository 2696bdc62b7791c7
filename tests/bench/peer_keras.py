"""Keras: `fit` as its guide has it, on NumPy arrays.

python peer_keras.py --table table.npz --batch 64 --epochs 500
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from task import Stopwatch, Task, load_task, parse_arguments, print_result


def build_model(task: Task) -> keras.Sequential:
    """The compiled model with the task's first weights."""
    *hidden, last = [bias.shape[0] for _, bias in task.weights]
    layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
    model = keras.Sequential([keras.Input((task.x.shape[1],)), *layers, keras.layers.Dense(last)])
    model.set_weights([weight for layer in task.weights for weight in layer])
    model.compile(optimizer=keras.optimizers.SGD(task.learning_rate), loss="mse")
    return model


def train(task: Task) -> tuple[float, float, float]:
    """Trains; seconds of compiling and of steps, and the last epoch's loss."""
    model = build_model(task)
    first = model.get_weights()
    watch = Stopwatch()
    # Traced and compiled by one epoch, which is then taken back.
    model.fit(task.x, task.y, batch_size=task.batch, epochs=1, verbose=0)
    compile_s = watch.lap()
    model.set_weights(first)
    watch.lap()
    history = model.fit(task.x, task.y, batch_size=task.batch, epochs=task.epochs, verbose=0)
    return compile_s, watch.lap(), history.history["loss"][-1]


def main() -> None:
    """Runs the peer."""
    task = load_task(parse_arguments("Keras"))
    keras.utils.set_random_seed(0)
    tf.config.threading.set_intra_op_parallelism_threads(task.threads)
    tf.config.threading.set_inter_op_parallelism_threads(task.threads)
    compile_s, train_s, final_loss = train(task)
    print_result(
        task,
        library=f"keras {keras.__version__}",
        compile_s=compile_s,
        train_s=train_s,
        final_loss=final_loss,
    )


if __name__ == "__main__":
    main()
