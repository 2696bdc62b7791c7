"""What README and docs show is what happens: their blocks run, in the order a reader runs them."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dnnjob.config import resolve_job
from tests.conftest import CHECKOUT

NOTEBOOK = CHECKOUT / "docs" / "notebook.md"
PAGES = [CHECKOUT / "README.md", *sorted({*(CHECKOUT / "docs").glob("*.md")} - {NOTEBOOK})]
RUN = re.compile(r"runs/houses/\d{8}-\d{6}-[0-9a-f]{6}|\bRUN\b")
# What a reader's machine need not have, what takes long, and what goes on until the reader ends it.
ELSEWHERE = re.compile(
    r"^(make|srun|docker/dnnjob|dnnjob run search)\b|jobs/|/scratch/|--follow|\bSWEEP\b"
    r"|--profile (mine\.toml|gpu)\b(?!.*--dry-run)|profile\.|[|\[]"
)


@dataclass(frozen=True)
class Block:
    """A block of code as it stands in a page."""

    page: Path
    language: str
    text: str

    @property
    def lines(self) -> list[str]:
        """Its commands, without their comments."""
        return [line for line in self.text.splitlines() if line.strip() and line[0] != "#"]


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for language, text in re.findall(
            r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            yield Block(page, language, text)


def make_houses(num_rows: int) -> pd.DataFrame:
    """Houses with gaps in numbers, texts, dates and prices."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "house_id": [f"h{number}" for number in range(num_rows)],
            "area": rng.uniform(40, 300, num_rows).round(1),
            "rooms": rng.integers(1, 9, num_rows),
            "kind": rng.choice(["flat", "house"], num_rows),
            "zip": rng.choice([10115, 20095, 80331], num_rows),
            "weight": rng.uniform(0.5, 2.0, num_rows).round(2),
            "sold": pd.date_range("2020-01-01", periods=num_rows).astype(str),
        }
    )
    price = 1000 * frame["area"] + 5000 * frame["rooms"] + rng.normal(0, 1e4, num_rows)
    for column in ("area", "kind", "sold"):
        frame[column] = frame[column].mask(rng.random(num_rows) < 0.1)
    frame["price"] = price.mask(rng.random(num_rows) < 0.03)
    return frame


@dataclass(frozen=True)
class Reader:
    """Somebody who does what the pages say, in one folder."""

    folder: Path
    failed: list[str] = field(default_factory=list)

    def run(self, line: str) -> None:
        """Runs a line as one who has activated the environment."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-ec", self._with_runs(line)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": path, "XDG_CONFIG_HOME": str(self.folder / "config")},
        )
        if done.returncode:
            self.failed.append(f"{line}\n{done.stdout}{done.stderr}")

    def python(self, code: str) -> None:
        """Runs a block in the newest run's folder, where dnnjob cannot be imported."""
        (*_, run) = self.runs()
        shutil.copy(self.folder / "new.csv", self.folder / run)
        done = subprocess.run(
            [sys.executable, "-I", "-W", "error::FutureWarning", "-c", code],
            cwd=self.folder / run,
            capture_output=True,
            text=True,
            check=False,
        )
        (self.folder / run / "new.csv").unlink()
        if done.returncode:
            self.failed.append(f"{code}\n{done.stderr}")

    def runs(self) -> list[str]:
        """Folders of the runs, in their order."""
        return sorted(str(run.relative_to(self.folder)) for run in self.folder.glob("runs/*/2*"))

    def _with_runs(self, line: str) -> str:
        """The line with real runs for those that the pages name."""
        runs = iter(self.runs())
        return RUN.sub(lambda _: next(runs), line)


@pytest.mark.parametrize(
    "block", [block for block in blocks() if block.language == "toml"], ids=lambda block: block.text
)
def test_job_files_and_profiles_are_valid(block: Block) -> None:
    values = tomllib.loads(block.text)
    if "executor" in values or "partition" in values:
        pytest.skip("a profile")
    needed = {"source": "houses.csv", "target": "price"}
    values = {"name": "houses", **values, "data": {**needed, **values.get("data", {})}}

    resolve_job(values, origin=block.page.name)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_reader_can_do_it_all_from_top_to_bottom(tmp_path: Path) -> None:
    make_houses(300).to_csv(tmp_path / "houses.csv", index=False)
    make_houses(30).drop(columns="price").to_parquet(tmp_path / "new.parquet", index=False)
    make_houses(30).drop(columns="price").to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "slurm").symlink_to(CHECKOUT / "slurm")
    reader, done = Reader(tmp_path), list[str]()

    for block in blocks():
        if block.language == "python":
            reader.python(block.text)
        elif block.language in ("", "sh"):
            for line in block.lines:
                if not ELSEWHERE.search(line.partition(" #")[0]):
                    reader.run(line)
                    done.append(line)

    assert not reader.failed, "\n".join(reader.failed)
    assert len(reader.runs()) == 2
    predicted = pd.read_parquet(tmp_path / "predictions.parquet")
    assert predicted["row_id"].tolist() == list(range(30))
    assert predicted["y_pred"].notna().all()
    assert pd.read_csv(tmp_path / "new-prices.csv").columns.tolist()[-2:] == ["house_id", "zip"]
    assert len(pd.read_parquet(tmp_path / "best.parquet")) == 30
    verbs = {line.split()[1] for line in done if line.startswith("dnnjob")}
    assert verbs >= {"init", "validate", "run", "predict", "submit", "status", "collect", "best"}


def test_the_house_has_the_rooms_of_the_contract_in_its_order() -> None:
    settings = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    told = re.findall(r"^\| (`.*?) \|", _house().split("### ")[0], re.MULTILINE)

    assert re.findall(r"\w+", " ".join(told).replace(".py", "")) == re.findall(
        r"\w+", " ".join(layers)
    )


def test_the_modules_on_the_way_of_a_row_exist() -> None:
    way = _house().split("### One row")[1].split("### ")[0]
    modules = {path.stem for path in (CHECKOUT / "dnnjob").rglob("*.py")}
    paths = re.findall(r"`((?:[a-z_]+/)*[a-z_]+)`", way)

    assert len(paths) > 30
    for path in paths:
        exists = (CHECKOUT / "dnnjob" / f"{path}.py").is_file() if "/" in path else path in modules
        assert exists, f"CONTRIBUTING.md names {path}"


def _house() -> str:
    text = (CHECKOUT / "CONTRIBUTING.md").read_text()
    return text.split("## The house")[1].split("## Habits")[0]
