"""The ledger: a line of JSON for every fault, and the table that a person reads.

ledger = Ledger(Path("ledger.jsonl"))
ledger.add(entry)
print(ledger.summary())
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

VERSION = 1


class LedgerError(Exception):
    """A ledger that cannot be gone on with."""


@dataclass(frozen=True)
class Strike:
    """A fault and its moment.

    Attributes:
        seed: Of the choices that the fault itself makes.
        fault: Name of the fault.
        target: Whom it hits.
        phase: When it comes.
        share: Of that phase's length.
    """

    seed: int
    fault: str
    target: str
    phase: str
    share: float


@dataclass(frozen=True)
class Scenario:
    """All that is drawn of a fault, so that it can be played again.

    Attributes:
        seed, fault, target, phase, share: Of the strike.
        job: Name of the job.
        warm: Whether commands start with everything imported.
        before: What the same run was struck by before, in order.
    """

    seed: int
    job: str
    fault: str
    target: str
    phase: str
    share: float
    warm: bool
    before: tuple[Strike, ...] = ()

    @property
    def strike(self) -> Strike:
        """The fault and its moment."""
        return Strike(self.seed, self.fault, self.target, self.phase, self.share)

    def follow(self, strike: Strike) -> "Scenario":
        """The same run struck once more."""
        before = (*self.before, self.strike)
        return Scenario(**asdict(strike), job=self.job, warm=self.warm, before=before)

    @staticmethod
    def parse(stored: dict[str, Any]) -> "Scenario":
        """From what the ledger has of it."""
        before = tuple(Strike(**one) for one in stored.pop("before", ()))
        return Scenario(**stored, before=before)


@dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Attributes:
        scenario: What was drawn.
        came_in: Phase in which it came in the end; "too late" where the run was faster.
        outcome: "same bits", "refused", "too late", or "wrong".
        words: What was wrong, or the refusal's words.
        seconds: From the start of the run, or from the fault before, to its judgement.
        dnnjob: Version of what was disturbed.
        date: When, UTC.
    """

    scenario: Scenario
    came_in: str
    outcome: str
    words: str
    seconds: float
    dnnjob: str
    date: str


class Ledger:
    """The faults so far; each new one is on disk before the next begins.

    Args:
        path: The file; a new one is begun where there is none.

    Raises:
        LedgerError: If it is of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: list[Entry] = []
        lines = path.read_text().splitlines() if path.exists() else []
        for number, line in enumerate(lines, start=1):
            self.entries.append(self._parse(line, number))

    def add(self, entry: Entry) -> None:
        """Writes one more line."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"version": VERSION, **asdict(entry)}) + "\n")
        self.entries.append(entry)

    def _parse(self, line: str, number: int) -> Entry:
        try:
            stored = json.loads(line)
            version = stored.pop("version")
            if version == VERSION:
                return Entry(Scenario.parse(stored.pop("scenario")), **stored)
        except (ValueError, KeyError, TypeError, AttributeError):
            version = "none that can be read"
        raise LedgerError(
            f"A ledger goes on in version {VERSION}, but line {number} of {self._path} has "
            f"{version}. Give another file, or remove this one."
        )


def render_summary(entries: Sequence[Entry], left_out: dict[str, str]) -> str:
    """A line for each fault: how often it came, to what jobs, and what came of it."""
    outcomes = ("same bits", "refused", "wrong")
    rows = [("fault", "came", *outcomes, "jobs", "phases")]
    struck = [entry for entry in entries if entry.outcome != "too late"]
    for fault in sorted({entry.scenario.fault for entry in struck}):
        mine = [entry for entry in struck if entry.scenario.fault == fault]
        counts = Counter(entry.outcome for entry in mine)
        jobs = sorted({entry.scenario.job for entry in mine})
        came_in = {entry.came_in for entry in mine} - {"too late"}
        phases = sorted({phase.split()[0] for phase in came_in})
        numbers = (str(counts[outcome]) for outcome in outcomes)
        rows.append((fault, str(len(mine)), *numbers, " ".join(jobs), " ".join(phases)))
    counts = Counter(entry.outcome for entry in struck)
    rows.append(("all", str(len(struck)), *(str(counts[one]) for one in outcomes), "", ""))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    late = len(entries) - len(struck)
    if late:
        lines.append(f"\n{late} came too late: the run was faster.")
    lines += [f"\nLeft out: {fault}, since {why}." for fault, why in left_out.items()]
    return "\n".join(lines)
