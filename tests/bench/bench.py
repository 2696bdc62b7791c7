"""Dnnjob against its peers on this machine: medians of paired runs, and the bars they must reach.

    make bench
    make bench BENCH_ARGS="--only housing,startup --pairs 7 --housing housing.csv"

Works: housing, process, batch-1024, batch-8192 against peers; sweep against its trainings; search
with halving against without; startup, collect alone; tasks, replicas, tasks-start, checkpoints,
stream against a run without them.
Everything runs on two CPU cores, which nothing else should use meanwhile: rounds in which
something did are counted as disturbed, and PyTorch suffers most from it, since its threads wait for
each other by spinning.
"""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contenders import FOLDER, ROOT, RUNS
from inputs import Table, write_housing, write_large
from measure import BenchError, Work, alternate, judge, render_figures, render_verdicts, talk
from work_peers import make_batch_work, make_housing_work, make_process_work
from work_search import make_search_work
from work_start import make_collect_work, make_startup_work
from work_stream import make_stream_work
from work_sweep import make_sweep_work
from work_tasks import (
    make_checkpoints_work,
    make_replicas_work,
    make_tasks_start_work,
    make_tasks_work,
)

NAMES = (
    "housing",
    "process",
    "sweep",
    "search",
    "batch-1024",
    "batch-8192",
    "startup",
    "collect",
    "tasks",
    "replicas",
    "tasks-start",
    "checkpoints",
    "stream",
)


def main() -> int:
    """Runs the chosen works; 0 if every bar is met, 1 if one is not or a contender fails."""
    arguments = parse_arguments()
    cores = choose_cores(arguments.cores)
    os.sched_setaffinity(0, cores)  # the children inherit it
    shutil.rmtree(RUNS, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    works = make_works(arguments)
    started_at = datetime.now(UTC)
    results: dict[str, Any] = {"machine": describe_machine(cores), "works": {}, "bars": []}
    pages = [f"dnnjob and its peers, {started_at:%Y-%m-%d %H:%M} UTC, {results['machine']['line']}"]
    stem = FOLDER / f"{started_at:%Y%m%d-%H%M%S}"
    failed = False
    for name in arguments.only:
        work = works[name]()
        try:
            pairs = arguments.pairs or work.pairs
            rounds = alternate(work, pairs=pairs, environment=make_environment())
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


def make_works(arguments: argparse.Namespace) -> dict[str, Callable[[], Work]]:
    """Every work by its name; its table is written when it is made."""

    def housing() -> Table:
        return write_housing(arguments.housing, folder=FOLDER)

    def large() -> Table:
        return write_large(folder=FOLDER)

    return {
        "housing": lambda: make_housing_work(housing()),
        "process": lambda: make_process_work(housing()),
        "sweep": lambda: make_sweep_work(housing()),
        "search": lambda: make_search_work(
            arguments.concrete, points=arguments.points, epochs=arguments.epochs
        ),
        "batch-1024": lambda: make_batch_work(large(), batch=1024),
        "batch-8192": lambda: make_batch_work(large(), batch=8192),
        "startup": lambda: make_startup_work(housing().source),
        "collect": lambda: make_collect_work(num_runs=arguments.runs),
        "tasks": lambda: make_tasks_work(large()),
        "replicas": lambda: make_replicas_work(large()),
        "tasks-start": lambda: make_tasks_start_work(housing()),
        "checkpoints": lambda: make_checkpoints_work(housing(), seconds=arguments.seconds),
        "stream": lambda: make_stream_work(num_rows=arguments.rows),
    }


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(NAMES))
    parser.add_argument("--pairs", type=int, help="rounds of each work; default: 5, for some 9")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--housing", type=Path, help="the housing table; default: one of its shape")
    parser.add_argument(
        "--concrete",
        type=Path,
        default=ROOT.parent / "shared" / "data" / "concrete.csv",
        help="the table of `search`",
    )
    parser.add_argument("--points", type=int, default=60, help="of `search`")
    parser.add_argument("--epochs", type=int, default=600, help="of each point of `search`")
    parser.add_argument("--rows", type=int, default=20_000_000, help="of the table of `stream`")
    parser.add_argument("--runs", type=int, default=10_000, help="run folders of `collect`")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training of `checkpoints`")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.only) - set(NAMES))
    if unknown:
        parser.error(f"--only knows {', '.join(NAMES)}, not {', '.join(unknown)}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
