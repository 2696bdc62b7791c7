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
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from tests.chaos.disk_faults import SmallDisk  # noqa: E402
from tests.chaos.faults import FAULTS, Fault, When  # noqa: E402
from tests.chaos.ledger import (  # noqa: E402
    Entry,
    Ledger,
    LedgerError,
    Scenario,
    Strike,
    render_summary,
)
from tests.chaos.playing import Chaos, ChaosError, Follow  # noqa: E402
from tests.chaos.scene import Scene  # noqa: E402
from tests.chaos.works import WORKS, Work  # noqa: E402
from tests.launch.trace import PHASES  # noqa: E402

DEFAULT_LEDGER = CHECKOUT / "build" / "chaos" / "ledger.jsonl"
# One in so many runs starts as a user's does, with all its imports.
_COLD = 16
# A run is struck at most so many times.
_STRIKES = 5


def draw(rng: random.Random, *, jobs: list[str], faults: list[str]) -> Scenario:
    """A scenario: first the fault, then what suits it."""
    fault = FAULTS[rng.choice(faults)]
    works = [WORKS[name] for name in jobs if fault.suits(WORKS[name])]
    (work,) = rng.choices(works, [1 / work.rarity for work in works])
    strike = _draw_strike(rng, fault, work, list_phases(fault, work))
    warm = work.can_be_warm and rng.random() > 1 / _COLD
    return Scenario(**asdict(strike), job=work.name, warm=warm)


def _draw_strike(rng: random.Random, fault: Fault, work: Work, phases: Sequence[str]) -> Strike:
    return Strike(
        seed=rng.randrange(10**9),
        fault=fault.name,
        target=rng.choice([target for target in fault.targets if target in work.processes]),
        phase=rng.choice(phases),
        share=round(rng.random(), 3),
    )


class Drawn:
    """What a run is struck by next, drawn when the one before is over.

    Args:
        rng: Draws.
        faults: Names of those to draw from.
        ledger: The rarest of it come first.
    """

    def __init__(self, rng: random.Random, faults: list[str], ledger: Ledger) -> None:
        self._rng, self._faults, self._ledger = rng, faults, ledger
        self._lately: list[str] = []

    def begin(self, jobs: list[str]) -> Scenario:
        """The first strike of a run."""
        self._lately = []
        scenario = draw(self._rng, jobs=jobs, faults=self._rarest(self._faults))
        self._lately.append(scenario.fault)
        return scenario

    def follow(self, scene: Scene, scenario: Scenario) -> Scenario | None:
        """The next strike of a run; None if it is complete, or has been struck enough."""
        phases = list_open_phases(scene)
        if scene.is_final or len(scenario.before) + 1 == _STRIKES or not phases:
            return None
        first = (scenario.before or (scenario.strike,))[0]
        disk = FAULTS[first.fault].disk
        suited = {
            fault.name: [phase for phase in list_phases(fault, scene.work) if phase in phases]
            for fault in (FAULTS[name] for name in self._faults)
            if fault.suits(scene.work) and _suits_disk(fault, disk)
        }
        names = [name for name, open_phases in suited.items() if open_phases]
        if not names:
            return None
        fault = FAULTS[self._rng.choice(self._rarest(names))]
        self._lately.append(fault.name)
        return scenario.follow(_draw_strike(self._rng, fault, scene.work, suited[fault.name]))

    def _rarest(self, names: list[str]) -> list[str]:
        """Those that came least often: a ledger is to have its share of each."""
        came = Counter(
            one.scenario.fault for one in self._ledger.entries if one.outcome != "too late"
        )
        came.update(self._lately)
        least = min(came[name] for name in names)
        return [name for name in names if came[name] == least]


def list_phases(fault: Fault, work: Work) -> list[When]:
    """When a fault may come to a job."""
    return [phase for phase in fault.phases if phase != "write" or work.can_halt]


def _suits_disk(fault: Fault, disk: type[SmallDisk] | None) -> bool:
    if fault.name == "read-only":
        # A small file system knows no folders that cannot be changed.
        return disk is not SmallDisk
    return fault.disk in (None, disk)


def list_open_phases(scene: Scene) -> list[str]:
    """The phases in which a run can still be struck."""
    if scene.is_over:
        if scene.states == scene.goal:
            return []
        trained = any(trace.has("end", "train") for trace in scene.traces)
        again = PHASES if not trained else ("start-up", "evaluation", "results", "ending")
        return [*again, "write"]
    phase = scene.phase
    if phase == "ending" or phase not in PHASES:
        return []
    return [*PHASES[PHASES.index(phase) :], "write"]


def _replay(entry: Entry) -> tuple[Scenario, Follow]:
    """What a line of the ledger was struck by, up to itself."""
    last = entry.scenario
    strikes = [*last.before, last.strike]
    first = Scenario(**asdict(strikes[0]), job=last.job, warm=last.warm)

    def follow(scene: Scene, scenario: Scenario) -> Scenario | None:
        come = len(scenario.before) + 1
        return scenario.follow(strikes[come]) if come < len(strikes) else None

    return first, follow


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
        chaos = Chaos(scratch, arguments.ledger.parent / "twins")
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
    if arguments.replay is not None:
        if not 1 <= arguments.replay <= len(ledger.entries):
            raise ChaosError(
                f"A line of the ledger can be played again, but it has {len(ledger.entries)} "
                f"and you asked for line {arguments.replay}."
            )
        _note(chaos.play(*_replay(ledger.entries[arguments.replay - 1])), ledger)
        return
    until = time.monotonic() + 60 * arguments.minutes
    names = [
        name
        for name in arguments.faults or FAULTS
        if name not in left_out and any(FAULTS[name].suits(WORKS[job]) for job in arguments.jobs)
    ]
    last = len(ledger.entries) + arguments.count
    drawn = Drawn(rng, names, ledger)

    def follow(scene: Scene, scenario: Scenario) -> Scenario | None:
        come = len(ledger.entries) + len(scenario.before) + 1
        goes_on = time.monotonic() < until and come < last
        return drawn.follow(scene, scenario) if goes_on else None

    while time.monotonic() < until and len(ledger.entries) < last:
        _note(chaos.play(drawn.begin(arguments.jobs), follow), ledger)


def _note(entries: list[Entry], ledger: Ledger) -> None:
    for entry in entries:
        ledger.add(entry)
        scenario = entry.scenario
        what = f"{scenario.job}, {scenario.fault} of {scenario.target} in {entry.came_in}"
        print(f"{len(ledger.entries)}: {what}: {entry.outcome}, {entry.seconds:.0f} s", flush=True)


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
