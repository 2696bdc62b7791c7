"""dnnjob against Keras, PyTorch, JAX, a bare TensorFlow loop and the course's script.

work = make_housing_work(write_housing(None, folder=FOLDER))
"""

from functools import partial

from contenders import (
    FOLDER,
    HERE,
    PEERS_PYTHON,
    PYTHON,
    TRAINING_FIGURES,
    loss_spread,
    make_peer,
    make_run,
    ratio,
    words,
)
from inputs import Table
from measure import Bar, Contender, Round, Work, median_of, read_nothing


def make_housing_work(table: Table) -> Work:
    """The steps of the housing job: batch 64, 500 epochs, Dense 200-1000-1, SGD 0.01."""
    peer = partial(make_peer, table=table, batch=64, epochs=500, learning_rate=0.01)

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [
            Bar("Keras fit / dnnjob, once compiled", ratio("keras", "dnnjob", "train_s"), 10.0),
            Bar("Keras fit / dnnjob, compiling too", ratio("keras", "dnnjob", "total_s"), 7.0),
            Bar("PyTorch / dnnjob, once compiled", ratio("pytorch", "dnnjob", "train_s"), 1.0),
            Bar("dnnjob / JAX, once compiled", ratio("dnnjob", "jax", "train_s"), at_most=1.15),
            # Keras and dnnjob draw first weights and order of their own.
            Bar("final losses, highest / lowest", loss_spread, at_most=1.3),
        ]

    return Work(
        name="housing",
        title=f"training alone, {table.num_train_rows} rows, batch 64, 500 epochs, "
        f"Dense 200-1000-1, SGD, {table.source.name}",
        contenders=(
            make_run("housing.toml", table.source, "output.plots=false"),
            peer("keras", PYTHON, "peer_keras.py"),
            peer("pytorch", PEERS_PYTHON, "peer_torch.py"),
            peer("jax", PEERS_PYTHON, "peer_jax.py"),
        ),
        figures=TRAINING_FIGURES,
        make_bars=make_bars,
    )


def make_process_work(table: Table) -> Work:
    """The housing job from command to last file, plots included."""
    course = Contender(
        name="course",
        command=lambda _: words(PYTHON, HERE / "course.py", table.source, FOLDER / "course"),
        read=read_nothing,
    )

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [Bar("dnnjob / course's script", ratio("dnnjob", "course", "wall_s"), at_most=1 / 3)]

    return Work(
        name="process",
        title="the housing job as a whole process, plots included",
        contenders=(make_run("housing.toml", table.source), course),
        figures=("wall_s", "foreign_cores"),
        make_bars=make_bars,
        warm_up=True,
    )


def make_batch_work(table: Table, *, batch: int) -> Work:
    """Some epochs of a resident table in large batches."""
    peer = partial(make_peer, table=table, batch=batch, epochs=4, learning_rate=0.05)
    peers = (
        peer("pytorch", PEERS_PYTHON, "peer_torch.py"),
        peer("jax", PEERS_PYTHON, "peer_jax.py"),
        peer("tensorflow", PYTHON, "peer_tensorflow.py"),
        peer("tensorflow xla", PYTHON, "peer_tensorflow.py", "--xla"),
    )

    def make_bars(rounds: list[Round]) -> list[Bar]:
        best = max((one.name for one in peers), key=lambda n: median_of(rounds, n, "rows_per_s"))
        return [
            Bar(f"dnnjob / best peer ({best})", ratio("dnnjob", best, "rows_per_s"), 0.85),
            Bar("final losses, highest / lowest", loss_spread, at_most=1.1),
        ]

    return Work(
        name=f"batch-{batch}",
        title=f"training alone, {table.num_train_rows:,} rows, batch {batch}, 4 epochs, "
        "Dense 200-1000-1, SGD",
        contenders=(
            make_run("large.toml", table.source, f"train.global_batch_size={batch}"),
            *peers,
        ),
        figures=TRAINING_FIGURES,
        make_bars=make_bars,
    )
