"""Folds give the same results wherever they run, and small ones need no library that takes seconds to import."""

import operator
import signal
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import ray
import torch
from ray.util import placement_group, remove_placement_group

from emo_ray import resources, store, trouble
from emo_ray.config import override
from emo_ray.config.model_settings import SMALL
from emo_ray.data.batch import FeatureBatch
from emo_ray.stages.fitting.folds import in_folds
from emo_ray.stages.train import train
from emo_ray.training.held_out import held_out

CLASSES = ("angry", "calm", "sad")
SLOW = {"ray", "torchvision", "open_clip", "transformers", "pandas", "mlflow", "matplotlib"}


def clips(count):
    """Clips with random features, whose classes alternate."""
    rng = np.random.default_rng(0)
    features = {"audio": torch.from_numpy(rng.normal(size=(count, 7)).astype(np.float32))}
    present_BM = torch.tensor([[False, True, False]]).expand(count, 3)
    ids = tuple(f"c{i}" for i in range(count))
    return FeatureBatch(clip_ids=ids, present_BM=present_BM, features=features, label_B=torch.arange(count) % 3)


@contextmanager
def one_cpu(ray_session):
    """Leave one of Ray's four CPUs to its tasks, so that one process imports torch for all of them."""
    others = placement_group([{"CPU": 3}])
    ray_session.get(others.ready(), timeout=60)
    yield
    remove_placement_group(others)


def test_this_process_other_processes_and_tasks_give_the_same_bytes(ray_session, tiny_config):
    batch, fold_B = clips(60), np.arange(60) % 2
    quick = {"train.epochs": 2, "fusion.passes_per_epoch": 2, "evaluate.floors": False}
    quick["cluster.num_cpus"] = 1  # one other process for both folds: each takes seconds to import torch
    config = override(tiny_config, quick)
    folds = [(batch, fold_B == fold, config, CLASSES, batch.clip_ids) for fold in range(2)]
    ended = []
    places = ((0, 60), (1, 60), (1, SMALL))  # workers, clips
    with one_cpu(ray_session):
        results = [
            in_folds(override(config, {"train.num_workers": workers}), count, held_out, folds, ended.append)
            for workers, count in places
        ]
    assert sum(ended) == len(places) * len(folds)
    for here, *others in zip(*results, strict=True):
        for there in others:
            assert here.chosen == there.chosen
            assert all(np.array_equal(values, there.probabilities[name]) for name, values in here.probabilities.items())


def test_a_process_that_is_killed_ends_all_folds_as_trouble_of_the_machine(tiny_config):
    with pytest.raises(Exception, match="process") as caught:
        in_folds(override(tiny_config, {"train.num_workers": 1}), 60, signal.raise_signal, [(signal.SIGKILL,)])
    assert any(kind.fits(caught.value) for kind in trouble.KINDS)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_ends_all_folds(tiny_config, workers):
    # One process, for each takes seconds to import torch; other folds still wait when the first one fails.
    config = override(tiny_config, {"train.num_workers": workers, "cluster.num_cpus": 1})
    with pytest.raises(ZeroDivisionError):
        # Functions of this module would let each process import it, and all that it imports.
        in_folds(config, 60, operator.truediv, [(1, n) for n in range(3)])


def test_folds_of_small_corpora_import_nothing_slow():
    """The first line lists what a fold's process imports, the second what the job imports."""
    of_fold, of_job = "training.held_out", "stages.crossvalidate, emo_ray.stages.encoding.labelled"
    imports = [f"import emo_ray.{names}; print(*sys.modules)" for names in (of_fold, of_job)]
    code = "\n".join(["import sys, emo_ray.stages.fitting.folds", *imports])
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded_by_fold, loaded_by_job = (set(line.split()) for line in run.stdout.splitlines())
    assert loaded_by_fold & (SLOW | {"scipy.optimize", "sklearn", "av"}) == set()
    assert loaded_by_job & SLOW == set()


def test_a_head_on_few_clips_is_trained_without_ray(tiny_config, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    clips = [f"c{i}" for i in range(30)]
    rows = [f"{clip},{'ab'[i % 2]},s{i // 5}" for i, clip in enumerate(clips)]
    (tmp_path / "clips.csv").write_text("\n".join(["clip_id,label,speaker", *rows]))
    np.savez(tmp_path / "audio.npz", **{clip: np.random.default_rng(i).normal(size=4) for i, clip in enumerate(clips)})
    places = {"data.manifest": "clips.csv", "tables.audio": "audio.npz", "store.root": "store"}
    keys = {key: str(tmp_path / name) for key, name in places.items()}
    alone = {"train.num_workers": 1, "train.use_gpu": "no", "tracking.enabled": False}
    before = ray.is_initialized()
    model = train(override(tiny_config, keys | alone | {"data.corpus": "auto"}))
    assert len(store.read_meta(model.path)["history"]) == tiny_config.train.epochs
    assert ray.is_initialized() == before


def test_feature_tables_of_a_small_corpus_need_no_ray(tiny_config, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    parts = 50
    assert resources.stays_here(tiny_config, parts, SMALL - 1, is_light=True)
    assert not resources.stays_here(tiny_config, parts, SMALL, is_light=True)
    assert not resources.stays_here(tiny_config, parts, SMALL - 1)
    joined = override(tiny_config, {"cluster.address": "auto"})
    assert not resources.stays_here(joined, parts, SMALL - 1, is_light=True)
