"""What the daemons are told: slurm.conf, slurmdbd.conf, and where things lie in the folder.

layout = Layout(Path("/tmp/mine"))
write_settings(layout, Options(nodes=4))
"""

import os
import pwd
import random
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from network import LOGIN, Network

# Above the services, below the kernel's own choices, so that no outgoing connection takes one.
PORTS = range(20000, 32000)
# The kernel holds a socket's path in 108 bytes; "spool/n99/n99_1234567.4294967291" is the longest.
LONGEST_FOLDER = 108 - 40


@dataclass(frozen=True)
class Options:
    """What one may choose at the start."""

    nodes: int = 4
    cpus: int = field(default_factory=lambda: os.cpu_count() or 1)
    memory_mb: int = 4096
    gpus: int = 0
    name: str = "testcluster"
    accounting: bool = False
    network: Network | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def node_names(self) -> list[str]:
        """n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]


@dataclass(frozen=True)
class Layout:
    """Every file of a cluster, all in one folder."""

    folder: Path

    @property
    def conf(self) -> Path:
        """Slurm's settings; `SLURM_CONF` points here."""
        return self.folder / "slurm.conf"

    @property
    def dbd_conf(self) -> Path:
        """Settings of the accounting daemon, which looks for them beside slurm.conf."""
        return self.folder / "slurmdbd.conf"

    @property
    def gres_conf(self) -> Path:
        """The GPUs of the nodes."""
        return self.folder / "gres.conf"

    @property
    def munge_key(self) -> Path:
        """What proves that a message comes from this cluster."""
        return self.folder / "munge.key"

    @property
    def munge_socket(self) -> Path:
        """Where Slurm asks munged."""
        return self.folder / "munge.socket"

    @property
    def database(self) -> Path:
        """MariaDB's files."""
        return self.folder / "database"

    @property
    def database_users(self) -> Path:
        """SQL that MariaDB runs at its start."""
        return self.folder / "database.sql"

    @property
    def daemons(self) -> Path:
        """The daemons that run, by name."""
        return self.folder / "daemons.json"

    @property
    def logs(self) -> Path:
        """One log a daemon."""
        return self.folder / "log"

    @property
    def state(self) -> Path:
        """The queue, across restarts of slurmctld."""
        return self.folder / "state"

    def log(self, daemon: str) -> Path:
        """What one daemon said."""
        return self.logs / f"{daemon}.log"

    def spool(self, node: str) -> Path:
        """Job scripts and sockets of one node."""
        return self.folder / "spool" / node


def write_settings(layout: Layout, options: Options) -> None:
    """Fills the folder with settings and keys; ports are free ones, drawn anew by every call."""
    for folder in (layout.logs, layout.state, *map(layout.spool, options.node_names)):
        folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(options.nodes + 3)
    controller, accounting, database = next(ports), next(ports), next(ports)
    sections = [
        _general(layout, options, controller=controller, accounting=accounting),
        *_nodes(options, ports),
        *_partitions(options),
    ]
    layout.conf.write_text("\n".join(sections) + "\n")
    gpus = f"AutoDetect=off\nName=gpu File=/dev/nvidia[0-{options.gpus - 1}]\n"
    layout.gres_conf.write_text(gpus if options.gpus else "")
    if not layout.munge_key.exists():
        _write_private(layout.munge_key, secrets.token_bytes(128))
    if options.accounting:
        password = secrets.token_hex(16)
        _write_private(layout.database_users, _database_users(password).encode())
        text = _accounting(layout, options, port=accounting, database=database, password=password)
        _write_private(layout.dbd_conf, text.encode())


def read_setting(path: Path, key: str) -> str:
    """Value of a key in slurm.conf or slurmdbd.conf."""
    for line in path.read_text().splitlines():
        name, _, value = line.partition("=")
        if name == key:
            return value
    raise KeyError(key)


def change_setting(path: Path, key: str, value: str) -> None:
    """Gives a key of slurm.conf another value, or none at all where that is empty."""
    lines = [line for line in path.read_text().splitlines() if line.partition("=")[0] != key]
    changed = [f"{key}={value}", *lines] if value else lines
    path.write_text("\n".join(changed) + "\n")


def free_ports(count: int) -> Iterator[int]:
    """Ports that nobody listens on, drawn at random since other clusters start at the same time."""
    found: list[int] = []
    for port in random.sample(PORTS, k=len(PORTS)):
        if len(found) == count:
            break
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                found.append(port)
    return iter(found)


def user_name() -> str:
    """Who starts the cluster, and therefore owns its daemons."""
    return pwd.getpwuid(os.geteuid()).pw_name


def _general(layout: Layout, options: Options, *, controller: int, accounting: int) -> str:
    settings = {
        "ClusterName": options.name,
        "SlurmctldHost": f"{socket.gethostname()}({_address(options, LOGIN)})",
        "SlurmctldPort": str(controller),
        "SlurmUser": user_name(),
        "SlurmdUser": user_name(),
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # A requeued job starts when its old credential has expired: two minutes by default.
        "AuthInfo": f"socket={layout.munge_socket},cred_expire=5",
        "StateSaveLocation": str(layout.state),
        "SlurmdSpoolDir": str(layout.folder / "spool" / "%n"),
        "SlurmctldPidFile": str(layout.folder / "slurmctld.pid"),
        "SlurmdPidFile": str(layout.folder / "slurmd.%n.pid"),
        "SlurmctldDebug": "verbose",
        "SlurmdDebug": "verbose",
        # Neither systemd nor cgroups nor a privileged user is needed.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": "512",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": "2",
        "SlurmdTimeout": "20",
        "KillWait": "15",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SlurmctldParameters": "preempt_send_user_signal",
        "SchedulerParameters": "sched_interval=2,bf_interval=2,batch_sched_delay=0",
        "JobRequeue": "1",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=2",
        "JobAcctGatherParams": "OverMemoryKill",
        "PropagateResourceLimits": "NONE",
    }
    if options.gpus:
        settings["GresTypes"] = "gpu"
    if options.accounting:
        settings |= {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": str(accounting),
            "AccountingStorageEnforce": "associations,limits,qos",
            "AccountingStoragePass": str(layout.munge_socket),
        }
    settings |= options.settings
    # Slurm takes no empty value: none is meant.
    return "\n".join(f"{key}={value}" for key, value in settings.items() if value)


def _nodes(options: Options, ports: Iterator[int]) -> Iterator[str]:
    for number, name in enumerate(options.node_names):
        host = name if options.network else socket.gethostname()
        gres = f" Gres=gpu:{options.gpus}" if options.gpus and number == 0 else ""
        yield (
            f"NodeName={name} NodeHostname={host} NodeAddr={_address(options, name)} "
            f"Port={next(ports)} CPUs={options.cpus} RealMemory={options.memory_mb}{gres}"
        )


def _address(options: Options, node: str) -> str:
    return options.network.address(node) if options.network else "127.0.0.1"


def _partitions(options: Options) -> Iterator[str]:
    every = f"n[1-{options.nodes}]"
    partitions = {
        # Ordinary work, which nobody interrupts.
        "main": "Default=YES PriorityTier=2 PreemptMode=OFF",
        # What comes here takes the place of what runs in the partitions of tier 1.
        "urgent": "PriorityTier=3 PreemptMode=OFF",
        "graceful": "PriorityTier=1 PreemptMode=REQUEUE GraceTime=30",
        "abrupt": "PriorityTier=1 PreemptMode=REQUEUE GraceTime=0",
        "cancelled": "PriorityTier=1 PreemptMode=CANCEL GraceTime=30",
        "short": "PriorityTier=2 PreemptMode=OFF MaxTime=5",
    }
    if options.accounting:
        partitions["few"] = "PriorityTier=2 PreemptMode=OFF QOS=few"
    for name, settings in partitions.items():
        limit = "" if "MaxTime" in settings else " MaxTime=INFINITE"
        yield f"PartitionName={name} Nodes={every} {settings}{limit}"


def _accounting(
    layout: Layout, options: Options, *, port: int, database: int, password: str
) -> str:
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={layout.munge_socket}",
        "DbdHost": socket.gethostname(),
        "DbdAddr": "127.0.0.1",
        "DbdPort": str(port),
        "SlurmUser": user_name(),
        "PidFile": str(layout.folder / "slurmdbd.pid"),
        "DebugLevel": "verbose",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": str(database),
        "StorageUser": "slurm",
        "StoragePass": password,
        "StorageLoc": "slurm_accounting",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _database_users(password: str) -> str:
    return (
        "CREATE DATABASE IF NOT EXISTS slurm_accounting;\n"
        f"CREATE OR REPLACE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON slurm_accounting.* TO slurm@'127.0.0.1';\n"
    )


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
