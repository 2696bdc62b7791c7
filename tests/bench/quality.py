"""How good the predictions are: what `dnnjob init` writes against scikit-learn's tree ensembles.

    make quality
    make quality QUALITY_ARGS="--tables concrete,wine --splits 3 --data ../shared/data"
    make quality QUALITY_ARGS="--minutes 30"             # what fits; the next call goes on
    make quality QUALITY_ARGS="--search --splits 1"      # the best point of `init --search`

A run of what `init` writes, and four ensembles on the same training and test rows. The figure of a
table is the ratio of test MSEs, network to best ensemble, the best being that of the least mean
over the splits. Test rows judge and choose nothing. What is done is kept in `build/quality`, a line
a split, so that a series goes on where it was stopped; figures of a recipe that `init` no longer
writes do not count. Every table has its first split before any has its second.
"""

import argparse
import hashlib
import json
import math
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.datasets import load_diabetes
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
)

FOLDER = Path("build/quality")
DNNJOB = Path(sys.executable).with_name("dnnjob")
# Names of the targets in the tables that come with the series; elsewhere `init` guesses.
TARGETS = {
    "housing": "MEDV",
    "abalone": "rings",
    "autos": "price",
    "concrete": "strength",
    "kin8nm": "y",
    "wine": "quality",
}
MISSING = ["?"]
NETWORK = "network"
GEOMETRIC_BAR, SEARCH_BAR, TABLE_BAR = 1.0, 0.93, 1.35
# Least and most, over a table's splits, of the share of test rows that 90 % intervals hold.
COVERAGE_BAR = 0.87, 0.95


@dataclass(frozen=True)
class Split:
    """One table dealt once."""

    table: str
    source: Path
    seed: int


def main() -> int:
    """Measures what is missing, prints the table; 1 if a bar is missed or a run fails."""
    arguments = parse_arguments()
    FOLDER.mkdir(parents=True, exist_ok=True)
    ledger = FOLDER / "ledger.jsonl"
    sources = find_tables(arguments)
    jobs = {name: draft(name, source, arguments) for name, source in sources.items()}
    recipes = {name: name_recipe(job, arguments) for name, job in jobs.items()}
    ends_at = time.monotonic() + 60 * arguments.minutes
    failed = False
    for seed in range(arguments.first, arguments.first + arguments.splits):
        for name, source in sources.items():
            if time.monotonic() > ends_at:
                talk(f"{arguments.minutes:g} minutes are over: left out {name}, split {seed}")
                continue
            try:
                measure(Split(name, source, seed), jobs[name], recipes[name], ledger, arguments)
            except subprocess.CalledProcessError as error:
                talk(f"{name}, split {seed}: {error.stderr[-400:]}")
                failed = True
    rows = current_rows(ledger, recipes, arguments)
    if not any(row["model"] == NETWORK for row in rows):
        talk("Nothing has been measured.")
        return 1
    summary = summarize(rows, limit=SEARCH_BAR if arguments.search else GEOMETRIC_BAR)
    found = FOLDER / f"quality{'-search' if arguments.search else ''}.json"
    found.write_text(json.dumps({**summary, "figures": rows}, indent=1) + "\n")
    page = render(summary, arguments)
    found.with_suffix(".md").write_text(page)
    print(page, end="")
    return int(failed or not all(bar["met"] for bar in summary["bars"]))


def name_recipe(job: Path, arguments: argparse.Namespace) -> str:
    """A short name of what a job says, its table's path and its comments apart."""
    values = tomllib.loads(job.read_text())
    values["data"].pop("source")
    text = json.dumps([values, arguments.overrides], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def measure(
    split: Split, job: Path, recipe: str, ledger: Path, arguments: argparse.Namespace
) -> None:
    """One split: the network's run, then each ensemble on the rows that the run named."""
    done = {(line["recipe"], line["model"]) for line in lines_of(ledger, split, arguments)}
    predictions = FOLDER / "runs" / f"{split.table}-{split.seed}-{arguments.test_fraction}.parquet"
    if (recipe, NETWORK) not in done:
        began = time.perf_counter()
        run = run_network(split, job, arguments)
        seconds = time.perf_counter() - began
        report = json.loads((run / "report.json").read_text())
        frame = pq.read_table(run / "predictions.parquet").to_pandas()
        predictions.parent.mkdir(parents=True, exist_ok=True)
        frame.to_parquet(predictions)
        extra = {
            "reported_mse": report["metrics"]["test"]["mse"],
            "intervals": report.get("intervals"),
        }
        mse = squared_error(frame[frame["split"] == "test"])
        add_line(ledger, split, arguments, recipe, NETWORK, mse, seconds, **extra)
    frame = pd.read_parquet(predictions)
    table = read_table(split.source)
    target = TARGETS.get(split.table, table.columns[-1])
    for name, model in make_trees(split.seed).items():
        if ("trees", name) in done:
            continue
        began = time.perf_counter()
        mse = tree_error(model, table, target, frame)
        add_line(ledger, split, arguments, "trees", name, mse, time.perf_counter() - began)


def make_trees(seed: int) -> dict[str, Any]:
    """The yardstick: settings that never change."""
    return {
        "hist gradient boosting": HistGradientBoostingRegressor(random_state=seed),
        "gradient boosting": GradientBoostingRegressor(
            n_estimators=500, max_depth=4, learning_rate=0.05, subsample=0.7, random_state=seed
        ),
        "extra trees": ExtraTreesRegressor(500, random_state=seed, n_jobs=-1),
        "random forest": RandomForestRegressor(300, random_state=seed, n_jobs=-1),
    }


def tree_error(model: Any, table: pd.DataFrame, target: str, frame: pd.DataFrame) -> float:
    """Test MSE of an ensemble, target units; all rows that are neither test nor unlabelled train.

    Categories are ordinals in the order of their texts. Gaps stay where the ensemble takes them,
    and are the training rows' median elsewhere.
    """
    features = table.drop(columns=target)
    x = pd.DataFrame(
        {
            name: column
            if pd.api.types.is_numeric_dtype(column)
            else column.astype("category").cat.codes.where(column.notna()).astype(float)
            for name, column in features.items()
        }
    ).astype(float)
    train = frame["split"].isin(["train", "validation"]).to_numpy()
    test = (frame["split"] == "test").to_numpy()
    if not isinstance(model, HistGradientBoostingRegressor):
        x = x.fillna(x[train].median()).fillna(0.0)
    y = table[target].to_numpy(float)
    model.fit(x[train].to_numpy(), y[train])
    return float(np.mean(np.square(y[test] - model.predict(x[test].to_numpy()))))


def run_network(split: Split, job: Path, arguments: argparse.Namespace) -> Path:
    """The run folder of what `init` wrote, dealt by the split's seed."""
    words = [f"seed={split.seed}", f"data.test_fraction={arguments.test_fraction}"]
    words += ["output.plots=false", "output.model=false", "output.trees=false"]
    command = [str(DNNJOB), "run", str(job), *words, *arguments.overrides]
    root = FOLDER / "runs"
    if arguments.search:
        root.mkdir(exist_ok=True)
        # A root of its own, whose best run is the search's.
        root = Path(tempfile.mkdtemp(prefix=f"search-{split.table}-{split.seed}-", dir=root))
    printed = say(*command, "--root", str(root))
    if arguments.search:
        printed = say(str(DNNJOB), "best", str(root))
    return Path(printed.strip().splitlines()[-1])


def draft(name: str, source: Path, arguments: argparse.Namespace) -> Path:
    """The job file as `dnnjob init` writes it, untouched."""
    job = FOLDER / f"{name}{'-search' if arguments.search else ''}.toml"
    command = [str(DNNJOB), "init", str(source), *["--search"] * arguments.search]
    if name in TARGETS:
        command += ["--target", TARGETS[name]]
    job.write_text(say(*command))
    return job


def say(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def find_tables(arguments: argparse.Namespace) -> dict[str, Path]:
    """The tables by name: the CSV files of the data folder, and an embedded one."""
    found = {path.stem: path.resolve() for path in sorted(arguments.data.glob("*.csv"))}
    embedded = FOLDER / "diabetes.csv"
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame.rename(columns={"target": "progression"}).to_csv(embedded, index=False)
    found["diabetes"] = embedded.resolve()
    if arguments.tables is not None:
        found = {name: found[name] for name in arguments.tables}
    return found


def read_table(source: Path) -> pd.DataFrame:
    """A table with the gaps that its source marks."""
    return pd.read_csv(source, na_values=MISSING)


def squared_error(frame: pd.DataFrame) -> float:
    """Mean squared error of predicted rows, target units squared."""
    return float(np.mean(np.square(frame["y_true"] - frame["y_pred"])))


def add_line(
    ledger: Path,
    split: Split,
    arguments: argparse.Namespace,
    recipe: str,
    model: str,
    mse: float,
    seconds: float,
    **extra: Any,
) -> None:
    """Keeps a figure as soon as it is there."""
    line = {
        "table": split.table,
        "seed": split.seed,
        "test_fraction": arguments.test_fraction,
        "recipe": recipe,
        "model": model,
        "mse": mse,
        "seconds": round(seconds, 2),
        **extra,
    }
    with ledger.open("a") as file:
        file.write(json.dumps(line) + "\n")
    talk(f"{split.table}, split {split.seed}: {model} {mse:.5g} ({seconds:.0f} s)")


def lines_of(ledger: Path, split: Split, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What is known of a split."""
    return [
        line
        for line in all_lines(ledger)
        if (line["table"], line["seed"], line["test_fraction"])
        == (split.table, split.seed, arguments.test_fraction)
    ]


def all_lines(ledger: Path) -> list[dict[str, Any]]:
    """Every figure that was ever kept."""
    return list(map(json.loads, ledger.read_text().splitlines())) if ledger.exists() else []


def current_rows(
    ledger: Path, recipes: Mapping[str, str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The latest figure of each model on each wanted split, of networks by the tables' recipes."""
    latest: dict[tuple[str, int, str], dict[str, Any]] = {}
    seeds = range(arguments.first, arguments.first + arguments.splits)
    for line in all_lines(ledger):
        is_wanted = line["recipe"] in ("trees", recipes.get(line["table"]))
        is_wanted &= line["test_fraction"] == arguments.test_fraction and line["seed"] in seeds
        if is_wanted and line["table"] in recipes:
            latest[line["table"], line["seed"], line["model"]] = line
    return list(latest.values())


def summarize(rows: list[dict[str, Any]], *, limit: float) -> dict[str, Any]:
    """Each table's ratio to its best ensemble with its spread, and the bars."""
    frame = pd.DataFrame(rows)
    tables: list[dict[str, Any]] = []
    for name, part in frame.groupby("table"):
        errors = part.pivot_table(index="seed", columns="model", values="mse")
        if NETWORK not in errors:
            continue
        errors = errors.dropna()
        if errors.empty:
            continue
        best = errors.drop(columns=NETWORK).mean().idxmin()
        networks = part[(part["model"] == NETWORK) & part["seed"].isin(errors.index)]
        held = [
            each["coverage_test"]
            for each in networks.get("intervals", [])
            if isinstance(each, dict)
        ]
        ratios = errors[NETWORK] / errors[best]
        tables.append(
            {
                "table": name,
                "splits": len(errors),
                "coverage": float(np.mean(held)) if held else None,
                "best_trees": best,
                "best_trees_mse": float(errors[best].mean()),
                "network_mse": float(errors[NETWORK].mean()),
                "ratio": float(np.exp(np.log(ratios).mean())),
                "lowest": float(ratios.min()),
                "highest": float(ratios.max()),
                "seconds": float(networks["seconds"].median()),
            }
        )
    overall = float(np.exp(np.mean([np.log(table["ratio"]) for table in tables])))
    worst = max(table["ratio"] for table in tables)
    bars = [
        {"bar": "geometric mean", "limit": limit, "value": overall},
        {"bar": "the worst table", "limit": TABLE_BAR, "value": worst},
    ]
    for bar in bars:
        bar["met"] = bar["value"] <= bar["limit"]
    return {"tables": tables, "bars": bars}


def render(summary: dict[str, Any], arguments: argparse.Namespace) -> str:
    """The summary as Markdown, with what was run."""
    what = "the best point of `init --search`" if arguments.search else "what `init` writes"
    lines = [
        f"{what}{' with ' if arguments.overrides else ''}{' '.join(arguments.overrides)}; splits "
        f"from seed {arguments.first} on, test fraction {arguments.test_fraction}",
        "",
        "| table | splits | network MSE | best ensemble | its MSE | ratio (lowest to highest) | "
        "held by 90 % intervals | run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for table in summary["tables"]:
        lines.append(
            f"| {table['table']} | {table['splits']} | {table['network_mse']:.4g} | "
            f"{table['best_trees']} | "
            f"{table['best_trees_mse']:.4g} | {table['ratio']:.3f} ({table['lowest']:.3f} to "
            f"{table['highest']:.3f}) | {say_coverage(table['coverage'])} | "
            f"{table['seconds']:.0f} s |"
        )
    lines.append("")
    for bar in summary["bars"]:
        verdict = "met" if bar["met"] else "missed"
        lines.append(f"{bar['bar']}: {bar['value']:.3f}, at most {bar['limit']}: {verdict}")
    return "\n".join(lines) + "\n"


def say_coverage(share: float | None) -> str:
    """The share that intervals hold, marked where it is not what they promise."""
    if share is None:
        return "\N{EN DASH}"
    low, high = COVERAGE_BAR
    return f"{100 * share:.1f} %" + ("" if low <= share <= high else " (missed)")


def talk(text: str) -> None:
    """Says what happens, on stderr."""
    print(text, file=sys.stderr, flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="CSV tables")
    parser.add_argument("--tables", type=lambda text: text.split(","), help="some of them")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after these")
    parser.add_argument("--search", action="store_true", help="of what init --search writes")
    parser.add_argument("--test-fraction", type=float, default=0.3)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="to try other recipes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
