"""The network of a cluster whose nodes are apart: one switch, to which each node has a cable.

python switch.py FOLDER/cables.json

reads what the cables do, makes an interface for each, prints a line, and passes frames on until it
is ended; its interfaces end with it. The file may change at any time:

{"n1": {"interface": "dj3f-n1", "delay_ms": 50, "loss": 0.01, "plugged": true}, ...}
"""

import fcntl
import heapq
import itertools
import json
import os
import random
import select
import struct
import sys
import time
from pathlib import Path
from typing import Any

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_LARGEST_FRAME = 65600
_LOOK_S = 0.1
# A cable holds so much, as a real queue does; what comes on top is lost.
_MOST_WAITING = 2000


class Switch:
    """Passes each frame to where its address was last seen, or to all.

    Args:
        cables: File that says what the cables do.
    """

    def __init__(self, cables: Path) -> None:
        self._file, self._changed = cables, 0
        self._cables: dict[str, dict[str, Any]] = {}
        self._read()
        self._taps = {node: _make_tap(cable["interface"]) for node, cable in self._cables.items()}
        self._nodes = {tap: node for node, tap in self._taps.items()}
        self._places: dict[bytes, str] = {}
        self._waiting: list[tuple[float, int, str, bytes]] = []
        self._count = itertools.count()

    def run(self) -> None:
        """Passes frames on, for ever."""
        looked = 0.0
        while True:
            now = time.monotonic()
            if now - looked > _LOOK_S:
                self._read()
                looked = now
            self._deliver(now)
            wait = min(_LOOK_S, self._waiting[0][0] - now) if self._waiting else _LOOK_S
            for tap in select.select(list(self._nodes), [], [], max(0.0, wait))[0]:
                self._take(self._nodes[tap], os.read(tap, _LARGEST_FRAME))

    def _take(self, node: str, frame: bytes) -> None:
        target, source = frame[:6], frame[6:12]
        self._places[source] = node
        known = self._places.get(target)
        for other in [known] if known else [one for one in self._taps if one != node]:
            cables = self._cables[node], self._cables[other]
            lost = any(not c["plugged"] or random.random() < c["loss"] for c in cables)
            if not lost and len(self._waiting) < _MOST_WAITING:
                due = time.monotonic() + sum(c["delay_ms"] for c in cables) / 1000
                heapq.heappush(self._waiting, (due, next(self._count), other, frame))
        self._deliver(time.monotonic())

    def _deliver(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            _, _, node, frame = heapq.heappop(self._waiting)
            try:
                os.write(self._taps[node], frame)
            except OSError:
                # An interface that is down takes nothing.
                continue

    def _read(self) -> None:
        changed = self._file.stat().st_mtime_ns
        if changed != self._changed:
            self._changed, self._cables = changed, json.loads(self._file.read_text())


def _make_tap(name: str) -> int:
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH", name.encode(), _TAP_WITHOUT_HEADER))
    return tap


if __name__ == "__main__":
    switch = Switch(Path(sys.argv[1]))
    print("ready", flush=True)
    switch.run()
