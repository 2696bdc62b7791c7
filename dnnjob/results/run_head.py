"""The head of a run's page, for a notebook: how it stands, its errors, and the plot of its tests.

html = render_head("COMPLETED", name="housing", run_id=run_id, report=report, plots=paths.plots)
"""

from pathlib import Path

from dnnjob.results.report import Report
from dnnjob.results.report_page import load_figures, page_environment
from dnnjob.results.verdict import NO_TEST_ROWS, find_rivals


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
