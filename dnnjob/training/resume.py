"""What a checkpoint holds of a training, and how a later attempt goes on from it.

keeper = Keeper(store, journal, members, identity=identity, every_s=30, crew=crew)
keeper.restore()                  # the members go on from the newest checkpoint, if there is one
keeper.keep()                     # writes where a checkpoint is due
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from pydantic import ValidationError

from dnnjob.alike import ALIKE
from dnnjob.config import JobConfig, change_devices, to_toml
from dnnjob.config.section import flatten
from dnnjob.data.fingerprint import Fingerprint
from dnnjob.errors import DataError, JobError
from dnnjob.machine import cpu_flags, package_version, tensorflow_version
from dnnjob.runs import Journal, load_run_job, write_text
from dnnjob.tasks import Crew
from dnnjob.training.checkpoint import Checkpoint, CheckpointStore
from dnnjob.training.history import EpochLog
from dnnjob.training.member import (
    DIVERGED,
    EPOCHS_DONE,
    HALVED,
    Member,
    TrainingState,
    mean_position,
)
from dnnjob.training.row_chunks import chunk_rows
from dnnjob.training.step import Stopping
from dnnjob.training.strategy import Devices

logger = logging.getLogger(__name__)

_EPOCHS = "job.train.epochs"
_PLACES = ("source", "validation_source", "test_source", "memory_budget_gb", "scratch")


@dataclass(frozen=True)
class Identity:
    """What a checkpoint must share with the attempt that goes on from it.

    Attributes:
        origin: Facts of job and table; another value is refused.
        fingerprint: Facts of the machine; another value ends bit equality.
    """

    origin: Mapping[str, Any]
    fingerprint: Mapping[str, Any]


def identify(
    job: JobConfig,
    table: Fingerprint,
    devices: Devices,
    *,
    crew: Crew,
    threads: int,
    axis: int = 0,
) -> Identity:
    """The identity of an attempt, the same in all its tasks, which wait here for each other.

    Args:
        job: The job.
        table: What tells its table from others.
        devices: What this task computes on.
        crew: The tasks of the run.
        threads: Threads of this task.
        axis: Members that one call trains on a leading axis; 0 where each has calls of its own.
    """
    origin = {"job": _describe_job(job), "precision": job.devices.precision, "table": table.value}
    fingerprint = {
        "replicas": devices.num_replicas,
        "tasks": crew.task.num_tasks,
        "xla": devices.xla,
        # Products over a leading axis may round as its length has it.
        **({"stack": axis} if axis else {}),
        **join_machines(crew.gather(_describe_machine(devices, table, threads=threads))),
    }
    return Identity(origin, fingerprint)


def join_machines(machines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the machines of all tasks are: one value where they agree, else one a task, by rank."""
    joined: dict[str, Any] = {}
    for key in machines[0]:
        values = [machine.get(key) for machine in machines]
        joined[key] = values[0] if all(value == values[0] for value in values) else values
    return joined


def _describe_machine(devices: Devices, table: Fingerprint, *, threads: int) -> dict[str, Any]:
    machine = {
        "device": devices.kind,
        "threads": threads,
        "chunk_rows": chunk_rows(devices, threads=threads),
        "cpu": hashlib.sha256(cpu_flags().encode()).hexdigest()[:16],
        "tensorflow": tensorflow_version(),
        "keras": package_version("keras"),
        "numpy": package_version("numpy"),
    }
    if table.stamp:
        # Files too large to be hashed whole: moved or copied ones may be the same, or edited.
        machine["table_files"] = table.stamp
    return machine if devices.kind == "cpu" else {**machine, "gpus": list(devices.models)}


@dataclass
class Keeper:
    """The checkpoints of one training: the chief writes them, every task restores them."""

    store: CheckpointStore
    journal: Journal
    members: Sequence[Member]
    identity: Identity
    every_s: float
    crew: Crew
    inexact: str | None = None
    """Why the weights may differ in bits from a run never interrupted; None while they cannot."""
    _written_at: float = field(default_factory=time.monotonic)

    def keep(self) -> None:
        """Writes a checkpoint if the last is old enough."""
        if time.monotonic() - self._written_at >= self.every_s:
            self.write()

    def write(self) -> None:
        """Writes a checkpoint now."""
        if not self.crew.is_chief:
            return
        try:
            self.journal.recheck()
        except OSError as error:
            logger.warning("The checkpoint could not be written, training goes on: %s.", error)
            self._written_at = time.monotonic()
            return
        facts = {
            "origin": self.identity.origin,
            "fingerprint": self.identity.fingerprint,
            "inexact": self.inexact,
            "stop_reasons": [member.state.stop_reason for member in self.members],
        }
        arrays = {
            f"{_prefix(number)}{name}": array
            for number, member in enumerate(self.members)
            for name, array in _to_arrays(member).items()
        }
        checkpoint = Checkpoint(mean_position(self.members), facts, arrays)
        if self.store.write(checkpoint, attempt=self.journal.number):
            self.journal.mark_reached(checkpoint.position)
        self._written_at = time.monotonic()

    def narrow(self, width: int) -> None:
        """Goes on with fewer networks side by side in one call, and has later attempts do so."""
        facts = {**self.identity.fingerprint, "stack": width}
        if width == 1:
            del facts["stack"]
        self.identity = replace(self.identity, fingerprint=facts)
        if any(member.state.log.num_steps for member in self.members):
            self.inexact = f"went on with {width} network(s) side by side for want of memory"
        try:
            self.journal.recheck()
            job = change_devices(load_run_job(self.journal.paths), {"stack": width})
            write_text(self.journal.paths.job, to_toml(job))
        except OSError as error:
            logger.warning("A later attempt will not know of the narrower stack: %s.", error)

    def restore(self) -> bool:
        """Lets the members go on from the newest checkpoint; False where there is none.

        Raises:
            JobError: If it belongs to another job.
            DataError: If the table has changed since.
        """
        checkpoint = self._read()
        if checkpoint is None:
            return False
        facts = checkpoint.facts
        _refuse_other_origin(facts["origin"], self.identity.origin)
        self._compare_machine(facts)
        # Versions without members wrote one reason.
        reasons = facts.get("stop_reasons") or [facts.get("stop_reason")]
        for number, (member, reason) in enumerate(zip(self.members, reasons, strict=True)):
            prefix = _prefix(number)
            arrays = {
                name.removeprefix(prefix): array
                for name, array in checkpoint.arrays.items()
                if name.startswith(prefix)
            }
            _restore(member, arrays, facts["origin"]["job"], reason)
        self.journal.mark_resumed(checkpoint.position)
        logger.info(
            "Going on from epoch %d, window %d, batch %d.",
            checkpoint.position.epoch + 1,
            checkpoint.position.window + 1,
            checkpoint.position.batch + 1,
        )
        return True

    def _read(self) -> Checkpoint | None:
        # The chief says which: another task may see an older list of the folder.
        found = self.store.read_newest() if self.crew.is_chief else None
        name = self.crew.share(found.name if found else None)
        if found is None and name is not None:
            return self.store.read(name)
        return found.checkpoint if found else None

    def _compare_machine(self, facts: Mapping[str, Any]) -> None:
        self.inexact = facts["inexact"]
        before, now = facts["fingerprint"], self.identity.fingerprint
        changed = [
            f"{key} {before.get(key)} -> {now.get(key)}"
            for key in {**now, **before}
            if before.get(key) != now.get(key)
        ]
        if changed:
            self.inexact = f"resumed with another {', '.join(changed)}"
            logger.warning(
                "This run is %s. It goes on, but its weights may differ in their last bits from "
                "those of a run never interrupted.",
                self.inexact,
                extra=ALIKE,
            )


def _describe_job(job: JobConfig) -> dict[str, Any]:
    """What a job says of its numbers, not of where and how often things are written."""
    values = job.model_dump(mode="json", exclude={"name", "output", "devices"})
    del values["train"]["checkpoint_every_s"]
    for key in _PLACES:
        del values["data"][key]
    return values


def _fill_in(origin: Mapping[str, Any]) -> dict[str, Any]:
    """An origin with the defaults of keys that its version of dnnjob did not have."""
    job = origin["job"]
    try:
        places = {
            "source": "-",
            **({"test_source": "-"} if job["data"]["split"] == "files" else {}),
        }
        whole = {**job, "name": "x", "data": {**job["data"], **places}}
        return {**origin, "job": _describe_job(JobConfig.model_validate(whole))}
    except (KeyError, ValidationError):
        return dict(origin)


def _refuse_other_origin(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    before = _fill_in(before)
    was, is_now = dict(flatten(before)), dict(flatten(json.loads(json.dumps(now))))
    if _has_more_epochs(was, is_now):
        was[_EPOCHS] = is_now[_EPOCHS]
    changed = [key for key in sorted({*was, *is_now}) if was.get(key) != is_now.get(key)]
    if not changed:
        return
    differences = [f"{key}: {was.get(key)!r} then, {is_now.get(key)!r} now" for key in changed]
    kind = DataError if "table" in changed else JobError
    raise kind(
        "A checkpoint belongs to one job and one table, but this one was written for another: "
        f"{'; '.join(differences)}. Start a new run with `dnnjob run`, or restore the table."
    )


def _has_more_epochs(was: Mapping[str, Any], is_now: Mapping[str, Any]) -> bool:
    """Whether a job only goes on for longer, with the learning rates that it had until there."""
    if is_now.get("job.train.schedule", "constant") != "constant" or _EPOCHS not in was:
        return False
    return bool(is_now.get(_EPOCHS, 0) > was[_EPOCHS])


def _number(name: str, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{name}_{place}": array for place, array in enumerate(arrays)}


def _numbered(name: str, arrays: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
    count = sum(key.startswith(f"{name}_") for key in arrays)
    return [arrays[f"{name}_{place}"] for place in range(count)]


def _prefix(number: int) -> str:
    """What the names of a member's arrays begin with; those of the first are as without others."""
    return f"member{number}_" if number else ""


def _to_arrays(member: Member) -> dict[str, np.ndarray]:
    with member.network.present() as variables:
        arrays = {
            **_number("weight", member.network.get_weights()),
            **_number("optimizer", [each.numpy() for each in variables.optimizer]),
            **_number("best", [each.numpy() for each in variables.best]),
        }
    stopping = np.array([*member.state.stopping], np.float64)
    return {**arrays, **member.state.log.to_arrays(), "stopping": stopping}


def _restore(
    member: Member, arrays: Mapping[str, np.ndarray], job: Mapping[str, Any], reason: str | None
) -> None:
    with member.network.present() as variables:
        member.network.set_weights(_numbered("weight", arrays))
        remembered = _numbered("optimizer", arrays)
        if len(remembered) > len(variables.optimizer):
            remembered = from_keras(remembered, job["train"])
        _assign(variables.optimizer, remembered)
        _assign(variables.best, _numbered("best", arrays))
    best_loss, best_epoch = arrays["stopping"]
    plan, log = member.plan, EpochLog.from_arrays(member.plan, arrays)
    # One that diverged does so again at its next step, or lasts on another machine.
    if reason in (HALVED, DIVERGED) or (reason == EPOCHS_DONE and log.num_epochs < plan.epochs):
        reason = None
    stopping = Stopping(np.float32(best_loss), np.int32(best_epoch))
    member.state = TrainingState(log, stopping, reason)


def from_keras(remembered: Sequence[np.ndarray], train: Mapping[str, Any]) -> Sequence[np.ndarray]:
    """What an optimizer remembers, as earlier versions wrote it: in the order of Keras's own."""
    iterations, _, *slots = remembered
    if train["optimizer"] == "rmsprop" and train["momentum"]:
        half = len(slots) // 2
        slots = [*chain.from_iterable(zip(slots[:half], slots[half:], strict=True))]
    return [iterations, *slots]


def _assign(variables: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
