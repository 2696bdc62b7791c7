"""What this machine offers a run, and what it lacks, with the cure.

findings = examine(Path("runs"))
print(render_findings(findings))
"""

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import dnnjob
from dnnjob.config import DevicesConfig
from dnnjob.image import is_lost, lost_reason, mount_hint, read_image
from dnnjob.machine import core_grants, cpu_name, list_gpus, memory_limit_bytes, package_version
from dnnjob.runs import Record
from dnnjob.tasks import configure_process
from dnnjob.text import align

OLDEST_PYTHON, NEWEST_PYTHON = (3, 11), (3, 13)
_NOT_LOADED = re.compile(r"Could not load dynamic library '([^']+)'")
# Modules of the packages that a run imports, TensorFlow apart.
LIBRARIES = {
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow.parquet",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib.pyplot",
    "seaborn": "seaborn",
    "submitit": "submitit",
}
HAND_GPUS_IN = (
    "Start it with docker run --gpus all, podman run --device nvidia.com/gpu=all or apptainer exec "
    "--nv, on a host with NVIDIA's driver and container toolkit; docker/dnnjob does so."
)
REINSTALL = "Install dnnjob's locked dependencies: `make run` in its checkout does."
MIN_FREE_GB = 1.0
PROBE_TIMEOUT_S = 120.0


class Finding(Record):
    """One thing looked at."""

    topic: str
    state: Literal["ok", "note", "missing"]
    """`missing`: no run can do without; `note`: some runs will miss it."""
    found: str
    cure: str | None = None


def examine(root: Path) -> tuple[Finding, ...]:
    """All findings: interpreter, libraries, devices, threads, memory, and where runs go.

    Args:
        root: Folder that holds the runs, or will.
    """
    # First: libraries look for their folders when they are imported.
    configure_process(DevicesConfig())
    return (
        check_python(sys.version_info[:2]),
        *check_image(),
        *(check_library(name, module) for name, module in LIBRARIES.items()),
        *check_tensorflow(),
        check_threads(),
        Finding(topic="memory limit", state="ok", found=f"{memory_limit_bytes() / 2**30:.1f} GiB"),
        check_root(root),
    )


def is_fit(findings: Sequence[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(finding.state != "missing" for finding in findings)


def check_python(version: tuple[int, int]) -> Finding:
    """Whether this interpreter is one that dnnjob and TensorFlow support."""
    found = f"{platform.python_version()} ({sys.executable}), dnnjob {dnnjob.__version__}"
    if OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        return Finding(topic="python", state="ok", found=found)
    cure = "Make the environment with Python 3.11, 3.12 or 3.13: `make PYTHON=python3.11`."
    return Finding(topic="python", state="missing", found=found, cure=cure)


def check_image() -> Iterator[Finding]:
    """The container image this is, if it is one."""
    if image := read_image():
        found = f"{image['target']}, commit {image['commit']}, from {image['base']}"
        yield Finding(topic="image", state="ok", found=found)


def check_library(name: str, module: str) -> Finding:
    """Whether a package can be imported."""
    try:
        importlib.import_module(module)
    # A broken installation may raise anything at its import.
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        return Finding(topic=name, state="missing", found=told, cure=REINSTALL)
    return Finding(topic=name, state="ok", found=package_version(name) or "")


def check_tensorflow() -> Iterator[Finding]:
    """TensorFlow, Keras, and each device with its speed; in another process."""
    configure_process(DevicesConfig())
    try:
        facts = _probe()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        yield Finding(topic="tensorflow", state="missing", found=_last_line(error), cure=REINSTALL)
        return
    for topic in ("tensorflow", "keras"):
        yield Finding(topic=topic, state="ok", found=facts[topic])
    for device in facts["devices"]:
        yield _check_device(device)
    if not any("GPU" in device["name"] for device in facts["devices"]):
        yield from explain_no_gpu()


def explain_no_gpu() -> Iterator[Finding]:
    """Why TensorFlow sees no GPU; nothing where none is to be expected."""
    gpus, image = list_gpus(), read_image()
    if image is None and not gpus:
        return
    found = f"{', '.join(gpus)}, but TensorFlow sees none" if gpus else "none"
    if gpus and (missing := list_missing_libraries()):
        found += f", for it cannot load {', '.join(missing)}"
    if image is None and package_version("tensorflow") is not None:
        cure = (
            "CUDA 12 needs a driver of version 525 or later; the other libraries come with "
            "`pip install 'dnnjob[gpu]'`. LD_LIBRARY_PATH may name folders of another CUDA."
        )
    elif image is None:
        cure = (
            "Install TensorFlow with CUDA: `pip install 'dnnjob[gpu]'`; `make` does so where "
            "nvidia-smi finds a GPU."
        )
    elif image["target"] == "cpu":
        found, cure = f"{found}: this is the cpu image", "Where there are GPUs, take the gpu image."
    elif gpus:
        cure = "CUDA 12 needs a driver of version 525 or later on the host."
    elif os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        cure = "CUDA_VISIBLE_DEVICES is empty, which hides them all. Unset it."
    else:
        found, cure = f"{found}: the container was given no driver", HAND_GPUS_IN
    yield Finding(topic="GPU", state="note", found=found, cure=cure)


def list_missing_libraries() -> tuple[str, ...]:
    """CUDA's libraries that TensorFlow looks for in vain; it tells only where it is asked to."""
    asked = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "dso_loader=2"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import tensorflow; tensorflow.config.list_physical_devices()"],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            env={**os.environ, **asked},
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    # TensorRT's are for inference alone, and absent as a rule.
    names = dict.fromkeys(_NOT_LOADED.findall(done.stderr))
    return tuple(name for name in names if not name.startswith("libnvinfer"))


def check_threads() -> Finding:
    """The threads a run takes here, and what they come from."""
    grants = core_grants()
    origins = ", ".join(f"{origin} {cores}" for origin, cores in grants.items())
    found = f"{min(grants.values())} (cores by {origins}) on {cpu_name()}"
    return Finding(topic="threads", state="ok", found=found)


def check_root(root: Path) -> Finding:
    """Whether runs can be written under `root`; nothing stays there."""
    if is_lost(root):
        told = lost_reason(root.absolute())
        cure = f"Mount a folder for it.{mount_hint(root, to='write')}"
        # Whoever asks a container without any mount asks for its GPU.
        return Finding(topic="root", state="note", found=told, cure=cure)
    place = root.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            free_gb = shutil.disk_usage(place).free / 1e9
    except OSError as error:
        told = f"{root.absolute()} cannot be written: {error.strerror}"
        cure = f"Set --root to a folder you can write.{mount_hint(root, to='write')}"
        return Finding(topic="root", state="missing", found=told, cure=cure)
    found = f"{root.absolute()} can be written, {free_gb:,.1f} GB free"
    if free_gb < MIN_FREE_GB:
        return Finding(topic="root", state="note", found=found, cure="Make room.")
    return Finding(topic="root", state="ok", found=found)


def render_findings(findings: Sequence[Finding]) -> str:
    """The findings as lines for a terminal, cures below what they cure."""
    lines = align([(finding.state, finding.topic, finding.found) for finding in findings])
    return "\n".join(
        line if finding.cure is None else f"{line}\n         {finding.cure}"
        for line, finding in zip(lines, findings, strict=True)
    )


def _probe() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "dnnjob.training.probe"],
        capture_output=True,
        text=True,
        timeout=PROBE_TIMEOUT_S,
        check=True,
        env=dict(os.environ),
    )
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _check_device(device: dict[str, Any]) -> Finding:
    found = f"{device['gflop_per_s']:,.0f} GFLOP/s in float32"
    if device["right"]:
        return Finding(topic=device["name"], state="ok", found=found)
    cure = "Its products are wrong: test the hardware and its driver."
    return Finding(topic=device["name"], state="missing", found=found, cure=cure)


def _last_line(error: Exception) -> str:
    """What a person needs of a failed process: its last words, or how it ended."""
    words = str(getattr(error, "stderr", None) or "").strip().splitlines()
    return words[-1] if words else str(error)
