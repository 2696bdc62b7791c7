"""Nodes that are apart: each a network namespace with an address, a name and a firewall of its own.

network = make_network(layout.folder, ["n1", "n2"])     # as root; a switch must run beside it
network.command("n1", ["slurmd"])                       # what runs a command on a node
network.remove()
"""

import ipaddress
import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

_FILE, _CABLES = "network.json", "cables.json"
# The largest that an interface takes: fewer and longer frames keep the switch from being what
# limits the tasks.
_MTU = 65000
LOGIN = "login"
"""The cable of the machine itself, from which jobs are submitted and where slurmctld runs."""


@dataclass(frozen=True)
class Network:
    """The network of a cluster.

    Attributes:
        folder: That of the cluster.
        token: Tells its interfaces and namespaces from those of other clusters.
        subnet: Of all addresses.
        nodes: Their names.
    """

    folder: Path
    token: str
    subnet: str
    nodes: tuple[str, ...]

    @property
    def cables(self) -> Path:
        """What each cable does; the switch reads it."""
        return self.folder / _CABLES

    def address(self, node: str) -> str:
        """The address of a node, or of the machine itself."""
        number = 254 if node == LOGIN else self.nodes.index(node) + 1
        return str(ipaddress.ip_network(self.subnet)[number])

    def command(self, node: str, command: Sequence[str]) -> list[str]:
        """The words that run a command on a node, in place of the process that runs them."""
        # Not `ip netns exec`, whose own /sys hides the cgroups.
        inside = ["nsenter", f"--net=/run/netns/{self._space(node)}", "unshare", "--uts", "--mount"]
        named = 'mount --bind "$1" /etc/hosts && hostname "$0" && shift && exec "$@"'
        return [*inside, "sh", "-c", named, node, str(self._hosts(node)), *command]

    def connect(self) -> None:
        """Gives each node its interface; the switch has made it."""
        for node in (LOGIN, *self.nodes):
            name = self._interface(node)
            inside = [] if node == LOGIN else ["-n", self._space(node)]
            if inside:
                _ip("link", "set", name, "netns", self._space(node))
                _ip(*inside, "link", "set", name, "name", "eth0")
                _ip(*inside, "link", "set", "lo", "up")
                name = "eth0"
            _ip(*inside, "address", "add", f"{self.address(node)}/24", "dev", name)
            _ip(*inside, "link", "set", name, "mtu", str(_MTU), "up")

    def change_cable(self, node: str, **settings: float) -> None:
        """Unplugs a cable, or makes it slow or lossy."""
        cables = json.loads(self.cables.read_text())
        cables[node] |= settings
        beside = self.cables.with_suffix(".new")
        beside.write_text(json.dumps(cables, indent=1))
        beside.replace(self.cables)

    def prepare(self) -> None:
        """Makes the namespaces, their files and the list of cables.

        Raises:
            OSError: If this is not allowed here.
        """
        (self.folder / _FILE).write_text(
            json.dumps({**asdict(self), "folder": str(self.folder)}, indent=1)
        )
        cable = {"delay_ms": 0, "loss": 0, "plugged": True}
        every = {node: {"interface": self._interface(node), **cable} for node in self._places}
        self.cables.write_text(json.dumps(every, indent=1))
        lines = [f"{self.address(node)} {node}" for node in self.nodes]
        lines += ["127.0.0.1 localhost", f"{self.address(LOGIN)} {socket.gethostname()}"]
        for node in self.nodes:
            _ip("netns", "add", self._space(node))
            self._hosts(node).write_text("\n".join(lines) + "\n")

    def remove(self) -> None:
        """Removes all that is left of it; what is gone already is fine."""
        for node in self.nodes:
            with suppress(OSError):
                _ip("netns", "delete", self._space(node))
        (self.folder / _FILE).unlink(missing_ok=True)

    @property
    def _places(self) -> tuple[str, ...]:
        return (LOGIN, *self.nodes)

    def _hosts(self, node: str) -> Path:
        return self.folder / f"hosts-{node}"

    def _space(self, node: str) -> str:
        return f"dnnjob-{self.token}-{node}"

    def _interface(self, node: str) -> str:
        return f"dj{self.token}-{node}"


def why_no_network() -> str | None:
    """Why there can be no nodes that are apart here; None if there can."""
    if os.geteuid():
        return "Network namespaces are root's to make"
    if missing := [name for name in ("ip", "nsenter", "unshare") if _find(name) is None]:
        return (
            f"Nodes that are apart need {', '.join(missing)}: apt-get install iproute2 util-linux"
        )
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "Nodes that are apart need /dev/net/tun (modprobe tun)"
    trial = f"dnnjob-{secrets.token_hex(3)}"
    try:
        _ip("netns", "add", trial)
        _ip("netns", "delete", trial)
    except OSError as error:
        return f"Network namespaces are not allowed here: {error}"
    return None


def draw_network(folder: Path, nodes: Sequence[str]) -> Network:
    """A network with a name and addresses that nothing here has."""
    used = [
        ipaddress.ip_network(part, strict=False)
        for line in _ip("-o", "-4", "address").splitlines()
        for part in line.split()
        if "/" in part and part[0].isdecimal()
    ]
    free = [
        subnet
        for number in range(1, 255)
        if not any(
            (subnet := ipaddress.ip_network(f"10.213.{number}.0/24")).overlaps(one) for one in used
        )
    ]
    return Network(folder, secrets.token_hex(2), str(secrets.choice(free)), tuple(nodes))


def read_network(folder: Path) -> Network | None:
    """The network of a cluster; None where its nodes are not apart."""
    try:
        stored = json.loads((folder / _FILE).read_text())
    except FileNotFoundError:
        return None
    return Network(folder, stored["token"], stored["subnet"], tuple(stored["nodes"]))


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
