"""Jobs on nodes that are processes of their own: workers on different nodes, shards of other nodes, nodes that die."""

import json
import os
import shutil
import subprocess
import threading
from itertools import groupby
from pathlib import Path

import pytest

import emo_ray
from emo_ray.config import dump, override
from emo_ray.experiments.chaos.contents import contents, differences
from emo_ray.experiments.chaos.nodes import Nodes
from emo_ray.experiments.chaos.running import command_of
from emo_ray.stages.fitting.epoch_log import history
from emo_ray.store import read_meta

pytestmark = pytest.mark.slow


class Job:
    """A job in a process of its own, on the cluster."""

    def __init__(self, nodes, name, recipe, *words):
        self.log = Path(recipe).with_name(f"{name}.txt")
        command = command_of(name, [str(recipe), *words], nodes.variables)
        quiet = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))}
        with self.log.open("a") as stderr:
            self.driver = subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, stderr=stderr, text=True)

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
    with Nodes(tmp_path) as cluster:
        yield cluster


def recipe_of(tiny_config, folder, **changes):
    folder.mkdir()
    settings = {"store.root": str(folder / "store"), "tracking.enabled": False, "train.num_workers": 2}
    config = override(tiny_config, {**settings, "train.placement": "spread", **changes})
    (folder / "recipe.yaml").write_text(dump(config))
    return folder / "recipe.yaml"


def test_workers_on_two_nodes_train_and_sweep_on_shards_that_another_node_wrote(nodes, tiny_config, tmp_path):
    recipe = recipe_of(tiny_config, tmp_path / "job")
    writer = nodes.add(2)
    Job(nodes, "prepare", recipe).finish()
    nodes.kill(writer)
    readers = {nodes.add(2), nodes.add(2)}
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


def test_training_shrinks_when_a_machine_leaves_and_grows_when_one_comes(nodes, tiny_config, tmp_path):
    """Batches are others then, and so are weights; the epochs are all there, and the model is usable.

    Two workers share the 35 clips with video as 17 each, so the clips of an epoch tell how many trained.
    """
    leaves, stays = (nodes.add(4) for _ in range(2))
    # Ray takes a report of each worker at most once a second: no epoch is shorter, so some are left after the growth.
    nodes.variables |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "8"}
    changes = {"train.min_workers": 1, "train.epochs": 66, "fusion.kind": "linear", "modalities": ["video"]}
    recipe = recipe_of(tiny_config, tmp_path / "job", **changes)
    job, store = Job(nodes, "train", recipe), recipe.parent / "store"

    def is_trained_by(workers):
        epochs = [row for folder in store.glob("train/emovclip-*") for row in history(folder)]
        return len(epochs) > 3 and epochs[-1]["train_clips"] == {1: 35, 2: 34}[workers]

    assert job.until(lambda: is_trained_by(2))  # for more than an epoch: the last one may have to be run again
    assert nodes.places("RayTrainWorker") == {leaves, stays}
    nodes.kill(leaves)
    assert job.until(lambda: is_trained_by(1))
    assert nodes.places("RayTrainWorker") == {stays}
    comes = nodes.add(4)
    assert job.until(lambda: is_trained_by(2))
    assert nodes.places("RayTrainWorker") == {stays, comes}
    path = job.finish()
    epochs = read_meta(path / "emovclip")["history"]
    assert [row["epoch"] for row in epochs] == list(range(66))
    sizes = [size for size, _ in groupby(row["train_clips"] for row in epochs)]
    assert sizes == [34, 35, 34]
    clips = sorted(store.glob("corpora/**/*.mp4"))[:8]
    predictions = emo_ray.load(path, settings={"store.root": str(store)}).predict(clips)
    assert sum(prediction.label is not None for prediction in predictions) > 4  # some clips are made without video


def test_nodes_that_are_killed_in_each_stage_change_nothing(nodes, tiny_config, tmp_path):
    changes = {"train.epochs": 4, "media.clips_per_part": 4}
    living = [nodes.add(1) for _ in range(3)]
    recipe = recipe_of(tiny_config, tmp_path / "job", **changes)
    Job(nodes, "train", recipe).finish()
    # The same folder, which checkpoints name, and the same corpus.
    store, kills = recipe.parent / "store", []
    undisturbed = store.rename(recipe.parent / "undisturbed")
    shutil.copytree(undisturbed / "corpora", store / "corpora")
    job = Job(nodes, "train", recipe)
    for stage, pattern in {
        "decoding": "shards/*/part-*.parquet",
        "training EmoVCLIP": "train/emovclip-*/metrics.jsonl",
        "encoding": "features/*/part-*.parquet",
        "training the head": "train/fusion-*/metrics.jsonl",
    }.items():
        if job.until(lambda pattern=pattern: any(store.glob(pattern))):
            nodes.kill(living.pop(0))
            living.append(nodes.add(1))
            kills.append(stage)
    job.finish()
    assert len(kills) >= 3, kills
    assert "training EmoVCLIP" in kills
    assert differences(contents(undisturbed), contents(store)) == ""
