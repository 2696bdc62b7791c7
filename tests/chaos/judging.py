"""What a disturbed run must have come to, and what it must not have left.

with Reader(paths.root) as reader: ...     # polls all files while a run is disturbed
reader.torn                                # files that were met half written
find_wrongs(scene, expected)               # sentences; none where all is well
"""

import json
import re
import threading
import time
import tomllib
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnnjob.collect.collected_runs import read_runs
from dnnjob.launch.watch.wait import wait_command
from dnnjob.runs import OVER, RunPaths, State, read_status
from tests.chaos.scene import Scene, limit_s

_POLL_S = 0.1
# A process that was killed is none of a run any more, and may be seen until its parent has noticed.
_DYING_S = 3.0
# Of a run that is over, `wait` needs a look at its files.
_WAIT_S = 30.0
_CODES: dict[State | None, int] = {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 143}


@dataclass(frozen=True)
class Expected:
    """What the runs of a job come to that nobody disturbs.

    Attributes:
        states: Of each run.
        predictions: Of each run; None of one that ends without.
        losses: Of each run and epoch.
        phases_s: How long phases take; of training, how many epochs there are.
        writes: The kinds of files that are written once the run folder is there, in their order.
    """

    states: list[State | None]
    predictions: list[np.ndarray | None]
    losses: list[np.ndarray | None]
    phases_s: dict[str, float]
    writes: list[str]


class Reader:
    """Reads every file of a folder again and again, as a colleague's program might.

    Args:
        folders: Run folders, or a sweep's.
        damaged: Files that are not whole for another reason; may grow.
    """

    def __init__(self, *folders: Path, damaged: Collection[Path] = ()) -> None:
        self.torn: dict[str, str] = {}
        self._damaged = damaged
        self._folders = folders
        self._seen: dict[Path, tuple[int, int, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(_POLL_S):
            for path in self._files():
                try:
                    if path not in self._damaged and self._has_changed(path):
                        _parse(path)
                except FileNotFoundError:
                    continue
                except Exception as error:
                    self.torn.setdefault(path.name, repr(error)[:200])

    def _files(self) -> list[Path]:
        with suppress(OSError):
            every = chain.from_iterable(folder.rglob("[!.]*") for folder in self._folders)
            return [path for path in every if path.is_file()]
        return []

    def _has_changed(self, path: Path) -> bool:
        stat = path.stat()
        key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        changed = self._seen.get(path) != key
        self._seen[path] = key
        return changed


def read_expected(scene: Scene, phases_s: dict[str, float]) -> Expected:
    """What undisturbed runs have come to."""
    return Expected(
        scene.states,
        [_predictions(paths) for paths in scene.runs],
        [_losses(paths) for paths in scene.runs],
        phases_s,
        list_writes(scene.trace.events),
    )


def list_writes(events: Sequence[dict[str, Any]]) -> list[str]:
    """The kinds of files at whose write an attempt can be struck, by what its recorder told.

    Those that make the run folder come before anybody is told of it.
    """
    begun = next((place for place, one in enumerate(events) if one["what"] == "begin"), 0)
    early = {one["name"] for one in events[:begun] if one["what"] == "written"}
    written = [one["name"] for one in events[begun:] if one["what"] == "written"]
    # Numbers of parts and checkpoints are no kinds of files.
    kinds = (re.sub(r"\d+", "0", name) for name in written if name not in early)
    return list(dict.fromkeys(kinds))


def find_wrongs(scene: Scene, expected: Expected) -> Iterator[str]:
    """Yields what is wrong with runs that have gone on to their end."""
    for number, (paths, view) in enumerate(zip(scene.runs, scene.views, strict=True)):
        if view.state != expected.states[number]:
            yield f"it ended as {view.state} ({view.reason}): {view.error}"
        elif not _are_equal(_predictions(paths), expected.predictions[number]):
            yield "the predictions have other bits"
        elif not _are_equal(_losses(paths), expected.losses[number]):
            yield "the history has other bits"
        elif view.state == "COMPLETED":
            yield from _disagreements(scene, paths)
            yield from _leftovers(scene, paths)
    yield from find_lie(scene)


def find_lie(scene: Scene) -> Iterator[str]:
    """Yields what `status` and `wait` say wrongly of runs of which nothing is at work."""
    views, until = scene.views, time.monotonic() + limit_s(_DYING_S)
    while any(view.state not in OVER for view in views) and time.monotonic() < until:
        time.sleep(_POLL_S)
        views = scene.views
    if any(view.is_copy and view.asked == "unknown" for view in views):
        # Its files tell how the original stood, and nobody can be asked (docs/watching.md).
        return
    for paths, view in zip(scene.runs, views, strict=True):
        if view.state not in OVER:
            yield f"status says {view.state} of a run of which nothing is left"
            return
        if view.state == "COMPLETED" and not paths.report.exists():
            yield "status says COMPLETED of a run without a report"
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(wait_command(scene.place)), daemon=True)
    waiting.start()
    waiting.join(limit_s(_WAIT_S))
    if codes != [max(_CODES[view.state] for view in views)]:
        yield (
            f"status says {[view.state for view in views]}, but wait ended with {codes} within "
            f"{limit_s(_WAIT_S):.0f} s"
        )


def _disagreements(scene: Scene, paths: RunPaths) -> Iterator[str]:
    report: dict[str, Any] = json.loads(paths.report.read_text())
    status = read_status(paths)
    predictions = pq.read_table(paths.predictions)
    if report["state"] != status.state:
        yield f"the report says {report['state']}, the status {status.state}"
    if report["training"]["epochs"] != pq.read_metadata(paths.history).num_rows:
        yield "report and history tell of other numbers of epochs"
    if report["data"]["num_rows"] != predictions.num_rows:
        yield "report and predictions tell of other numbers of rows"
    if len(report["provenance"]["attempts"]) != len(status.attempts):
        yield "report and status tell of other numbers of attempts"
    if not report["provenance"]["bit_exact"]:
        yield "the report says that the bits may differ"
    y_true, y_pred, split = (predictions[name].to_numpy() for name in ("y_true", "y_pred", "split"))
    test = split == "test"
    mse = float(np.mean((y_true[test] - y_pred[test]) ** 2))
    told = report["metrics"]["test"]["mse"]
    if not np.isclose(mse, told, rtol=1e-9):
        yield f"the report's test MSE is {told}, that of the predictions {mse}"
    lines = [run.line for run in read_runs(scene.root) if run.folder == paths.root]
    if [line.test_mse for line in lines] != [told] or lines[0].state != "COMPLETED":
        yield "collect tells other figures than the report"


def _leftovers(scene: Scene, paths: RunPaths) -> Iterator[str]:
    if left := scene.processes("all"):
        yield f"processes are left: {left}"
    odd = [*paths.root.rglob(".*.tmp"), *paths.root.rglob(".look-*"), *paths.root.rglob("secret")]
    if paths.checkpoints.exists():
        odd.append(paths.checkpoints)
    odd += scene.temporary.iterdir()
    if odd:
        yield f"files are left: {[str(path.relative_to(scene.folder)) for path in odd]}"


def _parse(path: Path) -> None:
    """Raises where a file is not whole."""
    # Opened once: what opens it twice may meet another that has taken its place meanwhile.
    content = path.read_bytes()
    match path.suffix:
        case ".json":
            json.loads(content)
        case ".toml":
            tomllib.loads(content.decode())
        case ".parquet":
            pq.read_table(pa.BufferReader(content))
        case ".keras":
            with zipfile.ZipFile(BytesIO(content)) as archive:
                if archive.testzip() is not None:
                    raise ValueError("a member is damaged")
        case ".html":
            if not content.rstrip().endswith(b"</html>"):
                raise ValueError("the page does not end")


def _predictions(paths: RunPaths) -> np.ndarray | None:
    if not paths.predictions.exists():
        return None
    table = pq.read_table(paths.predictions)
    columns = [name for name in table.column_names if name.startswith("y_")]
    return np.column_stack([table[name].to_numpy() for name in columns])


def _losses(paths: RunPaths) -> np.ndarray | None:
    if not paths.history.exists():
        return None
    table = pq.read_table(paths.history)
    return np.column_stack([table[name].to_numpy() for name in ("loss", "val_loss")])


def _are_equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other, equal_nan=True)
