"""What `dnnjob doctor` finds."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dnnjob import doctor
from dnnjob.doctor import Finding
from tests.conftest import Command


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the probe of TensorFlow answers, to be changed."""
    facts: dict[str, Any] = {
        "tensorflow": "2.21.0",
        "keras": "3.15.1",
        "devices": [{"name": "CPU:0", "gflop_per_s": 250.0, "right": True}],
    }
    monkeypatch.setattr(doctor, "_probe", lambda: facts)
    monkeypatch.setattr(doctor, "list_gpus", lambda: ())
    monkeypatch.setattr(doctor, "list_missing_libraries", lambda: ())
    return facts


@pytest.mark.long
def test_a_fit_machine_is_told_in_json(dnnjob: Command, tmp_path: Path) -> None:
    done = dnnjob("doctor", "--root", tmp_path / "runs", "--json")
    findings = {item["topic"]: item for item in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {"python", "tensorflow", "keras", "CPU:0", "threads", "memory limit", "root"} <= set(
        findings
    )
    assert all(item["state"] == "ok" for item in findings.values())
    assert "GFLOP/s" in findings["CPU:0"]["found"]
    assert f"affinity {len(os.sched_getaffinity(0))}" in findings["threads"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("raise ImportError('libcuda.so: not found')", "libcuda.so: not found"),
        ("import os; os.abort()", "SIGABRT"),
    ],
)
def test_a_broken_tensorflow_ends_with_4_and_the_cure(
    dnnjob: Command, tmp_path: Path, script: str, told: str
) -> None:
    (tmp_path / "tensorflow.py").write_text(script)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = dnnjob("doctor", "--root", tmp_path, PYTHONPATH=path)
    line = next(line for line in done.stdout.splitlines() if "tensorflow" in line)
    assert done.returncode == 4
    assert line.startswith("missing")
    assert told in line
    assert "Install dnnjob's locked dependencies" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_library_that_cannot_be_imported_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_library.py").write_text("raise OSError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    finding = doctor.check_library("seaborn", "broken_library")
    assert (finding.state, finding.found) == ("missing", "OSError: undefined symbol")
    assert doctor.check_library("numpy", "no_such_module").state == "missing"
    assert doctor.check_library("numpy", "numpy").state == "ok"


@pytest.mark.parametrize(
    ("version", "state"),
    [((3, 10), "missing"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "missing")],
)
def test_pythons_that_tensorflow_lacks_are_refused(version: tuple[int, int], state: str) -> None:
    assert doctor.check_python(version).state == state


def test_a_gpu_that_tensorflow_does_not_see_is_noted(
    probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [finding.topic for finding in doctor.check_tensorflow()][2:] == ["CPU:0"]
    monkeypatch.setattr(doctor, "list_gpus", lambda: ("GPU A",))
    *_, last = doctor.check_tensorflow()
    assert (last.topic, last.state) == ("GPU", "note")
    assert "nvidia-smi" in str(last.cure)


@pytest.mark.parametrize(
    ("target", "gpus", "visible", "told"),
    [
        ("cpu", (), None, "take the gpu image"),
        ("cpu", ("GPU A",), None, "take the gpu image"),
        ("gpu", (), None, "--gpus all"),
        ("gpu", (), "", "CUDA_VISIBLE_DEVICES is empty"),
        ("gpu", ("GPU A",), None, "driver of version 525"),
    ],
)
def test_an_image_tells_why_it_sees_no_gpu(
    probed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    gpus: tuple[str, ...],
    visible: str | None,
    told: str,
) -> None:
    monkeypatch.setattr(doctor, "read_image", lambda: {"target": target})
    monkeypatch.setattr(doctor, "list_gpus", lambda: gpus)
    monkeypatch.setattr(doctor, "configure_process", lambda devices: None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    *_, last = doctor.check_tensorflow()
    assert (last.topic, last.state) == ("GPU", "note")
    assert told in str(last.cure)


def test_libraries_that_tensorflow_lacks_are_named(
    probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "list_gpus", lambda: ("GPU A",))
    monkeypatch.setattr(doctor, "list_missing_libraries", lambda: ("libcusolver.so.11",))
    monkeypatch.setattr(doctor, "package_version", lambda *_: "2.21.0")
    *_, last = doctor.check_tensorflow()
    assert last.found.endswith("it cannot load libcusolver.so.11")
    assert "dnnjob[gpu]" in str(last.cure)


def test_what_tensorflow_could_not_load_is_read_from_its_talk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = (
        "I0000 1 1062 dso_loader.cc:133] Successfully opened dynamic library libcublas.so.12\n"
        "I0000 1 1062 dso_loader.cc:144] Could not load dynamic library 'libcusolver.so.11'; "
        "dlerror: libcusolver.so.11: cannot open shared object file: No such file or directory\n"
        "W0000 1 1062 dso_loader.cc:144] Could not load dynamic library 'libnvinfer.so.10'; no\n"
    )
    done = subprocess.CompletedProcess([], 0, stdout="", stderr=told)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: done)
    assert doctor.list_missing_libraries() == ("libcusolver.so.11",)


def test_a_device_that_multiplies_wrongly_is_unfit(probed: dict[str, Any]) -> None:
    probed["devices"][0]["right"] = False
    *_, last = doctor.check_tensorflow()
    assert (last.topic, last.state) == ("CPU:0", "missing")


def test_a_root_is_tried_where_it_will_be(tmp_path: Path) -> None:
    finding = doctor.check_root(tmp_path / "a" / "b")
    assert finding.state == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["/proc/none", "/dev/null", "/sys/none/x"])
def test_a_root_that_cannot_be_written_is_missing(root: str) -> None:
    finding = doctor.check_root(Path(root))
    assert finding.state == "missing"
    assert "--root" in str(finding.cure)


def test_little_room_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    assert doctor.check_root(tmp_path).state == "note"


def test_cures_stand_below_what_they_cure() -> None:
    findings = (
        Finding(topic="python", state="ok", found="3.11"),
        Finding(topic="root", state="missing", found="no", cure="Set --root."),
        Finding(topic="threads", state="ok", found="2"),
    )
    assert doctor.render_findings(findings) == (
        "ok       python   3.11\nmissing  root     no\n         Set --root.\nok       threads  2"
    )
    assert not doctor.is_fit(findings)
    assert doctor.is_fit(findings[:1])
