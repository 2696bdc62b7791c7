"""How good the predictions are: what `dnnjob init` writes against scikit-learn's tree ensembles.

    make quality
    make quality QUALITY_ARGS="--tables concrete,wine --splits 3 --data ../shared/data"

A run of what `init` writes, and four ensembles on the same training and test rows. The figure of a
table is the ratio of test MSEs, network to best ensemble, the best being that of the least mean
over the splits. Test rows judge and choose nothing. What is done is kept in `build/quality`, a line
a split, so that a series goes on where it was stopped.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable
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
GEOMETRIC_BAR, TABLE_BAR = 1.0, 1.35


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
    failed = False
    for name, source in sources.items():
        job = draft(name, source)
        # The recipe is part of the key: figures of another one do not count.
        recipe = hashlib.sha256(f"{job.read_text()} {arguments.overrides}".encode()).hexdigest()[:8]
        for seed in range(arguments.first, arguments.first + arguments.splits):
            split = Split(name, source, seed)
            try:
                measure(split, job, recipe, ledger, arguments)
            except subprocess.CalledProcessError as error:
                talk(f"{name}, split {seed}: {error.stderr[-400:]}")
                failed = True
        rows = current_rows(ledger, sources, arguments)
        (FOLDER / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    summary = summarize(current_rows(ledger, sources, arguments))
    page = render(summary)
    (FOLDER / "quality.md").write_text(page)
    print(page, end="")
    return int(failed or not all(bar["met"] for bar in summary["bars"]))


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
    words += ["output.plots=false", "output.model=false", *arguments.overrides]
    command = [str(DNNJOB), "run", str(job), *words, "--root", str(FOLDER / "runs")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return Path(ended.stdout.strip().splitlines()[-1])


def draft(name: str, source: Path) -> Path:
    """The job file as `dnnjob init` writes it, untouched."""
    job = FOLDER / f"{name}.toml"
    command = [str(DNNJOB), "init", str(source)]
    if name in TARGETS:
        command += ["--target", TARGETS[name]]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    job.write_text(ended.stdout)
    return job


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
    ledger: Path, sources: Iterable[str], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The latest figure of each model on each wanted split."""
    latest: dict[tuple[str, int, str], dict[str, Any]] = {}
    seeds = range(arguments.first, arguments.first + arguments.splits)
    for line in all_lines(ledger):
        if line["test_fraction"] == arguments.test_fraction and line["seed"] in seeds:
            latest[line["table"], line["seed"], line["model"]] = line
    return [line for line in latest.values() if line["table"] in set(sources)]


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each table's ratio to its best ensemble with its spread, and the bars."""
    frame = pd.DataFrame(rows)
    tables: list[dict[str, Any]] = []
    for name, part in frame.groupby("table"):
        errors = part.pivot_table(index="seed", columns="model", values="mse")
        if NETWORK not in errors:
            continue
        best = errors.drop(columns=NETWORK).mean().idxmin()
        ratios = (errors[NETWORK] / errors[best]).dropna()
        tables.append(
            {
                "table": name,
                "best_trees": best,
                "best_trees_mse": float(errors[best].mean()),
                "network_mse": float(errors[NETWORK].mean()),
                "ratio": float(np.exp(np.log(ratios).mean())),
                "lowest": float(ratios.min()),
                "highest": float(ratios.max()),
                "seconds": float(part[part["model"] == NETWORK]["seconds"].median()),
            }
        )
    overall = float(np.exp(np.mean([np.log(table["ratio"]) for table in tables])))
    worst = max(table["ratio"] for table in tables)
    bars = [
        {"bar": "geometric mean", "limit": GEOMETRIC_BAR, "value": overall},
        {"bar": "the worst table", "limit": TABLE_BAR, "value": worst},
    ]
    for bar in bars:
        bar["met"] = bar["value"] <= bar["limit"]
    return {"tables": tables, "bars": bars}


def render(summary: dict[str, Any]) -> str:
    """The summary as Markdown."""
    lines = [
        "| table | network MSE | best ensemble | its MSE | ratio (lowest to highest) | run |",
        "|---|---|---|---|---|---|",
    ]
    for table in summary["tables"]:
        lines.append(
            f"| {table['table']} | {table['network_mse']:.4g} | {table['best_trees']} | "
            f"{table['best_trees_mse']:.4g} | {table['ratio']:.3f} ({table['lowest']:.3f} to "
            f"{table['highest']:.3f}) | {table['seconds']:.0f} s |"
        )
    lines.append("")
    for bar in summary["bars"]:
        verdict = "met" if bar["met"] else "missed"
        lines.append(f"{bar['bar']}: {bar['value']:.3f}, at most {bar['limit']}: {verdict}")
    return "\n".join(lines) + "\n"


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
    parser.add_argument("--test-fraction", type=float, default=0.3)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="to try other recipes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
