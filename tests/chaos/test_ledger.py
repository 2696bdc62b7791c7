"""The ledger of faults: gone on with, refused, read by a person; and what is drawn."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.chaos import Chaos, draw, main
from tests.chaos.faults import FAULTS
from tests.chaos.judging import list_writes
from tests.chaos.ledger import Entry, Ledger, LedgerError, Scenario, render_summary
from tests.chaos.works import WORKS


def entry(outcome: str, *, fault: str = "kill") -> Entry:
    scenario = Scenario(1, "resident", fault, "all", "training", 0.5, warm=True)
    return Entry(scenario, "training", outcome, "", 3.0, "0.1.0", "2026-01-01T00:00:00+00:00")


def test_a_ledger_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.jsonl"
    Ledger(path).add(entry("same bits"))

    again = Ledger(path)
    again.add(entry("refused"))

    assert Ledger(path).entries == again.entries == [entry("same bits"), entry("refused")]


@pytest.mark.parametrize("line", ['{"version": 0}', '{"scenario": {}}', "[]", '{"version": 1'])
def test_a_ledger_of_another_version_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(line + "\n")

    with pytest.raises(LedgerError, match=r"line 1 of .*ledger.jsonl .*Give another file"):
        Ledger(path)


def test_the_summary_counts_each_fault_and_says_what_was_left_out() -> None:
    late = replace(entry("wrong"), came_in="too late")
    entries = [entry("same bits"), late, entry("same bits", fault="stop")]

    summary = render_summary([*entries, entry("too late")], {"no space": "only root may do this"})

    assert "| kill | 2 | 1 | 0 | 1 | resident | training |" in summary
    assert "| stop | 1 | 1 | 0 | 0 | resident | training |" in summary
    assert "| all | 3 | 2 | 0 | 1 |" in summary
    assert "1 came too late" in summary
    assert "Left out: no space, since only root may do this." in summary


def test_a_run_is_struck_at_each_kind_of_write_that_comes_once_its_folder_is_told() -> None:
    """Before that the program waits for the folder, and a command that stops itself never tells."""
    made = ["job.toml", "status.json"]
    later = ["status.json", "1.ckpt", "22.ckpt", "report.json"]
    events = [
        *({"what": "written", "name": name} for name in made),
        {"what": "begin", "name": "read"},
        *({"what": "written", "name": name} for name in later),
    ]
    assert list_writes(events) == ["0.ckpt", "report.json"]


def test_one_seed_draws_the_same_faults_and_every_fault_in_time() -> None:
    drawn = [
        [draw(rng, jobs=list(WORKS), faults=list(FAULTS)) for _ in range(600)]
        for rng in (random.Random(5), random.Random(5))
    ]

    assert drawn[0] == drawn[1]
    assert {one.fault for one in drawn[0]} == set(FAULTS)
    assert {one.job for one in drawn[0]} == set(WORKS)


def test_a_damaged_ledger_ends_the_command_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text(json.dumps({"version": 99}))
    monkeypatch.setattr("sys.argv", ["chaos", "--ledger", str(path)])

    assert main() == 2
    assert "has 99" in capsys.readouterr().err


def test_a_line_that_the_ledger_lacks_cannot_be_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["chaos", "--ledger", str(tmp_path / "new"), "--replay", "1"])

    assert main() == 1
    assert "it has 0 and you asked for line 1" in capsys.readouterr().err


def test_no_more_faults_are_played_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Chaos, "play", lambda self, scenario, follow: [entry("same bits")])
    ledger = tmp_path / "new"
    monkeypatch.setattr("sys.argv", ["chaos", "--ledger", str(ledger), "--count", "3"])

    assert main() == 0
    assert len(Ledger(ledger).entries) == 3
    assert "| all | 3 |" in capsys.readouterr().out
