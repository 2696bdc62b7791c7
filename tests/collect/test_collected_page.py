"""The page, as text and in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd
import pytest

from dnnjob.collect.collected_page import MAX_POINTS, render_page
from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.collected_table import make_table, sort_lines
from tests.collect.make_runs import Wish, make_root, write_predictions, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=8000",
)  # fmt: skip


def render(root: Path, *, sort: str = "test_mse", by: str = "") -> str:
    runs = read_runs(root)
    table = sort_lines(make_table(runs), sort)
    return render_page(runs, table, place=root / "page.html", root=root, sort=sort, by=by)


def read_data(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_needs_no_other_file(sweep_root: Path) -> None:
    class Collector(HTMLParser):
        wanted: list[str]

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            names = {"img": "src", "script": "src", "link": "href", "iframe": "src"}
            self.wanted += [value or "" for key, value in attrs if key == names.get(tag)]

    collector = Collector()
    collector.wanted = []
    page = render(sweep_root)
    collector.feed(page)
    assert collector.wanted == ["data:,"]
    assert "@import" not in page
    assert "fetch(" not in page


def test_every_line_is_in_the_data_with_what_varies(sweep_root: Path) -> None:
    data = read_data(render(sweep_root))
    names = [column["name"] for column in data["columns"]]
    assert data["keys"] == ["job.train.learning_rate"]
    assert [row[names.index("test_mse")] for row in data["rows"]] == [
        10.0, 11.0, 12.0, 13.0, 14.0, 18.0, None,
    ]  # fmt: skip
    assert {column["name"] for column in data["columns"] if column["name"].startswith("job.")} == {
        "job.train.learning_rate"
    }


def test_markup_in_names_stays_text(root: Path) -> None:
    evil = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"&'
    write_run(root, Wish(name="x"), folder=root / "j" / Wish().run_id)
    folder = write_run(root, Wish(number=1, name="x"), "FAILED", folder=root / "k" / "r")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "error": evil}))
    job = (folder / "job.toml").read_text().replace('name = "x"', f"name = '{evil}'", 1)
    (folder / "job.toml").write_text(job)
    page = render(root)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert html.escape(evil, quote=False)[:20] in page
    assert evil in json.dumps(read_data(page)["rows"]).replace('\\"', '"')


def test_links_lead_from_the_page_to_each_report(root: Path) -> None:
    complete = write_run(root, folder=root / "a job & <é>" / "20260101-000000-000000")
    write_run(root, Wish(number=1), "FAILED")
    links = read_data(render(root))["links"]
    assert links == [quote(f"a job & <é>/{complete.name}/report.html"), None]
    assert root / unquote(links[0]) == complete / "report.html"


def test_the_winner_shows_its_test_rows(root: Path) -> None:
    folder = write_run(root, Wish(predictions=True, test_mse=3.0))
    write_run(root, Wish(number=1, predictions=True))
    winner = read_data(render(root))["winner"]
    frame = pd.read_parquet(folder / "predictions.parquet")
    test = frame[frame["split"] == "test"]
    assert winner["run_id"] == folder.name
    assert winner["target"] == "MEDV"
    assert winner["points"] == test[["y_true", "y_pred"]].to_numpy().tolist()


def test_a_large_winner_is_thinned_evenly(root: Path) -> None:
    wish = Wish()
    write_predictions(write_run(root, wish), wish, num_rows=20_000)
    winner = read_data(render(root))["winner"]
    assert winner["num_rows"] > MAX_POINTS
    assert MAX_POINTS / 2 < len(winner["points"]) <= MAX_POINTS
    assert np.isfinite(winner["points"]).all()


def test_a_winner_without_predictions_is_still_named(root: Path) -> None:
    folder = write_run(root)
    (folder / "predictions.parquet").write_bytes(b"PAR1")
    page = render(root)
    assert read_data(page)["winner"]["points"] == []
    assert 'id="scatter"' not in page


def test_the_failed_stand_before_the_running_with_what_they_say(root: Path) -> None:
    write_run(root, Wish(number=0), "RUNNING")
    write_run(root, Wish(number=1), "FAILED")
    (root / "housing" / "notes").mkdir()
    page = render(root)
    order = [page.index(text) for text in ("FAILED</td>", "unreadable</td>", "RUNNING</td>")]
    assert order == sorted(order)


def test_seeds_stand_together_where_there_are_several(sweep_root: Path, root: Path) -> None:
    assert "Seeds together" in render(sweep_root)
    assert '<th scope="col">seed</th>' in render(sweep_root, by="seed")


def test_single_runs_are_no_settings(root: Path) -> None:
    write_run(root)
    assert "Seeds together" not in render(root)


def test_different_tables_are_warned_of(root: Path) -> None:
    write_run(root)
    assert "different tables" not in render(root)
    write_run(root, Wish(number=1, fingerprint="other"))
    assert "read 2 different tables" in render(root)


def test_an_empty_root_makes_a_page(root: Path) -> None:
    assert read_data(render(root))["rows"] == []


class Rows(HTMLParser):
    """Texts of the big table's cells, and of the line that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.sorted_by = ""
        self.count = ""
        self._within = self._in_count = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self._within = self._within or named.get("id") == "runs"
        self._in_count = named.get("id") == "count"
        if self._within and tag == "tr":
            self.rows.append([])
        if self._within and tag in ("th", "td"):
            self.rows[-1].append("")
        if "aria-sort" in named:
            self.sorted_by = named["aria-sort"] or ""

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag != "table"
        self._in_count = False

    def handle_data(self, data: str) -> None:
        if self._in_count:
            self.count += data
        elif self._within and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


def open_in_chromium(page: Path, state: str, tmp_path: Path) -> Rows:
    """The page's table after its script has run; console messages fail."""
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    done = subprocess.run(
        [
            CHROMIUM, *CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom", f"{page.as_uri()}#{state}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    rows = Rows()
    rows.feed(done.stdout)
    return rows


def test_a_browser_sorts_and_filters(root: Path, tmp_path: Path) -> None:
    make_root(root, num_runs=300, num_jobs=2, predictions=True)
    page = root / "page.html"
    page.write_text(render(root))
    frame = make_table(read_runs(root)).to_pandas()
    wanted = frame[(frame["state"] == "COMPLETED") & (frame["job.train.learning_rate"] < 0.01)]
    state = "sort=-test_mse&find=" + quote("state=COMPLETED learning_rate<0.01")
    shown = open_in_chromium(page, state, tmp_path)
    head, *rows = shown.rows
    assert shown.sorted_by == "descending"
    assert shown.count == f"{len(wanted)} of {len(frame)} runs"
    expected = wanted.sort_values("test_mse", ascending=False)["run_id"].tolist()
    assert [row[head.index("run_id")] for row in rows] == expected


@pytest.mark.long
def test_a_browser_shows_the_first_rows_and_says_what_is_wrong_with_a_filter(
    root: Path, tmp_path: Path
) -> None:
    make_root(root, num_runs=250, num_jobs=1)
    page = root / "page.html"
    page.write_text(render(root))
    assert len(open_in_chromium(page, "", tmp_path).rows) == 1 + 200
    assert open_in_chromium(page, "find=nothing%3D3", tmp_path).count == "no column nothing"


@pytest.mark.slow
def test_two_thousand_runs_open_in_a_browser(root: Path, tmp_path: Path) -> None:
    make_root(root, num_runs=2000, num_jobs=1, predictions=True)
    page = root / "page.html"
    page.write_text(render(root))
    shown = open_in_chromium(page, "find=state%3DFAILED&wide=1", tmp_path)
    failed = make_table(read_runs(root)).to_pandas()["state"].eq("FAILED").sum()
    assert shown.count == f"{failed} of 2,000 runs"
