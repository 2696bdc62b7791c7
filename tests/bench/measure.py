"""Contenders run in alternation as processes of their own, and their figures as medians.

work = Work("housing", "354 rows", contenders=(dnnjob, keras), bars=(bar,))
rounds = alternate(work, pairs=5)
print(render_bars(work, rounds))
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
"""What one process gave: numbers by name, among them `wall_s` and `foreign_cores`."""
Round = dict[str, Figures]
"""The figures of one pass over the contenders, by their names."""


FOREIGN_CORES = 0.1
"""CPU time of other processes, in cores, above which a figure is disturbed."""
TICKS_S = 0.05
"""What the kernel's ticks of 10 ms may err by."""
QUIET_WAIT_S = 20
"""Longest wait for a quiet machine before a process."""


class BenchError(Exception):
    """A contender failed, so there is nothing to compare."""


@dataclass(frozen=True)
class Contender:
    """A command and how its figures are read."""

    name: str
    command: Callable[[int], list[str]]
    """The command line of a round, from its number."""
    read: Callable[[str], Figures]
    """The figures, from the command's stdout."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What its environment has besides that of all."""
    prepare: Callable[[], object] = lambda: None
    """Done before each start, untimed."""


@dataclass(frozen=True)
class Bar:
    """A ratio of two figures of one round, or one figure alone, and what it must reach."""

    claim: str
    """What is compared, in words."""
    figure: Callable[[Round], float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def limit(self) -> str:
        """The bar in words."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return f"at most {self.at_most:.3g}"

    def is_met(self, value: float) -> bool:
        """Whether the median reaches the bar."""
        above = self.at_least is None or value >= self.at_least
        return above and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True)
class Work:
    """One thing to do, who does it, and what must come out."""

    name: str
    title: str
    contenders: tuple[Contender, ...]
    figures: tuple[str, ...]
    """The figures to show."""
    make_bars: Callable[[list[Round]], list[Bar]]
    """The bars, from all rounds: some ask which peer is the best."""
    warm_up: bool = False
    """Run each contender once before the first round, so that files are in the page cache."""
    pairs: int = 5
    """Rounds, where the command line asks for no other number."""


def alternate(work: Work, *, pairs: int, environment: dict[str, str]) -> list[Round]:
    """Runs every contender once a round, in an order that turns round by round.

    Raises:
        BenchError: If a contender fails.
    """
    if work.warm_up:
        for contender in work.contenders:
            run_contender(contender, 0, environment=environment)
    rounds = []
    for number in range(pairs):
        order = work.contenders if number % 2 == 0 else work.contenders[::-1]
        figures = {}
        for contender in order:
            talk(f"{work.name} {number + 1}/{pairs}: {contender.name}")
            figures[contender.name] = run_contender(contender, number, environment=environment)
        rounds.append({contender.name: figures[contender.name] for contender in work.contenders})
    return rounds


def run_contender(contender: Contender, number: int, *, environment: dict[str, str]) -> Figures:
    """The figures of one process, with its wall time and what others took of its cores."""
    command = contender.command(number)
    environment = {**environment, **contender.environment}
    contender.prepare()
    wait_for_quiet()
    start, busy, own = time.perf_counter(), busy_seconds(), child_seconds()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    wall_s, cpu_s = time.perf_counter() - start, child_seconds() - own
    foreign = (busy_seconds() - busy) - cpu_s
    if done.returncode:
        raise BenchError(
            f"{contender.name} ended with code {done.returncode}.\n"
            f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    foreign_cores = max(0.0, foreign - TICKS_S) / wall_s
    told = {"wall_s": wall_s, "cpu_s": cpu_s, "foreign_cores": foreign_cores}
    return {**told, **contender.read(done.stdout)}


def wait_for_quiet() -> None:
    """Returns once other processes leave this process's cores alone for a second, or gives up."""
    for _ in range(QUIET_WAIT_S):
        busy = busy_seconds()
        time.sleep(1.0)
        if busy_seconds() - busy < FOREIGN_CORES:
            return


def busy_seconds() -> float:
    """CPU seconds that this process's cores have worked or been withheld since the start."""
    names = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *times = line.split()
        if name in names:  # user, nice, system, idle, iowait, irq, softirq, steal
            ticks += sum(map(int, times[:8])) - int(times[3]) - int(times[4])
    return ticks / os.sysconf("SC_CLK_TCK")


def child_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def read_peer(stdout: str) -> Figures:
    """The figures that a peer prints as its last line."""
    figures = json.loads(stdout.splitlines()[-1])
    return {**figures, "total_s": figures["compile_s"] + figures["train_s"]}


def read_run(stdout: str) -> Figures:
    """The figures from the report of the run whose folder dnnjob prints."""
    report = json.loads((Path(stdout.splitlines()[-1]) / "report.json").read_bytes())
    timing = report["timing_s"]
    rows = report["metrics"]["train"]["num_rows"] * report["training"]["epochs"]
    return {
        "library": f"dnnjob {report['provenance']['dnnjob']}",
        "commit": report["provenance"]["git_commit"],
        "threads": report["strategy"]["threads"],
        "xla": report["strategy"]["xla"],
        "compile_s": timing["compile"],
        "train_s": timing["train"],
        "total_s": timing["compile"] + timing["train"],
        # As the peers count it. The report's own figure leaves out what passes between two calls.
        "rows_per_s": rows / timing["train"],
        "call_rows_per_s": report["throughput"]["rows_per_s"],
        "final_loss": report["training"]["final_loss"],
        "peak_gb": report["resources"]["peak_rss_mb"] * 2**20 / 1e9,
        "timing_s": timing,
    }


def read_nothing(_: str) -> Figures:
    """No figures but the wall time."""
    return {}


def median_of(rounds: list[Round], name: str, figure: str) -> float:
    """Median of a figure of one contender."""
    return statistics.median(one[name][figure] for one in rounds)


def count_disturbed(rounds: list[Round]) -> int:
    """Rounds in which other processes took part of the cores from a contender."""
    return sum(
        any(figures["foreign_cores"] > FOREIGN_CORES for figures in one.values()) for one in rounds
    )


def render_figures(work: Work, rounds: list[Round]) -> str:
    """A table of medians and spreads, one line a contender."""
    lines = [["", *work.figures]]
    for contender in work.contenders:
        values = [[one[contender.name][figure] for one in rounds] for figure in work.figures]
        lines.append([contender.name, *[spread(column) for column in values]])
    return render_table(lines)


def judge(work: Work, rounds: list[Round]) -> list[dict[str, Any]]:
    """Every bar with the median and spread of its figure and whether it is met."""
    verdicts = []
    for bar in work.make_bars(rounds):
        values = [bar.figure(one) for one in rounds]
        median = statistics.median(values)
        verdicts.append(
            {
                "work": work.name,
                "claim": bar.claim,
                "median": median,
                "values": values,
                "bar": bar.limit,
                "disturbed": count_disturbed(rounds),
                "met": bar.is_met(median),
            }
        )
    return verdicts


def render_verdicts(verdicts: list[dict[str, Any]]) -> str:
    """A table of all bars, one line each."""
    lines = [["work", "claim", "median (min to max)", "bar", ""]]
    for one in verdicts:
        verdict = "pass" if one["met"] else "FAIL"
        if one["disturbed"]:
            verdict += f", {one['disturbed']} of {len(one['values'])} rounds disturbed"
        lines.append([one["work"], one["claim"], spread(one["values"]), one["bar"], verdict])
    return render_table(lines)


def spread(values: list[float]) -> str:
    """Median and extremes, three significant digits."""
    return f"{brief(statistics.median(values))} ({brief(min(values))} to {brief(max(values))})"


def brief(value: float) -> str:
    """A number with three significant digits, whole above a thousand."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def render_table(lines: list[list[str]]) -> str:
    """A Markdown table with aligned columns; the first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, *rest = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([head, rule, *rest])


def talk(line: str) -> None:
    """Says on stderr what is going on."""
    print(line, file=sys.stderr, flush=True)
