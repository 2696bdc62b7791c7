"""What a GPU must show, in five minutes: a killed run's bits, and many networks beside one.

    .venv/bin/python tests/bench/gpu.py --housing housing.csv --members 100

First the tests of runs that are killed on the GPU, then the housing job with one network and with
many members in one call: their steps may take ten times those of one. Exit code 1 where something
is missed.
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
    parser.add_argument("--members", type=int, default=100)
    arguments = parser.parse_args()
    tests = words(sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "-k", "killed")
    test = subprocess.run([*tests, "tests/training/test_gpu.py"], cwd=ROOT, check=False)
    with tempfile.TemporaryDirectory() as folder:
        one = measure(arguments.housing, "seed=0", root=Path(folder) / "one")
        members = f"model.members={arguments.members}"
        many = measure(arguments.housing, members, root=Path(folder) / "many")
    ratio = many["steps_s"] / one["steps_s"]
    told = {"one": one, "many": many, "ratio": ratio, "at_most": MOST_TIMES_ONE}
    print(json.dumps(told, indent=1))
    return int(test.returncode != 0 or ratio > MOST_TIMES_ONE)


def measure(table: Path, word: str, *, root: Path) -> dict[str, float]:
    """Networks in one call, seconds of their steps, of compiling, and of the whole command."""
    command = words(DNNJOB, "run", HERE / "housing.toml", f"data.source={table.resolve()}", word)
    start = time.perf_counter()
    done = subprocess.run(
        [*command, *_QUICK, "--root", str(root)], check=True, stdout=subprocess.PIPE, text=True
    )
    wall_s = time.perf_counter() - start
    report: dict[str, Any] = json.loads((Path(done.stdout.strip()) / "report.json").read_bytes())
    timing = report["timing_s"]
    return {
        "stack": report["strategy"]["stack"],
        "steps_s": timing["train"],
        "compile_s": timing["compile"],
        "wall_s": wall_s,
    }


if __name__ == "__main__":
    sys.exit(main())
