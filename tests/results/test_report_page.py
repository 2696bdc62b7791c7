"""The page: complete, escaped, self-contained."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import pytest

from dnnjob.config import DataConfig
from dnnjob.results.baselines import TreesBaseline
from dnnjob.results.importance import Importance
from dnnjob.results.intervals import Intervals
from dnnjob.results.report import Report, SplitBaselines, SplitMetrics
from dnnjob.results.report_page import CAPTIONS, render_page

PNG = b"\x89PNG\r\n\x1a\n made up"


class _Page(HTMLParser):
    """Tags, the addresses in their attributes, and whether all that opens closes."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "srcset", "action", "data", "poster")
        self.addresses += [value or "" for name, value in attrs if name in names]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _say(html: str) -> str:
    return re.sub(r"\s+", " ", _Page(html.replace("</", " </")).text)


@pytest.fixture
def plots(tmp_path: Path) -> Path:
    """A folder with every plot."""
    for name in CAPTIONS:
        (tmp_path / f"{name}.png").write_bytes(PNG)
    return tmp_path


def test_every_tag_that_opens_closes(report: Report, plots: Path) -> None:
    page = _Page(render_page(report, plots))

    assert page.open == []
    assert page.tags.count("img") == len(CAPTIONS)


def test_the_page_needs_no_other_file(report: Report, plots: Path) -> None:
    html = render_page(report, plots)

    page = _Page(html)
    assert "script" not in page.tags
    assert all(address.startswith("data:") for address in page.addresses)
    assert not re.search(r"https?:|url\(|@import", html)


def test_the_headline_says_how_good_the_model_is(report: Report) -> None:
    said = _say(render_page(report))

    assert "COMPLETED" in said
    assert "12.25 test MSE, MEDV squared" in said
    assert "0.1512 test MSE, z-units" in said
    assert "3.500 test RMSE, MEDV" in said
    assert "0.860 test R²" in said
    assert "50 % better than linear regression, by MSE" in said


def test_columns_are_listed_with_their_inputs_and_worth(report: Report) -> None:
    worth = (
        Importance(column="ZN", mse_increase=12.0, mse_increase_std=0.5),
        Importance(column="CRIM", mse_increase=-0.25, mse_increase_std=0.1),
    )
    model = report.model.model_copy(update={"num_inputs": {"CRIM": 1, "ZN": 14}})
    said = _say(render_page(report.model_copy(update={"importance": worth, "model": model})))

    assert "2 columns became 15 inputs" in said
    assert "CRIM float32 1 \N{MINUS SIGN}0.2500" in said
    assert "ZN float32 14 +12.00" in said


@pytest.mark.parametrize("described", ["CRIM: 1 input (an embedding of 9 values)", ""])
def test_embeddings_are_explained_where_there_are_some(report: Report, described: str) -> None:
    model = report.model.model_copy(update={"num_inputs": {"CRIM": 1}, "summary": described})
    said = _say(render_page(report.model_copy(update={"model": model})))
    assert ("A learned embedding takes one input" in said) == bool(described)


def test_a_report_without_a_list_of_inputs_has_no_list_of_columns(report: Report) -> None:
    assert "columns became" not in _say(render_page(report))


def test_warnings_of_the_table_are_told(report: Report) -> None:
    data = report.data.model_copy(update={"warnings": ("a <b> equals the target.",)})
    assert "A <b> equals the target." in _say(render_page(report.model_copy(update={"data": data})))


def test_the_name_of_a_column_begins_a_warning_as_it_is_written(report: Report) -> None:
    told = ("crim is missing in 3 rows.", "constant features tell nothing: zn.")
    data = report.data.model_copy(update={"warnings": told, "columns": ("crim", "zn")})

    said = _say(render_page(report.model_copy(update={"data": data})))

    assert "crim is missing in 3 rows." in said
    assert "Constant features tell nothing: zn." in said


def test_the_resolved_job_stands_in_the_page(report: Report) -> None:
    assert 'name = "housing"' in _say(render_page(report))


def test_absent_splits_and_plots_are_left_out(report: Report, tmp_path: Path) -> None:
    html = render_page(report, tmp_path / "nowhere")

    assert "img" not in _Page(html).tags
    assert ">validation<" not in html
    assert ">Figures<" not in html


def test_markup_in_names_is_shown_not_obeyed(report: Report) -> None:
    evil = "<script>alert('&')</script>"
    job = report.job | {"data": report.job["data"] | {"target": evil}}
    data = report.data.model_copy(update={"columns": (evil,), "source": evil})
    model = report.model.model_copy(update={"summary": evil})
    update = {"job": job, "data": data, "model": model, "name": evil}

    html = render_page(report.model_copy(update=update))

    assert "script" not in _Page(html).tags
    assert evil in _Page(html).text


@pytest.mark.parametrize(("standardize", "warned"), [("table", True), ("train", False)])
def test_test_rows_in_the_z_scores_are_said_plainly(
    report: Report, standardize: str, warned: bool
) -> None:
    job = report.job | {"data": report.job["data"] | {"standardize": standardize}}

    said = _say(render_page(report.model_copy(update={"job": job})))

    assert ("The test rows took part in the z-scores" in said) is warned


WORDS = {
    "train": "training rows",
    "table": "whole table",
    "robust": "quartiles",
    "both": "z-scores beside them",
    "none": "nothing",
}


@pytest.mark.parametrize("standardize", get_args(DataConfig.model_fields["standardize"].annotation))
def test_every_way_to_scale_is_named(report: Report, standardize: str) -> None:
    job = report.job | {"data": report.job["data"] | {"standardize": standardize}}

    said = _say(render_page(report.model_copy(update={"job": job})))

    assert re.search(rf"Standardized by[^.]{{0,80}}{WORDS[standardize]}", said)


def test_an_unscaled_target_has_no_z_units(report: Report) -> None:
    test = report.metrics.test
    assert test is not None
    metrics = SplitMetrics(test=test.model_copy(update={"mse_standardized": None, "r2": None}))
    job = report.job | {"data": report.job["data"] | {"standardize": "none"}}

    said = _say(render_page(report.model_copy(update={"metrics": metrics, "job": job})))

    assert "z-units" not in said
    assert "\N{EN DASH} test R²" in said


def test_a_run_without_labelled_test_rows_says_so(report: Report) -> None:
    html = render_page(report.model_copy(update={"metrics": SplitMetrics()}))

    assert "No test rows: nothing judges this run." in _say(html)
    assert "Against the baselines" not in _say(html)


@pytest.mark.parametrize("patience", [None, 20])
def test_validation_rows_head_a_page_without_test_rows(
    report: Report, patience: int | None
) -> None:
    metrics = SplitMetrics(validation=report.metrics.test)
    training = report.training.model_copy(update={"best_epoch": 7})
    job = report.job | {"train": report.job["train"] | {"patience": patience}}
    job["data"] = report.job["data"] | {"validation_fraction": 0.1}
    update = {"metrics": metrics, "baselines": SplitBaselines(), "training": training, "job": job}

    said = _say(render_page(report.model_copy(update=update)))

    assert "12.25 validation MSE, MEDV squared" in said
    assert "nothing judges this run." in said
    # Without patience the last epoch is kept, whichever was the best.
    assert ("The validation rows have chosen its epoch." in said) == bool(patience)


@pytest.mark.parametrize("patience", [None, 20])
def test_validation_by_folds_is_told_from_that_by_rows_of_its_own(
    report: Report, patience: int | None
) -> None:
    train = report.metrics.train
    assert train is not None
    changes = {"model": {"members": 4, "bagging": "folds"}, "train": {"patience": patience}}
    job = report.job | {key: report.job[key] | change for key, change in changes.items()}
    of_folds = SplitMetrics(train=train, validation=train, test=report.metrics.test)
    few = train.model_copy(update={"num_rows": 152})
    own = SplitMetrics(train=few, validation=few, test=report.metrics.test)
    report = report.model_copy(update={"job": job, "metrics": of_folds})

    said = _say(render_page(report))

    assert "every training row, predicted by the one network that left it out" in said
    assert ("whose epoch such rows have chosen" in said) == bool(patience)
    said = _say(render_page(report.model_copy(update={"metrics": own})))
    assert "every training row, predicted" not in said


def test_the_page_says_plainly_whether_trees_are_better(report: Report) -> None:
    assert report.baselines.test is not None
    trees = TreesBaseline(mse=9.8, num_rows=100)
    baselines = SplitBaselines(test=report.baselines.test.model_copy(update={"trees": trees}))

    said = _say(render_page(report.model_copy(update={"baselines": baselines})))

    assert "25 % worse than gradient-boosted trees, by MSE" in said
    assert "50 % better than linear regression, 25 % worse than gradient-boosted trees." in said
    assert "fitted to 100 of the training rows, drawn at random" in said


def test_rows_left_out_of_the_mape_are_counted(report: Report) -> None:
    test = report.metrics.test
    assert test is not None
    update = {"mape": 0.0342, "mape_num_rows": 150, "median_absolute_error": 1.125}
    metrics = SplitMetrics(test=test.model_copy(update=update))

    said = _say(render_page(report.model_copy(update={"metrics": metrics})))

    assert "1.125 3.42 %" in said
    assert "2 rows whose target is zero have no part in it" in said


def test_a_continued_run_that_is_not_exact_says_so(report: Report) -> None:
    reason = "resumed with another threads 2 -> 4"
    update = {"bit_exact": False, "bit_exact_reason": reason}
    provenance = report.provenance.model_copy(update=update)

    said = _say(render_page(report.model_copy(update={"provenance": provenance})))

    assert "need not be bit for bit" in said
    assert reason in said


def test_the_page_says_what_the_intervals_are_worth(report: Report) -> None:
    intervals = Intervals(
        level=0.9,
        method="split",
        half_width=4.25,
        num_rows=70,
        coverage_test=0.9079,
        mean_width=8.5,
    )

    said = _say(render_page(report.model_copy(update={"intervals": intervals})))

    assert (
        "90 % intervals reach 4.250 to either side of a prediction, and hold the target of 90.8 % "
        "of the test rows. They come from 70 rows"
    ) in said
    cross = intervals.model_copy(update={"method": "cross"})
    said = _say(render_page(report.model_copy(update={"intervals": cross})))
    assert "They come from 70 training rows, each predicted by the network that left it out" in said
    logs = intervals.model_copy(update={"transform": "log1p"})
    said = _say(render_page(report.model_copy(update={"intervals": logs})))
    assert "90 % intervals are 8.500 wide on average, and hold" in said
