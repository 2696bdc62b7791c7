"""What `docker/dnnjob` asks of an engine: mounts, user, GPUs, environment, image.

The engine is a script that prints what it was given: none of these needs an image.
"""

import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT

WRAPPER = CHECKOUT / "docker" / "dnnjob"
ENGINE = """#!/bin/sh
case "$1 $2" in
"--version "*) echo "{name} version 1" ;;
"version "*) echo 28.0 ;;
"info "*) case $3 in *Rootless*) echo {rootless} ;; *) echo '{info}' ;; esac ;;
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
        rootless: bool = False,
        umask: int = 0o022,
        **environ: str,
    ) -> Asked:
        write_script(
            bin_folder / engine,
            ENGINE.format(name=engine, info=info, missing=missing, rootless=str(rootless).lower()),
        )
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
        (["run", "{top}/jobs/job.toml"], {"jobs": "ro"}),
        (["run", "../jobs/job.toml"], {"jobs": "ro"}),
        (["run", "job.toml", "data.source={top}/data/a.csv"], {"data": "ro"}),
        (["run", "job.toml", "data.source={top}/data/*.csv"], {"data": "ro"}),
        (["run", "job.toml", "data.source={top}/data"], {"data": "ro"}),
        (["run", "job.toml", "data.source={top}/it's/a.csv"], {"it's": "ro"}),
        (["run", "job.toml", 'data={{source = "{top}/data/a.csv"}}'], {"data": "ro"}),
        (["run", "job.toml", "data.scratch={top}/scratch"], {"scratch": "rw"}),
        (["run", "job.toml", "train.learning_rate=0.1", "name=run"], {}),
        (["run", "job.toml", 'data.source="{top}/data/a.csv"'], {"data": "ro"}),
        (["run", "job.toml", "data.source=builtin:diabetes"], {}),
        (
            ["run", "job.toml", 'sweep.data.source=["{top}/data/a.csv", "{top}/jobs/b.csv"]'],
            {"data": "ro", "jobs": "ro"},
        ),
        (["collect", "{top}/scratch"], {"scratch": "rw"}),
        (["collect", "runs", "--out", "{top}/scratch/table.csv"], {"scratch": "rw"}),
        (["predict", "{top}/scratch/run", "{top}/data/a.csv"], {"scratch/run": "rw", "data": "ro"}),
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
    for name in ("scratch/run", "jobs", "data", "it's"):
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
        'data = {{ target = "y", source = "{top}/data/a.csv" }}',
        'data . source = "{top}/data/a.csv"',
        '[sweep]\n"data.source" = [\n  "builtin:diabetes",  # "not this"\n  "../data/a.csv",\n]',
        'any_other_key = "../data/a.csv"',
        'source = """\\\n{top}/data/a.csv"""',
        "source = '''../data/a.csv'''",
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
    assert mounts(ask("run", str(job)), tmp_path) == {"jobs": "ro", "data": "ro"}


def test_paths_in_a_job_file_may_hold_quotes_and_blanks(ask: Ask, tmp_path: Path) -> None:
    for name in ("it's", 'a "b" c', "big scratch"):
        (tmp_path / name).mkdir()
    Path("job.toml").write_text(
        "[data]  # don't\n"
        f'source = "{tmp_path}/it\'s/a.csv"\n'
        f'validation_source = "{tmp_path}/a \\"b\\" c/*.csv"\n'
        f"scratch = '{tmp_path}/big scratch/new'\n"
        'missing = ["", ".", "?", "-"]\ncolumns = {"per/cent" = "text", "a[1]" = "text"}\n'
    )
    assert mounts(ask("run", "job.toml"), tmp_path) == {
        "it's": "ro",
        'a "b" c': "ro",
        "big scratch": "rw",
    }


def test_a_job_of_thousands_of_columns_is_looked_through_at_once(ask: Ask, tmp_path: Path) -> None:
    columns = "\n".join(f'    "column {number}/s",' for number in range(5000))
    Path("job.toml").write_text(f"[data]\nfeatures = [\n{columns}\n]\nsource = '../a.csv'\n")
    began = time.monotonic()
    assert ask("run", "job.toml").code == 0
    assert time.monotonic() - began < 5


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


def test_every_link_of_a_chain_leads_somewhere_inside(ask: Ask, tmp_path: Path) -> None:
    for name in ("lustre/u/runs", "home"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "home" / "scratch").symlink_to("../lustre/u")
    Path("runs").symlink_to(tmp_path / "home" / "scratch" / "runs")
    asked = ask("run", "job.toml")
    assert mounts(asked, tmp_path) == {"home/scratch/runs": "rw", "lustre/u/runs": "rw"}


def test_links_in_a_circle_end(ask: Ask) -> None:
    Path("runs").symlink_to("runs")
    assert ask("run", "job.toml").code == 0


def test_the_cache_can_be_written_within_a_home_that_is_only_read(ask: Ask, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "t.csv").touch()
    asked = ask("run", "job.toml", f"data.source={home}/t.csv")
    assert f"{home}:{home}:ro" in asked.values("--volume")
    assert f"{home}/.cache/dnnjob:{home}/.cache/dnnjob" in asked.values("--volume")


def test_the_image_hears_what_of_it_is_the_hosts(ask: Ask, tmp_path: Path) -> None:
    asked = ask("run", "job.toml", "--root", str(tmp_path), "data.source=/usr/share/a.csv")
    (told,) = (one for one in asked.values("--env") if one.startswith("DNNJOB_MOUNTED="))
    assert set(told.partition("=")[2].split(":")) >= {str(tmp_path)}
    assert "/usr/share" not in told


def test_a_file_among_what_the_image_needs_is_mounted_alone(ask: Ask) -> None:
    asked = ask("run", "/etc/hostname")
    assert asked.code == 0, asked.err
    assert "/etc/hostname:/etc/hostname:ro" in asked.values("--volume")


def test_a_folder_that_the_image_needs_may_be_the_working_directory(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/etc")
    asked = ask("doctor", PWD="/etc")
    assert asked.code == 0, asked.err
    assert asked.values("--workdir") == []


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


def test_a_daemon_that_numbers_users_anew_is_told_not_to(ask: Ask) -> None:
    asked = ask("doctor", info="[name=seccomp,profile=builtin name=userns]")
    assert asked.values("--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert asked.values("--userns") == ["host"]


@pytest.mark.parametrize(("runtime", "groups"), [("crun", ["keep-groups"]), ("runc", [])])
def test_a_rootless_podman_keeps_the_callers_numbers(
    ask: Ask, runtime: str, groups: list[str]
) -> None:
    asked = ask("doctor", engine="podman", info=runtime, rootless=True)
    assert asked.values("--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert asked.values("--userns") == ["keep-id"]
    assert asked.values("--group-add") == groups


def test_a_podman_that_runs_as_root_takes_the_callers_numbers_as_they_are(ask: Ask) -> None:
    asked = ask("doctor", engine="podman")
    assert asked.values("--user") == [f"{os.getuid()}:{os.getgid()}"]
    assert asked.values("--userns") == []
    assert str(os.getgid()) in asked.values("--group-add")


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


@pytest.fixture
def cdi(tmp_path: Path) -> str:
    """Two folders, of which the second describes GPUs, as podman's two."""
    (tmp_path / "cdi").mkdir()
    (tmp_path / "cdi" / "any-name.yaml").write_text("kind: nvidia.com/gpu\n")
    return f"{tmp_path}/no-such-folder {tmp_path}/cdi"


@pytest.mark.usefixtures("gpu")
def test_docker_is_given_gpus_where_it_has_the_toolkit(ask: Ask, tmp_path: Path) -> None:
    write_script(tmp_path / "bin" / "nvidia-container-runtime-hook", "#!/bin/sh\n")
    asked = ask("doctor")
    assert asked.values("--gpus") == ["all"]
    assert asked.words[-2:] == ["dnnjob:gpu", "doctor"]


@pytest.mark.usefixtures("gpu")
def test_a_runtime_of_the_daemon_shows_the_toolkit_too(ask: Ask) -> None:
    assert ask("doctor", info='{"nvidia":{},"runc":{}}').values("--gpus") == ["all"]


@pytest.mark.usefixtures("gpu")
def test_docker_without_the_toolkit_takes_the_cpu_and_says_what_to_do(ask: Ask) -> None:
    asked = ask("doctor")
    assert asked.code == 0
    assert asked.values("--gpus") == []
    assert asked.words[-2:] == ["dnnjob:cpu", "doctor"]
    assert "NVIDIA Container Toolkit" in asked.err
    assert "DNNJOB_GPUS" in asked.err


@pytest.mark.usefixtures("gpu")
def test_podman_is_given_gpus_where_one_file_describes_them(ask: Ask, cdi: str) -> None:
    asked = ask("doctor", engine="podman", DNNJOB_CDI=cdi)
    assert asked.values("--device") == ["nvidia.com/gpu=all"]
    assert asked.words[-2:] == ["dnnjob:gpu", "doctor"]
    assert asked.err == ""


@pytest.mark.usefixtures("gpu")
def test_podman_without_a_description_of_gpus_says_how_to_write_it(ask: Ask) -> None:
    asked = ask("doctor", engine="podman", DNNJOB_CDI="/no-such-folder")
    assert asked.code == 0
    assert "nvidia-ctk cdi generate" in asked.err
    assert "dnnjob:cpu" in asked.words


@pytest.mark.usefixtures("gpu")
def test_gpus_can_be_kept_out(ask: Ask) -> None:
    asked = ask("doctor", info='{"nvidia":{}}', DNNJOB_GPUS="none")
    assert asked.values("--gpus") == []
    assert asked.words[-2:] == ["dnnjob:cpu", "doctor"]


def test_gpus_can_be_asked_for_where_the_script_sees_none(ask: Ask) -> None:
    assert ask("doctor", DNNJOB_GPUS="all").values("--gpus") == ["all"]


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


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_the_help_of_submit_is_shown(ask: Ask, word: str) -> None:
    assert ask("submit", word).words[-2:] == ["submit", word]


def test_the_commit_of_the_working_directory_is_handed_in(ask: Ask) -> None:
    for words in (["init"], ["add", "."], ["commit", "--message=one"]):
        Path("a.txt").write_text("1")
        name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *name, *words], check=True, capture_output=True)
    (told,) = (one for one in ask("doctor").values("--env") if "GIT_STATE" in one)
    assert re.fullmatch(r"DNNJOB_GIT_STATE=[0-9a-f]{40}", told)
    Path("a.txt").write_text("2")
    assert f"{told}-dirty" in ask("doctor").values("--env")


# A terminal


def test_only_a_job_in_the_foreground_takes_the_terminal(ask: Ask, tmp_path: Path) -> None:
    ask("doctor")  # writes the engine
    bin_folder = tmp_path / "bin"
    script = f'bash "{WRAPPER}" in front; bash "{WRAPPER}" behind & wait'
    environ = {"PATH": f"{bin_folder}:/usr/bin:/bin", "DNNJOB_ENGINE": "docker", "HOME": "/none"}
    shown = in_terminal(["bash", "-i", "-c", f"set -m; {script}"], environ)
    front, _, behind = shown.partition("front")
    assert "--tty" in front
    assert "--rm" in behind
    assert "--tty" not in behind


def in_terminal(command: Sequence[str], environ: Mapping[str, str]) -> str:
    """What a command shows in a terminal of its own."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(shutil.which(command[0]) or "", command, dict(environ))
    shown = b""
    # Linux ends a terminal that nobody holds any more with an error.
    with suppress(OSError):
        while part := os.read(terminal, 4096):
            shown += part
    os.waitpid(child, 0)
    os.close(terminal)
    return shown.decode()


def test_submit_is_the_hosts(ask: Ask) -> None:
    asked = ask("submit", "job.toml", "--profile", "gpu")
    assert (asked.code, asked.words) == (2, [])
    assert "slurm/apptainer.toml" in asked.err


def test_the_scripts_of_the_image_are_sound() -> None:
    if shutil.which("shellcheck") is None:
        reason = "shellcheck is not installed here; .ci/run installs it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    scripts = [WRAPPER, CHECKOUT / "docker/install", CHECKOUT / "tests/container/make_base.sh"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.stdout == ""
