"""The profile: where submitted runs go and what they ask for, in units a user thinks in.

profile = load_profile("slurm/gpu.toml", overrides=["profile.time_limit_min=60"])
profile.num_tasks
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from dnnjob.config.overrides import describe_faults, parse_override, read_toml, set_key
from dnnjob.config.section import Section
from dnnjob.errors import JobError

PREFIX = "profile."
"""What sets a word for the profile apart from one for the job."""

# The keys that only Slurm understands.
_FOR_SLURM = (
    "partition",
    "account",
    "qos",
    "constraint",
    "reservation",
    "exclude",
    "gres",
    "mail",
    "sbatch_options",
    "srun_options",
)

# What the profile or dnnjob says itself, and sbatch_options must not say otherwise; and where.
_SAID_BY = {
    **{key: key for key in ("partition", "account", "qos", "constraint", "reservation")},
    **{key: key for key in ("exclude", "nodes", "gres")},
    "ntasks": "tasks_per_node and nodes",
    "ntasks-per-node": "tasks_per_node",
    "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "memory_gb",
    "time": "time_limit_min",
    "time-min": "time_limit_min",
    "signal": "warning_signal and warning_lead_s",
    "requeue": "max_requeues",
    "no-requeue": "max_requeues = 0",
    "mail-user": "mail",
    "mail-type": "mail_on",
    "array": "array_parallelism and points_per_task",
}
_OWNED = (
    *("job-name", "comment", "output", "error", "input", "open-mode", "hold", "parsable"),
    *("wrap", "wait", "test-only", "clusters"),
)

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\n]*$")]
Count = Annotated[int, Field(ge=1)]


class ProfileConfig(Section):
    """A whole profile."""

    executor: Literal["slurm", "local"]
    """Who starts the runs: Slurm, or this machine, as background processes."""

    partition: Text | None = None
    """Slurm's partition, or several separated by commas. Default: the cluster's own."""
    account: Text | None = None
    """Whom the time is charged to."""
    qos: Text | None = None
    """Slurm's quality of service."""
    constraint: Text | None = None
    """Features the nodes must have."""
    reservation: Text | None = None
    """A reservation to run in."""
    exclude: Text | None = None
    """Nodes to keep away from."""

    nodes: Count = 1
    """Machines of one run."""
    tasks_per_node: Count = 1
    """Processes of one run on each of them."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs of one run on each of them, shared evenly among its tasks there."""
    gres: Text | None = None
    """Generic resources in Slurm's words, as "gpu:h100:2"; in the place of gpus_per_node."""
    cpus_per_task: Count | None = None
    """CPU cores of each task, and its threads unless devices.threads says otherwise. Default: the
    cluster's, or locally an even share."""
    memory_gb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Memory of one run on each node, in GiB. Default: the cluster's."""
    time_limit_min: Count | None = None
    """Minutes until a run is stopped with a checkpoint, and goes on as often as it makes progress.
    Slurm needs it."""

    array_parallelism: Count = 256
    """Tasks of a sweep that run at the same time, at most."""
    points_per_task: Count | None = None
    """Points of a sweep that one task runs, side by side as its cores allow. Default:
    enough for ten minutes' work, and for the cluster's limits on jobs to hold."""
    max_requeues: Annotated[int, Field(ge=0)] = 50
    """How often Slurm may queue a run anew before it is given up."""
    warning_signal: Literal["USR1", "USR2", "TERM"] = "USR2"
    """Signal with which Slurm warns of the end of the time limit."""
    warning_lead_s: Annotated[int, Field(ge=10, le=65535)] = 120
    """How long before the end it comes: longer than compiling and the longest call take. Slurm may
    send it a minute earlier still."""

    mail: Text | None = None
    """Address that Slurm writes to."""
    mail_on: tuple[Literal["begin", "end", "fail", "requeue", "time_limit"], ...] = ("end", "fail")
    """What it writes about."""
    setup: tuple[Text, ...] = ()
    """Shell lines before each start, as "module load cuda". One that fails ends the job."""
    container: Text | None = None
    """Command that runs another inside a container, as "apptainer exec --nv image.sif"."""
    python: Text | None = None
    """The interpreter that has dnnjob. Default: this one, in a container python3."""
    sbatch_options: dict[str, str | int | bool] = Field(default_factory=dict)
    """More options of sbatch, by their long names without dashes; none that another key says."""
    srun_options: tuple[Text, ...] = ()
    """More options of srun, as they are written."""

    @field_validator("container", "exclude", "mail")
    @classmethod
    def _is_not_blank(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("must not be blank")
        return text

    @field_validator("sbatch_options")
    @classmethod
    def _options_say_nothing_twice(
        cls, options: dict[str, str | int | bool]
    ) -> dict[str, str | int | bool]:
        for option in options:
            name = option.replace("_", "-")
            if name in _SAID_BY:
                raise ValueError(
                    f"{option} is what the profile says with {_SAID_BY[name]}. Set that instead."
                )
            if name in _OWNED:
                raise ValueError(f"{option} is dnnjob's own to choose. Leave it out.")
        return options

    @model_validator(mode="after")
    def _slurm_needs_a_time_limit(self) -> Self:
        if self.executor == "slurm" and self.time_limit_min is None:
            raise ValueError(
                "time_limit_min is required for Slurm, whose default may be minutes or days. Set "
                "it to what one run needs at most; one that needs more goes on from its checkpoint."
            )
        return self

    @model_validator(mode="after")
    def _the_warning_comes_in_time(self) -> Self:
        limit_s = 60 * (self.time_limit_min or 0)
        if self.executor == "slurm" and self.warning_lead_s >= limit_s:
            raise ValueError(
                f"warning_lead_s = {self.warning_lead_s} must be shorter than time_limit_min = "
                f"{self.time_limit_min}, which is {limit_s} s. Raise the limit."
            )
        return self

    @model_validator(mode="after")
    def _memory_is_asked_for_once(self) -> Self:
        names = {option.replace("_", "-") for option in self.sbatch_options}
        others = sorted(names & {"mem-per-cpu", "mem-per-gpu"})
        if self.memory_gb is not None and others:
            raise ValueError(
                f"memory_gb = {self.memory_gb:g} and {' and '.join(others)} of sbatch_options ask "
                "for the same, and Slurm takes one of them. Leave the others out."
            )
        return self

    @model_validator(mode="after")
    def _gpus_are_asked_for_once(self) -> Self:
        if self.gres is not None and self.gpus_per_node:
            raise ValueError(
                f"gpus_per_node = {self.gpus_per_node} and gres = {self.gres!r} ask for the same. "
                "Leave one of them out."
            )
        return self

    @model_validator(mode="after")
    def _local_runs_know_no_cluster(self) -> Self:
        if self.executor == "slurm":
            return self
        given = [key for key in _FOR_SLURM if getattr(self, key)]
        if given:
            raise ValueError(
                f'{", ".join(given)}: only Slurm knows that, but executor is "local". Leave it '
                'out, or set executor = "slurm".'
            )
        if self.nodes > 1:
            raise ValueError(
                f"nodes = {self.nodes}, but a local run has this machine alone. Leave it out, or "
                "set tasks_per_node."
            )
        return self

    @property
    def num_tasks(self) -> int:
        """Tasks of one run."""
        return self.nodes * self.tasks_per_node


def load_profile(name: str | Path, *, overrides: Iterable[str] = ()) -> ProfileConfig:
    """The profile of a file or name, with `profile.KEY=VALUE` overrides applied.

    Args:
        name: A path, or the name of a file in `slurm/` here, in the user's
            `$XDG_CONFIG_HOME/dnnjob/profiles/`, or in the checkout that dnnjob runs from.
        overrides: Words like `profile.time_limit_min=60`; values are TOML.

    Raises:
        JobError: If there is no such profile, or it breaks a rule.
    """
    words = [parse_override(word.removeprefix(PREFIX)) for word in overrides]
    path = find_profile(name)
    values = read_toml(path, kind="profile")
    for key, value in words:
        set_key(values, key, value)
    return resolve_profile(values, origin=str(path))


def resolve_profile(values: Mapping[str, Any], *, origin: str) -> ProfileConfig:
    """A validated profile.

    Args:
        values: Keys as TOML gives them.
        origin: Where they come from, for messages.

    Raises:
        JobError: If a key is unknown or a value breaks its rule; every fault is listed.
    """
    try:
        return ProfileConfig.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"  {fault}" for fault in describe_faults(error, ProfileConfig))
        raise JobError(f"{origin} is not a valid profile:\n{faults}") from error


def find_profile(name: str | Path) -> Path:
    """The file of a profile given by path or name.

    Raises:
        JobError: If there is none; the profiles that are there are named.
    """
    path = Path(name)
    if path.is_file():
        return path
    folders = [folder for folder in profile_folders() if folder.is_dir()]
    if path.name == str(name):
        for folder in folders:
            for file in (folder / path.name, folder / f"{path.name}.toml"):
                if file.is_file():
                    return file
    known = sorted({file.stem for folder in folders for file in folder.glob("*.toml")})
    raise JobError(
        f"There is no profile {name}. Give the path of a TOML file, or one of these names: "
        f"{', '.join(known) or 'none here'}. They are sought in "
        f"{', '.join(map(str, profile_folders()))}."
    )


def profile_folders() -> tuple[Path, ...]:
    """Folders in which profiles are found by name, the first first."""
    checkout = Path(__file__).parents[2] / "slurm"
    return Path("slurm"), *_own_profile_folders(), checkout


def _own_profile_folders() -> tuple[Path, ...]:
    """The user's own folder of profiles; none where nobody knows a home for the user."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative one is to be ignored, says the XDG base directory specification.
    if Path(config).is_absolute():
        return (Path(config) / "dnnjob" / "profiles",)
    try:
        return (Path.home() / ".config" / "dnnjob" / "profiles",)
    except RuntimeError:
        return ()


def split_words(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """`KEY=VALUE` words for the job, and `profile.KEY=VALUE` words for the profile."""
    every = list(words)
    ours = [word for word in every if word.startswith(PREFIX)]
    return [word for word in every if not word.startswith(PREFIX)], ours
