"""The works of `make bench` can be written and are valid; `make quality` judges by known truths."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dnnjob import cli

HERE = Path(__file__).parent / "bench"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The benchmark's modules, which are scripts beside each other."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(HERE))
    import bench  # type: ignore[import-not-found, unused-ignore]
    import inputs  # type: ignore[import-not-found, unused-ignore]
    import work_stream  # type: ignore[import-not-found, unused-ignore]

    for module in (bench, work_stream):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(inputs, "LARGE_ROWS", 2000)
    yield bench
    # Their names are short enough for others.
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(HERE)):
            del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["sweep", "search", "tasks", "replicas", "tasks-start", "checkpoints", "stream"]
)
def test_the_runs_of_a_work_are_valid(
    bench: Any,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "leave", sys.exit)
    concrete = tmp_path / "concrete.csv"
    rows = [f"{n % 7},{n % 11},{n % 7 + n % 11 / 3}" for n in range(200)]
    concrete.write_text("\n".join(["cement,water,strength", *rows, ""]))
    words = ["--rows", "30000", "--concrete", str(concrete), "--only", name]
    monkeypatch.setattr("sys.argv", ["bench.py", *words])
    arguments = bench.parse_arguments()

    work = bench.make_works(arguments)[name]()

    assert len(work.contenders) >= 2
    for contender in work.contenders[:3]:
        _, verb, *words, _, _ = contender.command(1)
        assert verb == "run"
        with pytest.raises(SystemExit) as ended:
            cli.main(["validate", *words])
        assert not ended.value.code, capsys.readouterr().err


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script of `make quality`."""
    monkeypatch.syspath_prepend(str(HERE))
    import quality  # type: ignore[import-not-found, unused-ignore]

    yield quality
    del sys.modules["quality"]


def make_arguments(**changes: Any) -> argparse.Namespace:
    values = {"first": 0, "splits": 3, "test_fraction": 0.3, "overrides": [], "search": False}
    return argparse.Namespace(**values | changes)


def test_figures_of_another_recipe_do_not_count(quality: Any, tmp_path: Path) -> None:
    arguments, ledger = make_arguments(), tmp_path / "ledger.jsonl"
    for seed, recipe, model, mse in [
        (0, "old", "network", 1.0),
        (0, "new", "network", 2.0),
        (0, "trees", "forest", 3.0),
        (1, "old", "network", 4.0),
        (9, "new", "network", 5.0),
    ]:
        split = quality.Split("houses", Path("houses.csv"), seed)
        quality.add_line(ledger, split, arguments, recipe, model, mse, 1.0)

    rows = quality.current_rows(ledger, {"houses": "new"}, arguments)

    assert {row["model"]: row["mse"] for row in rows} == {"network": 2.0, "forest": 3.0}


def test_a_recipe_is_named_by_its_values_alone(quality: Any, tmp_path: Path) -> None:
    job = tmp_path / "job.toml"

    def name(text: str, **changes: Any) -> str:
        job.write_text(text)
        return quality.name_recipe(job, make_arguments(**changes))

    plain = name('seed = 1\n[data]\nsource = "/a/t.csv"')
    assert name('# Prose.\nseed = 1\n[data]\nsource = "/b/t.csv"') == plain
    assert name('seed = 2\n[data]\nsource = "/a/t.csv"') != plain
    assert name('seed = 1\n[data]\nsource = "/a/t.csv"', overrides=["seed=3"]) != plain


def test_quality_is_the_geometric_mean_of_ratios_to_the_best_ensemble_of_each_table(
    quality: Any,
) -> None:
    errors = {
        # The forest has the least mean, though not the least error of the first split.
        ("houses", "network"): (2.0, 4.0),
        ("houses", "forest"): (2.0, 2.0),
        ("houses", "boosting"): (1.0, 9.0),
        ("wine", "network"): (1.0, 1.0),
        ("wine", "forest"): (4.0, 4.0),
        ("wine", "boosting"): (5.0, 3.5),
    }
    rows = [
        {"table": table, "model": model, "seed": seed, "mse": mse, "seconds": 1.0 + seed}
        for (table, model), line in errors.items()
        for seed, mse in enumerate(line)
    ]
    held = iter([0.5, 0.7])
    for row in rows:
        if (row["table"], row["model"]) == ("houses", "network"):
            row["intervals"] = {"coverage_test": next(held)}

    summary = quality.summarize(rows, limit=1.0)

    houses, wine = summary["tables"]
    assert (houses["best_trees"], wine["best_trees"]) == ("forest", "forest")
    assert houses["ratio"] == pytest.approx(2**0.5)
    assert (houses["lowest"], houses["highest"]) == (1.0, 2.0)
    assert wine["ratio"] == pytest.approx(0.25)
    mean, worst = summary["bars"]
    assert mean["value"] == pytest.approx((2**0.5 * 0.25) ** 0.5)
    assert worst["value"] == pytest.approx(2**0.5)
    assert (mean["met"], worst["met"]) == (True, False)
    page = quality.render(summary, make_arguments())
    assert "what `init` writes; splits from seed 0 on, test fraction 0.3" in page
    told = "| houses | 2 | 3 | forest | 2 | 1.414 (1.000 to 2.000) | 60.0 % (missed) | 2 s |"
    assert told in page
    assert "the worst table: 1.414, at most 1.35: missed" in page


def test_a_table_without_a_network_has_no_ratio(quality: Any) -> None:
    rows = [
        {"table": table, "model": model, "seed": 0, "mse": 2.0, "seconds": 1.0}
        for table, model in [("a", "forest"), ("b", "forest"), ("b", "network")]
    ]

    assert [table["table"] for table in quality.summarize(rows, limit=1.0)["tables"]] == ["b"]


def test_an_ensemble_is_judged_by_the_run_s_test_rows_and_trains_on_the_others(
    quality: Any,
) -> None:
    table = pd.DataFrame(
        {
            "kind": ["flat", "house", "flat", "house", None, "flat"],
            "area": [1.0, 2.0, np.nan, 4.0, 1.0, 9.0],
            "price": [10.0, 30.0, 14.0, 34.0, 99.0, np.nan],
        }
    )
    frame = pd.DataFrame({"split": ["train", "train", "validation", "test", "test", "unlabelled"]})
    seen: list[tuple[Any, Any]] = []

    class Mean:
        def fit(self, x: Any, y: Any) -> None:
            seen.append((x, y))
            self.mean = y.mean()

        def predict(self, x: Any) -> Any:
            seen.append((x, None))
            return np.full(len(x), self.mean)

    mse = quality.tree_error(Mean(), table, "price", frame)

    # Trained on 10, 30 and 14: their mean, 18, stands for 34 and 99.
    assert mse == pytest.approx((16.0**2 + 81.0**2) / 2)
    (x_train, y_train), (x_test, _) = seen
    assert y_train.tolist() == [10.0, 30.0, 14.0]
    # Categories in the order of their texts; the gap of area is the median of 1 and 2.
    assert x_train.tolist() == [[0.0, 1.0], [1.0, 2.0], [0.0, 1.5]]
    # A gap of a category is the median of 0, 1 and 0.
    assert x_test.tolist() == [[1.0, 4.0], [0.0, 1.0]]
