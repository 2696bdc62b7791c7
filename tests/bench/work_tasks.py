"""What several tasks, several replicas and checkpoints cost, against a run without them.

work = make_tasks_work(write_large(folder=FOLDER))
"""

from contenders import TRAINING_FIGURES, make_run, ratio
from inputs import Table
from measure import Bar, Round, Work

# Ratios near 1 need more pairs than the others.
_MANY_PAIRS = 9
# Roughly, on two cores: the reference job then trains for as long as is asked.
_EPOCHS_A_SECOND = 180


def make_tasks_work(table: Table) -> Work:
    """Two tasks that share the cores at large batches, against one that has them all."""
    job = ("large.toml", table.source, "train.global_batch_size=8192")

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [
            Bar("two tasks / one", ratio("two tasks", "one task", "rows_per_s"), 0.95),
            _equal_losses("two tasks", "one task"),
        ]

    return Work(
        name="tasks",
        title=f"{table.num_train_rows:,} rows, batch 8192, 4 epochs: two tasks of one thread "
        "against one of two",
        contenders=(
            make_run(*job, "devices.tasks=2", "devices.threads=1", name="two tasks"),
            make_run(*job, "devices.threads=2", name="one task"),
        ),
        figures=TRAINING_FIGURES,
        make_bars=make_bars,
        pairs=_MANY_PAIRS,
    )


def make_replicas_work(table: Table) -> Work:
    """Two replicas on logical CPU devices of one process, against one."""
    job = ("large.toml", table.source, "train.global_batch_size=1024", "devices.threads=2")
    two = {"DNNJOB_LOGICAL_CPUS": "2"}

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [
            Bar("two replicas / one", ratio("two replicas", "one replica", "rows_per_s"), 0.9),
            _equal_losses("two replicas", "one replica"),
        ]

    return Work(
        name="replicas",
        title=f"{table.num_train_rows:,} rows, batch 1024, 4 epochs: two logical replicas "
        "against one",
        contenders=(
            make_run(*job, name="two replicas", environment=two),
            make_run(*job, name="one replica"),
        ),
        figures=TRAINING_FIGURES,
        make_bars=make_bars,
        pairs=_MANY_PAIRS,
    )


def make_checkpoints_work(table: Table, *, seconds: float) -> Work:
    """The reference job for about a minute with a checkpoint a second, and without any."""
    epochs = max(1, round(seconds * _EPOCHS_A_SECOND))
    job = ("housing.toml", table.source, f"train.epochs={epochs}", "output.plots=false")

    def make_bars(rounds: list[Round]) -> list[Bar]:
        cost = ratio("every second", "none", "train_s")
        return [Bar("with checkpoints / without, training", cost, at_most=1.03)]

    return Work(
        name="checkpoints",
        title=f"the housing job for {epochs:,} epochs: a checkpoint a second against none",
        contenders=(
            make_run(*job, "train.checkpoint_every_s=1", name="every second"),
            make_run(*job, "train.checkpoint_every_s=1000000", name="none"),
        ),
        figures=("train_s", "rows_per_s", "final_loss", "foreign_cores"),
        make_bars=make_bars,
    )


def make_tasks_start_work(table: Table) -> Work:
    """The housing job on two tasks, from command to report."""

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [Bar("two tasks / one", ratio("two tasks", "one task", "wall_s"), at_most=2.5)]

    return Work(
        name="tasks-start",
        title="the housing job as a whole process, plots included: two tasks against one",
        contenders=(
            make_run("housing.toml", table.source, "devices.tasks=2", name="two tasks"),
            make_run("housing.toml", table.source, name="one task"),
        ),
        figures=("wall_s", "compile_s", "train_s", "foreign_cores"),
        make_bars=make_bars,
        warm_up=True,
    )


def _equal_losses(one: str, other: str) -> Bar:
    return Bar("final losses, quotient", ratio(one, other, "final_loss"), 0.999, 1.001)
