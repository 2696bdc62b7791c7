"""Profiles: their rules, where they are sought, and the ones that come with the checkout."""

import shutil
import tomllib
from pathlib import Path

import pytest

from dnnjob.config import load_profile, resolve_profile, split_words, to_toml
from dnnjob.config.profile import ProfileConfig, find_profile
from dnnjob.errors import JobError

CHECKOUT = Path(__file__).parents[2]
PROFILES = sorted((CHECKOUT / "slurm").glob("*.toml"))


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('executor = "slurm"\ntime_limit_min = 30\n')
    return path


def resolve(**values: object) -> ProfileConfig:
    return resolve_profile({"executor": "slurm", "time_limit_min": 30, **values}, origin="test")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_the_profiles_of_the_checkout_are_valid(path: Path) -> None:
    assert load_profile(path).executor in ("slurm", "local")


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_what_a_profile_of_the_checkout_has_commented_out_is_valid_too(path: Path) -> None:
    lines = path.read_text().splitlines()
    keys = "|".join(ProfileConfig.model_fields).split("|")
    commented = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    for line in commented:
        key, equals, _ = line.partition(" = ")
        if equals and key.isidentifier():
            assert key in keys
            (value,) = tomllib.loads(line).values()
            executor = "local" if path.stem == "local" else "slurm"
            resolve(**{"executor": executor, key: value})


def test_a_written_profile_reads_back_as_it_was() -> None:
    profile = resolve(setup=["module load cuda"], mail="me@here", sbatch_options={"nice": 5})

    assert resolve_profile(tomllib.loads(to_toml(profile)), origin="test") == profile


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"time_limit_min": None}, "time_limit_min is required for Slurm"),
        ({"time_limit_min": 0}, "time_limit_min: must be greater than or equal to 1"),
        ({"time_limit_min": 2, "warning_lead_s": 120}, "must be shorter than time_limit_min"),
        ({"gpus_per_node": 1, "gres": "gpu:1"}, "ask for the same"),
        (
            {"memory_gb": 4, "sbatch_options": {"mem-per-cpu": "2G"}},
            "memory_gb = 4 and mem-per-cpu of sbatch_options ask for the same",
        ),
        ({"executor": "local", "partition": "gpu"}, "partition: only Slurm knows that"),
        ({"executor": "local", "nodes": 2}, "nodes = 2, but a local run has this machine alone"),
        ({"executor": "cloud"}, "executor: must be 'slurm' or 'local'"),
        ({"memory_mb": 5}, "Did you mean memory_gb? Valid keys: executor, partition"),
        ({"memory_gb": -1}, "memory_gb: must be greater than 0"),
        ({"nodes": True}, "nodes: must not be a boolean"),
        ({"setup": "module load cuda"}, "setup: must be a list"),
        ({"partition": "a\nb"}, "partition: "),
        ({"sbatch_options": {"time": 5}}, "time is what the profile says with time_limit_min"),
        ({"sbatch_options": {"gpus_per_node": 1}}, "says with gpus_per_node. Set that instead"),
        ({"sbatch_options": {"output": "x"}}, "output is dnnjob's own to choose"),
        ({"mail_on": ["sometimes"]}, "mail_on.0: must be 'begin', 'end'"),
    ],
)
def test_a_broken_rule_is_told_with_what_was_received(values: dict[str, object], told: str) -> None:
    given = {key: value for key, value in {"time_limit_min": 30, **values}.items() if value}
    if values.get("time_limit_min") == 0:
        given["time_limit_min"] = 0

    with pytest.raises(JobError) as caught:
        resolve_profile({"executor": "slurm", **given}, origin="test")

    assert told in str(caught.value)


def test_words_for_the_profile_replace_its_keys(profile: Path) -> None:
    words = ["seed=7", "profile.time_limit_min=60", 'profile.setup=["a", "b"]']
    for_job, for_profile = split_words(words)

    found = load_profile(profile, overrides=for_profile)

    assert for_job == ["seed=7"]
    assert (found.time_limit_min, found.setup) == (60, ("a", "b"))


def test_a_name_is_sought_here_then_at_home_then_in_the_checkout(
    profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "config" / "dnnjob" / "profiles", tmp_path / "here" / "slurm"
    home.mkdir(parents=True)
    here.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(here.parent)

    assert find_profile("cpu") == CHECKOUT / "slurm" / "cpu.toml"
    shutil.copy(profile, home / "cpu.toml")
    assert find_profile("cpu") == home / "cpu.toml"
    shutil.copy(profile, here / "cpu.toml")
    assert find_profile("cpu.toml") == Path("slurm/cpu.toml")


def test_a_name_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)

    assert find_profile("local").name == "local.toml"


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(JobError, match=r"no profile tpu.*cpu, gpu, local, multinode"):
        load_profile("tpu")


def test_a_profile_that_is_no_toml_is_told_so(profile: Path) -> None:
    profile.write_text("executor = slurm\n")

    with pytest.raises(JobError, match=r"A profile is TOML, but .* does not parse"):
        load_profile(profile)


def test_the_tasks_of_a_run_are_nodes_times_tasks_per_node() -> None:
    assert resolve(nodes=3, tasks_per_node=2).num_tasks == 6
