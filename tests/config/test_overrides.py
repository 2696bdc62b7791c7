"""Job files with `KEY=VALUE` words, and back to TOML."""

import os
from pathlib import Path
from typing import Any

import pytest

from dnnjob.config import load_job, resolve_job, to_toml
from dnnjob.config.overrides import anchor, parse_override, without_keys
from dnnjob.errors import JobError

LEAST = 'name = "least"\n[data]\nsource = "t.csv"\ntarget = "y"\n'


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "jobs" / "least.toml"
    path.parent.mkdir()
    path.write_text(LEAST)
    return path


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("train.learning_rate=3e-3", "train.learning_rate", 0.003),
        ("train.nesterov=true", "train.nesterov", True),
        ("model.hidden_units=[64, 64]", "model.hidden_units", [64, 64]),
        ('data.target="a b"', "data.target", "a b"),
        ("data.target=a b", "data.target", "a b"),
        ("data.target=a=b", "data.target", "a=b"),
        ("name=2024-house", "name", "2024-house"),
        ("data.source=", "data.source", ""),
    ],
)
def test_a_words_value_is_toml_and_else_text(word: str, key: str, value: Any) -> None:
    assert parse_override(word) == (key, value)


@pytest.mark.parametrize("word", ["seed", "=3", ".seed=3", "train..epochs=3", ""])
def test_a_word_that_is_no_override_is_refused(word: str) -> None:
    with pytest.raises(JobError, match="An override reads KEY=VALUE"):
        parse_override(word)


def test_overrides_replace_what_the_file_says(job_file: Path) -> None:
    job = load_job(job_file, overrides=["seed=7", "train.epochs=3", "seed=8", "data.target=z"])
    assert (job.seed, job.train.epochs, job.data.target) == (8, 3, "z")


def test_numbers_that_toml_does_not_know_are_understood(job_file: Path) -> None:
    job = load_job(job_file, overrides=["train.learning_rate=.01", "train.momentum=0.9"])
    assert job.train.learning_rate == 0.01
    assert load_job(job_file, overrides=["output.plots=False"]).output.plots is False


def test_an_override_under_a_value_is_refused(job_file: Path) -> None:
    with pytest.raises(JobError, match=r"'seed' of the key 'seed\.x' is a value"):
        load_job(job_file, overrides=["seed=1", "seed.x=1"])


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("train.epoch=3", "Did you mean train.epochs?"),
        ("train.batch_size=3", "Did you mean train.global_batch_size?"),
        ("epochs=3", "Did you mean train.epochs?"),
        ("train.lr=3", "Did you mean train.learning_rate?"),
        ("lr=3", "Did you mean train.learning_rate?"),
        ("batch_size=3", "Did you mean train.global_batch_size?"),
        ("model.layers=3", "Did you mean model.hidden_units?"),
        ("train.validation_split=3", "Did you mean data.validation_fraction?"),
        ("trian.epochs=3", "Did you mean train?"),
        ("data.epochs=3", "Did you mean train.epochs?"),
        ("nmae=x", "Did you mean name?"),
        ("train.zzz=3", "no such key. Valid keys: "),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(job_file: Path, word: str, hint: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job_file, overrides=[word])
    assert f"{word.partition('.')[0].partition('=')[0]}" in str(caught.value)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("model.hidden_units=64", "Write model.hidden_units=[64]."),
        ("model.hidden_units=64, 32", "Write model.hidden_units=[64, 32]."),
        ("data.features=a", 'Write data.features=["a"].'),
        ("data.missing='-999'", 'Write data.missing=["-999"].'),
        ("data.missing=-999", 'Write data.missing=["-999"].'),
    ],
)
def test_a_value_in_place_of_a_list_is_told_how_to_write_one(
    job_file: Path, word: str, written: str
) -> None:
    with pytest.raises(JobError, match="must be a list") as caught:
        load_job(job_file, overrides=[word])
    assert written in str(caught.value)


def test_a_name_is_told_how_it_begins(job_file: Path) -> None:
    with pytest.raises(JobError, match="and begin with a letter or digit"):
        load_job(job_file, overrides=["name=-house"])


def test_all_faults_of_a_file_are_told_at_once(job_file: Path) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job_file, overrides=["train.epochs=0", "model.l2=-1", "hidden=3"])
    assert str(caught.value).count("\n") == 3


# Paths


def test_a_files_paths_start_at_the_file(job_file: Path) -> None:
    assert load_job(job_file).data.source == str(job_file.parent / "t.csv")


def test_a_words_paths_start_at_the_working_directory(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(Path("jobs/least.toml"), overrides=["data.source=../other/t.csv"])
    assert job.data.source == str(tmp_path.parent / "other" / "t.csv")


def test_a_relative_job_file_gives_absolute_paths(
    job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job_file.parent)
    assert load_job(Path("least.toml")).data.source == str(job_file.parent / "t.csv")


def test_the_files_of_every_split_are_anchored(
    job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = job_file.read_text()
    job_file.write_text(
        text.replace("[data]", '[data]\nsplit = "files"\nvalidation_source = "v.csv"')
        + '\n[sweep]\n"data.source" = ["a.csv", "b.csv"]\n'
    )
    monkeypatch.chdir(tmp_path)

    job = load_job(job_file, overrides=["data.test_source=t.csv"])

    assert job.data.validation_source == str(job_file.parent / "v.csv")
    assert job.data.test_source == str(tmp_path / "t.csv")
    assert job.sweep["data.source"] == tuple(
        str(job_file.parent / name) for name in ("a.csv", "b.csv")
    )


def test_symlinks_stay(job_file: Path) -> None:
    (job_file.parent / "real.csv").write_text("a,y\n1,2\n")
    (job_file.parent / "t.csv").symlink_to("real.csv")
    assert load_job(job_file).data.source == str(job_file.parent / "t.csv")


def test_builtin_absolute_and_home_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    assert anchor("builtin:diabetes", tmp_path) == "builtin:diabetes"
    assert anchor("/data/t.csv", tmp_path) == "/data/t.csv"
    assert anchor("~/t.csv", tmp_path) == os.path.expanduser("~/t.csv")  # noqa: PTH111
    assert anchor("part-*.csv", tmp_path) == str(tmp_path / "part-*.csv")


def test_an_unknown_home_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="Give the whole path"):
        anchor("~nobody-of-this-name/t.csv", tmp_path)


# Files


def test_a_missing_file_is_told_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"There is no job file .*none\.toml.*dnnjob init"):
        load_job(tmp_path / "none.toml")


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        load_job(tmp_path)


@pytest.mark.parametrize(
    "content", [b"name = least", b"[data\n", b"\xff\xfe\x00", b"seed = 1\nseed = 2"]
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)
    with pytest.raises(JobError, match="A job file is TOML, but"):
        load_job(tmp_path / "bad.toml")


def test_an_empty_file_lacks_what_is_required(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(JobError, match="name: required, but missing"):
        load_job(tmp_path / "empty.toml")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_text(LEAST, encoding="utf-8-sig")
    assert load_job(tmp_path / "bom.toml").name == "least"


# Back to TOML

FULL: dict[str, Any] = {
    "name": "full",
    "seed": 1,
    "data": {
        "source": '/data/größe "x".csv',
        "target": "a\tb\n",
        "features": ["x.y", "'q'", "é"],
        "validation_fraction": 0.1,
        "window_rows": 70_000,
    },
    "model": {"hidden_units": [], "l2": 1e-12},
    "train": {"patience": 3, "clip_norm": 0.1, "learning_rate": 1 / 3},
    "sweep": {"train.learning_rate": [0.1, 1 / 3], "model.hidden_units": [[], [3, 4]]},
}


@pytest.mark.parametrize(
    "values", [FULL, {"name": "least", "data": {"source": "/t.csv", "target": "y"}}]
)
def test_a_job_written_as_toml_loads_equal(tmp_path: Path, values: dict[str, Any]) -> None:
    job = resolve_job(values, origin="test")
    (tmp_path / "job.toml").write_text(to_toml(job), encoding="utf-8")
    assert load_job(tmp_path / "job.toml") == job


def test_toml_has_every_default_and_nothing_without_a_value(job_file: Path) -> None:
    text = to_toml(load_job(job_file))
    assert "learning_rate = 0.01" in text
    assert "sweep" not in text
    assert "patience" not in text


def test_errors_lose_the_keys_that_a_reader_without_a_job_file_cannot_take() -> None:
    message = "'a' holds text in t.csv. Repair it. Set data.columns.a.kind = \"text\", or fly."
    assert without_keys(message, instead="Go on.") == "'a' holds text in t.csv. Repair it. Go on."
    plain = "/data/name.csv is empty. Add rows."
    assert without_keys(plain, instead="Go on.") == plain
    first = "'a' must be numeric (data.decimal is '.'), but holds 'x'."
    assert without_keys(f"{first} Change data.decimal.", instead="Go on.") == f"{first} Go on."
