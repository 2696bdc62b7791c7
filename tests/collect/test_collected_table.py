"""The table: columns, types, filters, order."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.collected_table import (
    filter_lines,
    make_table,
    pick_columns,
    resolve_column,
    sort_lines,
    varying_keys,
)
from dnnjob.collect.record import Line, Run
from dnnjob.errors import JobError
from tests.collect.make_runs import Wish, make_root, write_json, write_run

COLUMNS = """run_id, name, state, reason, test_mse, test_rmse, test_mae, test_r2,
test_mse_standardized, validation_mse, train_mse, baseline_mean_mse, baseline_linear_mse,
num_rows, num_features, num_trainable_params, seed, train_s, total_s, rows_per_s, devices,
num_replicas, num_tasks, host, slurm_job_id, sweep_id, num_attempts, started_at, ended_at,
dnnjob_version, data_fingerprint, path, test_median_absolute_error, test_mape,
baseline_trees_mse""".replace("\n", " ").split(", ")


def load(root: Path) -> pa.Table:
    return make_table(read_runs(root))


def seeds(table: pa.Table, *where: str) -> list[int]:
    return sorted(filter_lines(table, where)["seed"].to_pylist())


def make_run(number: int, **job: object) -> Run:
    folder = Path(f"/runs/{number}")
    return Run(folder=folder, line=Line(run_id=str(number), path=str(folder)), job=job)  # type: ignore[arg-type]


def test_the_columns_stand_in_the_order_of_the_contract(root: Path) -> None:
    write_run(root)
    names = load(root).column_names
    assert names[: len(COLUMNS)] == COLUMNS
    assert all(name.startswith("job.") for name in names[len(COLUMNS) :])


def test_the_schema_does_not_depend_on_what_was_found(root: Path) -> None:
    empty = load(root).schema
    write_run(root, state="FAILED")
    failed = load(root).schema
    write_run(root, Wish(number=1))
    assert empty == failed == load(root).schema


def test_lists_are_json_text_and_empty_settings_keep_their_type(root: Path) -> None:
    write_run(root)
    table = load(root)
    assert json.loads(table["job.model.hidden_units"][0].as_py()) == [200, 1000]
    assert table.schema.field("job.train.clip_norm").type == pa.float64()
    assert table.schema.field("started_at").type == pa.timestamp("us", tz="UTC")


def test_every_metric_equals_the_one_in_its_report(root: Path) -> None:
    make_root(root, num_runs=60, broken_fraction=0.2, num_jobs=3)
    truth = {}
    for path in root.glob("*/*/report.json"):
        try:
            truth[str(path.parent)] = json.loads(path.read_text())["metrics"]["test"]
        except (OSError, ValueError, TypeError):
            continue
    frame = load(root).to_pandas().dropna(subset="test_mse").set_index("path")
    assert len(frame) > 30
    for path, line in frame.iterrows():
        assert line["test_mse"] == truth[str(path)]["mse"]
        assert line["test_r2"] == truth[str(path)]["r2"]


def test_keys_of_another_version_are_kept_with_the_type_they_show() -> None:
    runs = [
        make_run(0, **{"x.a": 1, "x.b": 1, "x.c": True, "x.d": 1}),
        make_run(1, **{"x.a": 2.5, "x.b": None, "x.c": False, "x.d": "text"}),
    ]
    table = make_table(runs)
    assert table["job.x.a"].to_pylist() == [1.0, 2.5]
    assert table["job.x.b"].to_pylist() == [1, None]
    assert table["job.x.c"].to_pylist() == [True, False]
    assert table["job.x.d"].to_pylist() == ["1", "text"]


def test_a_value_of_another_type_than_the_job_has_turns_the_column_into_text() -> None:
    table = make_table(
        [make_run(0, **{"train.epochs": "many"}), make_run(1, **{"train.epochs": 3})]
    )
    assert table["job.train.epochs"].to_pylist() == ["many", "3"]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (("seed=1",), [1]),
        (("seed<2",), [0, 1]),
        (("seed>0", "seed<2"), [1]),
        (("seed>0.5",), [1, 2]),
        (("test_mse>10.5",), [1, 2]),
        (("state=COMPLETED",), [0, 1, 2]),
        (("state=FAILED",), []),
        (("reason=",), [0, 1, 2]),
        (("host=",), []),
        (("train.learning_rate=0.01",), [0, 1, 2]),
        (("job.train.learning_rate<0.01",), []),
        (("model.hidden_units=[200,1000]",), [0, 1, 2]),
        (("train.nesterov=false",), [0, 1, 2]),
        (("train.nesterov=True",), []),
        (("started_at>2026-01-01T00:00:01",), [2]),
        (("started_at<2026-01-01T01:00:02+01:00",), [0, 1]),
        ((" seed = 1 ",), [1]),
    ],
)
def test_conditions_find_the_lines_that_meet_them_all(
    root: Path, where: tuple[str, ...], found: list[int]
) -> None:
    for seed in range(3):
        write_run(root, Wish(number=seed, seed=seed, test_mse=10.0 + seed))
    assert seeds(load(root), *where) == found


def test_a_line_without_a_value_meets_no_condition_on_it(root: Path) -> None:
    write_run(root, state="FAILED")
    assert filter_lines(load(root), ["test_mse<1e9"]).num_rows == 0
    assert filter_lines(load(root), ["test_mse="]).num_rows == 1


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("seed", r"--where reads COLUMN=VALUE.*but got 'seed'"),
        ("=3", r"--where reads COLUMN=VALUE"),
        ("seeds=3", r"no column 'seeds'. Did you mean seed\?"),
        ("learning_rat=3", r"no column 'learning_rat'"),
        ("zzzzzz=3", r"no column 'zzzzzz'. It has: run_id, name"),
        ("seed=many", r"compares seed with a value of type int64, but got 'many'"),
        ("train.nesterov=maybe", r"of type bool, but got 'maybe'"),
        ("started_at>yesterday", r"of type timestamp.*but got 'yesterday'"),
        ("model.hidden_units=[200", r"of type string, but got '\[200'"),
    ],
)
def test_a_condition_that_cannot_be_meant_is_refused(
    root: Path, condition: str, message: str
) -> None:
    with pytest.raises(JobError, match=message):
        filter_lines(load(root), [condition])


def test_lines_without_a_value_come_last_in_either_order(root: Path) -> None:
    for number, mse in enumerate((12.0, 10.0, 11.0)):
        write_run(root, Wish(number=number, test_mse=mse))
    write_run(root, Wish(number=3), "FAILED")
    table = load(root)
    assert sort_lines(table, "test_mse")["test_mse"].to_pylist() == [10.0, 11.0, 12.0, None]
    assert sort_lines(table, "-test_mse")["test_mse"].to_pylist() == [12.0, 11.0, 10.0, None]


def test_equal_lines_stand_in_the_order_of_their_paths(root: Path) -> None:
    for number in range(5):
        write_run(root, Wish(number=number))
    paths = sort_lines(load(root), "test_mse")["path"].to_pylist()
    assert paths == sorted(paths)


def test_columns_are_picked_in_the_order_asked_for_once_each(root: Path) -> None:
    table = pick_columns(load(root), "test_mse, seed,train.epochs,seed")
    assert table.column_names == ["test_mse", "seed", "job.train.epochs"]


@pytest.mark.parametrize("columns", ["", " , "])
def test_no_columns_at_all_are_refused(root: Path, columns: str) -> None:
    with pytest.raises(JobError, match="--columns takes names"):
        pick_columns(load(root), columns)


def test_what_varies_is_neither_a_seed_nor_what_a_run_fills_in() -> None:
    table = make_table(
        [
            make_run(0, **{"seed": 0, "data.split_seed": 0, "name": "a", "devices.threads": 0}),
            make_run(1, **{"seed": 1, "data.split_seed": 1, "name": "b", "devices.threads": 2}),
            make_run(2, **{"model.l2": 0.0, "devices.xla": "auto", "data.window_rows": None}),
            make_run(4, **{"output.trees": True}),
            make_run(5, **{"output.trees": False}),
            make_run(3, **{"model.l2": 0.1, "devices.xla": "on", "data.window_rows": 9}),
        ]
    )
    assert varying_keys(table) == ["job.model.l2"]


def test_what_a_run_fills_in_varies_where_a_command_or_a_sweep_named_it(root: Path) -> None:
    for number, threads in enumerate((1, 2)):
        folder = write_run(root, Wish(number=number))
        report = json.loads((folder / "report.json").read_text())
        report["job"]["devices"]["threads"] = threads
        report["job"]["data"]["window_rows"] = 1000 * threads
        write_json(folder / "report.json", report)
    assert varying_keys(load(root)) == []
    report["provenance"]["command"] += " devices.threads=2"
    write_json(folder / "report.json", report)
    assert varying_keys(load(root)) == ["job.devices.threads"]
    runs = [f"housing/{Wish(number=number).run_id}" for number in range(2)]
    sweep = root / "housing" / "sweeps" / "20260101-000000-aaaaaa"
    sweep.mkdir(parents=True)
    points = [{"run": run, "values": {"data.window_rows": 1}} for run in runs]
    write_json(sweep / "sweep.json", {"points": points})
    assert varying_keys(load(root)) == ["job.data.window_rows", "job.devices.threads"]


def test_the_end_of_a_key_names_it_only_where_no_other_ends_so() -> None:
    table = make_table([make_run(0, **{"data.columns.zip.fill": "mean", "data.columns.x.fill": 1})])
    assert resolve_column(table, "zip.fill") == "job.data.columns.zip.fill"
    with pytest.raises(JobError, match=r"'fill' ends .*x.fill and .*zip.fill\. Name one of them"):
        resolve_column(table, "fill")


def test_features_vary_between_runs_on_one_table_alone() -> None:
    features = ('["a", "b"]', '["c"]')
    other_tables, one_table = (
        [
            Run(
                folder=Path(f"/runs/{number}"),
                line=Line(run_id=str(number), path=str(number), data_fingerprint=table),
                job={"data.features": features[number]},
            )
            for number, table in enumerate(tables)
        ]
        for tables in (("one", "two"), ("one", "one"))
    )
    assert varying_keys(make_table(other_tables)) == []
    assert varying_keys(make_table(one_table)) == ["job.data.features"]


def test_pandas_reads_the_types(root: Path) -> None:
    write_run(root)
    frame = load(root).to_pandas()
    assert frame["started_at"].dt.tz is not None
    assert pd.api.types.is_float_dtype(frame["test_mse"])
