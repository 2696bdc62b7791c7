"""Jobs for Slurm through submitit: the batch script, and what a profile's keys become in it.

script = make_script(profile, folder=folder, name="housing", num_elements=1)
job_ids = queue(calls, profile, folder=folder, name="housing", write=note_them)
"""

import functools
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from submitit.core.core import Job
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from dnnjob import slurm
from dnnjob.config import ProfileConfig
from dnnjob.errors import DnnJobError
from dnnjob.launch.outcome import ENDS_AT, WARNING_S
from dnnjob.runs import RunPaths

logger = logging.getLogger(__name__)

# The profile's keys that submitit takes as they are, under its own names.
_PARAMETERS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "exclude": "exclude",
    "nodes": "nodes",
    "tasks_per_node": "ntasks_per_node",
    "cpus_per_task": "cpus_per_task",
    "gres": "gres",
    "time_limit_min": "time",
    "array_parallelism": "array_parallelism",
    "mail": "mail_user",
}
# A task that is told to end may still be writing its checkpoint, and says so best itself.
_PATIENCE_S = 8
Call = functools.partial[Any]


class HeldExecutor(SlurmExecutor):
    """submitit's executor for Slurm, whose jobs wait until they are released.

    submitit puts a job's pickle into its place only after sbatch has answered; and a job that runs
    must find itself in the run's files.
    """

    marker = ""
    is_sent = False
    """Whether sbatch was called."""
    job_id: str | None = None
    """What it answered."""

    @classmethod
    def affinity(cls) -> int:
        """Above 0, without looking for srun: a dry run needs none, and sbatch is missed by name."""
        return 1

    def make_script(self, num_elements: int) -> str:
        """The batch script of a job, or of an array of `num_elements`."""
        # submitit makes a job of one an array only when told, and always names its own key.
        self.parameters |= {"map_count": num_elements if num_elements > 1 else None, "wckey": None}
        return str(self._make_submission_file_text(self._submitit_command_str, uid="")) + "\n"

    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[Job[Any]]:
        # submitit's own way makes arrays with an executor of its own class, waits for sbatch
        # without limit and, where it is not answered, leaves a job of unknown number.
        self.folder.mkdir(parents=True, exist_ok=True)
        count = len(delayed_submissions)
        pickles = [self.folder / f".{secrets.token_hex(8)}.pkl" for _ in range(count)]
        script = self.folder / f".{self.marker}.sh"
        script.write_text(self.make_script(count))
        try:
            for path, delayed in zip(pickles, delayed_submissions, strict=True):
                delayed.set_timeout(self.parameters["time"], self.max_num_timeout)
                delayed.dump(path)
            self.is_sent = True
            self.job_id = slurm.sbatch(
                script, marker=self.marker, environ=slurm.scrub(os.environ), held=True
            )
            return self._name_files(self.job_id, pickles, script)
        except BaseException:
            for path in (*pickles, script):
                path.unlink(missing_ok=True)
            raise

    def _name_files(self, job_id: str, pickles: Sequence[Path], script: Path) -> list[Job[Any]]:
        """Puts the files where the job looks for them."""
        count = len(pickles)
        ids = [job_id] if count == 1 else [f"{job_id}_{number}" for number in range(count)]
        tasks = range(self._num_tasks())
        for path, element in zip(pickles, ids, strict=True):
            path.rename(JobPaths(self.folder, element).submitted_pickle)
        script.rename(JobPaths(self.folder, ids[0]).submission_file)
        return [SlurmJob(folder=self.folder, job_id=one, tasks=tasks) for one in ids]

    @contextmanager
    def taking_back(self) -> Iterator[None]:
        """Cancels what was queued inside if that comes to no good end."""
        try:
            yield
        except BaseException as error:
            # What sbatch has answered itself, or was asked for already, needs no other look.
            is_told = self.job_id is None and isinstance(error, DnnJobError)
            if self.is_sent and not is_told:
                self._take_back()
            raise

    def _take_back(self) -> None:
        try:
            if self.job_id is None:
                slurm.take_back(self.marker)
            else:
                slurm.cancel([self.job_id])
        except DnnJobError as error:
            logger.error("The submission could not be taken back: %s", error)


def make_script(
    profile: ProfileConfig,
    *,
    folder: Path,
    name: str,
    num_elements: int,
    site: slurm.Site | None = None,
) -> str:
    """The batch script that `queue` would submit; nothing is written.

    Args:
        profile: Where and with what.
        folder: Where submitit's files would lie.
        name: Slurm's name of the job.
        num_elements: Elements of the array; 1 is a plain job.
        site: The cluster, as far as it is known.
    """
    executor = _make_executor(profile, folder=folder, name=name, site=site)
    return executor.make_script(num_elements)


def queue(
    calls: Sequence[Call],
    profile: ProfileConfig,
    *,
    folder: Path,
    name: str,
    site: slurm.Site | None = None,
    runs: Sequence[Sequence[RunPaths]] = (),
    write: Callable[[Sequence[str]], None] = lambda _: None,
) -> list[str]:
    """Submits calls as one job, or one array, and lets it start; the id of each.

    Whatever fails or interrupts this, nothing stays queued.

    Args:
        calls: What each task of a job, or of an array's element, calls.
        profile: Where and with what.
        folder: Where batch script and submitit's files go.
        name: Slurm's name of the job.
        site: The cluster, as far as it is known.
        runs: The run folders of each call, which the batch script looks after.
        write: Writes, given the ids, what the job is to find when it starts.

    Raises:
        JobError: If Slurm refuses the job.
        SlurmError: If Slurm does not answer, or does not let it start.
        OSError: If something cannot be written.
    """
    executor = _make_executor(profile, folder=folder, name=name, site=site)
    folder.mkdir(parents=True, exist_ok=True)
    for number, element in enumerate(runs):
        # The batch script reads it line by line; relative, so that a root may move.
        lines = [f"{os.path.relpath(paths.root, folder)}\n" for paths in element]
        (folder / f"runs_{number}.txt").write_text("".join(lines))
    with executor.taking_back():
        jobs = executor._internal_process_submissions(
            [DelayedSubmission(call.func, *call.args, **call.keywords) for call in calls]
        )
        ids = [str(job.job_id) for job in jobs]
        write(ids)
        slurm.release(ids[0].partition("_")[0])
    return ids


def to_parameters(profile: ProfileConfig, *, name: str, marker: str) -> dict[str, Any]:
    """What a profile is in submitit's words."""
    keys = profile.model_dump(exclude_none=True)
    parameters = {theirs: keys[ours] for ours, theirs in _PARAMETERS.items() if ours in keys}
    parameters["job_name"] = name
    if profile.gpus_per_node:
        parameters["gpus_per_node"] = profile.gpus_per_node
    if profile.memory_gb is not None:
        parameters["mem"] = f"{round(profile.memory_gb * 1024)}M"
    if profile.mail is not None:
        parameters["mail_type"] = ",".join(profile.mail_on).upper()
    parameters["srun_args"] = list(_srun_options(profile))
    parameters["setup"] = list(_setup_lines(profile))
    parameters["additional_parameters"] = {
        # A preempted job must be allowed to come back, whatever JobRequeue says.
        "requeue": True,
        "signal": f"{profile.warning_signal}@{profile.warning_lead_s}",
        **({"reservation": profile.reservation} if profile.reservation else {}),
        **{key.replace("-", "_"): value for key, value in profile.sbatch_options.items()},
        # By it a submission is found whose answer was lost.
        "comment": marker,
    }
    return parameters


def _make_executor(
    profile: ProfileConfig, *, folder: Path, name: str, site: slurm.Site | None
) -> HeldExecutor:
    executor = HeldExecutor(folder, python=_python(profile))
    executor.marker = f"dnnjob-{secrets.token_hex(8)}"
    parameters = to_parameters(profile, name=name, marker=executor.marker)
    parameters["setup"] = [*_batch_lines(profile, folder, site), *parameters["setup"]]
    executor._internal_update_parameters(**parameters)
    return executor


def _python(profile: ProfileConfig) -> str:
    """The command before submitit's `-m`: a container's, the interpreter, its options."""
    default = sys.executable if profile.container is None else "python3"
    # -P: a file in the user's folder that is called like a module would be taken for it.
    python = shlex.join([profile.python or default, "-P"])
    return f"{profile.container} {python}" if profile.container else python


def _srun_options(profile: ProfileConfig) -> Sequence[str]:
    # srun inherits cpus-per-task no more since Slurm 22.05. One task that ends early must not end
    # the others at once: the tasks look after each other, and the chief has a checkpoint to write.
    cpus = [] if profile.cpus_per_task is None else [f"--cpus-per-task={profile.cpus_per_task}"]
    return (*cpus, "--kill-on-bad-exit=0", *profile.srun_options)


def _setup_lines(profile: ProfileConfig) -> Sequence[str]:
    if not profile.setup:
        return ()
    # Bash names the command that failed, within functions and sourced files, too.
    keep = """trap ': "${dnnjob_failed:=$BASH_COMMAND}"' ERR"""
    note = f'[ -z "${{BASH_VERSION:-}}" ] || {{ set -E; {keep}; }}'
    end = '[ -z "${BASH_VERSION:-}" ] || { set +E; trap - ERR; }'
    return ("dnnjob_setup=yes", note, "set -e", *profile.setup, "set +e", end, "dnnjob_setup=")


def _batch_lines(profile: ProfileConfig, folder: Path, site: slurm.Site | None) -> list[str]:
    """The part of the batch script that decides whether the job goes on."""
    minutes = profile.time_limit_min
    values: Mapping[str, str] = {
        "dnnjob_folder": shlex.quote(str(folder)),
        "dnnjob_max_requeues": str(profile.max_requeues),
        "dnnjob_patience_s": str(_choose_patience(site)),
    }
    return [
        *(f"{key}={value}" for key, value in values.items()),
        f"export {WARNING_S}={profile.warning_lead_s}",
        f"export {ENDS_AT}=$(($(date +%s) + 60 * {minutes}))",
        "",
        # What a submission with --export said of sbatch would be said of srun as well, and hide
        # from the task what is exported here.
        "unset SLURM_EXPORT_ENV",
        "",
        *Path(__file__).with_name("batch.sh").read_text().splitlines(),
        "",
    ]


def _choose_patience(site: slurm.Site | None) -> int:
    """Seconds that the batch script leaves its task to speak for itself: half of what it has."""
    return _PATIENCE_S if site is None else min(_PATIENCE_S, site.kill_wait_s // 2)
