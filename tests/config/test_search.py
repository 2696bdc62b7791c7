"""The points that a search draws."""

import itertools
import logging
from pathlib import Path

import numpy as np
import pytest

from dnnjob.config import JobConfig, load_job, make_points
from dnnjob.config.search import SearchConfig
from dnnjob.errors import JobError

LEAST = 'name = "least"\nseed = 3\n[data]\nsource = "t.csv"\ntarget = "y"\n'
RATES = "train.learning_rate = { low = 1e-4, high = 1e-1, log = true }"


def load(
    folder: Path, sweep: str, *overrides: str, search: str = "points = 16", data: str = ""
) -> JobConfig:
    (folder / "job.toml").write_text(f"{LEAST}{data}\n[sweep]\n{sweep}\n[search]\n{search}\n")
    return load_job(folder / "job.toml", overrides=overrides)


def values_of(job: JobConfig) -> list[dict[str, object]]:
    return [point.values for point in make_points(job)]


def test_a_search_draws_so_many_different_points(tmp_path: Path) -> None:
    points = make_points(load(tmp_path, f"{RATES}\nmodel.dropout_rate = [0.0, 0.1, 0.2]"))

    assert len({repr(point.values) for point in points}) == 16
    assert {point.job.model.dropout_rate for point in points} == {0.0, 0.1, 0.2}
    assert all(1e-4 <= point.job.train.learning_rate <= 1e-1 for point in points)
    assert all(point.job.search.points is None and not point.job.sweep for point in points)


def test_equal_ratios_of_a_log_range_are_equally_likely(tmp_path: Path) -> None:
    points = make_points(load(tmp_path, RATES, "search.points=64"))
    logs = np.log10([point.job.train.learning_rate for point in points])
    # Of 64 points of a Sobol sequence in one dimension each sixteenth holds exactly four.
    counts, _ = np.histogram(logs, bins=16, range=(-4, -1))
    assert counts.tolist() == [4] * 16


def test_a_larger_search_begins_with_the_points_of_a_smaller_one(tmp_path: Path) -> None:
    sweep = f"{RATES}\nmodel.dropout_rate = [0.0, 0.2]\ntrain.epochs = {{ low = 5, high = 9 }}"
    small = values_of(load(tmp_path, sweep, "search.points=7"))
    large = values_of(load(tmp_path, sweep, "search.points=50"))
    assert large[:7] == small


def test_a_search_from_the_start_has_the_job_itself_first(tmp_path: Path) -> None:
    sweep = f"{RATES}\nmodel.hidden_units = [[8], [200, 1000]]\ntrain.clip_norm = [0.5, 1.0]"
    job = load(tmp_path, sweep)
    drawn = values_of(job)

    points = make_points(load(tmp_path, sweep, "search.start=true"))

    start = {"train.learning_rate": 0.01, "model.hidden_units": [200, 1000]}
    assert points[0].values == start | {"train.clip_norm": None}
    assert points[0].job == job.model_copy(update={"sweep": {}, "search": SearchConfig()})
    assert [point.values for point in points[1:]] == drawn[:15]


@pytest.mark.parametrize("search", ["points = 16", ""])
@pytest.mark.parametrize(
    "sweep",
    [
        "model.hidden_units = [[8], [200, 1000], [9]]",
        # A list in the resolved job.
        'data.date_format = ["%d.%m.%Y", "%m/%d/%Y", "%Y"]',
    ],
)
def test_a_start_that_is_drawn_too_stands_once(tmp_path: Path, search: str, sweep: str) -> None:
    data = 'date_format = "%m/%d/%Y"'
    points = make_points(load(tmp_path, sweep, search=f"{search}\nstart = true", data=data))

    assert points[0].job == make_points(load(tmp_path, "", search="", data=data))[0].job
    assert len({point.job.model_dump_json() for point in points}) == len(points) == 3


def test_a_start_goes_through_the_rungs_as_the_others_do(tmp_path: Path) -> None:
    start = ["data.validation_fraction=0.2", "search.start=true", "search.halving=3"]
    points = make_points(load(tmp_path, RATES, *start))
    assert len(points) == 16

    with pytest.raises(JobError, match=r"halving = 3 .* there is one"):
        make_points(load(tmp_path, RATES, *start, "search.points=1"))


def test_a_start_that_is_no_job_without_the_swept_keys_is_refused(tmp_path: Path) -> None:
    job = load(tmp_path, "data.validation_fraction = [0.1, 0.2]", "train.patience=3", search="")
    assert len(make_points(job)) == 2

    started = load(
        tmp_path,
        "data.validation_fraction = [0.1, 0.2]",
        "train.patience=3",
        search="start = true",
    )
    with pytest.raises(JobError, match=r"(?s)which search\.start makes the first.*patience = 3"):
        make_points(started)


@pytest.mark.parametrize(("points", "told"), [(4, ""), (5, "asks for 5 points, but there are 4")])
def test_a_search_of_more_points_than_there_are_says_so(
    tmp_path: Path, points: int, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    search = f"points = {points}\nstart = true"
    with caplog.at_level(logging.INFO):
        made = make_points(load(tmp_path, "model.hidden_units = [[8], [9], [10]]", search=search))

    assert len(made) == 4
    assert told in caplog.text
    assert bool(told) == bool(caplog.text)


def test_the_seed_draws_other_points_and_the_same_seed_the_same(tmp_path: Path) -> None:
    one, again = values_of(load(tmp_path, RATES)), values_of(load(tmp_path, RATES))
    other = values_of(load(tmp_path, RATES, "seed=4"))
    assert one == again
    assert one != other


def test_a_range_of_integers_gives_each_of_them(tmp_path: Path) -> None:
    points = values_of(load(tmp_path, "train.epochs = { low = 1, high = 9 }", "search.points=9"))
    assert sorted(point["train.epochs"] for point in points) == list(range(1, 10))


def test_a_step_gives_the_numbers_from_low_on(tmp_path: Path) -> None:
    sweep = "model.dropout_rate = { low = 0.0, high = 0.3, step = 0.1 }"
    points = values_of(load(tmp_path, sweep, "search.points=4"))
    assert sorted(point["model.dropout_rate"] for point in points) == [0.0, 0.1, 0.2, 0.3]


def test_more_points_than_there_are_run_them_all_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    sweep = "seed = [1, 2, 3]\nmodel.hidden_units = [[8], [16, 8]]"
    points = values_of(load(tmp_path, sweep, "search.points=100"))
    found = sorted((point["seed"], point["model.hidden_units"]) for point in points)
    assert found == list(itertools.product([1, 2, 3], [[8], [16, 8]]))
    assert "asks for 100 points, but there are 6" in caplog.text


def test_ranges_may_be_written_as_nested_tables(tmp_path: Path) -> None:
    nested = "[sweep.train]\nlearning_rate = { low = 1e-4, high = 1e-1, log = true }"
    quoted = '"train.learning_rate" = { low = 1e-4, high = 1e-1, log = true }'
    assert values_of(load(tmp_path, nested)) == values_of(load(tmp_path, quoted))


def test_the_resolved_job_repeats_the_search(tmp_path: Path) -> None:
    from dnnjob.config import to_toml

    job = load(tmp_path, RATES)
    (tmp_path / "again.toml").write_text(to_toml(job))
    assert values_of(load_job(tmp_path / "again.toml")) == values_of(job)


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("train.epochs = { low = 9, high = 1 }", "A range goes up"),
        ("train.learning_rate = { low = 0.0, high = 1.0, log = true }", "lies above zero"),
        ("train.epochs = { low = 1, high = 9, step = 0 }", "A step is a distance above 0"),
        ("train.epochs = { low = 1, high = 9, when = 'x' }", "when: no such key"),
        ("train.epochs = { low = 1 }", "high: required, but missing"),
        ("train.epochs = { low = 1.5, high = 9.5 }", "train.epochs"),
        ("search.points = [1, 2]", "none of those"),
        ("name = ['a', 'b']", "none of those"),
        ("", "draws from the keys of [sweep]"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(tmp_path: Path, sweep: str, told: str) -> None:
    with pytest.raises(JobError) as caught:
        make_points(load(tmp_path, sweep))
    assert told in str(caught.value)


def test_a_range_without_a_search_names_the_key_that_draws_from_it(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"sweep\.train\.learning_rate is a range.*search\.points"):
        make_points(load(tmp_path, RATES, search=""))


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["data.validation_fraction=0"], "validation loss.*validation_fraction = 0.2"),
        (["train.epochs=8"], "1/9 and 1/3 of the epochs, but train.epochs is 8"),
        (["sweep.train.epochs=[90, 180]"], "equally many epochs"),
        (["devices.tasks=2"], "runs of one task"),
        (["search.points=1"], "there is one"),
    ],
)
def test_halving_is_refused_where_points_cannot_be_told_apart_early(
    tmp_path: Path, words: list[str], cause: str
) -> None:
    job = load(
        tmp_path,
        RATES,
        "data.validation_fraction=0.2",
        *words,
        search="points = 16\nhalving = 3",
    )
    with pytest.raises(JobError, match=rf"search\.halving = 3.*{cause}"):
        make_points(job)


def test_folds_tell_points_apart_as_validation_rows_do(tmp_path: Path) -> None:
    folds = ("model.members=4", "model.bagging=folds", "data.validation_fraction=0.0")
    job = load(tmp_path, RATES, *folds, search="points = 16\nhalving = 3")
    assert len(make_points(job)) == 16


def test_halving_changes_no_point(tmp_path: Path) -> None:
    job = load(tmp_path, RATES, "data.validation_fraction=0.2")
    halved = load(tmp_path, RATES, "data.validation_fraction=0.2", "search.halving=3")
    assert make_points(halved) == make_points(job)
