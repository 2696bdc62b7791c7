"""Dnnjob against its peers on this machine: medians of paired runs, and the bars they must reach.

    make bench
    make bench BENCH_ARGS="--only housing,startup --pairs 7 --housing housing.csv"

Works: housing, process, batch-1024, batch-8192, startup. Everything runs on two CPU cores, which
nothing else should use meanwhile: rounds in which something did are counted as disturbed, and
PyTorch suffers most from it, since its threads wait for each other by spinning.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from inputs import Table, write_housing, write_large
from measure import (
    Bar,
    BenchError,
    Contender,
    Round,
    Work,
    alternate,
    judge,
    median_of,
    read_nothing,
    read_peer,
    read_run,
    render_figures,
    render_verdicts,
    talk,
)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "build" / "bench"
RUNS = FOLDER / "runs"
DNNJOB = Path(sys.executable).with_name("dnnjob")
PYTHON = Path(sys.executable)
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

TRAINING_FIGURES = ("compile_s", "train_s", "rows_per_s", "final_loss", "foreign_cores")


def main() -> int:
    """Runs the chosen works; 0 if every bar is met, 1 if one is not or a contender fails."""
    arguments = parse_arguments()
    cores = choose_cores(arguments.cores)
    os.sched_setaffinity(0, cores)  # the children inherit it
    shutil.rmtree(RUNS, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    works = make_works(arguments.housing)
    started_at = datetime.now(UTC)
    results: dict[str, Any] = {"machine": describe_machine(cores), "works": {}, "bars": []}
    pages = [f"dnnjob and its peers, {started_at:%Y-%m-%d %H:%M} UTC, {results['machine']['line']}"]
    stem = FOLDER / f"{started_at:%Y%m%d-%H%M%S}"
    failed = False
    for name in arguments.only:
        work = works[name]()
        try:
            rounds = alternate(work, pairs=arguments.pairs, environment=make_environment())
        except BenchError as error:
            talk(str(error))
            failed = True
            continue
        results["works"][name] = {"title": work.title, "rounds": rounds}
        results["bars"] += judge(work, rounds)
        pages.append(f"{name}: {work.title}\n\n{render_figures(work, rounds)}")
        # After every work, since the next one may be interrupted.
        stem.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        stem.with_suffix(".md").write_text(render_page(pages, results["bars"]))
    print(render_page(pages, results["bars"]), end="")
    if results["works"]:
        talk(f"Written to {stem.with_suffix('.json')} and .md.")
    return 1 if failed or not all(bar["met"] for bar in results["bars"]) else 0


def render_page(pages: list[str], bars: list[dict[str, Any]]) -> str:
    """The figures of all works, then all bars."""
    return "\n\n".join([*pages, render_verdicts(bars)]) + "\n"


def make_works(housing: Path | None) -> dict[str, Callable[[], Work]]:
    """Every work by its name; its table is written when it is made."""
    return {
        "housing": lambda: make_housing_work(write_housing(housing, folder=FOLDER)),
        "process": lambda: make_process_work(write_housing(housing, folder=FOLDER)),
        "batch-1024": lambda: make_batch_work(write_large(folder=FOLDER), batch=1024),
        "batch-8192": lambda: make_batch_work(write_large(folder=FOLDER), batch=8192),
        "startup": make_startup_work,
    }


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
            make_run("housing.toml", table, "output.plots=false"),
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
        contenders=(make_run("housing.toml", table), course),
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
        contenders=(make_run("large.toml", table, f"train.global_batch_size={batch}"), *peers),
        figures=TRAINING_FIGURES,
        make_bars=make_bars,
    )


def make_startup_work() -> Work:
    """The start of dnnjob's command, and of Python alone for scale."""

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [Bar("dnnjob --help, seconds", lambda one: one["dnnjob"]["wall_s"], at_most=0.5)]

    return Work(
        name="startup",
        title="seconds from command to exit",
        contenders=(
            Contender("dnnjob", lambda _: words(DNNJOB, "--help"), read_nothing),
            Contender("python", lambda _: words(PYTHON, "-c", "pass"), read_nothing),
        ),
        figures=("wall_s", "foreign_cores"),
        make_bars=make_bars,
        warm_up=True,
    )


def make_run(job: str, table: Table, *overrides: str) -> Contender:
    """A run of dnnjob on a job file beside this module; the round is its seed."""
    command = words(DNNJOB, "run", HERE / job, f"data.source={table.source}", *overrides)
    return Contender(
        name="dnnjob",
        command=lambda number: [*command, f"seed={number}", "--root", str(RUNS)],
        read=read_run,
    )


def make_peer(
    name: str,
    python: Path,
    script: str,
    *options: str,
    table: Table,
    batch: int,
    epochs: int,
    learning_rate: float,
) -> Contender:
    """A peer's script with the arguments that all of them take; the round is its seed."""
    command = words(python, HERE / script, "--table", table.arrays, "--batch", batch)
    command += words("--epochs", epochs, "--learning-rate", learning_rate, *options)
    return Contender(
        name=name,
        command=lambda number: [*command, "--seed", str(number)],
        read=read_peer,
    )


def words(*parts: object) -> list[str]:
    """A command line from its parts."""
    return [str(part) for part in parts]


def ratio(above: str, below: str, figure: str) -> Callable[[Round], float]:
    """The quotient of one figure of two contenders."""
    return lambda one: one[above][figure] / one[below][figure]


def loss_spread(one: Round) -> float:
    """The highest final loss in units of the lowest: all of them did the same work."""
    losses = [figures["final_loss"] for figures in one.values()]
    return max(losses) / min(losses)


def make_environment() -> dict[str, str]:
    """The environment of every contender: no GPU, little talk, threads from the affinity."""
    inherited = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    return {
        **inherited,
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def choose_cores(count: int) -> set[int]:
    """Up to `count` CPUs this process may use, no two of them of one physical core."""
    chosen: dict[str, int] = {}
    for cpu in sorted(os.sched_getaffinity(0)):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        chosen.setdefault(siblings.read_text() if siblings.exists() else str(cpu), cpu)
    return set(list(chosen.values())[:count])


def describe_machine(cores: set[int]) -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor()
    return {
        "cpu": cpu,
        "cores": sorted(cores),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "line": f"{cpu}, {len(cores)} cores",
    }


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    names = ["housing", "process", "batch-1024", "batch-8192", "startup"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=names)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--housing", type=Path, help="the housing table; default: one of its shape")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.only) - set(names))
    if unknown:
        parser.error(f"--only knows {', '.join(names)}, not {', '.join(unknown)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
