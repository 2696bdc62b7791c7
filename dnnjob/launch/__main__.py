"""A task of a run as a process of its own: `python -m dnnjob.launch RUN`.

Which task it is, it finds in its environment.
"""

import argparse
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from dnnjob.clock import Stopwatch
from dnnjob.errors import DnnJobError
from dnnjob.launch.local_tasks import COMMAND
from dnnjob.launch.own_process import die_with
from dnnjob.launch.worker import run_attempt
from dnnjob.machine import process_age_s
from dnnjob.runs import RunPaths
from dnnjob.streams import guarded_streams, leave
from dnnjob.tasks import find_task


def main() -> None:
    """Runs this process's task of the run folder named on the command line."""
    with guarded_streams():
        _run_task()


def _run_task() -> NoReturn:
    parser = argparse.ArgumentParser(description="One task of a run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--after", type=int)
    arguments = parser.parse_args()
    task = find_task()
    die_with(task.parent)
    logging.basicConfig(stream=sys.stderr, format="%(message)s")
    logging.getLogger("dnnjob").setLevel(logging.INFO)
    # The report tells what the user typed.
    sys.argv[1:] = shlex.split(os.environ.pop(COMMAND, ""))[1:] or sys.argv[1:]
    paths, watch = RunPaths(arguments.run.absolute()), Stopwatch(age_s=process_age_s())
    try:
        code = run_attempt(paths, task=task, watch=watch, after=arguments.after)
    except DnnJobError as error:
        logging.getLogger("dnnjob").error("dnnjob: %s", error)
        code = error.exit_code
    leave(code)


if __name__ == "__main__":
    main()
