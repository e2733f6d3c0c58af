"""Jobs on nodes that are processes of their own: workers on different nodes, shards of other nodes, nodes that die."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emo_ray.config import dump, override
from emo_ray.experiments.chaos.contents import contents, differences

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
# A cluster whose head runs no tasks. It adds a node, kills one, and tells which actors run where, as its input says.
NODES = """
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
        cluster.wait_for_nodes()
        answer = node.node_id
    elif word == "kill":
        cluster.remove_node(nodes.pop(rest[0]), allow_graceful=False)
    elif word == "actors":
        answer = [[a["ActorClassName"], a["Address"]["NodeID"]] for a in actors().values() if a["State"] == "ALIVE"]
    print(json.dumps(answer), flush=True)
cluster.shutdown()
"""
QUICK = {
    "RAY_AUTH_MODE": "disabled",
    "PYTHONPATH": str(ROOT),
    "RAY_health_check_period_ms": "500",  # a dead node is noticed within seconds, not half a minute
    "RAY_health_check_failure_threshold": "6",
    "RAY_raylet_start_wait_time_s": "300",  # a busy machine takes its time
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}


class Nodes:
    """The cluster of `NODES`, in a process of its own."""

    def __init__(self, folder):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))}
        self.environment = {**kept, **QUICK}
        with (folder / "nodes.txt").open("w") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", NODES],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.environment["RAY_ADDRESS"] = self._answer()

    def ask(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith(("[", '"', "null")):  # Ray prints, too
                return json.loads(line)
        raise AssertionError("the cluster has ended")

    def places(self, *kinds):
        """The nodes on which actors of these classes are alive."""
        return {node for name, node in self.ask("actors") if any(kind in name for kind in kinds)}


class Job:
    """A job in a process of its own, on the cluster."""

    def __init__(self, nodes, name, recipe, *words):
        self.log = Path(recipe).with_name(f"{name}.txt")
        command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), str(recipe), *words]
        with self.log.open("a") as stderr:
            self.driver = subprocess.Popen(
                command, env=nodes.environment, stdout=subprocess.PIPE, stderr=stderr, text=True
            )

    def until(self, done):
        """Wait until `done()` or the job's end; returns whether the job is still at work."""
        waiting = threading.Event()
        while self.driver.poll() is None:
            if done():
                return True
            waiting.wait(0.1)
        return False

    def finish(self):
        out, _ = self.driver.communicate(timeout=900)
        assert self.driver.returncode == 0, self.log.read_text()
        return Path(out.strip())


@pytest.fixture
def nodes(tmp_path):
    cluster = Nodes(tmp_path)
    yield cluster
    cluster.process.stdin.close()
    cluster.process.wait(60)
    cluster.process.stdout.close()


def recipe_of(tiny_config, folder, **changes):
    folder.mkdir()
    settings = {"store.root": str(folder / "store"), "tracking.enabled": False, "train.num_workers": 2}
    config = override(tiny_config, {**settings, "train.placement": "spread", **changes})
    (folder / "recipe.yaml").write_text(dump(config))
    return folder / "recipe.yaml"


def test_workers_on_two_nodes_train_and_sweep_on_shards_that_another_node_wrote(nodes, tiny_config, tmp_path):
    recipe = recipe_of(tiny_config, tmp_path / "job")
    writer = nodes.ask("add", 2)
    Job(nodes, "prepare", recipe).finish()
    nodes.ask("kill", writer)
    readers = {nodes.ask("add", 2), nodes.ask("add", 2)}
    training, places = Job(nodes, "train", recipe), set()
    training.until(lambda: places.update(nodes.places("RayTrainWorker")))
    assert (training.finish() / "model.safetensors").exists()
    assert places == readers
    sweep = {"tune.trials": 4, "tune.bulk": "no", "train.num_workers": 1}
    trials, places = Job(nodes, "tune", recipe, *(f"{key}={value}" for key, value in sweep.items())), set()
    trials.until(lambda: places.update(nodes.places("ImplicitFunc", "trial")))
    content = json.loads((trials.finish() / "sweep.json").read_text())
    assert [trial["state"] for trial in content["trials"]].count("complete") >= 1
    assert len(content["trials"]) == 4
    assert places <= readers
    assert places


def test_training_that_may_shrink_goes_on_with_the_machines_that_are_left(nodes, tiny_config, tmp_path):
    """It makes other batches then, so its weights are others; its epochs are all there."""
    leaves, stays = (nodes.ask("add", 4) for _ in range(2))
    recipe = recipe_of(tiny_config, tmp_path / "job", **{"train.min_workers": 1, "train.epochs": 30})
    job, store = Job(nodes, "train", recipe), recipe.parent / "store"
    assert job.until(lambda: any(store.glob("train/emovclip-*/metrics.jsonl")))
    assert nodes.places("RayTrainWorker") == {leaves, stays}
    nodes.ask("kill", leaves)
    assert job.until(lambda: nodes.places("RayTrainWorker") == {stays})
    job.finish()
    (meta,) = store.glob("checkpoints/emovclip-*/meta.json")
    assert len(json.loads(meta.read_text())["history"]) == 30


def test_nodes_that_are_killed_in_each_stage_change_nothing(nodes, tiny_config, tmp_path):
    changes = {"train.epochs": 4, "media.clips_per_part": 4}
    living = [nodes.ask("add", 1) for _ in range(3)]
    undisturbed = recipe_of(tiny_config, tmp_path / "undisturbed", **changes)
    Job(nodes, "train", undisturbed).finish()
    recipe = recipe_of(tiny_config, tmp_path / "killed", **changes)
    # The corpus is the same one, so that file names in manifests are.
    shutil.copytree(undisturbed.parent / "store" / "corpora", recipe.parent / "store" / "corpora")
    store, kills = recipe.parent / "store", []
    job = Job(nodes, "train", recipe)
    for stage, pattern in {
        "decoding": "shards/*/part-*.parquet",
        "training EmoVCLIP": "train/emovclip-*/metrics.jsonl",
        "encoding": "features/*/*/part-*.parquet",
        "training the head": "train/fusion-*/metrics.jsonl",
    }.items():
        if job.until(lambda pattern=pattern: any(store.glob(pattern))):
            nodes.ask("kill", living.pop(0))
            living.append(nodes.ask("add", 1))
            kills.append(stage)
    job.finish()
    assert len(kills) >= 3, kills
    assert "training EmoVCLIP" in kills
    assert differences(contents(undisturbed.parent / "store"), contents(store)) == ""
