"""The two verbs: stdout, files, exit codes."""

import json
import logging
import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from dnnjob.collect import commands
from dnnjob.collect.collected_runs import read_runs
from dnnjob.collect.commands import collect_command, compare_command, describe_count
from dnnjob.errors import DataError, ExitCode, JobError, MissingError
from tests.collect.make_runs import Wish, make_root, write_run
from tests.conftest import command_line


@pytest.fixture(autouse=True)
def talk(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What stderr gets."""
    caplog.set_level(logging.INFO, logger="dnnjob")
    return caplog


def test_the_table_goes_to_stdout_and_the_count_to_the_talk(
    sweep_root: Path, capsys: pytest.CaptureFixture[str], talk: pytest.LogCaptureFixture
) -> None:
    assert collect_command(sweep_root) is ExitCode.DONE
    assert len(capsys.readouterr().out.splitlines()) == 1 + 7
    assert talk.messages[-1] == f"7 folders under {sweep_root}: 6 COMPLETED, 1 FAILED."


def test_the_ranking_and_unequal_test_rows_are_told(
    sweep_root: Path, talk: pytest.LogCaptureFixture
) -> None:
    collect_command(sweep_root)
    assert talk.messages[0].startswith("Ranked by test_mse, since no run has validation rows")
    assert talk.messages[1].startswith("These runs hold out 3 different sets of rows")
    talk.clear()
    collect_command(sweep_root, sort="-test_mse", where=["data.split_seed=0"])
    assert talk.messages[0] == "3 of 7 lines shown."


def test_runs_are_ranked_by_validation_rows_where_they_have_them(
    root: Path, capsys: pytest.CaptureFixture[str], talk: pytest.LogCaptureFixture
) -> None:
    errors = [(30.0, 9.0), (10.0, 20.0), (None, 5.0), (20.0, 1.0), (None, 4.0)]
    for number, (validation, test) in enumerate(errors):
        wish = Wish(number=number, split_seed=0, validation_mse=validation, test_mse=test)
        write_run(root, wish)
    collect_command(root, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [line["test_mse"] for line in found] == [20.0, 1.0, 9.0, 4.0, 5.0]
    assert talk.messages[0] == (
        "Ranked by validation_mse; after that, by test_mse, 2 runs without validation rows."
    )


def test_runs_without_test_rows_are_counted(root: Path, talk: pytest.LogCaptureFixture) -> None:
    write_run(root, Wish(test_mse=None))
    collect_command(root)
    assert talk.messages[0] == "One complete run has no test rows: nothing judges it."


def test_a_gain_is_a_column_to_filter_sort_and_show(
    sweep_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect_command(
        sweep_root, where=["vs_linear<-0.5"], sort="-vs_linear", columns="vs_linear,test_mse"
    )
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == [
        "14", "13", "12", "11", "10",
    ]  # fmt: skip


def test_where_sort_and_columns_shape_the_table(
    sweep_root: Path, capsys: pytest.CaptureFixture[str], talk: pytest.LogCaptureFixture
) -> None:
    collect_command(
        sweep_root, where=["train.learning_rate=0.1"], sort="-test_mse", columns="seed,test_mse"
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["seed", "test_mse"], ["2", "18"], ["0", "14"], ["1", "13"],
    ]  # fmt: skip
    assert "3 of 7 lines shown." in talk.messages


def test_json_goes_to_stdout(sweep_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collect_command(sweep_root, as_json=True)
    lines = json.loads(capsys.readouterr().out)
    assert [line["test_mse"] for line in lines] == [10.0, 11.0, 12.0, 13.0, 14.0, 18.0, None]


def test_settings_take_the_place_of_runs(
    sweep_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collect_command(sweep_root, by="", sort="-test_mse_mean", as_json=True)
    lines = json.loads(capsys.readouterr().out)
    assert [line["job.train.learning_rate"] for line in lines] == [0.1, 0.01, 1.0]
    collect_command(sweep_root, by="")
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["*", "0.01"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json", ".html"])
def test_a_file_takes_the_place_of_stdout(
    sweep_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out = tmp_path / "new folder" / f"table{suffix}"
    assert collect_command(sweep_root, out=out) is ExitCode.DONE
    assert capsys.readouterr().out == f"{out}\n"
    assert out.stat().st_size > 0


def test_settings_can_be_written_too(sweep_root: Path, tmp_path: Path) -> None:
    collect_command(sweep_root, out=tmp_path / "t.parquet", by="train.learning_rate")
    assert pd.read_parquet(tmp_path / "t.parquet")["num_runs"].tolist() == [3, 3, 1]


def test_joined_predictions_are_written_with_the_error_of_their_mean(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], talk: pytest.LogCaptureFixture
) -> None:
    folders = [
        write_run(root, Wish(number=number, split_seed=0, predictions=True)) for number in range(3)
    ]
    write_run(root, Wish(number=3, split_seed=0))
    write_run(root, Wish(number=4), "FAILED")
    collect_command(root, predictions=tmp_path / "p.parquet", as_json=True)
    said = json.loads(capsys.readouterr().out)
    joined = pd.read_parquet(tmp_path / "p.parquet")
    test = joined["split"] == "test"
    mean = pd.concat(
        [pd.read_parquet(folder / "predictions.parquet")["y_pred"] for folder in folders], axis=1
    ).mean(axis=1)
    assert said["mse"] == pytest.approx(((mean - joined["y_true"])[test] ** 2).mean(), rel=1e-12)
    assert (said["num_runs"], said["num_rows"]) == (3, test.sum())
    assert talk.messages[0].endswith("2 lines without predictions.")


def test_joined_predictions_print_their_path(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(root, Wish(predictions=True))
    collect_command(root, predictions=tmp_path / "p.parquet")
    assert capsys.readouterr().out == f"{tmp_path / 'p.parquet'}\n"


def test_predictions_of_no_run_are_refused(root: Path, tmp_path: Path) -> None:
    write_run(root)
    with pytest.raises(DataError, match="none was found"):
        collect_command(root, predictions=tmp_path / "p.parquet")


def test_a_wrong_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--out takes a file"):
        collect_command(tmp_path / "nowhere", out=tmp_path / "t.xlsx")


def test_a_page_takes_no_columns(root: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="--columns is for tables"):
        collect_command(root, out=tmp_path / "t.html", columns="seed")


def test_a_page_in_a_place_that_cannot_be_written_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MissingError):
        collect_command(root, out=tmp_path / "file" / "t.html")


def test_different_tables_are_warned_of(root: Path, talk: pytest.LogCaptureFixture) -> None:
    write_run(root)
    write_run(root, Wish(number=1, fingerprint="other"))
    collect_command(root)
    assert talk.messages[0].startswith("These runs read 2 different tables")


def test_the_exit_code_is_an_error_only_where_nothing_could_be_read(root: Path) -> None:
    assert collect_command(root) is ExitCode.DONE
    (root / "housing" / "20260101-000000-aaaaaa").mkdir(parents=True)
    assert collect_command(root) is ExitCode.DATA
    write_run(root)
    assert collect_command(root) is ExitCode.DONE


def test_the_count_names_states_the_unreadable_and_the_broken(root: Path) -> None:
    assert describe_count([], root) == f"No runs under {root}."
    make_root(root, num_runs=60, broken_fraction=0.3, num_jobs=1, seed=3)
    text = describe_count(read_runs(root), root)
    assert " unreadable or no runs, " in text
    assert text.endswith(" of them with a broken or missing file.")


def test_a_narrow_screen_names_what_it_leaves_out(
    sweep_root: Path, talk: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_screen_width", lambda: 60)
    collect_command(sweep_root)
    assert talk.messages[0].startswith("Without room for ")


def test_a_reader_that_has_had_enough_is_no_error(sweep_root: Path) -> None:
    pipe_out, pipe_in = os.pipe()
    os.close(pipe_out)
    command = command_line("collect", sweep_root, "--json")
    done = subprocess.run(command, stdout=pipe_in, stderr=subprocess.PIPE)
    os.close(pipe_in)
    assert done.returncode == 0
    assert done.stderr.decode().splitlines()[-1].startswith("7 folders")


def test_two_runs_are_compared_on_stdout(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_run(root, Wish(number=0, split_seed=0, predictions=True))
    second = write_run(root, Wish(number=1, split_seed=0, predictions=True, test_mse=20.0))
    assert compare_command(first, second) is ExitCode.DONE
    text = capsys.readouterr().out
    assert text.startswith(f"A  {first}\nB  {second}\n")
    compare_command(first, second, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["paired"]["num_pairs"] > 100
    assert {"part": "machine", "key": "host", "first": "n0", "second": "n1"} in said["differences"]


def test_the_runs_of_a_root_are_compared_by_what_they_vary(
    sweep_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare_command(sweep_root, None) is ExitCode.DONE
    head, *lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert head[:3] == ["test_mse", "learning_rate", "seed"]
    errors = [line[0] for line in lines]
    assert errors == ["10.00", "11.00", "12.00", "13.00", "14.00", "18.00", "\N{EN DASH}"]
    assert [line[1:3] for line in lines[:3]] == [["0.01", "0"], ["0.01", "2"], ["0.01", "1"]]

    compare_command(sweep_root, None, as_json=True)
    assert [run["test_mse"] for run in json.loads(capsys.readouterr().out)][:2] == [10.0, 11.0]


def test_one_run_is_compared_with_none(root: Path) -> None:
    run = write_run(root, Wish(number=0))
    with pytest.raises(JobError, match="Give another run beside it"):
        compare_command(run, None)
