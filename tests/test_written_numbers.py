"""A table with marks of its own, from `init` over the run to predictions of another file."""

import tomllib
from pathlib import Path

import numpy as np

from dnnjob.data.draft import draft_job
from tests.conftest import run_command, run_here

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
    quick = ("train.epochs=2", "model.hidden_units=[8]", "output.plots=false")
    paths = run_here(tmp_path / "t.toml", *quick, root=tmp_path / "runs")
    data = tomllib.loads(paths.job.read_text())["data"]
    assert (data["decimal"], data["thousands"], data["date_format"]) == (",", ".", ["%d.%m.%Y"])
    assert (data["columns"]["anteil"]["unit"], data["id_columns"]) == ("%", ["nr"])
    header = "nr;preis;anteil;datum;ort\n"
    (tmp_path / "a.csv").write_text(f"{header}1;7.804;5 %;1.2.2021;Bern\n")
    (tmp_path / "b.csv").write_text(f"{header}1;7804,00;5%;2021-02-01; Bern\n")
    (tmp_path / "c.csv").write_text(f"{header}1;7804.5;5 %;1.2.2021;Bern\n")

    done = [
        run_command("predict", paths.root, tmp_path / f"{name}.csv", "--out", "-", cwd=tmp_path)
        for name in "abc"
    ]

    assert done[0].stdout == done[1].stdout != ""
    assert done[2].returncode == 3
    assert "'preis' must be numeric" in done[2].stderr
    assert "'7804.5'" in done[2].stderr
