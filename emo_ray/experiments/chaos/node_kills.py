"""Nodes, train workers and data workers of a cluster, killed at random moments of a job that ends all the same."""

import time
from collections.abc import Callable
from functools import partial

import psutil

from emo_ray.experiments.chaos import faults
from emo_ray.experiments.chaos.nodes import Nodes
from emo_ray.experiments.chaos.running import Running, finished
from emo_ray.experiments.chaos.workshop import Workshop

NODES, CPUS = 3, 2  # of each
_DATA, _ALL = ("node", "data worker"), ("node", "data worker", "train worker")
KILLED = {
    "prepare": _DATA,
    "features": _DATA,
    "train": _ALL,
    "evaluate": ("node",),  # training has made the features of all clips: no data worker has anything to do
    "predict": _DATA,
    "pseudo_label": _DATA,
    "self_train": _ALL,
    "tune": _DATA,
    "crossvalidate": _DATA,
}
_TRAINS = ("RayTrainWorker", "ImplicitFunc", "trial")  # actors of Ray Train and of Ray Tune
_MOST_DRAWS = 5  # of moments, where the job ended before one, or had nothing to kill after it


def _kill_node(nodes: Nodes, workshop: Workshop) -> bool:
    """Kill any node, and start another one in its place."""
    nodes.kill(workshop.dice.choice(sorted(nodes.living)))
    nodes.add(CPUS)
    return True


def _kill_worker(nodes: Nodes, workshop: Workshop, trains: bool) -> bool:
    """Kill a process that trains, or any other one of a job; whether there was one."""
    workers = nodes.workers()
    titles = [title for title in workers if any(name in title for name in _TRAINS) == trains]
    victims = sorted((process for title in titles for process in workers[title]), key=lambda process: process.pid)
    if not victims:
        return False
    try:
        workshop.dice.choice(victims).kill()
    except psutil.NoSuchProcess:
        return False
    return True


_KILLS: dict[str, Callable[[Nodes, Workshop], bool]] = {
    "node": _kill_node,
    "data worker": partial(_kill_worker, trains=False),
    "train worker": partial(_kill_worker, trains=True),
}


def _kill_in(workshop: Workshop, job: str) -> str:
    """Kill one of each kind, in a run of the job for each."""
    inside, nodes = workshop.on_nodes(NODES, CPUS)
    inside.dice = workshop.dice
    inside.undisturbed(job)
    moments = [f"{kind} after {_kill_once(inside, nodes, job, kind):.1f} s" for kind in KILLED[job]]
    return f"{len(moments)} of {len(moments)} equal ({', '.join(moments)} of {inside.seconds[job]:.0f})"


def _kill_once(workshop: Workshop, nodes: Nodes, job: str, kind: str) -> float:
    """The seconds after the job's start at which it lost something of the kind.

    Where nothing was left to kill after a moment, the next one is drawn before it: some jobs have workers only early.
    """
    latest_s = workshop.seconds[job]
    for _ in range(_MOST_DRAWS):
        workshop.open_store(job)
        running = workshop.start(job)
        latest_s = workshop.dice.uniform(0, latest_s)
        running.wait(latest_s)
        moment_s = _first_kill(running, partial(_KILLS[kind], nodes, workshop))
        finished(running.end())
        workshop.is_equal(job)
        if moment_s is not None:
            return moment_s
    raise faults.Unexpected(f"it ended before {_MOST_DRAWS} random moments, or had no {kind} after them")


def _first_kill(running: Running, kill: Callable[[], bool]) -> float | None:
    """Try to kill until it succeeds; the seconds after the start, or None where the job has ended before."""
    moments_s: list[float] = []

    def is_over() -> bool:
        if not running.has_ended() and kill():
            moments_s.append(time.monotonic() - running.begun_s)
        return bool(moments_s) or running.has_ended()

    running.until(is_over)
    return moments_s[0] if moments_s else None


for _job in KILLED:
    faults.add(faults.Fault(f"kills on nodes {_job}", "nodes", "ends well; equal", partial(_kill_in, job=_job)))
