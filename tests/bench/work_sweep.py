"""Many seeds of the housing job: what a sweep takes beside its trainings at the machine's best.

work = make_sweep_work(table)
"""

import json
import os
import shlex
import statistics
from pathlib import Path
from typing import Any

from contenders import DNNJOB, HERE, ROOT, RUNS, make_run, words
from inputs import Table
from measure import Bar, Contender, Figures, Round, Work, read_run

_SEEDS = 24
_SIDE_BY_SIDE = 2
# What a sweep may take beside its trainings: start, and in the background its waiting.
_SHARE, _START_S, _BACKGROUND_S = 1.15, 15.0, 5.0


def make_sweep_work(table: Table) -> Work:
    """A sweep of seeds in the foreground and in the background, against its trainings."""
    cores = len(os.sched_getaffinity(0))
    source = f"data.source={table.source}"
    sweep = words(HERE / "housing.toml", source, f"sweep.seed={list(range(_SEEDS))}")
    pair = words(HERE / "housing.toml", source, f"sweep.seed={list(range(_SIDE_BY_SIDE))}")
    alone = ("devices.threads=1", f"devices.stack={_SIDE_BY_SIDE}", "output.plots=false")
    submit = [*sweep, *words("--profile", ROOT / "slurm" / "local.toml", "--root", RUNS)]
    return Work(
        name="sweep",
        title=f"{_SEEDS} seeds of the housing job, all reports and plots written",
        contenders=(
            make_run("housing.toml", table.source, f"devices.threads={cores}", name="all cores"),
            _run("side by side", [*pair, *alone]),
            _run("sweep", sweep),
            Contender("background", lambda _: ["sh", "-c", _in_background(submit)], _read_runs),
        ),
        figures=("wall_s", "train_s", "foreign_cores"),
        make_bars=_make_bars,
        pairs=3,
    )


def _make_bars(rounds: list[Round]) -> list[Bar]:
    return [
        Bar(
            "sweep, seconds of what it may take",
            lambda one: one["sweep"]["wall_s"] / (_best_s(one) * _SHARE * _SEEDS + _START_S),
            at_most=1.0,
        ),
        Bar(
            "background, seconds of what it may take",
            lambda one: (
                one["background"]["wall_s"]
                / (_best_s(one) * _SHARE * _SEEDS + _START_S + _BACKGROUND_S)
            ),
            at_most=1.0,
        ),
        Bar("sweep, peak memory in GB", lambda one: one["sweep"]["peak_gb"], at_most=2.5),
    ]


def _best_s(one: Round) -> float:
    """Seconds of a training at the machine's best."""
    return min(one["all cores"]["train_s"], one["side by side"]["train_s"] / _SIDE_BY_SIDE)


def _run(name: str, line: list[str]) -> Contender:
    return Contender(name, lambda _: words(DNNJOB, "run", *line, "--root", RUNS), _read_runs)


def _in_background(submit: list[str]) -> str:
    """Submits, waits, and prints the folder of each run."""
    runs = "import json, sys; [print(p['run']) for p in json.load(open(sys.argv[1]))['points']]"
    return (
        f"set -e; sweep=$({shlex.join(words(DNNJOB, 'submit', *submit))}); "
        f'{shlex.quote(str(DNNJOB))} wait "$sweep" >&2; cd {shlex.quote(str(RUNS))}; '
        f'python3 -c {shlex.quote(runs)} "$sweep/sweep.json" | sed "s|^|$PWD/|"'
    )


def _read_runs(stdout: str) -> Figures:
    """Mean training time of the runs, and the memory of all processes that ran them at a time."""
    folders = [Path(line) for line in stdout.splitlines()]
    reports: list[dict[str, Any]] = [
        json.loads((folder / "report.json").read_bytes()) for folder in folders
    ]
    peaks: dict[int, float] = {}
    for report in reports:
        pid = report["provenance"]["attempts"][-1]["pid"]
        peaks[pid] = max(peaks.get(pid, 0.0), report["resources"]["peak_rss_mb"])
    return {
        **read_run(stdout),
        "train_s": statistics.mean(report["timing_s"]["train"] for report in reports),
        "peak_gb": sum(peaks.values()) * 2**20 / 1e9,
    }
