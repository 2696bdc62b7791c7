"""`report.html`: the report and its plots as one self-contained page; and its head, for a notebook.

write_text(paths.page, render_page(report, paths.plots))
"""

import base64
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from dnnjob.config import JobConfig, to_toml
from dnnjob.results.notation import format_gain, format_number, format_seconds, format_share
from dnnjob.results.report import PlotName, Report
from dnnjob.results.verdict import NO_TEST_ROWS, find_rivals

CAPTIONS: dict[PlotName, str] = {
    "regplot": "Actual against predicted values of the test rows, with the fitted line and its "
    "95 % confidence band. On the dashed line a prediction is exact.",
    "residuals": "What the model misses: actual minus predicted values of the test rows, against "
    "the prediction and as a histogram.",
    "loss": "Mean squared error of each epoch on the trained scale, without penalties.",
    "intervals": "The test rows in the order of their predictions, each with its target, and the "
    "interval around the prediction that is to hold it.",
    "importance": "What each column is worth: by how much the mean squared error of the test rows "
    "grows where its values are shuffled, with the standard deviation over the shuffles. Columns "
    "that say the same share their worth.",
    "boxplot": "Every column of numbers in z-scores, the target last. Boxes span the quartiles, "
    "whiskers 1.5 times their distance.",
}


@dataclass(frozen=True)
class Figure:
    """A plot as the page shows it."""

    name: PlotName
    caption: str
    source: str
    """The PNG as a data URI."""


def render_page(report: Report, plots: Path | None = None) -> str:
    """The page as HTML that needs no other file.

    Args:
        report: What the page says.
        plots: Folder of the plots; those that are there are shown. None shows none.
    """
    job = JobConfig.model_validate(report.job)
    template = page_environment().get_template("report.html.j2")
    return template.render(
        report=report,
        job=job,
        job_toml=to_toml(job),
        rivals=find_rivals(report),
        no_test_rows=NO_TEST_ROWS,
        num_zero=sum(_count_zero_targets(report)),
        warnings=[_begin(one, report) for one in report.data.warnings + report.training.warnings],
        worth={one.column: one.mse_increase for one in report.importance},
        figures=[] if plots is None else load_figures(plots),
    )


def _begin(warning: str, report: Report) -> str:
    """The warning as a sentence; the name of a column stays as it is."""
    if any(warning.startswith((f"{name} ", f"{name}, ")) for name in report.data.columns):
        return warning
    return warning[:1].upper() + warning[1:]


def _count_zero_targets(report: Report) -> Iterator[int]:
    """Rows of each split whose target is zero."""
    for metrics in (report.metrics.train, report.metrics.validation, report.metrics.test):
        if metrics is not None and metrics.mape_num_rows is not None:
            yield metrics.num_rows - metrics.mape_num_rows


def load_figures(folder: Path) -> list[Figure]:
    """The plots that lie in a folder, the most telling first."""
    return [
        Figure(name=name, caption=caption, source=_to_data_uri(path.read_bytes()))
        for name, caption in CAPTIONS.items()
        if (path := folder / f"{name}.png").is_file()
    ]


def _to_data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@functools.cache
def page_environment(package: str = "dnnjob.results") -> Environment:
    """Renders the templates of a room."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": format_share,
        "gain": format_gain,
        "number": format_number,
        "seconds": format_seconds,
    }
    return environment


def render_head(
    state: str,
    *,
    name: str,
    run_id: str,
    path: str,
    report: Report | None = None,
    plots: Path | None = None,
) -> str:
    """HTML of its own, without scripts.

    Args:
        state: How the run stands, in words.
        name: Of its job.
        run_id: Its folder's name.
        path: Its folder.
        report: Of a complete run.
        plots: Folder of its plots, of which the first is shown.
    """
    figures = [] if plots is None else load_figures(plots)
    return (
        page_environment()
        .get_template("run_head.html.j2")
        .render(
            state=state,
            name=name,
            run_id=run_id,
            path=path,
            report=report,
            rivals=() if report is None else find_rivals(report),
            no_test_rows=NO_TEST_ROWS,
            figure=next((one for one in figures if one.name == "regplot"), None),
        )
    )
