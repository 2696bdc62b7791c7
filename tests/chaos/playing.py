"""Plays what was drawn: one run, struck once or several times, and judged.

chaos = Chaos(scratch, twins)
entries = chaos.play(scenario, follow)      # a line of the ledger for every strike
"""

import os
import pickle
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from dnnjob import __version__
from dnnjob.machine import cpu_name, tensorflow_version
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.judging import Expected, Reader, find_lie, find_wrongs, read_expected
from tests.chaos.ledger import Entry, Scenario
from tests.chaos.scene import Hang, Missed, Scene
from tests.chaos.slurm_faults import cluster_options
from tests.chaos.starter import Starter
from tests.chaos.works import WORKS, Work
from tests.conftest import CHECKOUT
from tests.slurm.clusters import Cluster, started_cluster

_FOLDER = Path(__file__).parent
# What goes wrong while a fault is played, beside what is judged.
_FAILURES = (Hang, OSError, AssertionError, ValueError)

Follow = Callable[[Scene, Scenario], Scenario | None]


class ChaosError(Exception):
    """Something that keeps faults from being tried at all."""


@dataclass
class _Struck:
    """A strike that was played, and what is wrong with it so far."""

    scenario: Scenario
    began: float
    came_in: str = "too late"
    refusal: str = ""
    wrongs: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def fault(self) -> Fault:
        """What it was struck with."""
        return FAULTS[self.scenario.fault]

    def conclude(self) -> Entry:
        """Its line of the ledger."""
        outcome = "same bits"
        if self.wrongs:
            outcome = "wrong"
        elif self.refusal:
            outcome = "refused"
        elif self.came_in == "too late":
            outcome = "too late"
        return Entry(
            self.scenario,
            self.came_in,
            outcome,
            "; ".join(self.wrongs) or self.refusal,
            round(self.seconds, 1),
            __version__,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )


class Chaos:
    """Plays and judges.

    Args:
        scratch: Folder for everything.
        twins: Folder for what undisturbed runs have come to; it serves other sittings, too.
    """

    def __init__(self, scratch: Path, twins: Path) -> None:
        self._scratch, self._twins = scratch, twins
        self._starter = Starter(scratch)
        self._clusters = ExitStack()
        self._cluster: Cluster | None = None
        self._expected: dict[str, Expected] = {}

    def play(self, first: Scenario, follow: Follow) -> list[Entry]:
        """Plays a run, struck by what follows until nothing does.

        Args:
            first: With what it begins.
            follow: The next strike, given how the run stands; None where it was the last.
        """
        expected = self._find_expected(WORKS[first.job])
        scene = self._open(WORKS[first.job], first)
        make_disk = FAULTS[first.fault].disk
        disk = make_disk and make_disk(scene.root)
        struck = [_Struck(first, time.monotonic())]
        try:
            self._play(scene, expected, struck, follow)
        except _FAILURES as error:
            struck[-1].wrongs.append(f"{type(error).__name__}: {error}")
        finally:
            with suppress(OSError):
                struck[-1].fault.heal(scene)
            struck[-1].seconds = time.monotonic() - struck[-1].began
            if any(one.wrongs for one in struck):
                self._keep(scene, struck[-1].scenario)
            scene.end()
            if disk is not None:
                disk.close()
        return [one.conclude() for one in struck]

    def close(self) -> None:
        """Ends what commands were started from, and the cluster."""
        self._starter.close()
        self._clusters.close()

    def _play(
        self, scene: Scene, expected: Expected, struck: list[_Struck], follow: Follow
    ) -> None:
        scene.goal = expected.states
        scene.begin()
        folders = {scene.place, *(paths.root for paths in scene.runs)}
        with Reader(*folders, damaged=scene.damaged) as reader:
            while True:
                one = struck[-1]
                _strike(scene, one, expected)
                if one.wrongs or (scenario := follow(scene, one.scenario)) is None:
                    break
                one.seconds = time.monotonic() - one.began
                struck.append(_Struck(scenario, time.monotonic()))
            scene.await_end()
            struck[-1].wrongs += find_lie(scene)
            scene.go_on()
            wrongs = [*scene.lies, *scene.refusals, *find_wrongs(scene, expected)]
        wrongs += [f"{name} was torn: {error}" for name, error in reader.torn.items()]
        for one in struck:
            one.wrongs += wrongs

    def _open(self, work: Work, scenario: Scenario) -> Scene:
        folder = Path(tempfile.mkdtemp(prefix=f"{work.name}-", dir=self._scratch))
        scene = Scene(work, folder, starter=self._starter, warm=scenario.warm, rng=random.Random())
        if work.executor == "slurm":
            scene.cluster = self._find_cluster()
        return scene

    def _find_cluster(self) -> Cluster:
        if self._cluster is None:
            self._cluster = self._clusters.enter_context(started_cluster(*cluster_options()))
            # Those who ask here, and the commands.
            os.environ |= self._cluster.environ
        return self._cluster

    def _find_expected(self, work: Work) -> Expected:
        """What an undisturbed run comes to: as another sitting found, where nothing differs."""
        if work.name in self._expected:
            return self._expected[work.name]
        scene = self._open(work, Scenario(0, work.name, "", "", "", 0.0, work.can_be_warm))
        try:
            path = self._twins / f"{work.name}-{_hash_all(scene)}.pickle"
            if path.exists():
                expected: Expected = pickle.loads(path.read_bytes())
            else:
                expected = _play_undisturbed(scene)
                self._twins.mkdir(parents=True, exist_ok=True)
                path.write_bytes(pickle.dumps(expected))
        finally:
            scene.end()
        self._expected[work.name] = expected
        return expected

    def _keep(self, scene: Scene, scenario: Scenario) -> None:
        """Keeps what went wrong, to be looked at."""
        kept = self._scratch.parent / "kept" / f"{scenario.seed}"
        shutil.copytree(scene.folder, kept, dirs_exist_ok=True, ignore_dangling_symlinks=True)
        for number, command in enumerate(scene.commands, start=1):
            (kept / f"said-{number}.txt").write_text(f"{command.talk()}\ncode {command.code}\n")


def _strike(scene: Scene, struck: _Struck, expected: Expected) -> None:
    """Strikes at the moment, and returns when the next fault may come."""
    scenario, fault = struck.scenario, struck.fault
    scene.rng.seed(scenario.seed)
    if scene.is_over:
        scene.resume()
    phase: Any = scenario.phase
    if phase == "write":
        scene.halt(_choose_write(expected.writes, scenario.share))
    if scene.reach(phase, scenario.share, expected.phases_s):
        phase_now = scene.phase
        with suppress(Missed):
            fault.strike(scene, scenario.target)
            struck.came_in = phase_now
    scene.wake()
    if not fault.ends:
        return
    scene.await_turn()
    if not scene.is_over:
        return
    struck.wrongs += find_lie(scene)
    if fault.refusal is not None and scene.states != scene.goal:
        scene.resume()
        scene.await_end()
        scene.hear()
        struck.wrongs += find_lie(scene)
    fault.heal(scene)
    if scene.refusals and fault.refusal and re.search(fault.refusal, scene.refusals[0]):
        struck.refusal = scene.refusals.pop()


def _choose_write(writes: list[str], share: float) -> str:
    """Before or after which write a run is struck, of those there are."""
    place, half = divmod(int(share * 2 * len(writes)), 2)
    return f"{('before', 'after')[half]} {writes[place]}"


def _play_undisturbed(scene: Scene) -> Expected:
    scene.begin()
    scene.await_end()
    if "COMPLETED" not in scene.states:
        raise ChaosError(
            f"The job {scene.work.name} must be complete where nobody disturbs it, but is "
            f"{scene.states}. It said:\n{scene.command.talk()[-2000:]}"
        )
    trace = scene.trace
    began, ended = trace.events[0]["at"], trace.at("written", "report.json")
    phases_s = {
        "start-up": trace.at("begin", "train") - began,
        "evaluation": trace.at("begin", "report") - trace.at("end", "train"),
        "results": ended - trace.at("begin", "report"),
        "ending": 0.02,
        # Of training, how many epochs there are.
        "epochs": trace.epoch,
    }
    return read_expected(scene, phases_s)


def _hash_all(scene: Scene) -> str:
    """Of all that the bits of a run follow from."""
    known = sha256(scene.job.read_bytes() + scene.table.read_bytes())
    known.update(f"{tensorflow_version()} {cpu_name()} {scene.work.image()}".encode())
    ours = [*_FOLDER.glob("judging.py"), *(_FOLDER.parent / "launch" / "recorder").glob("*.py")]
    for path in sorted([*CHECKOUT.glob("dnnjob/**/*.py"), *ours]):
        known.update(path.read_bytes())
    return known.hexdigest()[:16]
