"""The tasks of a run: which one this process is, its environment, and how they keep together.

task = find_task()
crew = Crew(stop)                                    # alone; else lead_crew or follow_crew
threads = configure_process(job.devices, crew)       # before TensorFlow is imported
steps = crew.agree(steps)                            # the chief's word, at the start of each call
"""

from dnnjob.tasks.company import Beside, Company, Guest
from dnnjob.tasks.environment import (
    LOGICAL_CPUS,
    configure_process,
    count_lanes,
    count_step_flop,
    count_threads,
    limit_threads,
    logical_cpus,
    lower_threads,
    refuse_without_gpu,
    worthy_threads,
)
from dnnjob.tasks.join import follow_crew, lead_crew
from dnnjob.tasks.process_group import ChiefEndedError, Crew, FollowerCrew
from dnnjob.tasks.rendezvous import WAIT_S, fresh_names, introduced, looks
from dnnjob.tasks.stop import LANE, StopFlag, stop_signals
from dnnjob.tasks.task import Task, find_task
from dnnjob.tasks.task_attempt import TaskAttempt, Until

__all__ = [
    "LANE",
    "LOGICAL_CPUS",
    "WAIT_S",
    "Beside",
    "ChiefEndedError",
    "Company",
    "Crew",
    "FollowerCrew",
    "Guest",
    "StopFlag",
    "Task",
    "TaskAttempt",
    "Until",
    "configure_process",
    "count_lanes",
    "count_step_flop",
    "count_threads",
    "find_task",
    "follow_crew",
    "fresh_names",
    "introduced",
    "lead_crew",
    "limit_threads",
    "logical_cpus",
    "looks",
    "lower_threads",
    "refuse_without_gpu",
    "stop_signals",
    "worthy_threads",
]
