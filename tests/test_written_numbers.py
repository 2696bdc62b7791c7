"""A table with marks of its own, from `init` over the run to predictions of another file."""

import tomllib
from pathlib import Path

import numpy as np
import pytest

from dnnjob.data.draft import draft_job
from dnnjob.errors import DataError
from dnnjob.predict import predict_table
from tests.conftest import run_here

NUM_ROWS = 120


def write_prices(path: Path) -> None:
    rng = np.random.default_rng(2)
    lines = ["nr;preis;anteil;datum;ort;wert"]
    for row in range(NUM_ROWS):
        price, share = rng.uniform(500, 20_000), rng.integers(1, 99)
        written = f"{price:,.2f}".translate(str.maketrans(",.", ".,"))
        day = f"{rng.integers(1, 28)}.{rng.integers(1, 12)}.2020"
        worth = f"{2 * price + share:.1f}".replace(".", ",")
        lines.append(
            f"{row + 1};{written};{share} %;{day}; {'Bern' if row % 3 else 'Basel'};{worth}"
        )
    path.write_text("\n".join(lines) + "\n")


def test_predict_reads_numbers_as_the_run_did(tmp_path: Path) -> None:
    write_prices(tmp_path / "t.csv")
    (tmp_path / "t.toml").write_text(draft_job(tmp_path / "t.csv"))
    quick = ("train.epochs=2", "model.hidden_units=[8]", "model.members=2")
    quick += ("output.plots=false", "output.trees=false")
    paths = run_here(tmp_path / "t.toml", *quick, root=tmp_path / "runs")
    data = tomllib.loads(paths.job.read_text())["data"]
    assert (data["decimal"], data["thousands"], data["date_format"]) == (",", ".", ["%d.%m.%Y"])
    assert (data["columns"]["anteil"]["unit"], data["id_columns"]) == ("%", ["nr"])
    header = "nr;preis;anteil;datum;ort\n"
    (tmp_path / "a.csv").write_text(f"{header}1;7.804;5 %;1.2.2021;Bern\n")
    (tmp_path / "b.csv").write_text(f"{header}1;7804,00;5%;2021-02-01; Bern\n")
    (tmp_path / "c.csv").write_text(f"{header}1;7804.5;5 %;1.2.2021;Bern\n")

    for name in "ab":
        predict_table(
            paths.root, str(tmp_path / f"{name}.csv"), out=tmp_path / f"{name}-predicted.csv"
        )
    with pytest.raises(DataError, match=r"'preis' must be numeric.*'7804.5'"):
        predict_table(paths.root, str(tmp_path / "c.csv"), out=tmp_path / "c-predicted.csv")

    told = [(tmp_path / f"{name}-predicted.csv").read_text() for name in "ab"]
    assert told[0] == told[1] != ""
