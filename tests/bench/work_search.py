"""A search with successive halving against the same search without: time, and the best point.

work = make_search_work(Path("concrete.csv"), points=60, epochs=180)
"""

import json
from pathlib import Path
from typing import Any

from contenders import DNNJOB, HERE, RUNS, ratio, words
from measure import Bar, Contender, Figures, Round, Work


def make_search_work(table: Path, *, points: int, epochs: int) -> Work:
    """The search of `search.toml` twice; the round is its seed."""
    given = words(f"search.points={points}", f"train.epochs={epochs}")
    return Work(
        name="search",
        title=f"{points} points on {table.name}, {epochs} epochs",
        contenders=(
            _run("all epochs", [f"data.source={table}", *given]),
            _run("halving", [f"data.source={table}", *given, "search.halving=3"]),
        ),
        figures=("wall_s", "cpu_s", "best_validation_mse", "best_test_mse", "foreign_cores"),
        make_bars=_make_bars,
    )


def _make_bars(_: list[Round]) -> list[Bar]:
    return [
        Bar("halving, time of all", ratio("halving", "all epochs", "wall_s"), at_most=0.45),
        Bar("halving, CPU time of all", ratio("halving", "all epochs", "cpu_s"), at_most=0.45),
        Bar(
            "halving, test MSE of the best",
            ratio("halving", "all epochs", "best_test_mse"),
            at_most=1.05,
        ),
    ]


def _run(name: str, given: list[str]) -> Contender:
    command = words(DNNJOB, "run", HERE / "search.toml", *given)
    return Contender(
        name,
        lambda number: [*command, f"seed={number}", *words("--root", RUNS)],
        _read_best,
    )


def _read_best(stdout: str) -> Figures:
    """Errors of the point with the least validation error."""
    reports: list[dict[str, Any]] = [
        json.loads((Path(line) / "report.json").read_bytes()) for line in stdout.splitlines()
    ]
    best = min(reports, key=lambda one: one["metrics"]["validation"]["mse"])["metrics"]
    return {
        "best_validation_mse": best["validation"]["mse"],
        "best_test_mse": best["test"]["mse"],
    }
