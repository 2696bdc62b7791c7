"""What the predictions of a table give, and how predicting goes on where it stopped."""

import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from signal import SIGTERM

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LinearRegression

from dnnjob.clock import Stopwatch
from dnnjob.config import JobConfig, resolve_job
from dnnjob.data.folds import Folds
from dnnjob.errors import StoppedError
from dnnjob.results import baselines, prediction_pass
from dnnjob.results.evaluation import Evaluated, evaluate
from dnnjob.results.prediction_pass import PredictedParts
from dnnjob.runs import Attempt, Journal, Position, create_run
from dnnjob.tasks import Crew, StopFlag, TaskAttempt
from tests.data.opened import split_table

NUM_ROWS = 1000
TRAINED = Position(epoch=3)


def make_frame(num_rows: int = NUM_ROWS) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(1000, 5, num_rows)
    frame = pd.DataFrame({"x": x, "y": 3 * x + rng.normal(0, 1, num_rows)})
    frame["id"] = np.arange(num_rows) + 10**18
    frame["s"] = np.where(np.arange(num_rows) < num_rows // 2, "train", "test")
    return frame


def make_job(frame: pd.DataFrame, folder: Path) -> JobConfig:
    frame.to_csv(folder / "t.csv", index=False)
    data = {"source": str(folder / "t.csv"), "target": "y", "split": "column", "split_column": "s"}
    return resolve_job({"name": "t", "data": data | {"id_columns": ["id"]}}, origin="test")


class Attempts:
    """Attempts to predict one table, through a network that predicts its first input."""

    def __init__(self, job: JobConfig, folder: Path, folds: Folds | None = None) -> None:
        self.folds, self.job, self.paths = folds, job, create_run(folder / "runs", job)
        self.table = split_table(job).table
        self.watch = Stopwatch()

    def predict(
        self, *, stop: StopFlag | None = None, every_s: float = 1000.0, key: str = "k"
    ) -> tuple[Evaluated | None, Attempt]:
        """What one attempt finds, None if it was stopped, and how it stands in the journal."""
        encoding = self.table.fit_encoding(self.job.data)
        (column,) = encoding.number_columns
        journal = Journal(self.paths)
        attempt = TaskAttempt(journal, Crew(stop or StopFlag()), self.watch, ExitStack())
        parts = PredictedParts(attempt, TRAINED, key, every_s)

        def encode(numbers: np.ndarray) -> np.ndarray:
            filled = np.where(np.isnan(numbers), column.fill, numbers)
            return ((filled - column.mean) / column.std).astype(np.float32)

        def predict(inputs: np.ndarray) -> np.ndarray:
            # The second of two members is far too high.
            members = inputs[:, :1].T.astype(np.float64)
            return members if self.folds is None else np.concatenate([members, members + 1])

        try:
            found = evaluate(
                self.table, encoding, encode, predict, job=self.job, parts=parts, folds=self.folds
            )
        except StoppedError:
            found = None
        return found, journal.status.attempts[-1]

    def predictions(self, found: Evaluated | None) -> pd.DataFrame:
        assert found is not None
        found.write_predictions(self.paths)
        return pq.read_table(self.paths.predictions).to_pandas()


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(make_job(make_frame(), tmp_path), tmp_path)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_pass, "_LEAST_ROWS", 64)
    monkeypatch.setattr(prediction_pass, "_MAX_PRODUCTS", 1)


# What they give


@pytest.mark.parametrize("held_values", [10, 2**20], ids=["products", "rows"])
def test_a_gap_among_the_test_rows_alone_leaves_the_linear_baseline_a_baseline(
    tmp_path: Path, held_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "MAX_HELD_VALUES", held_values)
    frame, half = make_frame(), NUM_ROWS // 2
    frame.loc[half + 50, "x"] = np.nan
    filled = frame.fillna(frame["x"][:half].median())
    linear = LinearRegression().fit(filled[["x"]][:half], filled["y"][:half])
    mse = np.mean((linear.predict(filled[["x"]][half:]) - filled["y"][half:]) ** 2)

    found, _ = Attempts(make_job(frame, tmp_path), tmp_path).predict()

    assert found is not None
    assert found.baselines.test.linear.mse == pytest.approx(mse, rel=1e-3)


def test_errors_are_those_of_the_rows_of_each_split(attempts: Attempts) -> None:
    found, _ = attempts.predict()

    predictions = attempts.predictions(found)
    tests = predictions[predictions["split"] == "test"]
    assert found is not None
    assert found.metrics.test is not None
    mse = ((tests["y_true"] - tests["y_pred"]) ** 2).mean()
    assert found.metrics.test.mse == pytest.approx(mse, rel=1e-12)
    assert found.metrics.validation is None
    assert predictions["row_id"].tolist() == list(range(NUM_ROWS))
    assert predictions["id"].tolist() == list(range(10**18, 10**18 + NUM_ROWS))


def test_folds_calibrate_by_the_member_that_left_a_row_out(tmp_path: Path) -> None:
    # The first member leaves out every row but the last ones, which are too few to count.
    folds = np.zeros(NUM_ROWS // 2, np.int32)
    folds[-10:] = 1
    job = make_job(make_frame(), tmp_path)
    model = {"members": 2, "bagging": "folds"}
    job = resolve_job({**job.model_dump(), "model": model}, origin="test")
    attempts = Attempts(job, tmp_path, folds)

    found, _ = attempts.predict()

    assert found is not None
    assert found.intervals is not None
    rows = attempts.predictions(found)
    target = attempts.table.fit_encoding(job.data).target
    trained = rows[rows["split"] == "train"]
    first = trained["y_pred"] - target.std / 2
    errors = np.where(folds == 0, first, first + target.std) - trained["y_true"]
    assert found.intervals.method == "cross"
    assert found.intervals.half_width == pytest.approx(np.sort(np.abs(errors))[450])
    np.testing.assert_allclose(rows["y_upper"] - rows["y_pred"], found.intervals.half_width)
    assert rows.columns[:7].tolist()[4:] == ["y_std", "y_lower", "y_upper"]


@pytest.mark.usefixtures("small_pieces")
def test_few_validation_rows_of_a_long_table_all_calibrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_pass, "_SAMPLE_ROWS", 50)
    frame = make_frame()
    frame.loc[:320:8, "s"] = "validation"
    attempts = Attempts(make_job(frame, tmp_path), tmp_path)

    found, _ = attempts.predict()

    assert found is not None
    assert found.intervals is not None
    held = attempts.predictions(found).query("split == 'validation'")
    errors = np.sort((held["y_true"] - held["y_pred"]).abs())
    # 41 rows: the 38th error.
    assert (found.intervals.method, found.intervals.num_rows) == ("split", 41)
    assert found.intervals.half_width == pytest.approx(errors[37])


def test_predicting_and_evaluating_are_timed(attempts: Attempts) -> None:
    attempts.predict()

    assert set(attempts.watch.seconds) == {"predict", "evaluate"}
    assert min(attempts.watch.seconds.values()) > 0


# How it goes on


def stop_at_once() -> StopFlag:
    stop = StopFlag()
    stop.want(SIGTERM)
    return stop


def same(one: Evaluated | None, other: Evaluated | None) -> bool:
    """Whether two attempts found the same, to the bit."""
    assert one is not None
    assert other is not None
    for name, values in vars(one.drawn).items():
        np.testing.assert_array_equal(values, getattr(other.drawn, name))
    return (one.metrics, one.baselines, one.importance) == (
        other.metrics,
        other.baselines,
        other.importance,
    )


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("held_values", [10, 2**20], ids=["products", "rows"])
def test_predicting_that_was_stopped_goes_on_to_the_same_bits(
    attempts: Attempts, tmp_path: Path, held_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "MAX_HELD_VALUES", held_values)
    (tmp_path / "b").mkdir()
    undisturbed = Attempts(make_job(make_frame(), tmp_path / "b"), tmp_path / "b")
    whole, _ = undisturbed.predict()

    nothing, stopped = attempts.predict(stop=stop_at_once())
    found, resumed = attempts.predict()

    assert nothing is None
    assert stopped.reached == Position(epoch=3, predicted=64)
    assert resumed.resumed_from == Position(epoch=3, predicted=64)
    assert resumed.reached == Position(epoch=3, predicted=NUM_ROWS)
    assert same(found, whole)
    assert attempts.predictions(found).equals(undisturbed.predictions(whole))


@pytest.mark.usefixtures("small_pieces")
def test_each_stop_leaves_progress(attempts: Attempts) -> None:
    reached = [attempts.predict(stop=stop_at_once())[1].reached for _ in range(3)]

    assert [one.predicted for one in reached if one is not None] == [64, 128, 192]


@pytest.mark.usefixtures("small_pieces")
def test_predictions_are_kept_in_time_for_a_kill(attempts: Attempts) -> None:
    attempts.predict(every_s=0.0)

    _, again = attempts.predict()

    assert again.resumed_from == Position(epoch=3, predicted=NUM_ROWS)


def test_predictions_of_other_weights_are_left_alone(attempts: Attempts) -> None:
    attempts.predict()

    _, other = attempts.predict(key="other")

    assert other.resumed_from is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # Within the pages: the footer is whole and tells nothing.
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("damage", [_cut, _flip])
@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_damaged_predictions_are_made_again(
    attempts: Attempts,
    suffix: str,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole, _ = attempts.predict(every_s=0.0)
    damage(attempts.paths.predicted("k", 64).with_suffix(suffix))

    found, again = attempts.predict()

    assert again.resumed_from == Position(epoch=3, predicted=64)
    assert "damaged predictions" in caplog.text
    assert same(found, whole)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("array", ["errors", "train", "counts", "checksum", "y", "inputs"])
def test_what_stands_beside_predictions_counts_whole_or_not_at_all(
    attempts: Attempts, array: str
) -> None:
    whole, _ = attempts.predict(every_s=0.0)
    path = attempts.paths.predicted("k", 64).with_suffix(".npz")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        begin = file.getinfo(f"{array}.npy").header_offset
    # The first byte of its values, which a line with its shape stands before.
    content[content.index(b" \n", begin) + 2] ^= 1
    path.write_bytes(content)

    found, again = attempts.predict()

    assert again.resumed_from == Position(epoch=3, predicted=64)
    assert same(found, whole)


@pytest.mark.usefixtures("small_pieces")
def test_arrays_of_an_earlier_version_beside_predictions_do_not_matter(
    attempts: Attempts, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = attempts.predict(every_s=0.0)
    path = attempts.paths.predicted("k", 64).with_suffix(".npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays, y_std=np.zeros(64))

    found, again = attempts.predict()

    assert again.resumed_from == Position(epoch=3, predicted=NUM_ROWS)
    assert "damaged" not in caplog.text
    assert same(found, whole)


def test_a_disk_that_refuses_does_not_end_the_run(
    attempts: Attempts, caplog: pytest.LogCaptureFixture
) -> None:
    # A file in the place of the folder: nothing can be written below it.
    attempts.paths.checkpoints.write_text("")

    found, _ = attempts.predict(every_s=0.0)

    assert len(attempts.predictions(found)) == NUM_ROWS
    assert "could not be kept" in caplog.text
