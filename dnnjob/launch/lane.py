"""A lane: a process that runs points of a sweep in turn, warm after the first.

`python -m dnnjob.launch.lane` takes an `Errand` a line on stdin, and tells its `News` on stdout.
Imports, and the compiled call of points of one kind, serve all points of a lane.
"""

import logging
import os
import shlex
import sys
import threading
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import NoReturn, TextIO

from dnnjob.clock import Stopwatch
from dnnjob.errors import DnnJobError, ExitCode
from dnnjob.launch.errand import Errand, News
from dnnjob.launch.local_tasks import COMMAND, run_local_tasks, run_processes
from dnnjob.launch.own_process import die_with
from dnnjob.launch.side_by_side import Happening, SideBySide
from dnnjob.launch.worker import run_attempt
from dnnjob.machine import process_age_s
from dnnjob.runs import Progress, RunPaths, Show, load_run_job
from dnnjob.streams import guarded_streams, leave, talk_to
from dnnjob.tasks import Beside, StopFlag, Task, Until, find_task

logger = logging.getLogger(__name__)


def run_point(
    paths: RunPaths,
    *,
    task: Task,
    number: int,
    stop: StopFlag,
    watch: Stopwatch,
    after: int | None = None,
    show: Show = lambda *_: None,
    until: Until | None = None,
    beside: Beside | None = None,
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
        beside: The other runs of this process that it may train with.
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
            paths,
            task=task,
            watch=watch,
            after=after,
            stop=stop,
            show=show,
            until=until,
            beside=beside,
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

    def show(self, number: int, progress: Progress, steps_per_s: float, _: float) -> None:
        """Tells how far the training of a point has come."""
        self.tell(News(number=number, progress=progress, steps_per_s=steps_per_s))


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
    inbox = SimpleQueue[Happening]()
    run = partial(_run, task=replace(task, parent=0), tell=teller)
    side_by_side = SideBySide(inbox, run, tell=teller.tell, stop=stop)
    threading.Thread(target=_read, args=(inbox,), daemon=True).start()
    age_s = process_age_s()
    while isinstance(errand := inbox.get(), Errand):
        if errand.beside > 1 and task.num_tasks == 1:
            side_by_side.work(errand, age_s=age_s)
        else:
            code = run(errand, stop=stop, watch=Stopwatch(age_s=age_s))
            teller.tell(News(number=errand.number, code=code))
        # Whoever starts the points gives none after a stop of them all.
        stop.signal, age_s = None, 0.0
    leave(ExitCode.DONE)


def _read(inbox: "SimpleQueue[Happening]") -> None:
    """Hands on what is to be done, at last that nothing is any more."""
    for line in sys.stdin:
        inbox.put(Errand.model_validate_json(line))
    inbox.put(None)


def _run(
    errand: Errand,
    *,
    task: Task,
    tell: _Teller,
    stop: StopFlag,
    watch: Stopwatch,
    beside: Beside | None = None,
) -> ExitCode:
    return run_point(
        RunPaths(errand.run),
        task=task,
        number=errand.number,
        stop=stop,
        watch=watch,
        after=errand.after,
        show=partial(tell.show, errand.number),
        until=errand.until,
        beside=beside,
    )


if __name__ == "__main__":
    main()
