"""Several networks in one run, whose mean is the model."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from dnnjob.clock import Stopwatch
from dnnjob.config import change_devices, load_job
from dnnjob.data.order import StepPlan, member_seeds
from dnnjob.data.windows import make_windows
from dnnjob.launch.worker import run_attempt
from dnnjob.predict import predict_table
from dnnjob.results.report import Report, read_report
from dnnjob.runs import Progress, RunPaths, create_run, read_status
from dnnjob.tasks import StopFlag
from tests.conftest import limit_stacks, make_frame, run_here, said_by, write_tiny_job

# Keras's, of a column with a slash in its name.
pytestmark = pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")

SECTIONS = {
    "data": {"split_seed": 0, "target_range": "trained"},
    "model": {"hidden_units": [8, 4], "dropout_rate": 0.2, "members": 3},
    "train": {"epochs": 30, "patience": 2, "optimizer": "adam", "learning_rate": 0.03},
    "output": {"trees": False},
}


@dataclass(frozen=True)
class Several:
    """A run of three members, and a run of each of their seeds alone."""

    paths: RunPaths
    alone: list[RunPaths]

    @property
    def report(self) -> Report:
        return read_report(self.paths.report)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Several:
    folder = tmp_path_factory.mktemp("members")
    job, root = write_tiny_job(folder, **SECTIONS), folder / "runs"
    paths = run_here(job, "devices.threads=1", root=root)
    alone = [
        run_here(job, "model.members=1", f"seed={seed}", root=root)
        for seed in member_seeds(3, count=3)
    ]
    return Several(paths, alone)


def predictions(paths: RunPaths) -> pd.DataFrame:
    return pd.read_parquet(paths.predictions)


def test_the_model_is_the_mean_of_networks_trained_alone_with_the_seeds_of_its_members(
    several: Several,
) -> None:
    found = predictions(several.paths)
    each = np.stack([predictions(paths)["y_pred"] for paths in several.alone])
    np.testing.assert_allclose(found["y_pred"], each.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["y_std"], each.std(axis=0), rtol=1e-9, atol=1e-12)
    assert list(found.columns[:5]) == ["row_id", "split", "y_true", "y_pred", "y_std"]
    assert "y_std" not in predictions(several.alone[0])


@pytest.mark.long
def test_members_in_one_call_are_those_that_have_calls_of_their_own(
    several: Several, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU: the same code compiles here.
    monkeypatch.setattr("dnnjob.training.stack_width.stack_width", lambda *_: 3)

    paths = run_here(write_tiny_job(tmp_path, **SECTIONS), "devices.threads=1", root=tmp_path)

    found, lanes = read_report(paths.report), several.report
    assert (found.strategy.stack, found.strategy.stacked) == (3, "axis")
    assert lanes.strategy.stacked == "lanes"
    assert [one.best_epoch for one in found.members] == [one.best_epoch for one in lanes.members]
    np.testing.assert_allclose(
        predictions(paths)["y_pred"], predictions(several.paths)["y_pred"], rtol=1e-2
    )


@pytest.mark.long
def test_too_little_memory_halves_the_members_of_a_call_and_a_later_attempt_begins_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnnjob.training.stack_width.has_axis", lambda _: True)
    sections = {**SECTIONS, "model": {**SECTIONS["model"], "members": 4}}
    job = load_job(write_tiny_job(tmp_path, **sections), overrides=["devices.threads=1"])
    narrow = change_devices(job, {"stack": 2})
    paths, other = (create_run(tmp_path, one) for one in (job, narrow))
    refused = limit_stacks(monkeypatch, most=2)

    def attempt(paths: RunPaths, *, until_epoch: int) -> None:
        stop = StopFlag()

        def show(progress: Progress, *_: float) -> None:
            if progress.epoch >= until_epoch:
                stop.want(signal.SIGTERM)

        run_attempt(paths, watch=Stopwatch(), stop=stop, show=show)

    attempt(paths, until_epoch=1)
    stopped = read_status(paths).state
    attempt(paths, until_epoch=99)
    attempt(other, until_epoch=99)

    assert stopped == "CANCELLED"
    assert refused == [4]
    assert "Set devices.stack = 2 to begin with so many" in said_by(paths)
    report = read_report(paths.report)
    assert (report.strategy.stack, report.job["devices"]["stack"]) == (2, 2)
    assert report.provenance.bit_exact, report.provenance.bit_exact_reason
    assert paths.predictions.read_bytes() == other.predictions.read_bytes()


def test_each_member_is_reported_as_it_would_be_alone(several: Several) -> None:
    report = several.report
    alone = [read_report(paths.report) for paths in several.alone]
    assert [member.seed for member in report.members] == [
        3,
        *[one.job["seed"] for one in alone[1:]],
    ]
    assert [one.training.best_epoch for one in alone] == [m.best_epoch for m in report.members]
    for member, one in zip(report.members, alone, strict=True):
        assert member.test_mse == pytest.approx(one.metrics.test.mse, rel=1e-12)
        assert member.validation_mse == pytest.approx(one.metrics.validation.mse, rel=1e-12)
        assert one.members == ()
    assert report.training.steps == sum(one.training.steps for one in alone)
    assert "mean of 3 networks" in several.paths.page.read_text()


def test_the_history_is_the_mean_of_the_members_that_trained_an_epoch(several: Several) -> None:
    found = pd.read_parquet(several.paths.history)
    each = pd.concat([pd.read_parquet(paths.history) for paths in several.alone])
    expected = each.groupby("epoch")[["loss", "val_loss"]].mean().reset_index()
    assert len(found) == max(len(pd.read_parquet(paths.history)) for paths in several.alone)
    np.testing.assert_allclose(found[["loss", "val_loss"]], expected[["loss", "val_loss"]])


def test_one_file_holds_all_members_and_plain_keras_gives_their_mean(several: Several) -> None:
    model = keras.models.load_model(several.paths.model, compile=False, safe_mode=True)
    columns = {
        name: make_frame()[name].to_numpy(np.float32)[:, None]
        for name in several.report.model.inputs
    }
    found = model.predict(columns, verbose=0)[:, 0]
    np.testing.assert_allclose(found, predictions(several.paths)["y_pred"], rtol=1e-6)
    assert several.report.model.file_mb == several.paths.model.stat().st_size / 2**20
    assert several.report.model.load_s > 0


def test_new_rows_have_the_spread_of_the_members_too(several: Several, tmp_path: Path) -> None:
    path, out = tmp_path / "new.csv", tmp_path / "p.parquet"
    make_frame().to_csv(path, index=False)
    predict_table(several.paths.root, str(path), out=out)
    found, own = pd.read_parquet(out), predictions(several.paths)
    assert found.columns[:4].tolist() == ["row_id", "y_true", "y_pred", "y_std"]
    assert own["y_std"].min() > 1e-3
    np.testing.assert_allclose(found["y_std"], own["y_std"], rtol=1e-3)
    np.testing.assert_allclose(found["y_pred"], own["y_pred"], rtol=1e-5)


FOLDED = {
    "data": {"split_seed": 0, "validation_fraction": 0.0, "exclude": ["per/cent"]},
    "model": {"hidden_units": [8], "members": 4, "bagging": "folds"},
    "train": {"epochs": 12, "patience": 3, "optimizer": "adam", "learning_rate": 0.03},
    "output": {"trees": False, "plots": True},
}


def test_each_member_leaves_its_fold_out_and_stops_on_it_and_the_folds_validate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[np.ndarray, np.ndarray]] = []

    def record(plan: StepPlan, **given: Any) -> Any:
        made.append((plan.indices(range(plan.epochs), seed=given["seed"]), given["rows"]))
        return make_windows(plan, **given)

    monkeypatch.setattr("dnnjob.training.fit.make_windows", record)
    paths = run_here(write_tiny_job(tmp_path, **FOLDED), root=tmp_path / "runs")
    report, found = read_report(paths.report), predictions(paths)
    training = found[found["split"] == "train"]

    # By hand: each member's network predicts the rows whose numbers its steps never had.
    trained = [set(rows[places[places >= 0]]) for places, rows in made]
    left_out = [set(range(len(training))) - rows for rows in trained]
    assert sorted(row for rows in left_out for row in rows) == list(range(len(training)))
    assert {len(rows) for rows in left_out} == {len(training) // 4}
    errors = np.zeros(len(training))
    model = keras.models.load_model(paths.model, compile=False, safe_mode=True)
    frame = make_frame().iloc[training["row_id"]]
    columns = {name: frame[name].to_numpy(np.float32)[:, None] for name in report.model.inputs}
    for number, rows in enumerate(left_out):
        each = keras.Model(model.inputs, model.get_layer("target_units").output)
        one = each.predict(columns, verbose=0)[:, number, 0]
        places = sorted(rows)
        errors[places] = one[places] - frame["y"].to_numpy()[places]
        mse = report.members[number].validation_mse
        assert np.mean(errors[places] ** 2) == pytest.approx(mse, rel=1e-4)
        assert report.members[number].best_epoch is not None
    assert report.metrics.validation.mse == pytest.approx(np.mean(errors**2), rel=1e-4)
    assert report.metrics.validation.num_rows == len(training)
    assert set(found["split"]) == {"train", "test"}


def test_a_member_has_its_seed_however_many_there_are() -> None:
    assert member_seeds(7, count=1) == [7]
    assert member_seeds(7, count=5)[:3] == member_seeds(7, count=3)
    assert len({*member_seeds(7, count=500), *member_seeds(8, count=500)}) == 1000


def test_a_member_that_diverges_is_left_out_of_the_model_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnnjob.training import fit

    make = fit._make_members

    def make_and_poison(*arguments: Any) -> Any:
        members = make(*arguments)
        weights = members[1].network.get_weights()
        members[1].network.set_weights([np.full_like(one, np.nan) for one in weights])
        return members

    monkeypatch.setattr(fit, "_make_members", make_and_poison)
    job = write_tiny_job(
        tmp_path,
        data={"validation_fraction": 0.0, "exclude": ["per/cent"]},
        model={"members": 3, "bagging": "folds", "hidden_units": [4]},
        train={"epochs": 4},
        output={"plots": False, "trees": False},
    )

    paths = run_here(job, root=tmp_path / "runs")

    report, seeds = read_report(paths.report), member_seeds(3, count=3)
    assert [member.seed for member in report.members] == [seeds[0], seeds[2]]
    (warning,) = report.training.warnings
    assert f"member 1 (seed {seeds[1]})" in warning
    assert warning.partition(":")[2] in paths.page.read_text()
    train, validation = report.metrics.train, report.metrics.validation
    assert train is not None
    assert validation is not None
    # The rows that the lost member left out have nobody left that did not see them.
    assert validation.num_rows == train.num_rows - train.num_rows // 3
    assert report.intervals is not None
    assert report.intervals.num_rows == validation.num_rows
    network = keras.models.load_model(paths.model, compile=False)
    columns = {
        name: make_frame()[name].to_numpy(np.float32)[:, None] for name in report.model.inputs
    }
    found = network.predict(columns, verbose=0)[:, 0]
    np.testing.assert_allclose(found, predictions(paths)["y_pred"], rtol=1e-5)


def test_a_run_whose_members_diverge_fails_by_the_name_of_the_first(tmp_path: Path) -> None:
    job = write_tiny_job(tmp_path, model={"members": 2}, train={"epochs": 4, "learning_rate": 1e9})
    with pytest.raises(AssertionError):
        run_here(job, root=tmp_path / "runs")
    (status,) = tmp_path.glob("runs/tiny/2*/status.json")
    assert "of member 0 (seed 3)" in status.read_text()
