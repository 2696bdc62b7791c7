"""What the test rows say of a run, in words: how it does against the baselines.

say_verdict(report)   # 50 % better than linear regression, 12 % worse than gradient-boosted trees
"""

from dataclasses import dataclass

from dnnjob.results.notation import split_against
from dnnjob.results.report import Report

NO_TEST_ROWS = "No test rows: nothing judges this run."
BASELINE_NAMES = {"linear": "linear regression", "trees": "gradient-boosted trees"}


@dataclass(frozen=True)
class Rival:
    """How the network's test MSE compares with a baseline's."""

    name: str
    mse: float
    amount: str
    """How much: `30 %`, `12 times`."""
    relation: str
    """Which way, before the name: `better than`."""


def find_rivals(report: Report) -> tuple[Rival, ...]:
    """The baselines that have a test MSE above zero, the simplest first; none without test rows."""
    test, baselines = report.metrics.test, report.baselines.test
    if test is None or baselines is None:
        return ()
    errors = {key: getattr(getattr(baselines, key), "mse", 0.0) for key in BASELINE_NAMES}
    return tuple(
        Rival(BASELINE_NAMES[key], mse, *split_against(test.mse, mse))
        for key, mse in errors.items()
        if mse
    )


def say_verdict(report: Report) -> str:
    """Better or worse than each baseline; empty where there is none to compare with."""
    rivals = find_rivals(report)
    return ", ".join(f"{rival.amount} {rival.relation} {rival.name}" for rival in rivals)
