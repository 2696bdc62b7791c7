"""What the recipes and profiles of the image say, without building it."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT, run_command


def read_lock(target: str) -> dict[str, str]:
    text = (CHECKOUT / "requirements" / f"{target}.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


def test_the_locks_differ_by_tensorflow_and_nvidias_libraries_alone() -> None:
    cpu, gpu = read_lock("cpu"), read_lock("gpu")
    assert cpu.pop("tensorflow-cpu") == gpu.pop("tensorflow")
    extra = gpu.keys() - cpu.keys()
    assert extra
    assert {name.partition("-")[0] for name in extra} == {"nvidia"}
    assert {name: gpu[name] for name in cpu} == cpu


def test_the_plain_build_line_labels_version_and_commit() -> None:
    recipe = (CHECKOUT / "docker" / "Dockerfile").read_text()
    header = recipe.partition("\n\n")[0]
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert f"--build-arg VERSION={project['version']} " in header
    assert "--build-arg COMMIT=" in header
    assert recipe.count('version="${VERSION}"') == recipe.count('revision="${COMMIT}"') == 2


def test_what_git_does_not_know_makes_the_commit_dirty(tmp_path: Path) -> None:
    # The same words as in the Makefile, in a checkout of its own.

    def make() -> str:
        words = ["make", "--dry-run", "image", "ENGINE=podman"]
        return subprocess.run(
            words, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "Makefile").write_text((CHECKOUT / "Makefile").read_text())
    (tmp_path / "dnnjob").mkdir()
    for words in (["init"], ["add", "Makefile"], ["commit", "--message=one"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, capture_output=True)
    assert re.search(r"COMMIT=[0-9a-f]{40} ", make())
    (tmp_path / "dnnjob" / "new.py").touch()
    assert re.search(r"COMMIT=[0-9a-f]{40}-dirty ", make())


@pytest.mark.parametrize(
    ("profile", "command"),
    [
        ("apptainer", "apptainer exec --nv --bind /scratch /scratch/images/dnnjob.sif "),
        pytest.param(
            "pyxis",
            "--container-image=/scratch/images/dnnjob.sqsh --container-mounts=/scratch:/scratch "
            "--no-container-mount-home --no-container-entrypoint ",
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_shipped_profiles_start_the_images_python(
    tmp_path: Path, profile: str, command: str
) -> None:
    file = CHECKOUT / "slurm" / f"{profile}.toml"
    words = ("submit", CHECKOUT / "jobs/diabetes.toml", "--profile", file, "--dry-run")
    done = run_command(*words, "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    *_, unset, start = re.findall(r"^(?:unset|srun) .*$", done.stdout, re.MULTILINE)
    assert unset == "unset PYTHONPATH PYTHONHOME"
    assert f"{command}/opt/dnnjob/bin/python -P -u -m submitit.core._submit" in start
