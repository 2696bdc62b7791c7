"""What happens to a run on a Slurm cluster that is there for it alone.

requeue(scene, "all")
"""

import signal
import time

from dnnjob.runs import read_submission
from tests.chaos.scene import Missed, Scene
from tests.slurm.clusters import missing_programs

_NODES = "n1,n2"


def cluster_options() -> list[str]:
    """What the cluster is started with: with accounting, where this machine can have it."""
    accounting = [] if lacks_accounting() else ["--accounting"]
    return ["--nodes=2", "--cpus=2", *accounting]


def lacks_accounting() -> str | None:
    """Why the cluster has no accounting; None if it has."""
    missing = missing_programs(accounting=True)
    return f"{', '.join(missing)} of Slurm's accounting is not installed" if missing else None


def requeue(scene: Scene, target: str) -> None:
    """Somebody sends its jobs back to the queue."""
    for job_id in _job_ids(scene):
        scene.cluster.try_asking("scontrol", "requeue", job_id)


def requeue_and_hold(scene: Scene, target: str) -> None:
    """Somebody sends its jobs back and holds them there for some seconds."""
    for job_id in _job_ids(scene):
        scene.cluster.try_asking("scontrol", "requeuehold", job_id)
    time.sleep(scene.rng.uniform(2.0, 5.0))
    for job_id in _job_ids(scene):
        scene.cluster.try_asking("scontrol", "release", job_id)


def restart_controller(scene: Scene, target: str) -> None:
    """The daemon that knows all jobs ends and comes back."""
    scene.cluster.run("restart")


def end_accounting(scene: Scene, target: str) -> None:
    """The daemon that knows the jobs that are over hangs or dies for some seconds."""
    pause_s = scene.rng.uniform(2.0, 15.0)
    if scene.rng.random() < 0.5:
        scene.cluster.end_daemon("slurmdbd")
        time.sleep(pause_s)
        scene.cluster.run("restart", "slurmdbd")
        return
    scene.cluster.signal_daemon("slurmdbd", signal.SIGSTOP)
    time.sleep(pause_s)
    scene.cluster.signal_daemon("slurmdbd", signal.SIGCONT)


def drain(scene: Scene, target: str) -> None:
    """Its nodes take no more jobs for some seconds, and its jobs go back to the queue."""
    change = ("scontrol", "update", f"NodeName={_NODES}")
    scene.cluster.try_asking(*change, "State=DRAIN", "Reason=chaos")
    requeue(scene, target)
    time.sleep(scene.rng.uniform(2.0, 5.0))
    scene.cluster.try_asking(*change, "State=RESUME")


def preempt(scene: Scene, target: str) -> None:
    """A more urgent job takes its nodes."""
    scene.cluster.preempt(nodes=2)


def kill_node(scene: Scene, target: str) -> None:
    """A node dies without a word, and comes back."""
    node = scene.rng.choice(_NODES.split(","))
    scene.cluster.run("kill", node)
    time.sleep(scene.rng.uniform(1.0, 5.0))
    scene.cluster.run("revive", node)


def _job_ids(scene: Scene) -> list[str]:
    told = [read_submission(paths) for paths in scene.runs]
    ids = [one.job_id for one in told if one is not None and one.job_id]
    if not ids:
        raise Missed
    return ids
