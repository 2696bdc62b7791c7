"""What a pass over a table found, kept for the next that would find the same.

keeper = PassKeeper(folder, key_of_pass(data, kinds, group_rows, fingerprint, seed=seed))
found = keeper.load()                      # None unless a whole file of this very pass is there
keeper.save(KeptPass(survey, facts))
"""

import hashlib
import io
import json
import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dnnjob import __version__
from dnnjob.config.data_section import DataConfig
from dnnjob.data.encoding import FeatureKind
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.quantiles import QuantileSketch
from dnnjob.data.resemblance import TwinCount
from dnnjob.data.running_statistics import NumberTotals, TextTotals, Totals
from dnnjob.data.split import choose_split
from dnnjob.data.splitter import SplitFacts
from dnnjob.data.statistics_pass import Survey
from dnnjob.runs import write_bytes

logger = logging.getLogger(__name__)

# Another way to add up or to write down is another number.
_FORMAT = 7
_HEADER = "header"
# Keys of [data] that change what the pass finds; how it is standardized does not.
_KEYS = (
    *("target", "weight_column", "target_transform", "missing"),
    *("split_column", "test_fraction", "validation_fraction", "folds", "fold"),
)
# What a cut, damaged or foreign file makes its reader raise.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, eq=False)
class KeptPass:
    """What a pass found.

    Attributes:
        survey: What columns hold, and the rows of each split.
        facts: What the split had to know of all rows.
    """

    survey: Survey
    facts: SplitFacts


def key_of_pass(
    data: DataConfig,
    kinds: Mapping[str, FeatureKind],
    group_rows: npt.ArrayLike,
    fingerprint: Fingerprint,
    *,
    part_rows: Sequence[int],
    seed: int,
) -> str:
    """What passes share that find the same: table, columns, target, weights, gaps and split.

    Args:
        data: What the job says.
        kinds: The features and what they hold.
        group_rows: Rows of each row group that is counted.
        fingerprint: Of the files.
        part_rows: Rows of the sources of each split.
        seed: Of the split.
    """
    values = data.model_dump(mode="json", include={*_KEYS})
    values |= {
        "format": _FORMAT,
        "dnnjob": __version__,
        "numpy": np.__version__,
        "split": choose_split(data.split, sum(part_rows)),
        "split_seed": seed,
        "kinds": list(kinds.items()),
        "said": {name: column.kind for name, column in data.columns.items() if column.kind},
        "group_rows": hashlib.sha256(np.asarray(group_rows, np.int64).tobytes()).hexdigest(),
        "part_rows": list(part_rows),
        "fingerprint": [fingerprint.method, fingerprint.value, fingerprint.stamp],
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class PassKeeper:
    """The file of one pass; several processes may load and save it, each a whole one.

    Attributes:
        folder: Where such files are; None keeps nothing.
        key: Of the pass.
    """

    folder: Path | None
    key: str

    @property
    def path(self) -> Path | None:
        """The file."""
        return None if self.folder is None else self.folder / f"{self.key}.npz"

    def load(self) -> KeptPass | None:
        """What the pass found; None where nobody has kept it, or it cannot be read."""
        if self.path is None:
            return None
        try:
            # From memory: of a damaged file NumPy leaves the handle open.
            content = io.BytesIO(self.path.read_bytes())
            with np.load(content, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            found = _unpack(arrays, key=self.key)
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            logger.warning("%s is left aside, since it cannot be read: %s", self.path, error)
            return None
        # Its age is the time since it was last of use.
        with suppress(OSError):
            self.path.touch()
        logger.info("Statistics of the table are those kept in %s.", self.path)
        return found

    def save(self, found: KeptPass) -> None:
        """Keeps it; where that cannot be, the next pass finds it again."""
        if self.path is None:
            return
        content = io.BytesIO()
        np.savez_compressed(content, **_pack(found, key=self.key))
        try:
            write_bytes(self.path, content.getvalue())
        except OSError as error:
            logger.warning("Statistics could not be kept in %s: %s", self.path, error.strerror)


def _pack(found: KeptPass, *, key: str) -> dict[str, Any]:
    survey = found.survey
    arrays: dict[str, Any] = {"group_counts": survey.group_counts}
    unlabelled = found.facts.unlabelled
    if len(unlabelled):
        mask = np.zeros(int(survey.group_counts.sum()), dtype=bool)
        mask[unlabelled] = True
        arrays["unlabelled"] = np.packbits(mask)
    header = {
        "key": key,
        "differing": sorted(survey.differing),
        "near_copies": sorted(survey.near_copies),
        "different": sorted(survey.different),
        "twins": asdict(survey.twins),
        "cuts": list(found.facts.cuts),
        "totals": {
            split: {
                name: _pack_totals(totals, f"{split} {place}", arrays)
                for place, (name, totals) in enumerate(columns.items())
            }
            for split, columns in survey.totals.items()
        },
    }
    arrays[_HEADER] = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    return arrays


def _pack_totals(totals: Totals, place: str, arrays: dict[str, Any]) -> dict[str, Any]:
    values = dict(vars(totals))
    if isinstance(totals, TextTotals):
        return {**values, "counts": list(totals.counts.items())}
    del values["sketch"]
    for level, held in enumerate(totals.sketch.levels):
        arrays[f"{place} {level}"] = held
    return {
        **values,
        "place": place,
        "turns": list(totals.sketch.turns),
        "room": totals.sketch.room,
    }


def _unpack(arrays: Mapping[str, Any], *, key: str) -> KeptPass:
    header = json.loads(arrays[_HEADER].tobytes())
    if header["key"] != key:
        raise ValueError("it is of another pass.")
    counts = np.asarray(arrays["group_counts"], np.int64)
    unlabelled = np.zeros(0, np.int64)
    if "unlabelled" in arrays:
        unlabelled = np.flatnonzero(np.unpackbits(arrays["unlabelled"], count=int(counts.sum())))
    first, second = header["cuts"]
    twins = header["twins"]
    totals = {
        split: {name: _unpack_totals(values, arrays) for name, values in columns.items()}
        for split, columns in header["totals"].items()
    }
    return KeptPass(
        Survey(
            totals,
            frozenset(header["differing"]),
            counts,
            frozenset(header["near_copies"]),
            TwinCount(tuple(twins["shared"]), tuple(twins["held_out"]), twins["one_of"]),
            frozenset(header["different"]),
        ),
        SplitFacts(unlabelled=unlabelled, cuts=(first, second)),
    )


def _unpack_totals(values: Mapping[str, Any], arrays: Mapping[str, Any]) -> Totals:
    if "counts" in values:
        return TextTotals(**{**values, "counts": dict(values["counts"])})
    rest = dict(values)
    place, turns = rest.pop("place"), tuple(rest.pop("turns"))
    room = rest.pop("room")
    levels = tuple(arrays[f"{place} {level}"] for level in range(len(turns)))
    return NumberTotals(**rest, sketch=QuantileSketch(levels, turns, room))
