"""What a screen shows."""

import json
from pathlib import Path

from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.collected_table import add_gains, make_table, pick_columns, sort_lines
from dnnjob.collect.compare import compare_runs
from dnnjob.collect.seeds import make_settings, setting_keys
from dnnjob.collect.terminal import DASH, render_table
from dnnjob.collect.views import describe_comparison, make_settings_view, make_view
from tests.collect.make_runs import Wish, write_json, write_run


def show(root: Path, *, width: int | None = None) -> list[str]:
    table = sort_lines(make_table(read_runs(root)), "test_mse")
    return render_table(make_view(table), width=width).text.splitlines()


def test_a_run_shows_what_tells_it_apart(sweep_root: Path) -> None:
    head, first, *_ = show(sweep_root)
    assert head.split() == [
        "name", "run_id", "state", "learning_rate", "test_mse", "vs_linear", "seed", "train_s",
        "host", "reason",
    ]  # fmt: skip
    assert first.split() == [
        "housing", Wish(number=10).run_id, "COMPLETED", "0.01", "10.00", "64", "%", "better", "0",
        "4.90", "s", "n2",
    ]  # fmt: skip


def test_a_failed_run_stands_last_with_its_reason(sweep_root: Path) -> None:
    last = show(sweep_root)[-1]
    assert "FAILED" in last
    assert last.endswith("nan")


def test_keys_that_do_not_vary_are_hidden_and_without_reasons_so_is_their_column(
    root: Path,
) -> None:
    write_run(root)
    (head, _) = show(root)
    assert "reason" not in head
    assert "learning_rate" not in head


def test_a_screen_of_80_keeps_run_state_and_error(sweep_root: Path) -> None:
    lines = show(sweep_root, width=80)
    assert all(len(line) <= 80 for line in lines)
    assert Wish(number=10).run_id in lines[1]
    assert "10.00" in lines[1]


def test_names_cannot_act_on_the_terminal(root: Path) -> None:
    write_run(root, Wish(name="\x1b[31m[bold]é"))
    assert r"\x1b[31m[bold]é" in show(root)[1]


def test_settings_mark_the_best_with_its_difference_to_the_next(sweep_root: Path) -> None:
    table = make_table(read_runs(sweep_root))
    keys = setting_keys(table)
    view = make_settings_view(make_settings(table, keys), keys)
    _, best, other, failed = render_table(view, width=None).text.splitlines()
    assert best.split()[:4] == ["*", "0.01", "11.00", "1.000"]
    assert best.endswith("  open: -11.45 to 3.452 on 3 splits")
    assert not other.startswith("*")
    assert failed.split() == ["1", DASH, DASH, DASH, "1", "1", DASH]


def test_headings_can_be_typed_back_as_columns(sweep_root: Path) -> None:
    table = make_table(read_runs(sweep_root))
    keys = setting_keys(table)
    settings = make_settings(table, keys)
    for view, shown in (
        (make_view(table), add_gains(table)),
        (make_settings_view(settings, keys), settings),
    ):
        titles = [column.title for column in view]
        assert pick_columns(shown, ",".join(titles)).num_columns == len(titles)


def test_runs_with_validation_rows_show_both_errors(root: Path) -> None:
    write_run(root, Wish(validation_mse=11.0, trees_mse=10.0))
    head, line = show(root)
    assert head.split()[3:7] == ["validation_mse", "test_mse", "vs_linear", "vs_trees"]
    assert line.split()[3:11] == [
        "11.00", "12.50", "56", "%", "better", "25", "%", "worse",
    ]  # fmt: skip


def test_a_setting_says_which_is_better_by_how_much(root: Path) -> None:
    for seed in range(3):
        write_run(root, Wish(number=seed, seed=seed, test_mse=10.0 + seed / 100))
        worse = Wish(number=9 + seed, seed=seed, learning_rate=0.1, test_mse=12.0 + seed / 90)
        write_run(root, worse)
    table = make_table(read_runs(root))
    keys = setting_keys(table)
    view = make_settings_view(make_settings(table, keys), keys)
    assert view[-1].cells[0] == "2.001 less (1.998 to 2.004) on 3 splits"


def test_a_long_list_of_features_keeps_the_error_on_the_screen(root: Path) -> None:
    for number in range(2):
        folder = write_run(root, Wish(number=number))
        report = json.loads((folder / "report.json").read_text())
        report["job"]["data"]["features"] = [f"feature {i}" for i in range(300 + number)]
        write_json(folder / "report.json", report)
    for width in (None, 80):
        lines = show(root, width=width)
        assert all("12.50" in line[:130] for line in lines[1:])
    assert "[feature 0, …, feature 299] of 300" in show(root)[1]


def test_a_host_name_of_a_megabyte_is_cut(root: Path) -> None:
    folder = write_run(root)
    report = json.loads((folder / "report.json").read_text())
    report["provenance"]["attempts"][0]["host"] = report["provenance"]["host"] = "n" * 10**6
    write_json(folder / "report.json", report)
    assert max(map(len, show(root))) < 1000


def test_a_comparison_without_test_rows_says_so(root: Path) -> None:
    first = write_run(root, Wish(number=0, test_mse=None))
    second = write_run(root, Wish(number=1))
    text = describe_comparison(compare_runs(first, second), width=80)
    assert text.endswith(f"{first} has no test rows, and nothing judges it.")


def test_a_comparison_ends_with_its_verdict(root: Path) -> None:
    good = write_run(root, Wish(number=0, split_seed=0, predictions=True, test_mse=1.0))
    bad = write_run(root, Wish(number=1, split_seed=0, predictions=True, test_mse=50.0))
    verdicts = [
        describe_comparison(compare_runs(*pair), width=100).splitlines()[-1]
        for pair in ((good, bad), (bad, good), (good, good))
    ]
    assert verdicts[0].startswith("Squared error of A minus B on 1")
    assert [verdict.rpartition(", ")[2] for verdict in verdicts] == [
        "so A is better.",
        "so B is better.",
        "which leaves open which is better.",
    ]


def test_a_comparison_shows_facts_and_metrics(root: Path) -> None:
    first = write_run(root, Wish(number=0))
    second = write_run(root, Wish(number=4, hidden_units=(8,), test_mse=25.0))
    text = describe_comparison(compare_runs(first, second), width=None)
    assert "job   model.hidden_units  [200, 1000]  [8]" in text
    assert [line.split() for line in text.splitlines() if line.startswith("test_mse ")] == [
        ["test_mse", "12.50", "25.00", "+100", "%"]
    ]
    assert text.endswith(f"No paired difference: {first} has no predictions.parquet.")


def test_equal_runs_differ_in_nothing(root: Path) -> None:
    run = write_run(root)
    text = describe_comparison(compare_runs(run, run), width=80)
    assert "Nothing differs in job, data, versions and machine." in text
