"""The doctor where a profile sends runs; tests/slurm sends it to a cluster."""

import json
import socket
from pathlib import Path

import pytest

from dnnjob.config import resolve_profile
from dnnjob.doctor import Finding
from dnnjob.errors import ExitCode, JobError, MissingError
from dnnjob.launch import remote_doctor
from dnnjob.launch.remote_doctor import (
    check_gpus,
    doctor_command,
    examine_there,
    report_host,
    shorten,
)


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What is found here, to be changed."""
    found = [Finding(topic="python", state="ok", found="3.11")]
    monkeypatch.setattr(remote_doctor, "examine", lambda root: tuple(found))
    return found


@pytest.fixture
def local(tmp_path: Path) -> str:
    path = tmp_path / "local.toml"
    path.write_text('executor = "local"\n')
    return str(path)


def test_a_local_profile_is_this_machine(findings: list[Finding], local: str) -> None:
    (report,) = examine_there(local, root=Path("runs"))

    assert (report.host, report.job_id) == (socket.gethostname(), None)
    assert report.findings == tuple(findings)


def test_something_missing_on_a_node_is_the_exit_code(
    findings: list[Finding], local: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor_command(local, root=Path("runs"), as_json=False) == ExitCode.DONE
    findings.append(Finding(topic="keras", state="missing", found="none", cure="Install it."))

    assert doctor_command(local, root=Path("runs"), as_json=True) == ExitCode.ENVIRONMENT

    text, _, as_json = capsys.readouterr().out.partition("[")
    assert text == f"{socket.gethostname()}\nok  python  3.11\n"
    assert json.loads("[" + as_json)[0]["findings"][1]["cure"] == "Install it."


def test_the_job_leaves_what_it_found_of_its_node(
    findings: list[Finding], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_doctor, "list_gpus", lambda: ())
    for key, value in {"SLURM_PROCID": "1", "SLURM_JOB_ID": "7", "SLURMD_NODENAME": "n2"}.items():
        monkeypatch.setenv(key, value)

    report_host(str(tmp_path), str(tmp_path), gpus=True)

    told = json.loads((tmp_path / "report-1.json").read_text())
    assert (told["host"], told["job_id"]) == ("n2", "7")
    assert [one["topic"] for one in told["findings"]] == ["python", "GPUs of the job"]
    assert told["findings"][1]["state"] == "missing"


def test_gpus_that_were_asked_for_and_seen_are_named() -> None:
    assert check_gpus(["H100", "H100"]).found == "H100, H100"
    assert "sinfo" in str(check_gpus([]).cure)


@pytest.mark.parametrize(("asked_min", "limit_min", "lead_s"), [(2880, 15, 60), (1, 1, 30)])
def test_the_job_is_short_with_one_task_on_each_node(
    asked_min: int, limit_min: int, lead_s: int
) -> None:
    lead = {"warning_lead_s": 120 if asked_min > 2 else 50}
    values = {"executor": "slurm", "nodes": 3, "tasks_per_node": 4, "time_limit_min": asked_min}

    brief = shorten(resolve_profile({**values, **lead}, origin="made up"))

    assert (brief.nodes, brief.tasks_per_node) == (3, 1)
    assert (brief.time_limit_min, brief.warning_lead_s) == (limit_min, lead_s)
    assert resolve_profile(brief.model_dump(exclude_none=True), origin="again") == brief


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nowhere\.toml"):
        examine_there(str(tmp_path / "nowhere.toml"), root=tmp_path)


def test_a_root_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    profile = tmp_path / "cpu.toml"
    profile.write_text('executor = "slurm"\ntime_limit_min = 10\n')

    with pytest.raises(MissingError, match="--root"):
        examine_there(str(profile), root=Path("/proc/none"))
