"""What a cluster offers: its settings, partitions and nodes.

config = show_config()
partitions, nodes = list_partitions(), list_nodes()
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dnnjob.slurm.slurm_commands import expect
from dnnjob.slurm.slurm_words import parse_duration, parse_fields, parse_names, parse_number


@dataclass(frozen=True)
class Partition:
    """What a partition offers.

    Attributes:
        name: Its name.
        is_default: Whether jobs without a partition come here.
        is_up: Whether jobs start.
        limit_min: Longest time limit in minutes; None for any.
        max_nodes: Most nodes of a job; None for any.
        qos: Its own QOS, whose limits hold for every job; empty for none.
        accounts: Accounts that may use it; empty for all.
    """

    name: str
    is_default: bool
    is_up: bool
    limit_min: int | None
    max_nodes: int | None
    qos: str
    accounts: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """What a node offers.

    Attributes:
        name: Its name.
        host: The machine it is on.
        cpus: CPUs that jobs may take.
        memory_mb: Memory that jobs may take, in MiB.
        gpus: GPUs of all types.
        partitions: The partitions it belongs to.
    """

    name: str
    host: str
    cpus: int
    memory_mb: int
    gpus: int
    partitions: tuple[str, ...]


@dataclass(frozen=True)
class Site:
    """What a submission must know of a cluster.

    Attributes:
        cluster: Its name.
        kill_wait_s: Seconds between the signal that ends a job and the kill.
    """

    cluster: str
    kill_wait_s: int


def show_config() -> dict[str, str]:
    """The settings of the cluster, as in slurm.conf.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    lines = expect(["scontrol", "show", "config"]).splitlines()
    pairs = (line.partition("=") for line in lines if " = " in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def cluster_name() -> str:
    """Name of the cluster that commands here speak to.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    return show_config().get("ClusterName", "")


def read_site(config: Mapping[str, str]) -> Site:
    """What `show_config` says that a submission needs."""
    kill_wait_s = parse_number(config.get("KillWait", "").partition(" ")[0])
    return Site(config.get("ClusterName", ""), 30 if kill_wait_s is None else kill_wait_s)


def list_partitions() -> dict[str, Partition]:
    """The partitions, by name; hidden ones, too, which may be the user's own.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    lines = expect(["scontrol", "--all", "--oneliner", "show", "partition"]).splitlines()
    found = [_partition(parse_fields(line)) for line in lines if line.startswith("PartitionName=")]
    return {partition.name: partition for partition in found}


def list_nodes() -> dict[str, Node]:
    """The nodes of the cluster, by name.

    Raises:
        SlurmError: If Slurm does not answer.
    """
    lines = expect(["scontrol", "--all", "--oneliner", "show", "node"]).splitlines()
    found = [_node(parse_fields(line)) for line in lines if line.startswith("NodeName=")]
    return {node.name: node for node in found}


def _partition(fields: Mapping[str, str]) -> Partition:
    limit_s = parse_duration(fields.get("MaxTime", ""))
    accounts = fields.get("AllowAccounts", "ALL")
    qos = fields.get("QoS", "N/A")
    return Partition(
        name=fields["PartitionName"],
        is_default=fields.get("Default") == "YES",
        is_up=fields.get("State") == "UP",
        limit_min=None if limit_s is None else limit_s // 60,
        max_nodes=parse_number(fields.get("MaxNodes", "")),
        qos="" if qos == "N/A" else qos,
        accounts=() if accounts == "ALL" else tuple(accounts.split(",")),
    )


def _node(fields: Mapping[str, str]) -> Node:
    gpus = sum(
        int(count)
        for one in re.split(r",(?![^(]*\))", fields.get("Gres", ""))
        if (one + ":").startswith("gpu:")
        for count in [re.sub(r"\(.*", "", one).rpartition(":")[2]]
        if count.isdecimal()
    )
    return Node(
        name=fields["NodeName"],
        host=fields.get("NodeHostName", fields["NodeName"]),
        cpus=parse_number(fields.get("CPUEfctv", fields.get("CPUTot", ""))) or 0,
        memory_mb=parse_number(fields.get("RealMemory", "")) or 0,
        gpus=gpus,
        partitions=parse_names(fields.get("Partitions", "")),
    )
