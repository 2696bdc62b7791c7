"""The verb `dnnjob status`.

code = status_command([Path("runs")], as_json=False)
"""

import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from dnnjob.errors import ExitCode
from dnnjob.launch.watch.run_selection import select_runs
from dnnjob.launch.watch.run_views import look
from dnnjob.launch.watch.status_table import describe_views, render_views

logger = logging.getLogger(__name__)


def status_command(places: Sequence[Path], *, as_json: bool) -> ExitCode:
    """Prints what the runs at and under some places are doing.

    Args:
        places: Roots, sweeps and runs.
        as_json: Whether stdout gets a list of JSON records instead of a table.

    Raises:
        JobError: If a place is none of these.
    """
    views = look(select_runs(places))
    if as_json:
        records = [view.model_dump(mode="json") for view in views]
        print(json.dumps(records, indent=1, ensure_ascii=False))
    elif views:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(render_views(views, width=width))
    logger.info("%s", describe_views(views))
    return ExitCode.DONE
