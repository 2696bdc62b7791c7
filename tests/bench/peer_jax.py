"""JAX: one compiled call, a scan over epochs of a scan over batches, weights donated.

python peer_jax.py --table table.npz --batch 64 --epochs 500
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from task import Stopwatch, Task, load_task, parse_arguments, print_result

Weights = list[tuple[Array, Array]]


def squared_error(weights: Weights, x: Array, y: Array) -> Array:
    """Mean squared error of a batch."""
    hidden = x
    for kernel, bias in weights[:-1]:
        hidden = jax.nn.relu(hidden @ kernel + bias)
    kernel, bias = weights[-1]
    return jnp.mean(jnp.square(hidden @ kernel + bias - y))


@partial(jax.jit, donate_argnums=0)
def train_all(
    weights: Weights, x: Array, y: Array, full: Array, tail: Array, learning_rate: Array
) -> tuple[Weights, Array]:
    """The trained weights and the squared error summed over each epoch, shape `(epochs,)`."""

    def step(weights: Weights, rows: Array) -> tuple[Weights, Array]:
        batch_x = x.at[rows].get(mode="promise_in_bounds")
        batch_y = y.at[rows].get(mode="promise_in_bounds")
        error, gradients = jax.value_and_grad(squared_error)(weights, batch_x, batch_y)
        moved = jax.tree.map(lambda w, g: w - learning_rate * g, weights, gradients)
        return moved, error * len(rows)

    def epoch(weights: Weights, rows: tuple[Array, Array]) -> tuple[Weights, Array]:
        full, tail = rows
        weights, errors = jax.lax.scan(step, weights, full)
        total = jnp.sum(errors)
        if tail.size:
            weights, error = step(weights, tail)
            total += error
        return weights, total

    return jax.lax.scan(epoch, weights, (full, tail))


def train(task: Task) -> tuple[float, float, float]:
    """Trains; seconds of compiling and of steps, and the last epoch's loss."""
    arguments = jax.block_until_ready(
        (
            [(jnp.asarray(kernel), jnp.asarray(bias)) for kernel, bias in task.weights],
            jnp.asarray(task.x),
            jnp.asarray(task.y),
            jnp.asarray(task.full_order),
            jnp.asarray(task.tail_order),
            jnp.float32(task.learning_rate),
        )
    )
    watch = Stopwatch()
    compiled = train_all.lower(*arguments).compile()
    compile_s = watch.lap()
    _, totals = jax.block_until_ready(compiled(*arguments))
    train_s = watch.lap()
    return compile_s, train_s, float(totals[-1]) / len(task.x)


def main() -> None:
    """Runs the peer."""
    task = load_task(parse_arguments("JAX"))
    compile_s, train_s, final_loss = train(task)
    print_result(
        task,
        library=f"jax {jax.__version__}",
        compile_s=compile_s,
        train_s=train_s,
        final_loss=final_loss,
    )


if __name__ == "__main__":
    main()
