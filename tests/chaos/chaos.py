"""Disturbs runs of dnnjob at random, and judges what they come to.

    make chaos
    make chaos CHAOS_ARGS="--minutes 10 --seed 7"
    make chaos CHAOS_ARGS="--replay 12"           # line 12 of the ledger once more
    make chaos CHAOS_ARGS="--summary"

A job, a fault, whom it hits and when are drawn; the run is started, struck, and goes on as a user
would have it go on. It must come to the bits of the run that nobody disturbed, or be refused with a
reason where the fault took away what it needs. Every fault is a line of the ledger, which goes on
where it was stopped.
"""

import argparse
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from dnnjob import __version__  # noqa: E402
from tests.chaos.faults import FAULTS, Fault  # noqa: E402
from tests.chaos.judging import Expected, Reader, find_lie, find_wrongs, read_expected  # noqa: E402
from tests.chaos.ledger import Entry, Ledger, LedgerError, Scenario, render_summary  # noqa: E402
from tests.chaos.scene import Hang, Missed, Scene  # noqa: E402
from tests.chaos.slurm_faults import CLUSTER  # noqa: E402
from tests.chaos.starter import Starter  # noqa: E402
from tests.chaos.works import WORKS, Work  # noqa: E402
from tests.slurm.clusters import Cluster, started_cluster  # noqa: E402

DEFAULT_LEDGER = CHECKOUT / "build" / "chaos" / "ledger.jsonl"
# One in so many commands starts as a user's does, with all its imports.
_COLD = 16
_SMALL_DISK = "size=24m"


class ChaosError(Exception):
    """Something that keeps faults from being tried at all."""


class Chaos:
    """Draws, plays and judges.

    Args:
        scratch: Folder for everything.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._starter = Starter(scratch)
        self._clusters = ExitStack()
        self._cluster: Cluster | None = None
        self._expected: dict[str, Expected] = {}

    def play(self, scenario: Scenario) -> Entry:
        """Plays a scenario."""
        work, fault = WORKS[scenario.job], FAULTS[scenario.fault]
        expected = self._find_expected(work)
        began = time.monotonic()
        scene = self._open(work, scenario)
        disk = _SmallDisk(scene.root) if fault.small_disk else None
        came_in = "too late"
        wrongs: list[str] = []
        if scenario.phase == "write":
            scene.halts_at = _choose_write(expected.writes, scenario.share)
        scene.has_clock = fault.shifts_clock
        try:
            scene.begin()
            with Reader(*{scene.place, *(paths.root for paths in scene.runs)}) as reader:
                phase: Any = scenario.phase
                if scene.reach(phase, scenario.share, expected.phases_s):
                    phase_now = scene.phase
                    with suppress(Missed):
                        fault.strike(scene, scenario.target)
                        came_in = phase_now
                scene.wake()
                scene.await_end()
                wrongs += find_lie(scene)
                fault.heal(scene)
                scene.go_on(expected.states)
                wrongs += [*scene.lies, *find_wrongs(scene, expected)]
                if fault.name.startswith(("checkpoint", "part")):
                    # The damage is the fault's own.
                    reader.torn.clear()
            wrongs += [f"{name} was torn: {error}" for name, error in reader.torn.items()]
        except (Hang, OSError, AssertionError, ValueError) as error:
            wrongs.append(f"{type(error).__name__}: {error}")
        finally:
            with suppress(OSError):
                fault.heal(scene)
            if wrongs or _is_unforeseen(fault, scene):
                self._keep(scene, scenario)
            scene.end()
            if disk is not None:
                disk.close()
        return self._conclude(scenario, scene, came_in, wrongs, time.monotonic() - began)

    def close(self) -> None:
        """Ends what commands were started from, and the cluster."""
        self._starter.close()
        self._clusters.close()

    def _open(self, work: Work, scenario: Scenario) -> Scene:
        folder = Path(tempfile.mkdtemp(prefix=f"{work.name}-", dir=self._scratch))
        rng = random.Random(scenario.seed)
        scene = Scene(work, folder, starter=self._starter, warm=scenario.warm, rng=rng)
        if work.executor == "slurm":
            scene.cluster = self._find_cluster()
        return scene

    def _find_cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._clusters.enter_context(started_cluster(*CLUSTER))
            # Those who ask here, and the commands.
            os.environ |= self._cluster.environ
        return self._cluster

    def _conclude(
        self, scenario: Scenario, scene: Scene, came_in: str, wrongs: list[str], seconds: float
    ) -> Entry:
        words = "; ".join(wrongs)
        outcome = "wrong" if wrongs else "same bits"
        if not wrongs and scene.refusals:
            words = scene.refusals[0]
            outcome = "wrong" if _is_unforeseen(FAULTS[scenario.fault], scene) else "refused"
        elif came_in == "too late" and not wrongs:
            outcome = "too late"
        date = datetime.now(UTC).isoformat(timespec="seconds")
        return Entry(scenario, came_in, outcome, words, round(seconds, 1), __version__, date)

    def _find_expected(self, work: Work) -> Expected:
        if work.name not in self._expected:
            scenario = Scenario(0, work.name, "", "", "", 0.0, work.can_be_warm)
            scene = self._open(work, scenario)
            try:
                scene.begin()
                scene.await_end()
                if "COMPLETED" not in scene.states:
                    raise ChaosError(
                        f"The job {work.name} must be complete where nobody disturbs it, but is "
                        f"{scene.states}. It said:\n{scene.command.talk()[-2000:]}"
                    )
                self._expected[work.name] = read_expected(scene, _measure(scene))
            finally:
                scene.end()
        return self._expected[work.name]

    def _keep(self, scene: Scene, scenario: Scenario) -> None:
        """Keeps what went wrong, to be looked at."""
        kept = self._scratch.parent / "kept" / f"{scenario.seed}"
        shutil.copytree(scene.folder, kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        for number, command in enumerate(scene.commands, start=1):
            (kept / f"said-{number}.txt").write_text(f"{command.talk()}\ncode {command.code}\n")


class _SmallDisk:
    """A file system of little room, mounted where the root is to be."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", _SMALL_DISK, "chaos", str(root)]
        subprocess.run(command, check=True)

    def close(self) -> None:
        """Unmounts it."""
        self._root.mkdir(parents=True, exist_ok=True)
        subprocess.run(["umount", "--lazy", str(self._root)], check=False, capture_output=True)
        shutil.rmtree(self._root.parent, ignore_errors=True)


def _is_unforeseen(fault: Fault, scene: Scene) -> bool:
    return bool(scene.refusals) and (
        fault.refusal is None or not re.search(fault.refusal, scene.refusals[0])
    )


def _choose_write(writes: list[str], share: float) -> str:
    """Before or after which write a run is struck, of those there are."""
    place, half = divmod(int(share * 2 * len(writes)), 2)
    return f"{('before', 'after')[half]} {writes[place]}"


def _measure(scene: Scene) -> dict[str, float]:
    """How long the phases take; of training, how many epochs there are."""
    trace = scene.trace
    began, ended = trace.events[0]["at"], trace.at("written", "report.json")
    return {
        "start-up": trace.at("begin", "train") - began,
        "evaluation": trace.at("begin", "report") - trace.at("end", "train"),
        "results": ended - trace.at("begin", "report"),
        "ending": 0.02,
        "epochs": trace.epoch,
    }


def draw(rng: random.Random, *, jobs: list[str], faults: list[str]) -> Scenario:
    """A scenario: first the fault, then what suits it."""
    fault = FAULTS[rng.choice(faults)]
    works = [WORKS[name] for name in jobs if fault.suits(WORKS[name])]
    (work,) = rng.choices(works, [1 / work.rarity for work in works])
    phase = rng.choice(list(fault.phases))
    there = work.processes
    warm = work.can_be_warm and rng.random() > 1 / _COLD
    return Scenario(
        seed=rng.randrange(10**9),
        job=work.name,
        fault=fault.name,
        target=rng.choice([target for target in fault.targets if target in there]),
        phase=phase,
        share=round(rng.random(), 3),
        warm=warm,
    )


def main() -> int:
    """Plays until the time is over; 0 if nothing was wrong."""
    arguments = _parse()
    # A shell starts what is to run in the background deaf to it, and with it all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ledger = Ledger(arguments.ledger)
    except LedgerError as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    missing = {name: why for name in arguments.jobs if (why := WORKS[name].lacks())}
    arguments.jobs = [name for name in arguments.jobs if name not in missing]
    left_out = {name: why for name, fault in FAULTS.items() if (why := fault.lacks())} | missing
    if arguments.summary:
        print(render_summary(ledger.entries, left_out))
        return 0
    seed = secrets.randbelow(10**9) if arguments.seed is None else arguments.seed
    print(f"seed {seed}, ledger {arguments.ledger}", flush=True)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder) / "scenes"
        scratch.mkdir()
        chaos = Chaos(scratch)
        before = len(ledger.entries)
        try:
            _play_on(chaos, ledger, arguments, rng, left_out)
        except ChaosError as error:
            print(f"chaos: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Stopped; the next call goes on in the same ledger.", file=sys.stderr)
        finally:
            chaos.close()
        mine = ledger.entries[before:]
        kept = Path(folder) / "kept"
        if kept.exists():
            shutil.copytree(kept, arguments.ledger.with_suffix(".kept"), dirs_exist_ok=True)
    print(render_summary(mine, left_out))
    wrong = [entry for entry in mine if entry.outcome == "wrong"]
    for entry in wrong:
        print(f"WRONG: {entry.scenario}: {entry.words}")
    return 1 if wrong else 0


def _play_on(
    chaos: Chaos,
    ledger: Ledger,
    arguments: argparse.Namespace,
    rng: random.Random,
    left_out: dict[str, str],
) -> None:
    again = []
    if arguments.replay is not None:
        if not 1 <= arguments.replay <= len(ledger.entries):
            raise ChaosError(
                f"A line of the ledger can be played again, but it has {len(ledger.entries)} "
                f"and you asked for line {arguments.replay}."
            )
        again = [ledger.entries[arguments.replay - 1].scenario]
    until = time.monotonic() + 60 * arguments.minutes
    names = [
        name
        for name in arguments.faults or FAULTS
        if name not in left_out and any(FAULTS[name].suits(WORKS[job]) for job in arguments.jobs)
    ]
    last = len(ledger.entries) + arguments.count

    def goes_on() -> bool:
        return time.monotonic() < until and len(ledger.entries) < last

    while again or (arguments.replay is None and goes_on()):
        rarest = _find_rarest(names, ledger.entries)
        scenario = again.pop() if again else draw(rng, jobs=arguments.jobs, faults=rarest)
        entry = chaos.play(scenario)
        ledger.add(entry)
        what = f"{scenario.job}, {scenario.fault} of {scenario.target} in {entry.came_in}"
        print(f"{len(ledger.entries)}: {what}: {entry.outcome}, {entry.seconds:.0f} s", flush=True)


def _find_rarest(names: list[str], entries: Sequence[Entry]) -> list[str]:
    """The faults that came least often: a ledger is to have its share of each."""
    came = Counter(one.scenario.fault for one in entries if one.outcome != "too late")
    least = min(came[name] for name in names)
    return [name for name in names if came[name] == least]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="no fault begins later: 10")
    parser.add_argument("--count", type=int, default=10**9, help="at most so many faults: any")
    parser.add_argument("--seed", type=int, help="of what is drawn; else a random one, printed")
    parser.add_argument("--ledger", type=Path, default=DEFAULT_LEDGER)
    parser.add_argument("--replay", type=int, metavar="LINE", help="play one line again")
    parser.add_argument("--summary", action="store_true", help="print the table of the ledger")
    parser.add_argument("--jobs", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, metavar="FAULT")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
