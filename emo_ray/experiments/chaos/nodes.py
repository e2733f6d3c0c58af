"""A Ray cluster whose nodes are processes of this machine: they join and die as a fault asks for it."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
from ray._private.ray_constants import AGENT_PROCESS_LIST

from emo_ray.experiments.chaos.running import ROOT

# Adds a node, kills one, and tells which actors run where, as its input says. The head runs no tasks, so that the
# processes by which Ray leads a job, and which it does not replace, are on no node that dies.
_PROGRAM = """
import json, sys
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
nodes = {}
print(json.dumps(cluster.address), flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    answer = None
    if word == "add":
        node = cluster.add_node(num_cpus=int(rest[0]))
        nodes[node.node_id] = node
        cluster.wait_for_nodes(timeout=300)
        answer = [node.node_id, node.all_processes["raylet"][0].process.pid]
    elif word == "kill":
        cluster.remove_node(nodes.pop(rest[0]), allow_graceful=False)
    elif word == "actors":
        answer = [[a["ActorClassName"], a["Address"]["NodeID"]] for a in actors().values() if a["State"] == "ALIVE"]
    print(json.dumps(answer), flush=True)
ray.shutdown()  # else the cluster refuses to remove the node that this process is connected to
cluster.shutdown()
"""
_QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "PYTHONPATH": str(ROOT),
    "RAY_health_check_period_ms": "500",  # a dead node is noticed within ten seconds, a busy one is not taken for dead
    "RAY_health_check_failure_threshold": "20",
    "RAY_raylet_start_wait_time_s": "300",  # a busy machine takes its time
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}
_ENDING_S = 60.0
_NO_WORK = ("ray::IDLE", *AGENT_PROCESS_LIST)  # a node ends with its agents


class Nodes(AbstractContextManager):
    """The cluster. `living` holds the process id of each node's raylet, by the node's id."""

    def __init__(self, folder: Path):
        environment = psutil.Process().environ()  # as this process got it, without what Ray has added
        kept = {key: value for key, value in environment.items() if not key.startswith(("RAY_", "TUNE_"))}
        self.errors = folder / "nodes.txt"
        with self.errors.open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM],
                env={**kept, **_QUICK},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.living: dict[str, int] = {}
        self.variables = {**_QUICK, "RAY_ADDRESS": self._answer()}  # in the environment of jobs on it

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=_ENDING_S)  # the end of its input ends it

    def add(self, cpus: int) -> str:
        """Start a node; its id."""
        node, raylet = self._ask("add", cpus)
        self.living[node] = raylet
        return node

    def kill(self, node: str) -> None:
        """Kill a node, which cannot say goodbye."""
        del self.living[node]
        self._ask("kill", node)

    def places(self, *kinds: str) -> set[str]:
        """The nodes on which actors of these classes are alive."""
        return {node for name, node in self._ask("actors") if any(kind in name for kind in kinds)}

    def workers(self) -> dict[str, list[psutil.Process]]:
        """The processes on living nodes that do something for a job, by what Ray calls them."""
        named: dict[str, list[psutil.Process]] = {}
        for raylet in self.living.values():
            for process in psutil.Process(raylet).children():
                try:
                    title = process.cmdline()[0]
                except (psutil.Error, IndexError):  # it has just ended
                    continue
                if title.startswith("ray::") and not title.startswith(_NO_WORK):
                    named.setdefault(title, []).append(process)
        return named

    def _ask(self, *words: object) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("[", '"', "null")):  # Ray prints, too
                return json.loads(line)
        raise RuntimeError(f"the cluster has ended: {self.errors.read_text(errors='replace')[-2000:]}")
