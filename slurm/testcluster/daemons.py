"""The daemons of one cluster: started, found again, ended; never anyone else's.

start_daemons(layout, options)
stop_daemons(layout)
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from network import read_network
from settings import Layout, Options, read_setting, user_name

PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
}


class ClusterError(Exception):
    """Something that the one who starts a cluster can mend."""


def start_daemons(layout: Layout, options: Options) -> None:
    """Starts everything, and returns when every node is ready for jobs.

    Raises:
        ClusterError: If a daemon is missing or does not come up.
    """
    _require(["munged", "slurmctld", "slurmd", "sbatch"])
    if options.network:
        options.network.prepare()
        switch = str(Path(__file__).with_name("switch.py"))
        _start(layout, sys.executable, switch, str(options.network.cables), name="switch")
        _wait(layout, "switch", lambda: "ready" in layout.log("switch").read_text())
        options.network.connect()
    munged = ["--foreground", "--force", "--origin=127.0.0.1"]
    munged += [f"--key-file={layout.munge_key}", f"--socket={layout.munge_socket}"]
    munged += [f"--pid-file={layout.folder}/munged.pid", f"--seed-file={layout.folder}/munged.seed"]
    _start(layout, "munged", *munged, f"--log-file={layout.log('munged.own')}")
    _wait(layout, "munged", layout.munge_socket.is_socket)
    if options.accounting:
        _start_accounting(layout)
        _register(layout, options)
    _start_controller(layout)
    for node in options.node_names:
        start_node(layout, node)
    ready = {*options.node_names}
    _wait(layout, "slurmctld", lambda: ready <= {*_ready_nodes(layout)})


def restart_daemon(layout: Layout, name: str) -> None:
    """Ends slurmctld or slurmdbd and starts it anew; jobs go on meanwhile."""
    identity = _read_daemons(layout).get(name)
    if identity is None:
        raise ClusterError(f"No {name} runs in {layout.folder}, so it cannot start again.")
    # It is asked to, not killed: what it has not saved yet would be lost.
    _end(identity)
    match name:
        case "slurmdbd":
            _start_bookkeeper(layout)
        case _:
            _start_controller(layout)


def _start_controller(layout: Layout) -> None:
    _start(layout, "slurmctld", "-D", "-f", str(layout.conf))
    _wait(layout, "slurmctld", lambda: bool(ask(layout, "scontrol", "ping").count("is UP")))


def start_node(layout: Layout, node: str) -> None:
    """Starts the slurmd of one node."""
    command = [_find("slurmd"), "-D", "-f", str(layout.conf), "-N", node]
    if network := read_network(layout.folder):
        command = network.command(node, command)
    # A slurmstepd stays in this folder, and so can be told from those of other nodes.
    _start(layout, *command, name=node, folder=layout.spool(node))


def stop_daemons(layout: Layout) -> None:
    """Ends jobs and daemons of this cluster, nobody else's; what has ended already is fine."""
    daemons = _read_daemons(layout)
    if _is_running(daemons.get("slurmctld")):
        with suppress(ClusterError):
            ask(layout, "scancel", "--user", user_name())
            ask(layout, "scancel", "--user", user_name(), "--signal=KILL", "--full")
            _wait(layout, "slurmctld", lambda: not ask(layout, "squeue", "-h"), seconds=10)
    # Nodes first, the database last: each daemon reports its end to the next.
    for name in reversed(daemons):
        _end(daemons[name])
    for pid in [*_find_leftovers(layout)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    layout.daemons.unlink(missing_ok=True)
    if network := read_network(layout.folder):
        network.remove()


def kill_node(layout: Layout, node: str) -> None:
    """Lets a node die as when its power fails: slurmd, steps and jobs, without a word."""
    identity = _read_daemons(layout).get(node)
    if not _is_running(identity):
        raise ClusterError(f"A node that runs can be killed, but {node} does not run.")
    spool = layout.spool(node)
    victims = [pid for pid in _find_leftovers(layout) if _belongs_to_node(pid, node, spool)]
    for pid in [_pid(identity), *victims]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def ask(layout: Layout, *command: str) -> str:
    """What a Slurm command of this cluster prints; empty where it fails.

    Raises:
        ClusterError: If it does not answer.
    """
    done = _call(layout, command)
    return done.stdout.strip() if done.returncode == 0 else ""


def tell(layout: Layout, *command: str) -> None:
    """Runs a Slurm command that must succeed.

    Raises:
        ClusterError: If it fails.
    """
    done = _call(layout, command)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)} failed: {done.stderr.strip()}")


def running(layout: Layout) -> list[str]:
    """Names of the daemons that run."""
    return [name for name, identity in _read_daemons(layout).items() if _is_running(identity)]


def _call(layout: Layout, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environ |= {"SLURM_CONF": str(layout.conf)}
    try:
        return subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=30, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(command)} does not answer; see {layout.logs}.") from error


def _start_accounting(layout: Layout) -> None:
    _require(["slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults"])
    # Tables on their way have the same names in every database: none of /tmp.
    temporary = layout.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    own = ["--no-defaults", f"--datadir={layout.database}", f"--user={user_name()}"]
    own += [f"--tmpdir={temporary}"]
    if not layout.database.exists():
        install = ["mariadb-install-db", *own, "--skip-test-db"]
        install += ["--auth-root-authentication-method=socket"]
        with layout.log("mariadb-install-db").open("ab") as log:
            done = subprocess.run(install, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise ClusterError(f"MariaDB made no database; see {log.name}.")
    _start(
        layout,
        "mariadbd",
        *own,
        f"--socket={layout.folder}/database.socket",
        f"--pid-file={layout.folder}/mariadbd.pid",
        f"--init-file={layout.database_users}",
        f"--port={read_setting(layout.dbd_conf, 'StoragePort')}",
        "--bind-address=127.0.0.1",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
        # Nothing here outlives the machine: commits need not reach the disk.
        "--innodb-flush-log-at-trx-commit=0",
    )
    ready = "ready for connections"
    _wait(layout, "mariadbd", lambda: ready in layout.log("mariadbd").read_text(errors="replace"))
    _start_bookkeeper(layout)


def _start_bookkeeper(layout: Layout) -> None:
    _start(layout, "slurmdbd", "-D")
    _wait(layout, "slurmdbd", lambda: bool(ask(layout, "sacctmgr", "-n", "show", "stats")))


def _register(layout: Layout, options: Options) -> None:
    """An account and a limit, as a real cluster has them; slurmctld starts with both."""
    manager = ("sacctmgr", "-i")
    cluster, user = f"cluster={options.name}", f"user={user_name()}"
    ask(layout, *manager, "add", "cluster", options.name)
    ask(layout, *manager, "add", "qos", "few", "MaxSubmitJobsPerUser=50", "MaxJobsPerUser=4")
    ask(layout, *manager, "add", "account", "lab", cluster)
    ask(layout, *manager, "add", "user", user_name(), "account=lab", cluster, "qos=normal,few")
    ask(layout, *manager, "modify", "user", user_name(), "set", "defaultaccount=lab")
    made = ask(layout, "sacctmgr", "-n", "-P", "show", "assoc", user, "format=account,qos")
    if "lab|few,normal" not in made:
        raise ClusterError(f"slurmdbd registered {made!r} instead of the account lab.")


def _start(
    layout: Layout,
    program: str,
    *arguments: str,
    name: str | None = None,
    folder: Path | None = None,
) -> None:
    name = name or program
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environ["SLURM_CONF"] = str(layout.conf)
    with layout.log(name).open("ab") as log:
        process = subprocess.Popen(
            [_find(program), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ,
            cwd=folder or layout.folder,
            start_new_session=True,
        )
    daemons = _read_daemons(layout) | {name: _identify(process.pid)}
    layout.daemons.write_text(json.dumps(daemons, indent=1))


def _wait(layout: Layout, name: str, is_ready: Callable[[], bool], *, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not is_ready():
        if not _is_running(_read_daemons(layout).get(name)):
            raise ClusterError(f"{name} has ended. It said:\n{_tail(layout.log(name))}")
        if time.monotonic() > until:
            raise ClusterError(
                f"{name} was not ready after {seconds:.0f} s. It said:\n{_tail(layout.log(name))}"
            )
        time.sleep(0.05)


def _end(identity: str) -> None:
    """SIGTERM, and SIGKILL to what has not ended after ten seconds."""
    pid = _pid(identity)
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + 10
        while _is_running(identity):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(0.1)
            if time.monotonic() > until:
                break


def _ready_nodes(layout: Layout) -> list[str]:
    lines = ask(layout, "sinfo", "-h", "-N", "-o", "%N %T").splitlines()
    states = dict(line.split() for line in lines)
    return [node for node, state in states.items() if state in ("idle", "mixed", "allocated")]


def _find_leftovers(layout: Layout) -> Iterator[int]:
    """Processes of jobs and their slurmstepd, known by their environment."""
    conf = f"SLURM_CONF={layout.conf}".encode()
    for pid in _own_processes():
        variables = _read(Path(f"/proc/{pid}/environ")).split(b"\0")
        # A shell that talks to the cluster has its SLURM_CONF too, but no job.
        in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
        if conf in variables and (in_job or _read_name(pid) == "slurmstepd"):
            yield pid


def _belongs_to_node(pid: int, node: str, spool: Path) -> bool:
    variables = _read(Path(f"/proc/{pid}/environ")).split(b"\0")
    if f"SLURMD_NODENAME={node}".encode() in variables:
        return True
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == spool
    except OSError:
        return False


def _own_processes() -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            yield int(folder.name)


def _read_name(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/comm")).decode(errors="replace").strip()


def _identify(pid: int) -> str:
    """What tells a process from a later one with its number."""
    return f"{pid}/{_started(pid)}"


def _pid(identity: str) -> int:
    return int(identity.partition("/")[0])


def _is_running(identity: str | None) -> bool:
    if identity is None:
        return False
    started = identity.partition("/")[2]
    return started != "" and _started(_pid(identity)) == started


def _started(pid: int) -> str:
    # The name may hold blanks and brackets; state and start time stand behind it.
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return fields[19].decode() if len(fields) > 19 and fields[0] not in b"ZX" else ""


def _read_daemons(layout: Layout) -> dict[str, str]:
    try:
        return json.loads(layout.daemons.read_text())
    except FileNotFoundError:
        return {}


def _require(programs: list[str]) -> None:
    missing = [program for program in programs if not _find(program)]
    if missing:
        packages = sorted({PACKAGES[program] for program in missing})
        raise ClusterError(
            f"A cluster needs {', '.join(missing)}, not found here. "
            f"On Debian or Ubuntu: apt-get install --no-install-recommends {' '.join(packages)}."
        )


def _find(program: str) -> str:
    # Daemons lie in sbin, which a user's PATH may lack.
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""


def _tail(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-12:])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
