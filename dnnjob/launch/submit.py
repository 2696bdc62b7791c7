"""Submitting: checks first, then run folders, then one job or one array; returns at once.

code = submit_job(Path("jobs/housing.toml"), ["seed=7"], profile="gpu", root=Path("runs"))
submission = resubmit(paths)                       # the same run again, with the profile it had
"""

import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dnnjob.config import (
    Point,
    ProfileConfig,
    list_keys,
    load_job,
    load_job_again,
    load_profile,
    make_points,
    parse_devices,
    resolve_job,
    split_words,
    to_toml,
)
from dnnjob.errors import ExitCode, JobError
from dnnjob.launch.dispatch import Dispatch
from dnnjob.launch.halving import refuse_halving_of_tasks
from dnnjob.launch.lane_plan import choose_points_per_task, points_at_once, share_out
from dnnjob.launch.local_queue import QueuePlan, plan_queue
from dnnjob.launch.own_process import raising_on_signals
from dnnjob.launch.preflight import Preflight, check_before
from dnnjob.launch.sweep_folder import describe_plan, leaving_nothing, make_plan, make_sweep
from dnnjob.machine import process_key
from dnnjob.runs import (
    SWEEPS,
    RunPaths,
    Submission,
    SweepPaths,
    SweepPlan,
    create_run,
    load_run_job,
    open_run,
    read_state,
    read_submission,
    read_sweep,
    write_resumption,
    write_text,
)
from dnnjob.text import quote_command

logger = logging.getLogger(__name__)

# In the place of a folder that a dry run does not make.
_PLACEHOLDER = "YYYYMMDD-HHMMSS-XXXXXX"


def submit_job(
    job_file: Path,
    words: Sequence[str],
    *,
    profile: str,
    root: Path,
    dry_run: bool = False,
    force: bool = False,
) -> ExitCode:
    """Checks a job and sends it where a profile says; prints the folder and the job's id.

    Args:
        job_file: The job.
        words: `KEY=VALUE` for the job, `profile.KEY=VALUE` for the profile.
        profile: Path or name of the profile.
        root: Folder that holds runs.
        dry_run: Prints the batch script instead; nothing is written or queued.
        force: Submits although something looks wrong.

    Raises:
        JobError: If job or profile cannot work, or Slurm refuses them; nothing is left.
        DataError: If the table cannot be trained on.
        MissingError: If a folder cannot be made.
        SlurmError: If Slurm does not answer.
    """
    for_job, for_profile = split_words(words)
    target = load_profile(profile, overrides=for_profile)
    job = load_job(job_file, overrides=for_job)
    points = [_fit_to(point, target) for point in make_points(job)]
    halving = job.search.halving
    refuse_halving_of_tasks(halving, num_tasks=target.num_tasks)
    root = root.absolute()
    preflight = check_before(points, target, root=root, force=force, dry_run=dry_run)
    order = _Order(points, target, preflight, root, halving)
    if dry_run:
        order.print_plan()
        return ExitCode.DONE
    _warn_of_variables(target)
    with raising_on_signals():
        folder, job_id = order.submit_run() if len(points) == 1 else order.submit_sweep()
        print(folder, flush=True)
    say_where(folder, job_id.partition("_")[0], executor=target.executor)
    return ExitCode.DONE


def say_where(folder: Path, what: str, *, executor: str) -> None:
    """Says what was sent, and where to look."""
    where = "Slurm job" if executor == "slurm" else "Process"
    logger.info("%s %s. %s shows how it goes.", where, what, quote_command("status", folder))


def resubmit(folder: Path, words: Sequence[str] = ()) -> Submission:
    """Sends a run again where it was sent before, to go on from its checkpoint.

    A wish to cancel it is taken back, unless it cannot be sent.

    Args:
        folder: The run.
        words: `KEY=VALUE` for other devices, `profile.KEY=VALUE` for another profile than it had.

    Raises:
        JobError: If the run was not submitted, the words are wrong, or Slurm refuses it.
        SlurmError: If Slurm does not answer.
    """
    paths = open_run(folder)
    if not paths.profile.is_file():
        raise JobError(
            f"A run is sent again with the profile it had, but {paths.root} has none: it was run "
            f"in the foreground. Go on with {quote_command('resume', paths.root, '--here')}."
        )
    for_job, for_profile = split_words(words)
    profile = load_profile(paths.profile, overrides=for_profile)
    for_job += follow_profile(for_job, load_profile(paths.profile), profile)
    job = _fit_to(Point({}, load_job_again(paths.job, for_job)), profile).job
    before = read_submission(paths)
    sender = Dispatch(
        profile,
        paths.submission_folder,
        job.name,
        sweep_id=before.sweep_id if before else None,
    )
    plan = plan_queue([job], profile, memory_bytes=None)
    _warn_of_variables(profile)
    with raising_on_signals(), _without(paths.cancel), _without(paths.resumption):
        write_resumption(paths, parse_devices(for_job))
        submission = sender.send([[paths]], plan)[0]
    if for_profile:
        write_text(paths.profile, to_toml(profile))
    return submission


def resubmit_sweep(sweep: SweepPaths) -> tuple[Submission, list[RunPaths]]:
    """Sends the points of a sweep that have not completed again, where they were sent before.

    Where halving compares points, those of a task go together again.

    Returns:
        The first task's submission, and the runs that go on.

    Raises:
        JobError: If Slurm refuses them.
        SlurmError: If Slurm does not answer.
    """
    listed, profile = read_sweep(sweep), load_profile(sweep.profile)
    runs = [open_run(sweep.run(point).root) for point in listed.points]
    left = [paths for paths in runs if read_state(paths) != "COMPLETED"]
    halving = listed.plan.halving if listed.plan else None
    sizes = listed.plan.points_per_task if listed.plan else (1,) * len(runs)
    ends = list(itertools.accumulate(sizes))
    tasks = [runs[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    if halving is None:
        tasks = [[paths for paths in task if paths in left] for task in tasks]
    tasks = [task for task in tasks if any(paths in left for paths in task)]
    sent = [load_run_job(paths) for task in tasks for paths in task]
    plan = plan_queue(sent, profile, memory_bytes=None)
    sender = Dispatch(
        profile,
        sweep.submission_folder,
        listed.name,
        sweep_id=sweep.sweep_id,
        halving=halving,
    )
    _warn_of_variables(profile)
    with raising_on_signals(), ExitStack() as wishes:
        for paths in left:
            wishes.enter_context(_without(paths.cancel))
        return sender.send(tasks, plan)[0], left


@dataclass(frozen=True, eq=False)
class _Order:
    """A job that has been checked, and where it is to run."""

    points: Sequence[Point]
    profile: ProfileConfig
    preflight: Preflight
    root: Path
    halving: int | None

    @cached_property
    def plan(self) -> QueuePlan:
        """What the points take."""
        jobs = [point.job for point in self.points]
        return plan_queue(jobs, self.profile, memory_bytes=self.preflight.memory_bytes)

    @cached_property
    def elements(self) -> list[range]:
        """The points of each task: here, one takes them all."""
        num_points = len(self.points)
        if self.profile.executor == "local":
            return [range(num_points)]
        each = choose_points_per_task(
            num_points,
            chosen=self.profile.points_per_task,
            seconds_a_point=self.preflight.seconds_a_point(self.plan.needs),
            most_tasks=self.preflight.most_tasks,
            width=points_at_once(self.plan.lanes, self.plan.needs),
            # So many that one is left at the last rung.
            least=1 if self.halving is None else self.halving**2,
        )
        return share_out(num_points, each)

    @property
    def name(self) -> str:
        """Of the job."""
        return self.points[0].job.name

    def submit_run(self) -> tuple[Path, str]:
        """Makes the folder of the only point and sends it; the folder, and the job's id."""
        with leaving_nothing(self.root / self.name) as made:
            paths = create_run(
                self.root,
                self.plan.fit(self.points[0].job),
                process=process_key(os.getpid()),
            )
            made.append(paths.root)
            write_text(paths.profile, to_toml(self.profile))
            sender = Dispatch(
                self.profile, paths.submission_folder, self.name, site=self.preflight.site
            )
            submission = sender.send([[paths]], self.plan)[0]
        return paths.root, submission.job_id

    def submit_sweep(self) -> tuple[Path, str]:
        """Makes the folders of a sweep and sends its points; its folder, and the job's id."""
        told = self._plan_sweep()
        fitted = [Point(point.values, self.plan.fit(point.job)) for point in self.points]
        with leaving_nothing(self.root / self.name / SWEEPS) as made:
            sweep, runs = make_sweep(fitted, told, root=self.root, made=made)
            _write_profile(sweep, runs, self.profile)
            sender = Dispatch(
                self.profile,
                sweep.submission_folder,
                self.name,
                site=self.preflight.site,
                sweep_id=sweep.sweep_id,
                halving=self.halving,
            )
            elements = [[runs[place] for place in element] for element in self.elements]
            submission = sender.send(elements, self.plan)[0]
        logger.info("%s", describe_plan(told))
        return sweep.root, submission.job_id

    def print_plan(self) -> None:
        """Prints the batch script, or for a local profile the commands' equivalent."""
        logger.info("%s", describe_plan(self._plan_sweep()))
        if self.profile.executor == "local":
            return
        from dnnjob.launch.cluster import make_script

        place = self.root / self.name
        if len(self.points) > 1:
            folder = SweepPaths(place / SWEEPS / _PLACEHOLDER).submission_folder
        else:
            folder = RunPaths(place / _PLACEHOLDER).submission_folder
        script = make_script(
            self.profile,
            folder=folder,
            name=self.name,
            num_elements=len(self.elements),
            site=self.preflight.site,
        )
        print(script, end="")

    def _plan_sweep(self) -> SweepPlan:
        jobs, width = [point.job for point in self.points], self.plan.lanes.width
        return make_plan(jobs, self.plan.needs, self.elements, width=width, halving=self.halving)


def _write_profile(sweep: SweepPaths, runs: Sequence[RunPaths], profile: ProfileConfig) -> None:
    text = to_toml(profile)
    write_text(sweep.profile, text)
    for run in runs:
        # A run of its own may be resumed alone, or copied.
        run.profile.write_text(text)


def _fit_to(point: Point, profile: ProfileConfig) -> Point:
    """The point with as many tasks as the profile gives it."""
    asked, given = point.job.devices.tasks, profile.num_tasks
    if given == 1 and profile.executor == "local":
        return point
    if asked not in (1, given):
        raise JobError(
            f"On submit a run has the profile's tasks, nodes x tasks_per_node = {given}, but "
            f"devices.tasks = {asked}. Leave it out, or set profile.tasks_per_node={asked}."
        )
    values = point.job.model_dump(exclude_none=True)
    values["devices"]["tasks"] = given
    return Point(point.values, resolve_job(values, origin="The job with the profile's tasks"))


def follow_profile(words: Sequence[str], before: ProfileConfig, now: ProfileConfig) -> list[str]:
    """Words for what of a job follows from its profile, unless they are given."""
    given, following = list_keys(words), []
    rules_tasks = now.executor == "slurm" or max(now.num_tasks, before.num_tasks) > 1
    if "devices.tasks" not in given and rules_tasks:
        following.append(f"devices.tasks={now.num_tasks}")
    if "devices.threads" not in given and now.cpus_per_task != before.cpus_per_task:
        # A Slurm job finds its cores by itself.
        threads = now.cpus_per_task if now.executor == "local" else 0
        following.append(f"devices.threads={threads or 0}")
    return following


@contextmanager
def _without(file: Path) -> Iterator[None]:
    """Takes a file away, and puts it back where an error comes."""
    content = file.read_bytes() if file.exists() else None
    file.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        raise


def _warn_of_variables(profile: ProfileConfig) -> None:
    """Names what is set for sbatch by the environment, which would overrule the profile."""
    names = sorted(name for name in os.environ if name.startswith("SBATCH_"))
    if names and profile.executor == "slurm":
        logger.warning(
            "%s: not heeded, since a run asks for what its profile says. Set the profile's keys "
            "instead.",
            ", ".join(names),
        )
