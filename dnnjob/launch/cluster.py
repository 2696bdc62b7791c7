"""Jobs for Slurm through submitit: the batch script, and what a profile's keys become in it.

script = make_script(profile, folder=folder, name="housing", num_elements=1)
job_ids = queue(calls, profile, folder=folder, name="housing")    # held
slurm.release(job_ids[0])
"""

import functools
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from submitit.core.core import Job
from submitit.core.utils import DelayedSubmission, JobPaths
from submitit.slurm.slurm import SlurmExecutor, SlurmJob

from dnnjob import slurm
from dnnjob.config import ProfileConfig
from dnnjob.errors import DnnJobError
from dnnjob.launch.ending import ENDS_AT, WARNING_S
from dnnjob.runs import RunPaths

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
Call = functools.partial[Any]


class HeldExecutor(SlurmExecutor):
    """submitit's executor for Slurm, whose jobs wait until they are released.

    submitit puts a job's pickle into its place only after sbatch has answered; and a job that runs
    must find itself in the run's files.
    """

    marker = ""

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
            job_id = slurm.sbatch(
                script, marker=self.marker, environ=slurm.scrub(os.environ), held=True
            )
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._take_back()
            for path in (*pickles, script):
                path.unlink(missing_ok=True)
            raise
        ids = [job_id] if count == 1 else [f"{job_id}_{number}" for number in range(count)]
        tasks = range(self._num_tasks())
        for path, element in zip(pickles, ids, strict=True):
            path.rename(JobPaths(self.folder, element).submitted_pickle)
        script.rename(JobPaths(self.folder, ids[0]).submission_file)
        return [SlurmJob(folder=self.folder, job_id=one, tasks=tasks) for one in ids]

    def _take_back(self) -> None:
        """Cancels what sbatch may have queued before it was interrupted."""
        with suppress(DnnJobError):
            if (job_id := slurm.find_job(self.marker)) is not None:
                slurm.cancel([job_id])


def make_script(profile: ProfileConfig, *, folder: Path, name: str, num_elements: int) -> str:
    """The batch script that `queue` would submit; nothing is written.

    Args:
        profile: Where and with what.
        folder: Where submitit's files would lie.
        name: Slurm's name of the job.
        num_elements: Elements of the array; 1 is a plain job.
    """
    return _make_executor(profile, folder=folder, name=name).make_script(num_elements)


def queue(
    calls: Sequence[Call],
    profile: ProfileConfig,
    *,
    folder: Path,
    name: str,
    runs: Sequence[Sequence[RunPaths]] = (),
) -> list[str]:
    """Submits calls as one held job, or one held array; the id of each.

    Args:
        calls: What each task of a job, or of an array's element, calls.
        profile: Where and with what.
        folder: Where batch script and submitit's files go.
        name: Slurm's name of the job.
        runs: The run folders of each call, which the batch script looks after.

    Raises:
        JobError: If Slurm refuses the job; nothing is queued.
        SlurmError: If Slurm does not answer.
    """
    executor = _make_executor(profile, folder=folder, name=name)
    folder.mkdir(parents=True, exist_ok=True)
    for number, element in enumerate(runs):
        # The batch script reads it line by line; relative, so that a root may move.
        lines = [f"{os.path.relpath(paths.root, folder)}\n" for paths in element]
        (folder / f"runs_{number}.txt").write_text("".join(lines))
    jobs = executor._internal_process_submissions(
        [DelayedSubmission(call.func, *call.args, **call.keywords) for call in calls]
    )
    return [str(job.job_id) for job in jobs]


def let_go(job_ids: Sequence[str], write: Callable[[], None]) -> None:
    """Writes what a held job is to find, then lets it start; where that fails, nothing is queued.

    Raises:
        DnnJobError: If Slurm does not let it start.
        OSError: If something cannot be written.
    """
    job_id = job_ids[0].partition("_")[0]
    try:
        write()
        slurm.release(job_id)
    except BaseException:
        with suppress(DnnJobError):
            slurm.cancel([job_id])
        raise


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


def _make_executor(profile: ProfileConfig, *, folder: Path, name: str) -> HeldExecutor:
    executor = HeldExecutor(folder, python=_python(profile))
    executor.marker = f"dnnjob-{secrets.token_hex(8)}"
    parameters = to_parameters(profile, name=name, marker=executor.marker)
    parameters["setup"] = [*_batch_lines(profile, folder), *parameters["setup"]]
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
    return ("set -e", *profile.setup, "set +e") if profile.setup else ()


def _batch_lines(profile: ProfileConfig, folder: Path) -> list[str]:
    """The part of the batch script that decides whether the job goes on."""
    asked = "what the cluster gives" if profile.memory_gb is None else f"{profile.memory_gb:g} GB"
    minutes = profile.time_limit_min
    values: Mapping[str, str] = {
        "dnnjob_folder": shlex.quote(str(folder)),
        "dnnjob_memory": shlex.quote(asked),
        "dnnjob_max_requeues": str(profile.max_requeues),
    }
    return [
        *(f"{key}={value}" for key, value in values.items()),
        f"export {WARNING_S}={profile.warning_lead_s}",
        f"export {ENDS_AT}=$(($(date +%s) + 60 * {minutes}))",
        "",
        *Path(__file__).with_name("batch.sh").read_text().splitlines(),
        "",
    ]
