"""What rows to be predicted hold that training did not."""

import numpy as np

from dnnjob.data.raw_columns import Texts
from dnnjob.drift import Drift, Finding, describe_findings
from dnnjob.results.report import TrainedColumn

AREA = TrainedColumn(num_missing=0, minimum=10.0, maximum=20.0)
KIND = TrainedColumn(num_missing=0, categories=("red", "blue"))


def test_numbers_further_outside_than_the_range_is_wide_are_counted_over_all_pieces() -> None:
    drift = Drift({"area": AREA})
    drift.add({"area": np.array([0.0, 30.0, 15.0, np.nan])})
    assert drift.findings() == []
    drift.add({"area": np.array([15.0, -0.5, 31.0])})
    assert drift.findings() == [Finding("area", "far_outside", 2, -0.5, (10.0, 20.0))]


def test_categories_that_the_model_does_not_know_are_counted_and_gaps_are_none() -> None:
    drift = Drift({"kind": KIND})
    drift.add({"kind": Texts.of(["red", None, "violet", "", "green", "violet"])})
    assert drift.findings() == [Finding("kind", "unknown_category", 3, "violet")]


def test_a_column_without_any_value_is_told_if_training_had_no_gaps() -> None:
    gaps = AREA.model_copy(update={"num_missing": 1})
    for seen, expected in ((AREA, ["missing_throughout"]), (gaps, [])):
        drift = Drift({"area": seen})
        drift.add({"area": np.array([np.nan, np.nan])})
        assert [finding.kind for finding in drift.findings()] == expected


def test_a_constant_has_a_range_as_wide_as_it_is_large() -> None:
    drift = Drift({"a": TrainedColumn(num_missing=0, minimum=5.0, maximum=5.0)})
    drift.add({"a": np.array([5.0, 9.0, 11.0])})
    assert drift.findings()[0].num_rows == 1


def test_findings_are_one_sentence_with_dates_as_dates() -> None:
    findings = [
        Finding("day", "far_outside", 1, 3786912000.0, (1577836800.0, 1588032000.0)),
        *(Finding(f"f{place}", "missing_throughout", 1200) for place in range(10)),
    ]
    told = describe_findings(findings, dates=["day"])
    assert "outside the 2020-01-01 to 2020-04-28 of training in 1 row, such as 2090-01-01" in told
    assert "'f6' is missing in all 1,200 rows" in told
    assert "and 3 more columns" in told
