"""Calling Slurm's commands, and what it means that one fails.

done = ask(["squeue", "--me"])
text = expect(["scontrol", "show", "config"])
"""

import os
import re
import subprocess
from collections.abc import Mapping

from dnnjob.errors import SlurmError

# A controller under load takes its time.
QUERY_TIMEOUT_S = 60.0
# What makes commands print other columns or times than are read here.
_FORMATS = re.compile(r"^(SQUEUE|SACCT|SINFO|SCONTROL|SLURM_TIME_FORMAT)")


def ask(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """What a command answers, in good time.

    Raises:
        SlurmError: If it is missing or takes too long.
    """
    try:
        return call(command, timeout_s=QUERY_TIMEOUT_S, environ=os.environ)
    except subprocess.TimeoutExpired as error:
        raise unreachable(command[0], f"nothing for {QUERY_TIMEOUT_S:.0f} s") from error


def expect(command: list[str]) -> str:
    """What a command prints that cannot fail while Slurm answers.

    Raises:
        SlurmError: If it fails.
    """
    done = ask(command)
    if done.returncode:
        raise unreachable(command[0], join_errors(done.stderr))
    return done.stdout


def call(
    command: list[str], *, timeout_s: float, environ: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Runs a command; `TimeoutExpired` is left to the caller.

    Raises:
        SlurmError: If it is missing.
    """
    variables = {key: value for key, value in environ.items() if not _FORMATS.search(key)}
    # sbatch hands its environment to the job, whose language is the user's.
    if command[0] != "sbatch":
        variables["LC_ALL"] = "C"
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env=variables,
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"A profile with executor slurm needs Slurm's commands, but there is no {command[0]} "
            "on the PATH. Work on a login node of the cluster, or set executor to local."
        ) from error


def control(verb: str, job_id: str, *, cure: str) -> None:
    """Has scontrol do something to a job.

    Raises:
        SlurmError: If it does not; `cure` says what to do then.
    """
    done = ask(["scontrol", verb, job_id])
    if done.returncode:
        raise SlurmError(
            f"Slurm must {verb} job {job_id}, but it says: {join_errors(done.stderr)}. {cure}"
        )


def require_known(program: str, done: "subprocess.CompletedProcess[str]") -> None:
    """Lets an unknown job pass, and nothing else."""
    if not names_unknown(done.stderr):
        raise unreachable(program, join_errors(done.stderr))


def names_unknown(stderr: str) -> bool:
    """Whether a command complains of jobs that Slurm does not know, and of nothing else."""
    return re.search(r"invalid job id|already completed", stderr, re.IGNORECASE) is not None


# What commands say where no controller, or no settings, can be found, or munge does not vouch.
_UNREACHABLE = re.compile(
    r"contact slurm controller|establish a configuration source|failed to fetch config|"
    r"Connection (?:refused|reset)|No route to host|Host is down|"
    r"Munge encode failed|Protocol authentication error|Invalid authentication credential",
    re.IGNORECASE,
)


def is_unreachable(stderr: str) -> bool:
    """Whether a command failed for want of a Slurm that answers."""
    return _UNREACHABLE.search(stderr) is not None


def unreachable(program: str, said: str) -> SlurmError:
    """The error that Slurm does not answer, as one of its programs said it."""
    return SlurmError(
        f"Slurm must answer, but {program} says: {said}. Look with `scontrol ping` whether its "
        "controller is up, and whether SLURM_CONF is right, then try again."
    )


def join_errors(stderr: str) -> str:
    """The lines of a complaint, each once, as one sentence."""
    lines = [re.sub(r"^\w+: (error|fatal): ", "", line) for line in stderr.splitlines()]
    return "; ".join(dict.fromkeys(line.strip().rstrip(".") for line in lines if line.strip()))
