"""What other programs get of a run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.errors import ExitCode, JobError, MissingError
from dnnjob.export import export_model
from dnnjob.results.report import read_predictions
from dnnjob.runs import RunPaths, create_run
from dnnjob.training.saved_model import name_inputs
from tests.conftest import Command, FinishedRun, WriteJob, run_here

# What a server does, who has TensorFlow alone.
SERVER = """
import sys

import numpy as np
import tensorflow as tf

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dnnjob", "keras"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
served = tf.saved_model.load(sys.argv[1])
columns = dict(np.load(sys.argv[2], allow_pickle=True))
signature = served.signatures["serving_default"]
result = signature(**{name: tf.constant(list(values)) if values.dtype == object
                      else tf.constant(values, tf.float32) for name, values in columns.items()})
np.save(sys.argv[3], result["y_pred"].numpy())
"""


def make_mixed(num_rows: int = 80) -> pd.DataFrame:
    """Numbers, texts, codes and dates, with gaps in each."""
    rng = np.random.default_rng(8)
    frame = pd.DataFrame(
        {
            "größe / m": rng.normal(size=num_rows),
            "kind": rng.choice(["flat", "house", "Ärger"], num_rows),
            "zip": rng.choice([10115, 20095], num_rows),
            "sold": pd.date_range("2020-02-27", periods=num_rows, freq="7h").astype(str),
        }
    )
    y = frame["größe / m"] + 2 * (frame["kind"] == "flat") + rng.normal(size=num_rows) / 10
    for column in ("größe / m", "kind", "sold"):
        frame[column] = frame[column].mask(rng.random(num_rows) < 0.1)
    return frame.assign(y=y)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, pd.DataFrame]:
    """A run of two members on such a table, and the table."""
    from tests.conftest import write_tiny_job

    folder, frame = tmp_path_factory.mktemp("mixed"), make_mixed()
    job = write_tiny_job(
        folder,
        frame,
        data={"columns": {"zip": "codes"}, "target_range": "trained"},
        model={"numeric_embedding": "piecewise", "members": 2},
        output={"plots": False, "trees": False},
    )
    return run_here(job, root=folder / "runs"), frame


@pytest.mark.long
def test_a_saved_model_answers_as_the_run_predicted_without_dnnjob_or_keras(
    mixed: tuple[RunPaths, pd.DataFrame], tmp_path: Path
) -> None:
    paths, frame = mixed
    export_model(paths.root, to="saved-model", out=tmp_path / "served")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served"]
    names = json.loads((tmp_path / "served" / "columns.json").read_text())
    assert names == {"größe / m": "gr__e___m", "kind": "kind", "zip": "zip", "sold": "sold"}
    np.savez(
        tmp_path / "columns.npz",
        gr__e___m=frame["größe / m"].to_numpy(),
        zip=frame["zip"].to_numpy(float),
        kind=frame["kind"].fillna("").to_numpy(object),
        sold=frame["sold"].fillna("").to_numpy(object),
    )
    places = [tmp_path / "served", tmp_path / "columns.npz", tmp_path / "y.npy"]
    subprocess.run([sys.executable, "-I", "-c", SERVER, *map(str, places)], check=True)
    y_pred = read_predictions(paths.predictions)["y_pred"].to_numpy()
    np.testing.assert_allclose(np.load(places[2]), y_pred, rtol=1e-6, atol=1e-6)


def test_names_of_a_signature_are_plain_and_each_once() -> None:
    names = name_inputs(["a b", "a.b", "0.5", "größe", "_x"])
    assert list(names.values()) == ["a_b", "a_b_", "column_0_5", "gr__e", "column__x"]


def test_a_keras_file_is_the_run_s_own(finished: FinishedRun, tmp_path: Path) -> None:
    out = tmp_path / "mine.keras"
    out.write_text("an older one")
    export_model(finished.paths.root, to="keras", out=out)
    assert out.read_bytes() == finished.paths.model.read_bytes()


def test_what_cannot_be_written_is_refused_before_anything_is(
    finished: FinishedRun, tmp_path: Path
) -> None:
    run = finished.paths.root
    there = tmp_path / "there"
    there.mkdir()
    for to, out, words in (
        ("saved-model", there, "is there already"),
        ("saved-model", run / "served", "never goes into a run folder"),
        ("keras", finished.paths.model, "never replaces an input"),
        ("keras", tmp_path / "model.h5", r"end in \.keras"),
    ):
        with pytest.raises(JobError, match=words):
            export_model(run, to=to, out=out)  # type: ignore[arg-type]
    with pytest.raises(MissingError, match="could not be written"):
        export_model(run, to="saved-model", out=tmp_path / "none" / "served")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_a_run_without_a_model_cannot_be_exported(
    write_job: WriteJob, root: Path, dnnjob: Command
) -> None:
    from dnnjob.config import load_job

    paths = create_run(root, load_job(write_job()))
    done = dnnjob("export", paths.root, "--to", "keras", "--out", root / "a.keras")
    assert done.returncode == ExitCode.USAGE
    assert "needs a finished run" in done.stderr
