"""The points of a sweep."""

from pathlib import Path

import pytest

from dnnjob.config import JobConfig, load_job, make_points
from dnnjob.errors import JobError

LEAST = 'name = "least"\n[data]\nsource = "t.csv"\ntarget = "y"\n'


def load(folder: Path, sweep: str, *overrides: str) -> JobConfig:
    (folder / "job.toml").write_text(f"{LEAST}\n[sweep]\n{sweep}\n")
    return load_job(folder / "job.toml", overrides=overrides)


def test_a_job_without_a_sweep_is_one_point(tmp_path: Path) -> None:
    job = load(tmp_path, "")
    (point,) = make_points(job)
    assert point.values == {}
    assert point.job == job


def test_a_value_that_a_list_has_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="seed has 0 more than once"):
        make_points(load(tmp_path, "seed = [0, 1, 0]"))


def test_points_are_the_product_with_the_last_key_fastest(tmp_path: Path) -> None:
    points = make_points(load(tmp_path, '"train.learning_rate" = [0.1, 0.2]\nseed = [1, 2, 3]'))
    assert [(p.job.train.learning_rate, p.job.seed) for p in points] == [
        (0.1, 1), (0.1, 2), (0.1, 3), (0.2, 1), (0.2, 2), (0.2, 3),
    ]  # fmt: skip
    assert points[-1].values == {"train.learning_rate": 0.2, "seed": 3}
    assert all(not point.job.sweep for point in points)


def test_dotted_keys_need_no_quotes(tmp_path: Path) -> None:
    quoted = load(tmp_path, '"train.learning_rate" = [0.1, 0.2]\n"model.l2" = [0.0]')
    bare = load(tmp_path, "train.learning_rate = [0.1, 0.2]\nmodel.l2 = [0.0]")
    table = load(tmp_path, "model.l2 = [0.0]\n[sweep.train]\nlearning_rate = [0.1, 0.2]")
    assert quoted == bare
    assert quoted.sweep == table.sweep


@pytest.mark.parametrize("key", ['"train.learning_rate"', "train.learning_rate"])
def test_the_command_line_overrides_a_swept_key_however_it_is_written(
    tmp_path: Path, key: str
) -> None:
    job = load(tmp_path, f"{key} = [0.1, 0.2]", "sweep.train.learning_rate=[0.3]")
    assert job.sweep == {"train.learning_rate": (0.3,)}


@pytest.mark.parametrize("key", ['"train.learning_rate"', "train.learning_rate"])
def test_a_value_on_the_command_line_ends_the_sweep_of_its_key(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    points = make_points(
        load(tmp_path, f"{key} = [0.1, 0.2]\nseed = [1, 2]", "train.learning_rate=0.5")
    )
    assert [(p.job.train.learning_rate, p.job.seed) for p in points] == [(0.5, 1), (0.5, 2)]
    assert "train.learning_rate has one value for all runs" in caplog.text


def test_patience_may_be_swept_with_the_validation_rows_it_needs(tmp_path: Path) -> None:
    points = make_points(
        load(tmp_path, "data.validation_fraction = [0.1, 0.2]", "train.patience=5")
    )
    assert [point.job.data.validation_fraction for point in points] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("sweep", "override"),
    [
        ('data.test_source = ["a.csv", "b.csv"]', 'data.split="files"'),
        ('data.split = ["group", "column"]', 'data.split_column="g"'),
        ('data.split_column = ["g", "h"]', 'data.split="group"'),
    ],
)
def test_keys_of_the_split_may_be_swept_with_those_they_need(
    tmp_path: Path, sweep: str, override: str
) -> None:
    assert len(make_points(load(tmp_path, sweep, override))) == 2


def test_the_command_line_can_start_a_sweep(tmp_path: Path) -> None:
    points = make_points(load(tmp_path, "", "sweep.seed=[4, 5]"))
    assert [point.job.seed for point in points] == [4, 5]


def test_a_lists_values_may_be_lists(tmp_path: Path) -> None:
    points = make_points(load(tmp_path, "model.hidden_units = [[], [8, 4]]"))
    assert [point.job.model.hidden_units for point in points] == [(), (8, 4)]


def test_swept_paths_start_where_the_key_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    in_file = load(tmp_path, 'data.source = ["a.csv", "builtin:diabetes"]')
    quoted = load(tmp_path, '"data.source" = ["a.csv", "builtin:diabetes"]')
    on_line = load(tmp_path, "", 'sweep.data.source=["a.csv"]')
    assert [p.job.data.source for p in make_points(in_file)] == [
        str(tmp_path / "a.csv"),
        "builtin:diabetes",
    ]
    assert quoted == in_file
    assert make_points(on_line)[0].job.data.source == str(tmp_path / "elsewhere" / "a.csv")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"sweep\.seed is an empty list"):
        make_points(load(tmp_path, "seed = []"))


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("train.epoch = [1]", "Did you mean train.epochs?"),
        ("train.epochs = [1, 0]", "train.epochs=0 is not a valid job"),
        ("train.patience = [3]", "needs validation rows"),
        ("train.patience = [3]\ndata.validation_fraction = [0.1, 0.0]", "needs validation rows"),
        ('data.split = ["shuffle", "files"]', "Name their files in data.test_source"),
        ("seed.x = [3]", "seed"),
    ],
)
def test_a_bad_point_is_refused_before_any_runs(tmp_path: Path, sweep: str, told: str) -> None:
    with pytest.raises(JobError) as caught:
        make_points(load(tmp_path, sweep))
    assert told in str(caught.value)
