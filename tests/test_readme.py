"""What the README shows is what happens: its blocks run, in the order in which they stand."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import resolve_job
from tests.conftest import CHECKOUT

README = (CHECKOUT / "README.md").read_text()
RUN = re.compile(r"runs/houses/\d{8}-\d{6}-[0-9a-f]{6}|\bRUN\b")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def block_with(language: str, text: str) -> str:
    (block,) = (each for each in blocks(language) if text in each)
    return block


def make_houses(num_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "house_id": [f"h{number}" for number in range(num_rows)],
            "area": rng.uniform(40, 300, num_rows).round(1),
            "rooms": rng.integers(1, 9, num_rows),
            "kind": rng.choice(["flat", "house"], num_rows),
            "sold": pd.date_range("2020-01-01", periods=num_rows).astype(str),
        }
    )
    frame["price"] = 1000 * frame["area"] + 5000 * frame["rooms"] + rng.normal(0, 1e4, num_rows)
    return frame


def shell(line: str, folder: Path) -> str:
    """Runs a line as a user would who has activated the environment; its stdout."""
    done = subprocess.run(
        ["bash", "-ec", line],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def commands(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.startswith("dnnjob")]


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of "Your table" have run."""
    folder = tmp_path_factory.mktemp("houses")
    make_houses(200).to_csv(folder / "houses.csv", index=False)
    make_houses(30).drop(columns="price").to_parquet(folder / "new.parquet", index=False)
    make_houses(30).drop(columns="price").to_csv(folder / "new.csv", index=False)
    for line in commands(block_with("sh", "dnnjob init houses.csv")):
        shell(in_place(line, folder), folder)
    return folder


def in_place(line: str, folder: Path) -> str:
    """The line with real runs for those that the README names."""
    runs = iter(sorted(str(run.relative_to(folder)) for run in folder.glob("runs/houses/2*")))
    return RUN.sub(lambda _: next(runs), line)


@pytest.mark.parametrize("block", blocks("toml"))
def test_its_job_files_are_valid(block: str) -> None:
    values = tomllib.loads(block)
    needed = {"source": "houses.csv", "target": "price"}
    values = {"name": "houses", **values, "data": {**needed, **values.get("data", {})}}

    resolve_job(values, origin="README.md")


def test_a_table_goes_from_init_to_predictions(houses: Path) -> None:
    runs = [*houses.glob("runs/houses/2*/report.json")]
    predicted = pd.read_parquet(houses / "predictions.parquet")

    assert len(runs) == 2
    assert predicted["row_id"].tolist() == list(range(30))
    assert predicted["y_pred"].notna().all()


@pytest.mark.parametrize("line", commands(block_with("sh", "dnnjob collect runs --by auto")))
def test_many_runs_are_collected_and_compared(houses: Path, line: str) -> None:
    shell(in_place(line, houses), houses)


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in commands(block_with("sh", "dnnjob status"))
        # These wait for what goes on, or need Slurm.
        if not re.search(r"--follow|SWEEP|cancel|--profile", line)
    ],
)
def test_runs_are_looked_after(houses: Path, line: str) -> None:
    shell(in_place(line, houses), houses)


def test_the_model_predicts_in_plain_keras(houses: Path) -> None:
    (run,) = [*houses.glob("runs/houses/2*")][:1]
    # It shows a table of numbers; texts and dates come as the sentence below it says.
    assert '.fillna("").astype(object).to_numpy()' in README
    block = block_with("python", "load_model").replace(
        "table[name].to_numpy()",
        'table[name].to_numpy() if table[name].dtype.kind in "fi" else'
        ' table[name].fillna("").astype(object).to_numpy()',
    )
    code = block.replace("model/model.keras", f"{run}/model/model.keras")
    code = code.replace("model.predict(", "predicted = model.predict(") + "print(predicted.shape)"

    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=houses, capture_output=True, text=True, check=False
    )

    assert done.stdout.endswith("(30, 1)\n"), done.stderr
