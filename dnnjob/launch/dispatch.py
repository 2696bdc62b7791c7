"""Sends runs where a profile says: into Slurm's queue, or into the background of this machine.

submission = Dispatch(profile, folder=folder, name=job.name).send([[paths]], plan)[0]
"""

import os
import shlex
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dnnjob import slurm
from dnnjob.config import ProfileConfig
from dnnjob.launch.array_task import ArrayTask
from dnnjob.launch.local_queue import QueuePlan, open_queue
from dnnjob.launch.sweep_folder import map_all
from dnnjob.machine import process_key, user_name
from dnnjob.runs import Requested, RunPaths, Submission, attempt_before, write_record


@dataclass(frozen=True)
class Dispatch:
    """Sends groups of runs as the tasks of one job.

    Attributes:
        profile: Where, and with what.
        folder: Where the files of the submission go.
        name: Slurm's name of the job.
        site: The cluster, where it is known.
        sweep_id: Of the runs' sweep.
        halving: `search.halving` of their job.
        command: What the user typed.
    """

    profile: ProfileConfig
    folder: Path
    name: str
    site: slurm.Site | None = None
    sweep_id: str | None = None
    halving: int | None = None
    command: str = field(default_factory=lambda: shlex.join(["dnnjob", *sys.argv[1:]]))

    def send(self, elements: Sequence[Sequence[RunPaths]], plan: QueuePlan) -> list[Submission]:
        """Starts or queues them once their files say so; the submission of the first of each."""
        if self.profile.executor == "local":
            return self._start(elements, plan)
        return self._queue(elements)

    def _queue(self, elements: Sequence[Sequence[RunPaths]]) -> list[Submission]:
        # submitit takes a tenth of a second to import.
        from dnnjob.launch.cluster import queue

        site = self.site or slurm.read_site(slurm.show_config())
        calls = [
            partial(
                ArrayTask(),
                [str(paths.root) for paths in runs],
                command=self.command,
                halving=self.halving,
            )
            for runs in elements
        ]
        written: list[Submission] = []

        def write(ids: Sequence[str]) -> None:
            of_element = partial(self._write, cluster=site.cluster)
            written.extend(map_all(of_element, elements, ids))

        queue(
            calls,
            self.profile,
            folder=self.folder,
            name=self.name,
            site=site,
            runs=elements,
            write=write,
        )
        return written

    def _start(self, elements: Sequence[Sequence[RunPaths]], plan: QueuePlan) -> list[Submission]:
        runs = [paths for element in elements for paths in element]
        with open_queue(
            runs, plan, folder=self.folder, command=self.command, halving=self.halving
        ) as pid:
            key = process_key(pid)
            return [self._write(element, str(pid), process=key) for element in elements]

    def _write(
        self,
        runs: Sequence[RunPaths],
        job_id: str,
        *,
        cluster: str | None = None,
        process: str | None = None,
    ) -> Submission:
        profile = self.profile
        for paths in runs:
            submission = Submission(
                executor=profile.executor,
                cluster=cluster,
                job_id=job_id,
                process=process,
                host=socket.gethostname(),
                user=user_name(),
                after_attempt=attempt_before(paths),
                command=self.command,
                sweep_id=self.sweep_id,
                folder=os.path.relpath(self.folder, paths.root),
                place=str(paths.root),
                requested=Requested(
                    cpus_per_task=profile.cpus_per_task,
                    memory_gb=profile.memory_gb,
                    gpus_per_node=profile.gpus_per_node,
                    time_limit_min=profile.time_limit_min,
                    nodes=profile.nodes,
                    tasks=profile.num_tasks,
                ),
                max_requeues=profile.max_requeues,
            )
            write_record(paths.submission, submission)
        return submission
