"""pseudo_label while nodes, workers and drivers are killed gives the rows of an undisturbed run.

Ten times the clips need a driver of the same size.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import wave
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from own_files import with_own_files

from emo_ray.config import dump, override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.trainable_state import trained_state
from emo_ray.stages.decoding.corpus import prepare_corpus

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

ROOT = Path(__file__).parents[2]
KILLS = 20
# Imported by every worker before anything else: it logs the parts that are begun, so that repeated ones can be counted.
COUNTING = """
import importlib.util, os, sys

class Counting:
    def find_spec(self, name, path, target=None):
        if name != "emo_ray.stages.predict":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def counted(module):
            load(module)
            original = module.predict_part

            def predict_part(models, shard, *others):
                with open(os.environ["BEGUN"], "a") as log:
                    log.write(shard.name + "\\n")
                return original(models, shard, *others)

            module.predict_part = predict_part

        spec.loader.exec_module = counted
        return spec

sys.meta_path.insert(0, Counting())
"""
MEASURING = """
import os, sys
from emo_ray.config import load
from emo_ray.experiments.bench.timing import high_water_bytes
from emo_ray.stages.pseudo_label import pseudo_label
result = pseudo_label(load(sys.argv[1]))
print(result.content["clips"], high_water_bytes(os.getpid()))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def labelled(tiny_config):
    return prepare_corpus(tiny_config).clips


def teacher_of(tiny_config, evaluated, folder, clips_per_part):
    """The tiny model on parts of another size; a checkpoint brings how clips are decoded."""
    source = Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]
    target = folder / f"teacher-{clips_per_part}"
    if not target.exists():
        shutil.copytree(source, target)
        config, labels = checkpoint_files.read_config(source)
        config = override(config, {"media.clips_per_part": clips_per_part})
        checkpoint.write(target, trained_state(checkpoint.load_fusion(source)), config, labels, "card")
    return target


@pytest.fixture(scope="module")
def config(tiny_config, evaluated, labelled, folder):
    """1,152 unlabelled clips that show what train clips show, in parts of 4."""
    train = [clip for clip in labelled if clip.split == "train"]
    nobody = {"label": None, "split": "unlabelled", "speaker": None}
    pool = [replace(clip, clip_id=f"u-{i}-{clip.clip_id}", **nobody) for i in range(32) for clip in train]
    pool = [with_own_files(clip, folder / "pool") for clip in pool]
    manifest.write(folder / "clips.parquet", [*labelled, *pool])
    return override(
        tiny_config,
        {
            "checkpoint": str(teacher_of(tiny_config, evaluated, folder, 4)),
            "data.manifest": str(folder / "clips.parquet"),
            "pseudo.floor": 0.0,
            "train.num_workers": 1,  # predictions in actors, which can be killed
        },
    )


class Job:
    """jobs/pseudo_label.py in a process of its own, on a running Ray, with a store of its own."""

    def __init__(self, config, folder, address):
        self.store, self.stderr = Path(config.store.root), folder / "stderr.txt"
        (folder / "recipe.yaml").write_text(dump(config))
        self.words = [sys.executable, str(ROOT / "jobs" / "pseudo_label.py"), str(folder / "recipe.yaml"), "--json"]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address}
        self.start()

    def start(self):
        with self.stderr.open("a") as stderr:
            self.driver = subprocess.Popen(
                self.words, stdout=subprocess.PIPE, stderr=stderr, env=self.environment, text=True
            )

    def kill(self):
        self.driver.send_signal(signal.SIGKILL)
        self.driver.communicate()

    def parts(self, kind):
        """The number of parts of this kind in the store."""
        return len(list((self.store / kind).glob("*/part-*.parquet" if kind != "pseudo_labels" else "*/*/part-*")))

    def until(self, done, most_s=600):
        """Wait until `done()`; the driver must still be at work then."""
        waiting, end_s = threading.Event(), time.monotonic() + most_s
        while not done():
            assert self.driver.poll() is None, self.stderr.read_text()
            assert time.monotonic() < end_s, self.stderr.read_text()
            waiting.wait(0.01)

    def finish(self):
        out, _ = self.driver.communicate(timeout=900)
        assert self.driver.returncode == 0, self.stderr.read_text()
        return json.loads(out)


@pytest.fixture
def nodes(monkeypatch, folder, tmp_path):
    """A function that starts a cluster of nodes with these numbers of CPUs; its workers log the parts they begin."""
    from ray.cluster_utils import Cluster

    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(COUNTING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'hook'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("BEGUN", str(tmp_path / "begun.txt"))
    started = []

    def start(*cpus):
        cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,
            head_node_args={"num_cpus": cpus[0], "include_dashboard": False},
        )
        started.append(cluster)
        for count in cpus[1:]:
            cluster.add_node(num_cpus=count)
        return cluster

    yield start
    for cluster in started:
        cluster.shutdown()


def workers(cluster, doing=""):
    """The processes of a cluster that are at work, with `doing` in their names.

    A node's agents are left out, for without one of them the node ends as well.
    """
    from ray._private.ray_constants import AGENT_PROCESS_LIST

    processes = []
    for node in cluster.list_all_nodes():
        for raylet in node.all_processes["raylet"]:
            for process in psutil.Process(raylet.process.pid).children():
                try:
                    name = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                idle = "IDLE" in name or name.startswith(tuple(AGENT_PROCESS_LIST))
                if name.startswith("ray::") and doing in name and not idle:
                    processes.append(process)
    return processes


def bytes_of(path):
    return {part.name: part.read_bytes() for part in Path(path).glob("part-*.parquet")}


@pytest.fixture(scope="module")
def undisturbed(config, folder, ray_session):
    job = Job(
        override(config, {"store.root": str(folder / "undisturbed")}), folder,
        ray_session.get_runtime_context().gcs_address,
    )  # fmt: skip
    path = job.finish()["path"]
    names = [row for part in sorted(bytes_of(path)) for row in pq.read_table(Path(path) / part)["clip_id"].to_pylist()]
    assert len(names) == len(set(names)) == 1152
    return path


def rows_of(store, names):
    """Rows of shard parts."""
    parts = {part.name: part for part in (store / "predictions").glob("parts-*/part-*.parquet")}
    return sum(pq.read_metadata(parts[name]).num_rows * count for name, count in names.items())


def test_a_node_a_worker_and_the_driver_are_killed(config, undisturbed, nodes, tmp_path, capsys):
    cluster = nodes(1, 1, 1)
    job = Job(override(config, {"store.root": str(tmp_path / "store")}), tmp_path, cluster.address)
    try:
        job.until(lambda: job.parts("predictions") >= 20)
        job.kill()
        first = job.parts("predictions")
        job.start()
        job.until(lambda: job.parts("predictions") >= first + 20)
        at_work = workers(cluster, "MapWorker(Map(PredictActor))")
        at_work[0].kill()
        job.until(lambda: job.parts("predictions") >= first + 50)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        lost = job.parts("predictions")
        content = job.finish()
    finally:
        job.kill()
    assert at_work
    assert lost < job.parts("predictions")
    assert bytes_of(content["path"]) == bytes_of(undisturbed)
    begun = Counter((tmp_path / "begun.txt").read_text().split())
    again = rows_of(job.store, begun) - rows_of(job.store, Counter(list(begun)))
    with capsys.disabled():
        print(f"\n3 nodes: killed the driver after {first} parts, then a worker, and a node after {lost}; of ", end="")
        print(f"{rows_of(job.store, Counter(list(begun)))} rows {again} were computed again")


def test_twenty_kills_at_random_moments(config, undisturbed, nodes, tmp_path, capsys):
    dice, cluster = random.Random(0), nodes(2)
    job = Job(override(config, {"store.root": str(tmp_path / "store")}), tmp_path, cluster.address)
    kinds = ("shards", "predictions", "pseudo_labels")
    total = sum(len(list(Path(undisturbed).parents[2].rglob(pattern))) for pattern in (
        "shards/*/part-*.parquet", "predictions/parts-*/part-*.parquet", "pseudo_labels/*/*/part-*.parquet"
    ))  # fmt: skip
    moments, done = sorted(dice.sample(range(total - 10), KILLS)), Counter()
    try:
        for moment in moments:
            job.until(lambda moment=moment: sum(map(job.parts, kinds)) >= moment)
            assert job.driver.poll() is None
            at_work = workers(cluster)
            if at_work and dice.random() < 0.5:
                dice.choice(at_work).kill()
                done["worker"] += 1
            else:
                job.kill()
                done["driver"] += 1
                job.start()
        content = job.finish()
    finally:
        job.kill()
    assert sum(done.values()) == KILLS
    assert min(done["worker"], done["driver"]) >= 3
    assert bytes_of(content["path"]) == bytes_of(undisturbed)
    begun = Counter((tmp_path / "begun.txt").read_text().split())
    once = rows_of(job.store, Counter(list(begun)))
    again = rows_of(job.store, begun) - once
    with capsys.disabled():
        print(f"\n{KILLS} kills ({dict(done)}): of {once} rows {again} were computed again")
    assert again <= KILLS * 2 * 4 * 2  # two actors with a part of four clips each: begun parts and their retries


@pytest.fixture(scope="module")
def many(tiny_config, evaluated, labelled, folder):
    """A function: the config of so many clips, each a fifth of a second of sound and a few words."""
    rng = np.random.default_rng(0)
    (folder / "sounds").mkdir()

    def config_of(count):
        clips = []
        for i in range(count):
            path = folder / "sounds" / f"{i}.wav"
            if not path.exists():
                tone = 3000 * np.sin(np.arange(3200) * rng.uniform(0.02, 0.4)) + rng.normal(0, 100, 3200)
                with wave.open(str(path), "wb") as out:
                    out.setnchannels(1)
                    out.setsampwidth(2)
                    out.setframerate(16_000)
                    out.writeframes(tone.astype("<i2").tobytes())
            clips.append(Clip(f"many-{i}", audio=str(path), text=f"I say {i} to you", split="unlabelled"))
        name = folder / f"many-{count}.parquet"
        manifest.write(name, [*labelled, *clips])
        changes = {"checkpoint": str(teacher_of(tiny_config, evaluated, folder, 64)), "data.manifest": str(name)}
        return override(tiny_config, {**changes, "store.root": str(folder / f"many-{count}"), "pseudo.floor": 0.0})

    return config_of


def test_ten_times_the_clips_take_no_more_memory(many, ray_session, folder, capsys):
    peak_bytes = {}
    for count in (1_000, 10_000):
        (folder / "many.yaml").write_text(dump(many(count)))
        begun_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", MEASURING, str(folder / "many.yaml")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": ray_session.get_runtime_context().gcs_address},
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert done.returncode == 0, done.stderr
        clips, peak_bytes[count] = map(int, done.stdout.split()[-2:])
        assert clips == count
        with capsys.disabled():
            took_s = math.ceil(time.monotonic() - begun_s)
            print(f"\n{count} clips in {took_s} s: the driver's peak RSS is {peak_bytes[count] / 2**20:.0f} MiB")
    assert peak_bytes[10_000] < 1.3 * peak_bytes[1_000]
