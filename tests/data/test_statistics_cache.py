"""What a pass found, kept in a file and found again."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnnjob.config import DataConfig
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.data.raw_columns import Texts
from dnnjob.data.resemblance import TwinCount
from dnnjob.data.running_statistics import NumberTotals, TextTotals, measure_column
from dnnjob.data.splitter import SplitFacts
from dnnjob.data.statistics_cache import KeptPass, PassKeeper, key_of_pass
from dnnjob.data.statistics_pass import Survey

FACTS = SplitFacts(unlabelled=np.array([2, 30_000]), cuts=(0.1, float("inf")))
DATA: dict[str, Any] = {"source": "/t.parquet", "target": "y"}


def make_pass() -> KeptPass:
    rng = np.random.default_rng(0)
    numbers = measure_column(np.where(rng.random(30_002) < 0.1, np.nan, rng.normal(size=30_002)))
    empty = measure_column(np.full(3, np.nan))
    words = measure_column(Texts.of(["ä", None, "b", "ä"]))
    survey = Survey(
        totals={
            "test": {"x": numbers + numbers, "größe": empty, "y": numbers},
            "train": {"x": empty, "größe": words, "y": numbers},
        },
        differing=frozenset({"x", "größe"}),
        group_counts=np.array([[20_000, 1, 2, 0], [9_000, 900, 97, 2]]),
        near_copies=frozenset({"größe"}),
        twins=TwinCount((1, 2), (30, 40), 8),
        different=frozenset({"x"}),
    )
    return KeptPass(survey, FACTS)


def test_what_is_found_again_is_what_was_kept_bit_for_bit(tmp_path: Path) -> None:
    kept, keeper = make_pass(), PassKeeper(tmp_path / "none" / "yet", "key")

    keeper.save(kept)
    found = keeper.load()

    assert found is not None
    assert list(found.survey.totals) == ["test", "train"]
    assert found.survey.different == {"x"}
    for split, columns in kept.survey.totals.items():
        for name, totals in columns.items():
            again = found.survey.totals[split][name]
            assert again.statistics() == pytest.approx(totals.statistics(), nan_ok=True, abs=0)
            if isinstance(totals, TextTotals):
                assert again == totals
                continue
            assert isinstance(again, NumberTotals)
            assert again.squared_deviation == totals.squared_deviation
            assert again.sketch.turns == totals.sketch.turns
            for one, other in zip(again.sketch.levels, totals.sketch.levels, strict=True):
                np.testing.assert_array_equal(one, other)
    assert found.survey.differing == kept.survey.differing
    assert found.survey.near_copies == kept.survey.near_copies
    assert found.survey.twins == kept.survey.twins
    np.testing.assert_array_equal(found.survey.group_counts, kept.survey.group_counts)
    np.testing.assert_array_equal(found.facts.unlabelled, FACTS.unlabelled)
    assert found.facts.cuts == FACTS.cuts


def test_nothing_is_found_where_nothing_was_kept(tmp_path: Path) -> None:
    assert PassKeeper(tmp_path, "key").load() is None
    assert PassKeeper(None, "key").load() is None
    PassKeeper(None, "key").save(make_pass())


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "other key", "empty"])
def test_a_damaged_or_foreign_file_is_left_aside(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = PassKeeper(tmp_path, "key")
    assert keeper.path is not None
    keeper.save(make_pass())
    content = bytearray(keeper.path.read_bytes())
    middle = len(content) // 2
    match damage:
        case "cut":
            del content[middle:]
        case "flipped":
            content[middle] ^= 255
        case "foreign":
            content = bytearray(b"PK nonsense")
        case "other key":
            PassKeeper(tmp_path, "other").save(make_pass())
            content = bytearray((tmp_path / "other.npz").read_bytes())
        case _:
            content.clear()
    keeper.path.write_bytes(content)

    assert keeper.load() is None
    assert "is left aside" in caplog.text
    keeper.save(make_pass())
    assert keeper.load() is not None


def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")

    PassKeeper(tmp_path / "file" / "folder", "key").save(make_pass())

    assert "could not be kept" in caplog.text


def test_of_two_writers_one_whole_file_stays(tmp_path: Path) -> None:
    keeper = PassKeeper(tmp_path, "key")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keeper.save, [make_pass()] * 8))

    assert keeper.load() is not None
    assert [path.name for path in tmp_path.iterdir()] == ["key.npz"]


def key(**changes: Any) -> str:
    values = {"kinds": {"x": "numeric"}, "group_rows": [5, 5], "value": "a", "stamp": "", "seed": 0}
    values |= {name: changes.pop(name) for name in list(changes) if name in values}
    return key_of_pass(
        DataConfig.model_validate(DATA | changes),
        values["kinds"],
        values["group_rows"],
        Fingerprint("sha256-bytes", values["value"], values["stamp"]),
        part_rows=(10, 0, 0),
        seed=values["seed"],
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"kinds": {"x": "codes"}},
        {"kinds": {"x": "numeric", "z": "numeric"}},
        {"group_rows": [4, 6]},
        {"value": "b"},
        {"stamp": "later"},
        {"seed": 1},
        {"split": "hash"},
        {"split": "group", "split_column": "g"},
        {"test_fraction": 0.2},
        {"validation_fraction": 0.2},
        {"folds": 2},
        {"target": "z"},
        {"weight_column": "w"},
        {"missing": ("x",)},
        {"target_transform": "log1p"},
        {"columns": {"y": "numeric"}},
    ],
)
def test_another_pass_has_another_key(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


@pytest.mark.parametrize(
    "changes",
    [
        {"split": "shuffle"},
        {"standardize": "none"},
        {"memory_budget_gb": 1.0},
        {"source": "/moved.parquet"},
    ],
)
def test_what_a_pass_does_not_see_is_not_in_its_key(changes: dict[str, Any]) -> None:
    assert key(**changes) == key()
