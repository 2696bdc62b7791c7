"""What a GPU must show, in five minutes: a killed run's bits, and many networks beside one.

    .venv/bin/python tests/bench/gpu.py --housing housing.csv --networks 100

First the tests of runs that are killed on the GPU, then the housing job with one network, with many
members, and as a sweep of as many seeds: their steps, which one call takes, may take ten times
those of one. Exit code 1 where something is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from contenders import DNNJOB, HERE, ROOT, words

MOST_TIMES_ONE = 10.0
_QUICK = (
    "output.plots=false",
    "output.trees=false",
    "devices.kind=gpu",
    "devices.require_gpu=true",
)


def main() -> int:
    """Runs all of it; 0 where each part holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--housing", type=Path, required=True, help="the housing table")
    parser.add_argument("--networks", type=int, default=100)
    arguments = parser.parse_args()
    tests = words(sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "-k", "killed")
    test = subprocess.run([*tests, "tests/training/test_gpu.py"], cwd=ROOT, check=False)
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder), arguments.networks
        one = measure(arguments.housing, "seed=0", root=root / "one")
        members = measure(arguments.housing, f"model.members={count}", root=root / "members")
        seeds = f"sweep.seed={list(range(count))}"
        sweep = measure(arguments.housing, seeds, root=root / "sweep")
    ratios = {
        "members": members["steps_s"] / one["steps_s"],
        "sweep": sweep["steps_s"] / one["steps_s"],
    }
    told = {"one": one, "members": members, "sweep": sweep, "ratios": ratios}
    print(json.dumps({**told, "at_most": MOST_TIMES_ONE}, indent=1))
    return int(test.returncode != 0 or max(ratios.values()) > MOST_TIMES_ONE)


def measure(table: Path, word: str, *, root: Path) -> dict[str, float]:
    """Networks in one call, seconds of their steps, of compiling, and of the whole command.

    Of a sweep whose runs all train in one call, each was in it for as long.
    """
    command = words(DNNJOB, "run", HERE / "housing.toml", f"data.source={table.resolve()}", word)
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *_QUICK, "--root", str(root)], check=True, stdout=subprocess.PIPE, text=True
    )
    wall_s = time.perf_counter() - start
    reports: list[dict[str, Any]] = [
        json.loads((Path(line) / "report.json").read_bytes()) for line in done.stdout.splitlines()
    ]
    return {
        "stack": min(report["strategy"]["stack"] for report in reports),
        "steps_s": max(report["timing_s"]["train"] for report in reports),
        "compile_s": max(report["timing_s"]["compile"] for report in reports),
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    sys.exit(main())
