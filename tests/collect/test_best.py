"""The run that a metric chooses."""

import logging
from pathlib import Path

import pytest

from dnnjob.collect.best import best_command
from dnnjob.errors import ExitCode, JobError
from tests.collect.make_runs import Wish, write_json, write_run


@pytest.fixture(autouse=True)
def talk(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What stderr gets."""
    caplog.set_level(logging.INFO, logger="dnnjob")
    return caplog


@pytest.fixture
def validated(root: Path) -> list[Path]:
    """Three runs: the least test MSE, the least validation MSE, a failed one."""
    wishes = [
        Wish(number=0, split_seed=0, validation_mse=9.0, test_mse=1.0),
        Wish(number=1, split_seed=0, validation_mse=5.0, test_mse=8.0, learning_rate=0.1),
    ]
    return [*(write_run(root, wish) for wish in wishes), write_run(root, Wish(number=2), "FAILED")]


def test_the_least_validation_mse_is_printed_as_a_folder(
    root: Path,
    validated: list[Path],
    capsys: pytest.CaptureFixture[str],
    talk: pytest.LogCaptureFixture,
) -> None:
    assert best_command(root) is ExitCode.DONE
    assert capsys.readouterr().out == f"{validated[1]}\n"
    assert talk.messages == ["validation_mse 5.000 is the least of 2 runs."]


def test_conditions_choose_among_which(
    root: Path, validated: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    best_command(root, where=["learning_rate=0.01"])
    assert capsys.readouterr().out == f"{validated[0]}\n"


def test_test_rows_choose_by_name_alone_and_with_a_warning(
    root: Path,
    validated: list[Path],
    capsys: pytest.CaptureFixture[str],
    talk: pytest.LogCaptureFixture,
) -> None:
    best_command(root, metric="test_mse")
    assert capsys.readouterr().out == f"{validated[0]}\n"
    assert "The test rows have chosen among 2 runs" in talk.text
    assert talk.records[1].levelno == logging.WARNING


@pytest.mark.parametrize(("metric", "number"), [("test_r2", 0), ("-test_mse", 1), ("test_mae", 0)])
def test_of_a_score_the_largest_wins_and_of_an_error_the_least(
    root: Path,
    validated: list[Path],
    capsys: pytest.CaptureFixture[str],
    metric: str,
    number: int,
) -> None:
    best_command(root, metric=metric)
    assert capsys.readouterr().out == f"{validated[number]}\n"


def test_a_sweep_is_searched_alone(
    root: Path, validated: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = root / "housing" / "sweeps" / "20260101-000000-aaaaaa"
    sweep.mkdir(parents=True)
    point = {"run": str(validated[0].relative_to(root)), "values": {}}
    write_json(sweep / "sweep.json", {"points": [point]})
    best_command(sweep)
    assert capsys.readouterr().out == f"{validated[0]}\n"


def test_without_validation_rows_the_way_out_is_named(root: Path) -> None:
    write_run(root)
    with pytest.raises(JobError, match=r"none of the 1 complete.*--metric test_mse"):
        best_command(root)


def test_without_a_complete_run_there_is_no_best(root: Path) -> None:
    write_run(root, state="FAILED")
    with pytest.raises(JobError, match=r"none under .* is complete"):
        best_command(root)


@pytest.mark.parametrize(
    ("other", "what"),
    [(Wish(number=1, validation_mse=1.0, fingerprint="other"), "2 tables")],
)
def test_errors_on_several_tables_choose_nothing(root: Path, other: Wish, what: str) -> None:
    write_run(root, Wish(validation_mse=2.0))
    write_run(root, other)
    with pytest.raises(JobError, match=rf"have {what}\. Choose with --where data_fingerprint="):
        best_command(root)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("host", "takes a column of numbers, but host holds string"),
        ("train.clip_norm", "none of the 1 complete run .* Choose another --metric"),
        ("lossless", "no column .lossless."),
    ],
)
def test_a_metric_that_cannot_choose_is_refused(root: Path, metric: str, message: str) -> None:
    write_run(root)
    with pytest.raises(JobError, match=message):
        best_command(root, metric=metric)
