"""A lane: a process that runs points of a sweep in turn, warm after the first.

`python -m dnnjob.launch.lane` takes an `Errand` a line on stdin, and tells its `News` on stdout.
Imports, and the compiled call of points of one kind, serve all points of a lane.
"""

import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn, TextIO

from dnnjob.clock import Stopwatch
from dnnjob.errors import DnnJobError, ExitCode
from dnnjob.launch.errand import Errand, News
from dnnjob.launch.local_tasks import COMMAND, run_local_tasks, run_processes
from dnnjob.launch.own_process import die_with, leave
from dnnjob.launch.worker import run_attempt
from dnnjob.machine import process_age_s
from dnnjob.runs import Progress, RunPaths, load_run_job
from dnnjob.streams import guarded_streams, talk_to
from dnnjob.tasks import StopFlag, Task, Until, find_task

logger = logging.getLogger(__name__)


def run_point(
    paths: RunPaths,
    *,
    task: Task,
    number: int,
    stop: StopFlag,
    watch: Stopwatch,
    after: int | None = None,
    show: Callable[..., object] = lambda *_: None,
    until: Until | None = None,
) -> ExitCode:
    """Runs a run of this process to its end, as this process's task of it.

    Args:
        paths: The run folder.
        task: Which task of each of these runs this process is.
        number: The place of the run among them, from 1; 0 where it is the only one.
        stop: What remembers the signals.
        watch: Started when the run was.
        after: The attempt after which this one must come, where it matters.
        show: Told how far training has come.
        until: Where a run of one task stops short of its last epoch.
    """
    try:
        num_tasks = load_run_job(paths).devices.tasks
        if task.num_tasks > 1 and number:
            # A process can join the tasks of one run only.
            place = replace(task, point=number, launch=f"{task.launch}-{number}")
            return run_processes(paths, [place], after=after, stop=stop)
        if task.num_tasks == 1 and num_tasks > 1:
            return run_local_tasks(paths, num_tasks=num_tasks, after=after, stop=stop)
        return run_attempt(
            paths, task=task, watch=watch, after=after, stop=stop, show=show, until=until
        )
    except DnnJobError as error:
        logger.error("%s", error)
        return error.exit_code


class _Teller(logging.Handler):
    """Hands troubles to whoever started the lane, which says each once for all lanes."""

    def __init__(self, answers: TextIO) -> None:
        super().__init__(logging.WARNING)
        self._answers, self._telling = answers, threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        """Tells one."""
        self.tell(News(trouble=self.format(record), level=record.levelno))

    def tell(self, news: News) -> None:
        """Tells what is new, on a line."""
        with self._telling:
            self._answers.write(news.model_dump_json(exclude_defaults=True) + "\n")
            self._answers.flush()

    def show(self, progress: Progress, steps_per_s: float, _: float) -> None:
        """Tells how far training has come."""
        self.tell(News(progress=progress, steps_per_s=steps_per_s))


def main() -> None:
    """Runs what is asked for until stdin ends."""
    with guarded_streams():
        _work()


def _work() -> NoReturn:
    task = find_task()
    die_with(task.parent)
    sys.argv[1:] = shlex.split(os.environ.pop(COMMAND, ""))[1:]
    # What libraries print is no answer.
    answers = talk_to(os.dup(1))
    os.dup2(2, 1)
    teller = _Teller(answers)
    logging.basicConfig(handlers=[teller], format="%(message)s")
    logging.getLogger("dnnjob").setLevel(logging.INFO)
    stop = StopFlag()
    stop.listen()
    task, age_s = replace(task, parent=0), process_age_s()
    for line in sys.stdin:
        errand = Errand.model_validate_json(line)
        code = run_point(
            RunPaths(errand.run),
            task=task,
            number=errand.number,
            stop=stop,
            watch=Stopwatch(age_s=age_s),
            after=errand.after,
            show=teller.show,
            until=errand.until,
        )
        # Whoever starts the points gives none after a stop of them all.
        stop.signal, age_s = None, 0.0
        teller.tell(News(code=code))
    leave(ExitCode.DONE)


if __name__ == "__main__":
    main()
