"""What an attempt did until it ended, as its recorder wrote it down.

trace = Trace(path)
trace.read()
trace.phase          # "start-up", "training", "checkpoint", "evaluation", "results", "ending"
trace.calls(until=killed_at)      # of the compiled function, the one that was cut short included
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Phase = Literal["start-up", "training", "checkpoint", "evaluation", "results", "ending"]
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Call:
    """One call of the compiled function."""

    seconds: float
    epoch: int | None
    """Whole epochs that are trained after it; None where it was cut short."""


@dataclass
class Trace:
    """The lines of one attempt; `read` takes those that have come since."""

    path: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    _offset: int = 0

    def read(self) -> None:
        """Takes the lines that have come since."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        if whole:
            self._offset += len(whole) + 1
            self.events += map(json.loads, whole.splitlines())

    def until(self, moment: float) -> "Trace":
        """What had been told by then, on the machine's monotonic clock."""
        return Trace(self.path, [one for one in self.events if one["at"] <= moment])

    @property
    def phase(self) -> Phase:
        """What the attempt is at, or was at when it ended."""
        if self.writes_checkpoint:
            return "checkpoint"
        if self.has("written", "report.json"):
            return "ending"
        if self.has("begin", "report"):
            return "results"
        if self.has("end", "train"):
            return "evaluation"
        return "training" if self.has("begin", "train") else "start-up"

    @property
    def writes_checkpoint(self) -> bool:
        """Whether a checkpoint is half written."""
        writes = [one for one in self.events if one.get("name", "").endswith(".ckpt")]
        return bool(writes) and writes[-1]["what"] == "write"

    @property
    def halted(self) -> str | None:
        """At which write the process has stopped itself: "before NAME" or "after NAME"."""
        halts = [one for one in self.events if one["what"] in ("halt", "woken")]
        return str(halts[-1]["name"]) if halts and halts[-1]["what"] == "halt" else None

    @property
    def epoch(self) -> int:
        """Whole epochs that are trained."""
        return max((one["epoch"] for one in self.events if one["what"] == "called"), default=0)

    @property
    def pids(self) -> list[int]:
        """The processes that told, in order."""
        return list(dict.fromkeys(one["pid"] for one in self.events))

    def has(self, what: str, name: str) -> bool:
        """Whether the attempt has told of this."""
        return any(one["what"] == what and one.get("name") == name for one in self.events)

    def at(self, what: str, name: str) -> float:
        """When the attempt told of this first, on the machine's monotonic clock."""
        return next(
            float(one["at"])
            for one in self.events
            if one["what"] == what and one.get("name") == name
        )

    def calls(self, *, until: float) -> list[Call]:
        """The calls, in order; the last may have been cut short by the end, at `until`."""
        calls, began = [], None
        for one in self.events:
            if one["what"] == "call":
                began = one["at"]
            elif one["what"] == "called" and began is not None:
                calls.append(Call(one["at"] - began, one["epoch"]))
                began = None
        return calls if began is None else [*calls, Call(max(0.0, until - began), None)]
