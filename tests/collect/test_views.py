"""What a screen shows."""

from pathlib import Path

from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.collected_table import make_table, sort_lines
from dnnjob.collect.compare import compare_runs
from dnnjob.collect.seeds import make_settings, setting_keys
from dnnjob.collect.terminal import DASH, render_table
from dnnjob.collect.views import describe_comparison, make_settings_view, make_view
from tests.collect.make_runs import Wish, write_run


def show(root: Path, *, width: int | None = None) -> list[str]:
    table = sort_lines(make_table(read_runs(root)), "test_mse")
    return render_table(make_view(table), width=width).text.splitlines()


def test_a_run_shows_what_tells_it_apart(sweep_root: Path) -> None:
    head, first, *_ = show(sweep_root)
    assert head.split() == [
        "name", "run_id", "state", "learning_rate", "test_mse", "vs", "linear", "seed", "train",
        "host", "reason",
    ]  # fmt: skip
    assert first.split() == [
        "housing", Wish(number=10).run_id, "COMPLETED", "0.01", "10.00", "−64", "%", "0",  # noqa: RUF001
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
    assert best.endswith(" on 3")
    assert not other.startswith("*")
    assert failed.split() == ["1", DASH, DASH, DASH, "1", "1", "0", DASH]


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
