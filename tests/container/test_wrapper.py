"""What `docker/dnnjob` asks of an engine: mounts, user, GPUs, environment, image.

The engine is a script that prints what it was given: none of these needs an image.
"""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

WRAPPER = CHECKOUT / "docker" / "dnnjob"
ENGINE = """#!/bin/sh
case "$1 $2" in
"--version "*) echo "{name} version 1" ;;
"version "*) echo 28.0 ;;
"info "*) echo '{info}' ;;
"image "*) [ -z "{missing}" ] ;;
*) printf '%s\\n' "$@" ;;
esac
"""


@dataclass(frozen=True)
class Asked:
    """What the engine was asked for."""

    code: int
    words: list[str]
    err: str

    def values(self, option: str) -> list[str]:
        return [
            value for word, value in zip(self.words, self.words[1:], strict=False) if word == option
        ]


Ask = Callable[..., Asked]


def write_script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Calls the wrapper in an empty working directory, with nothing of this machine's."""
    work = tmp_path / "work"
    work.mkdir()
    bin_folder = tmp_path / "bin"
    monkeypatch.chdir(work)

    def call(
        *words: str,
        engine: str = "docker",
        info: str = "",
        missing: str = "",
        umask: int = 0o022,
        **environ: str,
    ) -> Asked:
        write_script(bin_folder / engine, ENGINE.format(name=engine, info=info, missing=missing))
        done = subprocess.run(
            ["bash", WRAPPER, *words],
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
            env={
                "PATH": f"{bin_folder}:/usr/bin:/bin",
                "HOME": str(tmp_path / "home"),
                "DNNJOB_ENGINE": engine,
                "PWD": str(work),
                **environ,
            },
        )
        return Asked(done.returncode, done.stdout.splitlines(), done.stderr)

    return call


def test_the_working_directory_is_mounted_at_its_own_path(ask: Ask) -> None:
    asked = ask("run", "job.toml", "seed=7")
    assert asked.code == 0, asked.err
    assert asked.words[0] == "run"
    assert asked.words[-4:] == ["dnnjob:cpu", "run", "job.toml", "seed=7"]
    assert asked.values("--workdir") == [str(Path.cwd())]
    assert f"{Path.cwd()}:{Path.cwd()}" in asked.values("--volume")
    assert "--rm" in asked.words
    assert "--tty" not in asked.words


# Mounts


def mounts(asked: Asked, folder: Path) -> dict[str, str]:
    """Mounts outside of working directory and cache, by their names under `folder`."""
    found = {}
    for volume in asked.values("--volume"):
        source, target, *mode = volume.split(":")
        assert source == target
        if source != str(Path.cwd()) and not source.endswith("/.cache/dnnjob"):
            found[str(Path(source).relative_to(folder))] = ":".join(mode) or "rw"
    return found


@pytest.mark.parametrize(
    ("words", "mounted"),
    [
        (["run", "job.toml"], {}),
        (["run", "job.toml", "--root", "runs"], {}),
        (["run", "job.toml", "--root", "{top}/scratch/new/runs"], {"scratch": "rw"}),
        (["run", "job.toml", "--root={top}/scratch"], {"scratch": "rw"}),
        (["run", "{top}/jobs/job.toml"], {"jobs": "rw"}),
        (["run", "../jobs/job.toml"], {"jobs": "rw"}),
        (["run", "job.toml", "data.source={top}/data/a.csv"], {"data": "ro"}),
        (["run", "job.toml", "data.source={top}/data/*.csv"], {"data": "ro"}),
        (["run", "job.toml", "data.source={top}/data"], {"data": "ro"}),
        (["run", "job.toml", 'data.source="{top}/data/a.csv"'], {"data": "ro"}),
        (["run", "job.toml", "data.source=builtin:diabetes"], {}),
        (
            ["run", "job.toml", 'sweep.data.source=["{top}/data/a.csv", "{top}/jobs/b.csv"]'],
            {"data": "ro", "jobs": "ro"},
        ),
        (["collect", "{top}/scratch"], {"scratch": "rw"}),
        (["collect", "runs", "--out", "{top}/scratch/table.csv"], {"scratch": "rw"}),
        (["predict", "{top}/scratch/run", "{top}/data/a.csv"], {"scratch/run": "rw", "data": "rw"}),
        (["init", "{top}/data/*.csv"], {"data": "ro"}),
        # What is written within what is read.
        (
            ["run", "job.toml", "data.source={top}/data/a.csv", "--root", "{top}/data/runs"],
            {"data": "rw"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_command_names_is_mounted(
    ask: Ask, tmp_path: Path, words: list[str], mounted: dict[str, str]
) -> None:
    for name in ("scratch/run", "jobs", "data"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "a.csv").touch()
    (tmp_path / "jobs" / "job.toml").write_text("")
    asked = ask(*(word.format(top=tmp_path) for word in words))
    assert asked.code == 0, asked.err
    assert mounts(asked, tmp_path) == mounted
    assert asked.words[-len(words) :] == [word.format(top=tmp_path) for word in words]


@pytest.mark.parametrize(
    "line",
    [
        'source = "../data/a.csv"   # relative to this file',
        "source='../data/*.csv'",
        'source = "{top}/data"',
        'data.source = "{top}/data/a.csv"',
        '"data.source" = ["builtin:diabetes", "{top}/data/a.csv"]',
        'source = "~/../data/a.csv"',
    ],
)
def test_tables_that_a_job_file_names_are_mounted_for_reading(
    ask: Ask, tmp_path: Path, line: str
) -> None:
    for name in ("jobs", "data", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "a.csv").touch()
    job = tmp_path / "jobs" / "job.toml"
    job.write_text(f'[data]\n# source = "/elsewhere/b.csv"\n{line.format(top=tmp_path)}\n')
    assert mounts(ask("run", str(job)), tmp_path) == {"jobs": "rw", "data": "ro"}


def test_the_table_of_a_run_is_mounted_to_go_on_with_it(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    run = Path("runs") / "a" / "20260101-000000-abcdef"
    run.mkdir(parents=True)
    (run / "job.toml").write_text(f'[data]\nsource = "{tmp_path}/data/a.csv"\n')
    assert mounts(ask("resume", str(run)), tmp_path) == {"data": "ro"}


def test_where_links_lead_is_mounted_too(ask: Ask, tmp_path: Path) -> None:
    for name in ("scratch", "store"):
        (tmp_path / name).mkdir()
    (tmp_path / "store" / "a.csv").touch()
    Path("runs").symlink_to(tmp_path / "scratch")
    Path("table.csv").symlink_to(tmp_path / "store" / "a.csv")
    asked = ask("run", "job.toml", "data.source=table.csv")
    assert mounts(asked, tmp_path) == {"scratch": "rw", "store": "ro"}


def test_more_folders_are_mounted_on_request(ask: Ask, tmp_path: Path) -> None:
    for name in ("one", "two words"):
        (tmp_path / name).mkdir()
    asked = ask("doctor", DNNJOB_MOUNTS=f"{tmp_path}/one:{tmp_path}/two words")
    assert mounts(asked, tmp_path) == {"one": "rw", "two words": "rw"}


def test_downloads_are_kept_in_the_users_cache(ask: Ask, tmp_path: Path) -> None:
    asked = ask("run", "job.toml")
    cache = tmp_path / "home" / ".cache"
    assert f"{cache}/dnnjob:{cache}/dnnjob" in asked.values("--volume")
    assert f"XDG_CACHE_HOME={cache}" in asked.values("--env")


@pytest.mark.parametrize("root", ["/no-such-folder/runs", "/usr", "/opt"])
def test_what_the_image_needs_for_itself_cannot_be_mounted(ask: Ask, root: str) -> None:
    asked = ask("run", "job.toml", "--root", root)
    assert (asked.code, asked.words) == (2, [])
    assert "Make a folder below it" in asked.err


def test_a_colon_cannot_be_mounted(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    asked = ask("collect", f"{tmp_path}/a:b")
    assert (asked.code, asked.words) == (2, [])
    assert "no colon" in asked.err


# User, umask, environment


def test_docker_runs_as_the_caller_with_his_groups(ask: Ask) -> None:
    asked = ask("doctor")
    assert asked.values("--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert str(os.getgid()) in asked.values("--group-add")


def test_the_root_of_a_rootless_docker_is_the_caller(ask: Ask) -> None:
    asked = ask("doctor", info="[name=seccomp,profile=builtin name=rootless]")
    assert asked.values("--user") == ["0:0"]


@pytest.mark.parametrize(("runtime", "groups"), [("crun", ["keep-groups"]), ("runc", [])])
def test_podman_keeps_the_callers_numbers(
    ask: Ask, tmp_path: Path, runtime: str, groups: list[str]
) -> None:
    # An ordinary user, whoever runs the test.
    script = "#!/bin/sh\ncase $1 in -u) echo 1234 ;; *) echo 99 ;; esac\n"
    write_script(tmp_path / "bin" / "id", script)
    asked = ask("doctor", engine="podman", info=runtime)
    assert asked.values("--user") == ["1234:99"]
    assert asked.values("--userns") == ["keep-id"]
    assert asked.values("--group-add") == groups


def test_another_umask_holds_inside(ask: Ask) -> None:
    asked = ask("run", "job.toml", umask=0o002)
    assert asked.values("--entrypoint") == ["/bin/sh"]
    assert asked.words[-6:] == [
        "dnnjob:cpu",
        "-c",
        'umask "$0" && exec dnnjob "$@"',
        "0002",
        "run",
        "job.toml",
    ]


def test_proxies_and_gpu_choice_are_passed_on(ask: Ask) -> None:
    asked = ask("doctor", CUDA_VISIBLE_DEVICES="1", https_proxy="http://proxy:3128", SECRET="x")
    assert {"CUDA_VISIBLE_DEVICES", "https_proxy", "HOME"} <= set(asked.values("--env"))
    assert "SECRET" not in asked.values("--env")


def test_options_for_the_engine_are_passed_on(ask: Ask) -> None:
    asked = ask("doctor", DNNJOB_ENGINE_ARGS="--network none --memory 4g")
    assert asked.values("--network") == ["none"]
    assert asked.values("--memory") == ["4g"]


# GPUs and images


@pytest.fixture
def gpu(tmp_path: Path) -> None:
    write_script(tmp_path / "bin" / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: A'\n")


@pytest.mark.usefixtures("gpu")
def test_gpus_are_handed_in_where_there_are_any(ask: Ask) -> None:
    asked = ask("doctor")
    assert asked.values("--gpus") == ["all"]
    assert asked.words[-2:] == ["dnnjob:gpu", "doctor"]


@pytest.mark.usefixtures("gpu")
def test_gpus_can_be_kept_out(ask: Ask) -> None:
    asked = ask("doctor", DNNJOB_GPUS="none")
    assert asked.values("--gpus") == []
    assert asked.words[-2:] == ["dnnjob:cpu", "doctor"]


@pytest.mark.usefixtures("gpu")
@pytest.mark.skipif(Path("/etc/cdi").exists(), reason="this machine describes GPUs to podman")
def test_podman_without_a_description_of_gpus_says_how_to_write_it(ask: Ask) -> None:
    asked = ask("doctor", engine="podman")
    assert asked.code == 0
    assert "nvidia-ctk cdi generate" in asked.err
    assert "dnnjob:cpu" in asked.words


def test_an_image_by_name_is_taken(ask: Ask) -> None:
    asked = ask("doctor", DNNJOB_IMAGE="lab/dnnjob:2026", missing="yes")
    assert asked.words[-2:] == ["lab/dnnjob:2026", "doctor"]


def test_a_missing_image_says_how_to_build_it(ask: Ask) -> None:
    asked = ask("doctor", missing="yes")
    assert (asked.code, asked.words) == (4, [])
    assert "make image" in asked.err


def test_without_an_engine_the_bare_command_is_named(ask: Ask, tmp_path: Path) -> None:
    # Nothing but what the script itself calls.
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "printf", "id", "sed"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    asked = ask("doctor", DNNJOB_ENGINE="", PATH=str(tools))
    assert (asked.code, asked.words) == (4, [])
    assert "make run" in asked.err


def test_submit_is_the_hosts(ask: Ask) -> None:
    asked = ask("submit", "job.toml", "--profile", "gpu")
    assert (asked.code, asked.words) == (2, [])
    assert "slurm/apptainer.toml" in asked.err
