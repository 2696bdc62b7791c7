"""The yardstick: gradient-boosted trees on the raw columns, against scikit-learn called by hand."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from dnnjob.config import DataConfig, JobConfig, OutputConfig
from dnnjob.data.raw_columns import Block, FloatArray, Texts, take_rows
from dnnjob.data.split import TEST, TRAIN, UNLABELLED
from dnnjob.data.table import Piece, Table
from dnnjob.results import trees
from dnnjob.results.baselines import TreesBaseline
from dnnjob.results.trees import Yardstick, measure_trees

NUM_ROWS = 300


def make_piece(labels: np.ndarray, block: Block, y: FloatArray) -> Piece:
    return Piece(np.arange(len(y)), labels, block, y, weights=None, ids={})


@pytest.fixture
def rows() -> Piece:
    """Numbers with gaps, and categories, of train, test and unlabelled rows."""
    rng = np.random.default_rng(0)
    area = np.where(rng.random(NUM_ROWS) < 0.1, np.nan, rng.normal(size=NUM_ROWS))
    zones = [None if code == 5 else "abcde"[code] for code in rng.integers(0, 6, NUM_ROWS)]
    effect = {"a": 5.0, "b": -3.0, "c": 0.0, "d": 9.0, "e": -8.0, None: 2.0}
    y = np.nan_to_num(area, nan=3.0) + [effect[zone] for zone in zones]
    labels = rng.choice([TRAIN, TEST], NUM_ROWS, p=[0.7, 0.3])
    labels[:3] = UNLABELLED
    y[:3] = np.nan
    return make_piece(labels, {"area": area, "zone": Texts.of(zones)}, y)


def measure(rows: Piece, *, size: int = NUM_ROWS, seed: int = 0, threads: int = 1) -> Any:
    def read() -> Iterator[Piece]:
        for start in range(0, NUM_ROWS, size):
            part = slice(start, start + size)
            yield make_piece(rows.labels[part], take_rows(rows.block, part), rows.y[part])

    num_train = int((rows.labels == TRAIN).sum())
    return measure_trees(
        read, num_train=num_train, num_features=len(rows.block), seed=seed, threads=threads
    )


def test_the_error_is_that_of_scikit_learn_on_categories_and_gaps(rows: Piece) -> None:
    zone = rows.block["zone"]
    assert isinstance(zone, Texts)
    x = np.column_stack([rows.block["area"], np.where(zone.codes < 0, np.nan, zone.codes)])
    train, test = rows.labels == TRAIN, rows.labels == TEST
    model = HistGradientBoostingRegressor(categorical_features=[1], random_state=0)
    predicted = model.fit(x[train], rows.y[train]).predict(x[test])

    found = measure(rows)

    # Which number a category has decides nothing but ties between splits.
    assert found.mse == pytest.approx(np.square(predicted - rows.y[test]).mean(), rel=0.05)
    assert found.num_rows == train.sum()


@pytest.mark.parametrize(("size", "threads"), [(NUM_ROWS, 2), (70, 1)])
def test_neither_pieces_nor_threads_change_the_figure(rows: Piece, size: int, threads: int) -> None:
    found = measure(rows, size=size, threads=threads)
    assert found.mse == pytest.approx(measure(rows).mse, rel=1e-12)


def test_of_many_training_rows_a_sample_is_fitted(
    rows: Piece, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "MAX_ROWS", 60)
    found = measure(rows)
    assert found.num_rows == 60
    assert found == measure(rows)
    assert found.mse == pytest.approx(measure(rows, size=70).mse, rel=1e-12)
    assert found.mse != pytest.approx(measure(rows, seed=1).mse, rel=1e-6)


def test_a_wide_table_gives_fewer_rows(rows: Piece, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "MAX_VALUES", 80)
    assert measure(rows).num_rows == 40


def test_rare_and_unseen_categories_share_a_code(
    rows: Piece, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"t{i}" for i in range(NUM_ROWS)]
    many = make_piece(rows.labels, {**rows.block, "name": Texts.of(names)}, rows.y)
    exact = measure(rows).mse
    assert measure(many).mse > 0
    monkeypatch.setattr(trees, "MAX_CATEGORIES", 2)
    assert measure(rows).mse > 1.2 * exact


@pytest.mark.parametrize("missing", [TRAIN, TEST])
def test_without_training_or_test_rows_there_is_no_yardstick(rows: Piece, missing: int) -> None:
    labels = np.where(rows.labels == missing, UNLABELLED, rows.labels)
    assert measure(make_piece(labels, rows.block, rows.y)) is None


def test_trees_that_cannot_be_fitted_are_left_out_with_a_word(
    rows: Piece, caplog: pytest.LogCaptureFixture
) -> None:
    y = np.where(np.arange(NUM_ROWS) == int(np.argmax(rows.labels == TRAIN)), np.inf, rows.y)
    assert measure(make_piece(rows.labels, rows.block, y)) is None
    assert "gradient-boosted trees is left out" in caplog.text


def test_a_job_may_leave_the_yardstick_out() -> None:
    job = JobConfig(
        name="job",
        data=DataConfig(source="t.csv", target="y"),
        output=OutputConfig(trees=False),
    )
    yardstick = Yardstick(job, cast(Table, None), has_idle_core=False)

    assert yardstick.measure(check=lambda: None) is None


def _trees_of(job: JobConfig, num_train: int = 700, num_features: int = 1) -> TreesBaseline | None:
    table = SimpleNamespace(
        fingerprint="0f",
        num_rows=1000,
        features=("x",) * num_features,
        by_windows=False,
        num_split_rows=lambda _: num_train,
    )
    return Yardstick(job, cast(Table, table), has_idle_core=False).measure(check=lambda: None)


def test_runs_of_one_process_on_the_same_rows_share_their_trees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []

    def count(*_: object, seed: int, **__: object) -> TreesBaseline:
        seeds.append(seed)
        return TreesBaseline(mse=float(len(seeds)), num_rows=700)

    monkeypatch.setattr(trees, "measure_trees", count)
    trees._fitted.clear()
    data = DataConfig(source="t.csv", target="y", split_seed=0)
    jobs = [JobConfig(name="job", seed=seed, data=data) for seed in (1, 2)]

    assert _trees_of(jobs[0]) == _trees_of(jobs[1])
    assert seeds == [1]

    # Of so many rows the trees stop by some that a seed draws.
    _trees_of(jobs[0], num_train=10_001)
    _trees_of(jobs[1], num_train=10_001)
    assert seeds == [1, 1, 2]

    other_split = data.model_copy(update={"split_seed": 1})
    _trees_of(jobs[1].model_copy(update={"data": other_split}), num_train=10_001)
    assert seeds == [1, 1, 2, 2]

    # Of so many values the rows that are taken are drawn by a seed.
    _trees_of(jobs[0], num_train=7_000, num_features=4_000)
    _trees_of(jobs[1], num_train=7_000, num_features=4_000)
    assert seeds == [1, 1, 2, 2, 1, 2]
