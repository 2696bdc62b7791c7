"""How soon the verbs that need no TensorFlow answer, and how long `collect` takes on many runs.

work = make_collect_work(num_runs=10_000)
"""

import importlib.util
import shutil
from pathlib import Path

from contenders import DNNJOB, FOLDER, HERE, PYTHON, ROOT, words
from measure import Bar, Contender, Round, Work, read_nothing, talk

_FEW_RUNS = 100


def make_startup_work(source: Path) -> Work:
    """The start of dnnjob's commands, and of Python alone for scale."""
    root = _make_root(_FEW_RUNS)
    submit = words(DNNJOB, "submit", HERE / "housing.toml", f"data.source={source}", "--dry-run")
    submit += words("--profile", ROOT / "slurm" / "local.toml", "--root", root)
    commands = {
        "dnnjob --help": words(DNNJOB, "--help"),
        "dnnjob submit --dry-run": submit,
        f"dnnjob status of {_FEW_RUNS} runs": words(DNNJOB, "status", root),
    }

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [_seconds(name, at_most=0.5) for name in commands]

    return Work(
        name="startup",
        title="seconds from command to exit",
        contenders=(
            *(_command(name, line) for name, line in commands.items()),
            _command("python", words(PYTHON, "-c", "pass")),
        ),
        figures=("wall_s", "foreign_cores"),
        make_bars=make_bars,
        warm_up=True,
    )


def make_collect_work(*, num_runs: int) -> Work:
    """`collect` without and with what it kept of an earlier time.

    The first time finds no cache of dnnjob's; the kernel may hold the files in memory.
    """
    root = _make_root(num_runs)
    collect = words(DNNJOB, "collect", root, "--out", FOLDER / "collected.parquet")
    first, warm = FOLDER / "cache-first", FOLDER / "cache-warm"

    def make_bars(rounds: list[Round]) -> list[Bar]:
        return [_seconds("first", at_most=20.0), _seconds("warm", at_most=5.0)]

    return Work(
        name="collect",
        title=f"dnnjob collect of {num_runs:,} runs, from command to exit",
        contenders=(
            Contender(
                "first",
                lambda _: collect,
                read_nothing,
                environment={"XDG_CACHE_HOME": str(first)},
                prepare=lambda: shutil.rmtree(first, ignore_errors=True),
            ),
            Contender(
                "warm", lambda _: collect, read_nothing, environment={"XDG_CACHE_HOME": str(warm)}
            ),
        ),
        figures=("wall_s", "foreign_cores"),
        make_bars=make_bars,
        warm_up=True,
    )


def _command(name: str, line: list[str]) -> Contender:
    return Contender(name, lambda _: line, read_nothing)


def _seconds(name: str, *, at_most: float) -> Bar:
    return Bar(f"{name}, seconds", lambda one: one[name]["wall_s"], at_most=at_most)


def _make_root(num_runs: int) -> Path:
    """A root of run folders, made as the tests of `collect` do, and kept for the next time."""
    root = FOLDER / f"root-{num_runs}"
    if root.exists():
        return root
    talk(f"Making {num_runs:,} run folders in {root}")
    half_made = root.with_name(f"{root.name}-half-made")
    shutil.rmtree(half_made, ignore_errors=True)
    path = HERE.parent / "collect" / "make_runs.py"
    spec = importlib.util.spec_from_file_location("make_runs", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.make_root(half_made, num_runs=num_runs)
    return half_made.rename(root)
