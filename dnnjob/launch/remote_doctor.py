"""`dnnjob doctor --profile P`: the doctor as a short job where the profile's runs would go.

code = doctor_command("slurm/gpu.toml", root=Path("runs"), as_json=False)
reports = examine_there("slurm/gpu.toml", root=Path("runs"))        # reports[0].findings
"""

import json
import logging
import os
import secrets
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from dnnjob import slurm
from dnnjob.config import ProfileConfig, load_profile
from dnnjob.doctor import Finding, examine, is_fit, render_findings
from dnnjob.errors import DnnJobError, ExitCode, MissingError
from dnnjob.launch.own_process import raising_on_signals
from dnnjob.launch.watch.slurm_answer import ask_slurm
from dnnjob.launch.watch.wait import Pace
from dnnjob.machine import list_gpus
from dnnjob.runs import (
    Event,
    JobView,
    Record,
    RunPaths,
    describe_queue_reason,
    read_events,
    write_text,
)

logger = logging.getLogger(__name__)

# Imports and a product on each device, on a node that has none of it in its caches.
_LIMIT_MIN = 15
_LEAD_S = 60
_TAIL_LINES = 15


class HostReport(Record):
    """What was found on one node."""

    host: str
    job_id: str | None = None
    findings: tuple[Finding, ...]


def doctor_command(name: str, *, root: Path, as_json: bool) -> ExitCode:
    """Prints the findings of every node that a run with a profile would get.

    Args, errors: as for `examine_there`.

    Returns:
        ENVIRONMENT if something is missing on one of them.
    """
    reports = examine_there(name, root=root)
    if as_json:
        print(json.dumps([report.model_dump() for report in reports], indent=1))
    else:
        print("\n\n".join(f"{one.host}\n{render_findings(one.findings)}" for one in reports))
    is_everywhere_fit = all(is_fit(report.findings) for report in reports)
    return ExitCode.DONE if is_everywhere_fit else ExitCode.ENVIRONMENT


def examine_there(name: str, *, root: Path) -> list[HostReport]:
    """The findings of every node that a run with this profile would get; waits for the job.

    Args:
        name: Path or name of the profile.
        root: Folder that holds the runs; nothing stays there.

    Raises:
        JobError: If there is no such profile, or Slurm refuses its job.
        MissingError: If the job ends without findings.
        SlurmError: If Slurm does not answer.
    """
    profile = load_profile(name)
    if profile.executor == "local":
        return [HostReport(host=socket.gethostname(), findings=examine(root))]
    # submitit takes a tenth of a second to import.
    from dnnjob.launch.cluster import queue

    brief = shorten(profile)
    with raising_on_signals(), _folder_for_once(root.absolute()) as folder:
        call = partial(report_host, str(root.absolute()), str(folder), gpus=_asks_for_gpus(profile))
        job_ids = queue(
            [call], brief, folder=folder, name="dnnjob-doctor", runs=[[RunPaths(folder)]]
        )
        try:
            logger.info("Slurm job %s, on %d node(s).", job_ids[0], brief.nodes)
            return _await_reports(job_ids[0], folder, num_nodes=brief.nodes)
        except BaseException:
            with suppress(DnnJobError):
                slurm.cancel(job_ids)
            raise


def report_host(root: str, folder: str, *, gpus: bool) -> None:
    """Leaves the findings of the node that this process is on; what the job calls.

    Args:
        root: Folder that holds the runs.
        folder: Where the findings go.
        gpus: Whether the job asked for GPUs.
    """
    findings = [*examine(Path(root)), *([check_gpus(list_gpus())] if gpus else [])]
    rank, job_id = os.environ.get("SLURM_PROCID", "0"), os.environ.get("SLURM_JOB_ID")
    host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    report = HostReport(host=host, job_id=job_id, findings=tuple(findings))
    write_text(Path(folder) / f"report-{rank}.json", report.model_dump_json())


def check_gpus(names: Sequence[str]) -> Finding:
    """Whether a job that asked for GPUs sees any."""
    if names:
        return Finding(topic="GPUs of the job", state="ok", found=", ".join(names))
    return Finding(
        topic="GPUs of the job",
        state="missing",
        found="none, although the profile asks for them",
        cure="Look at `sinfo -o '%P %G'` for a partition with GPUs, and in a container at --nv.",
    )


def shorten(profile: ProfileConfig) -> ProfileConfig:
    """The profile with one task a node and little time, so that its job starts soon."""
    limit_min = min(_LIMIT_MIN, profile.time_limit_min or _LIMIT_MIN)
    brief = {
        "tasks_per_node": 1,
        "time_limit_min": limit_min,
        "warning_lead_s": min(_LEAD_S, profile.warning_lead_s, 30 * limit_min),
        "max_requeues": 0,
        "mail": None,
    }
    return profile.model_copy(update=brief)


def _asks_for_gpus(profile: ProfileConfig) -> bool:
    return bool(profile.gpus_per_node or (profile.gres and "gpu" in profile.gres))


@contextmanager
def _folder_for_once(root: Path) -> Iterator[Path]:
    """A folder under `root` that is gone afterwards, as are those that were made for it."""
    missing = [path for path in (root, *root.parents) if not path.exists()]
    # A dot: readers of runs pass it over.
    folder = root / f".doctor-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise MissingError(
            f"The doctor's job needs a folder under {root} for its findings, but none can be made "
            f"({error.strerror}). Set --root to a folder you can write, which the nodes see."
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _await_reports(job_id: str, folder: Path, *, num_nodes: int) -> list[HostReport]:
    pace, told = Pace(), ""
    while True:
        job = ask_slurm([job_id]).jobs.get(job_id) if pace.is_due() else None
        ended = _read_end(folder)
        # After both: what ended a moment ago has left its findings before.
        reports = _read_reports(folder)
        if len(reports) == num_nodes:
            return reports
        if (job is not None and job.is_over) or (ended is not None and ended.exit_code):
            raise _explain_end(job_id, folder, job, ended)
        if job is not None and (now := _describe(job, job_id)) != told:
            logger.info("%s", now)
            told = now
        pace.sleep()


def _read_reports(folder: Path) -> list[HostReport]:
    files = sorted(folder.glob("report-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    return [HostReport.model_validate_json(path.read_bytes()) for path in files]


def _read_end(folder: Path) -> Event | None:
    ends = read_events(RunPaths(folder), None)
    return ends[-1] if ends else None


def _describe(job: JobView, job_id: str) -> str:
    if job.state == "PENDING":
        words = describe_queue_reason(job.reason, job_id=job_id, starts_at=job.starts_at)
        return f"Job {job_id}: {words}."
    return f"Job {job_id} is {job.state.lower()}" + (f" on {job.nodes}." if job.nodes else ".")


def _explain_end(
    job_id: str, folder: Path, job: JobView | None, ended: Event | None
) -> MissingError:
    code = ended.exit_code if ended else job.exit_code if job else None
    how = f"{job.state}" if job else f"exit code {code}"
    where = f" on {job.nodes}" if job and job.nodes else ""
    logs = [folder / f"{job_id}_0_log.{kind}" for kind in ("err", "out")]
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    if not lines:
        said = (
            f"and left no log: that node may be unable to write to {folder.parent}. Exclude it "
            "with profile.exclude, or set --root to a folder that all nodes see."
        )
    else:
        said = "and said:\n" + "\n".join(lines[-_TAIL_LINES:])
    return MissingError(
        f"The doctor's job must find out about its node, but job {job_id} ended{where} with "
        f"{how} {said}"
    )
