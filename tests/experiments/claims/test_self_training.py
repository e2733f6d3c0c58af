"""The trial of self-training: hidden labels stay hidden, and students learn from those that a teacher gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from emo_ray.config import load, override
from emo_ray.data.batch import FeatureBatch
from emo_ray.experiments.claims.self_training import HEADS, Clips, hidden, self_training, taught, teach
from emo_ray.experiments.claims.trials import World, WorldBatch
from emo_ray.training import in_memory

LABELS = ("a", "b", "c")
COUNTS = {"train": 240, "validation": 90, "test": 300}


def batch(split, count):
    """Two modalities with a class each, in 24 noisy dimensions: few labels say little, many clips say more."""
    rng, label_B = np.random.default_rng([len(split), count]), np.arange(count) % 3
    features = {}
    for name, seed in (("audio", 1), ("text", 2)):
        centre_KD = np.random.default_rng(seed).normal(size=(3, 24))
        features[name] = torch.from_numpy(centre_KD[label_B] + 2.2 * rng.normal(size=(count, 24))).float()
    present_BM = torch.tensor([[False, True, True]] * count)
    present_BM[::15] = torch.tensor([False, False, True])
    ids = tuple(f"{split}-{i}" for i in range(count))
    return FeatureBatch(clip_ids=ids, present_BM=present_BM, features=features, label_B=torch.from_numpy(label_B))


def some_known(every=13):
    """The corpus with few known labels."""
    pool = batch("train", COUNTS["train"])
    known_B = torch.arange(len(pool)) % every == 0
    hidden_pool = replace(pool, label_B=torch.where(known_B, pool.label_B, -1))
    return Clips(LABELS, hidden_pool, known_B, batch("validation", COUNTS["validation"]), batch("test", COUNTS["test"]))


@pytest.fixture
def config():
    return load("mini", {"train.epochs": 4, "fusion.hidden": 16, "fusion.lr": 3e-3, "pseudo.quantile": 0.3})


def test_a_student_is_better_than_its_teacher_where_labels_are_few(config):
    found = [teach(some_known(), override(config, {"seed": seed}))[0] for seed in range(4)]
    assert set(found[0]) == {f"{split}/{head}" for split in ("validation", "test") for head in HEADS}
    assert np.mean([scores["test/student"] - scores["test/teacher"] for scores in found]) > 0.01
    assert all(scores["validation/kept"] >= scores["validation/teacher"] for scores in found)


def test_labels_are_hidden_from_everything_that_learns(config):
    """Frames of noise: what matters is who is asked what."""
    splits = {}
    for split, count in {"train": 30, "validation": 6, "test": 6}.items():
        own = batch(split, count)
        frames = torch.randint(0, 256, (count, 2, 3, 64, 64), dtype=torch.uint8)
        splits[split] = WorldBatch(
            clip_ids=own.clip_ids,
            present_BM=own.present_BM | torch.tensor([True, False, False]),
            label_B=own.label_B,
            features=own.features,
            frames_BTCHW=frames,
        )
    world, own = World(LABELS, splits, {}), override(config, {"train.epochs": 1, "media.frames": 2})
    clips = hidden(world, own, 9)
    assert torch.equal(clips.known_B, clips.pool.label_B >= 0)
    assert torch.bincount(clips.pool.label_B[clips.known_B]).tolist() == [3, 3, 3]
    assert torch.equal(clips.pool.label_B[clips.known_B], splits["train"].label_B[clips.known_B])
    assert set(clips.pool.features) == {"video", "audio", "text"}
    assert torch.equal(hidden(world, own, 9).known_B, clips.known_B)
    assert not torch.equal(hidden(world, override(own, {"seed": 1}), 9).known_B, clips.known_B)
    scores = self_training(world, own, 9)
    assert 0 <= scores["accepted/share"] <= 1
    assert 0 <= scores["accepted/right"] <= 1


def test_a_lesson_holds_labels_that_are_known_and_labels_that_are_given(config):
    clips = some_known(every=10)
    pool, known_B = clips.pool, clips.known_B
    teacher = in_memory.fit_head(pool.rows(known_B), clips.validation, config, 3)
    lesson = taught(teacher, clips, config)
    known = {pool.clip_ids[i] for i in torch.nonzero(known_B).flatten().tolist()}
    is_known_B = torch.tensor([clip_id in known for clip_id in lesson.clip_ids])
    assert int(is_known_B.sum()) == len(known)
    assert 0 < len(lesson) - len(known) <= 3 * len(known)
    assert set(lesson.soft.weight_B[is_known_B].tolist()) == {1.0}
    assert set(lesson.soft.weight_B[~is_known_B].tolist()) == {config.train.pseudo_weight}
    assert torch.equal(lesson.soft.target_BK.argmax(dim=1), lesson.label_B)
    assert bool((lesson.soft.target_BK[~is_known_B].max(dim=1).values < 1).all())
    hard = taught(teacher, clips, override(config, {"train.pseudo_targets": "hard"}))
    assert torch.equal(hard.soft.target_BK, torch.eye(3)[hard.label_B])
    nothing = taught(teacher, clips, override(config, {"pseudo.policy": "fixed", "pseudo.threshold": 1.0}))
    assert (set(nothing.clip_ids), nothing.soft) == (known, None)
