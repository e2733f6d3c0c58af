"""The trial of self-training: hidden labels stay hidden, and students learn from those that a teacher gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from emo_ray.config import load, override
from emo_ray.data.batch import Batch
from emo_ray.stages import teaching
from emo_ray.stages.teaching import HEADS, Clips, self_training, taught
from emo_ray.stages.trials import World
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
    return Batch(ids, present_BM, features=features, label_B=torch.from_numpy(label_B))


@pytest.fixture
def world():
    return World(LABELS, {split: batch(split, count) for split, count in COUNTS.items()}, {})


@pytest.fixture
def config():
    return load("mini", {"train.epochs": 4, "fusion.hidden": 16, "fusion.lr": 3e-3, "pseudo.quantile": 0.3})


@pytest.fixture
def without_video(monkeypatch):
    """Worlds whose clips have no video need no EmoVCLIP; what it would be trained on is kept."""
    given = {}

    def no_features(world, config):
        given.update(world.splits)
        return {}, {split: np.zeros((len(batch), 1), np.float32) for split, batch in world.splits.items()}

    monkeypatch.setattr(teaching, "video", no_features)
    return given


def test_a_student_is_better_than_its_teacher_where_labels_are_few(world, config, without_video):
    found = [self_training(world, override(config, {"seed": seed}), 18) for seed in range(4)]
    assert set(found[0]) == {f"{s}/{h}" for s in ("validation", "test") for h in HEADS} | {
        "accepted/share",
        "accepted/right",
    }
    gain = np.mean([scores["test/student"] - scores["test/teacher"] for scores in found])
    assert gain > 0.01
    assert all(scores["validation/kept"] >= scores["validation/teacher"] for scores in found)
    assert all(0 < scores["accepted/share"] <= 1 and scores["accepted/right"] > 0.4 for scores in found)


def test_hidden_labels_decide_nothing(world, config, without_video):
    """Other labels for the clips whose labels are hidden: the same heads, and so the same scores."""
    scores, known = self_training(world, config, 18), set(without_video["train"].clip_ids)
    assert len(known) == 18
    assert torch.bincount(without_video["train"].label_B).tolist() == [6, 6, 6]
    assert set(without_video["pool"].label_B.tolist()) == {-1, 0, 1, 2}
    train = world.splits["train"]
    kept_B = torch.tensor([clip_id in known for clip_id in train.clip_ids])
    order = torch.randperm(int((~kept_B).sum()), generator=torch.Generator().manual_seed(0))
    shuffled_B = train.label_B.clone()
    shuffled_B[~kept_B] = train.label_B[~kept_B][order]  # as many of each class, so that the same clips are drawn
    other = replace(world, splits=world.splits | {"train": replace(train, label_B=shuffled_B)})
    again = self_training(other, config, 18)
    if set(without_video["train"].clip_ids) != known:
        pytest.skip("other clips were drawn")
    assert {k: v for k, v in again.items() if k != "accepted/right"} == {
        k: v for k, v in scores.items() if k != "accepted/right"
    }
    assert again["accepted/right"] < scores["accepted/right"]


def test_a_lesson_holds_labels_that_are_known_and_labels_that_are_given(world, config):
    known_B = torch.arange(240) % 10 == 0
    pool = replace(world.splits["train"], label_B=torch.where(known_B, world.splits["train"].label_B, -1))
    clips = Clips(LABELS, pool, known_B, world.splits["validation"], world.splits["test"])
    teacher = in_memory.fit_head(pool.rows(known_B), clips.validation, config, 3)
    lesson = taught(teacher, clips, config)
    known = {pool.clip_ids[i] for i in torch.nonzero(known_B).flatten().tolist()}
    is_known_B = torch.tensor([clip_id in known for clip_id in lesson.clip_ids])
    assert int(is_known_B.sum()) == len(known)
    assert 0 < len(lesson) - len(known) <= 3 * len(known)
    assert set(lesson.weight_B[is_known_B].tolist()) == {1.0}
    assert set(lesson.weight_B[~is_known_B].tolist()) == {config.train.pseudo_weight}
    assert torch.equal(lesson.target_BK.argmax(dim=1), lesson.label_B)
    assert bool((lesson.target_BK[~is_known_B].max(dim=1).values < 1).all())
    hard = taught(teacher, clips, override(config, {"train.pseudo_targets": "hard"}))
    assert torch.equal(hard.target_BK, torch.eye(3)[hard.label_B])
    nothing = taught(teacher, clips, override(config, {"pseudo.policy": "fixed", "pseudo.threshold": 1.0}))
    assert (set(nothing.clip_ids), nothing.target_BK) == (known, None)
