"""The trial of self-training: hidden labels stay hidden, and the rounds of the job teach students."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emo_ray.config import override
from emo_ray.data import manifest
from emo_ray.data.manifest import Clip
from emo_ray.experiments.claims.self_training import (
    acceptance,
    hide_labels,
    self_training_scores,
    with_steps_of_student,
)
from emo_ray.experiments.claims.trials import HEADS
from emo_ray.models.checkpoint_files import SEEN, read_config
from emo_ray.stages.corpus import open_corpus

pytestmark = pytest.mark.usefixtures("ray_session")

CLASSES = ("a", "b", "c")
COUNTS = {"train": 240, "validation": 90, "test": 300}


@pytest.fixture(scope="module")
def config(tiny_config, tmp_path_factory):
    """Sound and text as tables in 24 noisy dimensions: few labelled clips say little, many clips say more."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(0)
    centres = {name: rng.normal(size=(3, 24)) for name in ("audio", "text")}
    ids = [(f"{split}-{i:03d}", split, i % 3) for split, count in COUNTS.items() for i in range(count)]
    for name, centre_KD in centres.items():
        rows = {clip_id: (centre_KD[k] + 2.2 * rng.normal(size=24)).astype(np.float32) for clip_id, _, k in ids}
        np.savez(folder / f"{name}.npz", **rows)
    manifest.write(folder / "clips.parquet", [Clip(i, label=CLASSES[k], split=split) for i, split, k in ids])
    changes = {f"tables.{name}": str(folder / f"{name}.npz") for name in centres}
    changes |= {"data.manifest": str(folder / "clips.parquet"), "store.root": str(folder / "store")}
    changes |= {"train.epochs": 4, "fusion.passes_per_epoch": 10, "fusion.lr": 3e-3, "pseudo.quantile": 0.3}
    changes |= {"rounds.most": 3, "rounds.patience": 3}
    return override(tiny_config, changes | {"tracking.enabled": False})


@pytest.fixture(scope="module")
def corpus(config):
    return open_corpus(config)


@pytest.fixture(scope="module")
def scores(config, corpus):
    return self_training_scores(config, corpus, labelled=18)


def test_labels_are_hidden_evenly_over_classes_by_the_seed(config, corpus):
    prepared = corpus.prepared
    label_of = prepared.labels_of("train")
    hidden = hide_labels(config, prepared, 18)
    shown = hidden.labels_of("train")
    assert Counter(shown.values()) == {0: 6, 1: 6, 2: 6}
    assert shown.items() <= label_of.items()
    others = {clip.clip_id: clip for clip in hidden.clips if clip.clip_id in label_of.keys() - shown.keys()}
    assert {(clip.label, clip.split) for clip in others.values()} == {(None, "unlabelled")}
    assert len(others) == 222
    assert hidden.labels_of("test") == prepared.labels_of("test")
    assert (hidden.shards, hidden.parts, hidden.ledger) == (prepared.shards, prepared.parts, prepared.ledger)
    assert hidden.path.name != prepared.path.name
    assert hide_labels(config, prepared, 18) == hidden
    assert hide_labels(override(config, {"seed": 1}), prepared, 18).labels_of("train") != shown


def test_every_head_has_a_score_and_the_kept_one_is_the_best_on_validation(scores):
    names = {f"{split}/{head}" for split in ("validation", "test") for head in HEADS}
    assert set(scores) == names | {"accepted/share", "accepted/right"}
    assert all(0 <= value <= 1 for value in scores.values())
    assert scores["validation/kept"] >= max(scores["validation/teacher"], scores["validation/student"])
    assert 0 < scores["accepted/share"] <= 54 / 222  # pseudo.max_ratio is 3
    assert scores["accepted/right"] > 0.5
    assert scores["validation/longer"] != scores["validation/teacher"]


def test_no_head_has_seen_a_hidden_label_or_a_test_clip(config, corpus, scores):
    shown = hide_labels(config, corpus.prepared, 18).labels_of("train")
    validation = corpus.prepared.labels_of("validation")
    models = list((Path(config.store.root) / "checkpoints").glob("model-*"))
    assert len(models) >= 3
    for model in models:
        seen = json.loads((model / SEEN).read_text())
        train = {clip_id for clip_id, split in seen.items() if split == "train"}
        assert seen.keys() - train == validation.keys()
        is_student = read_config(model)[0].train.pseudo_labels is not None
        assert train >= shown.keys() if is_student else train == shown.keys()


@pytest.mark.slow  # three more trials
def test_a_student_is_better_than_its_teacher_where_labels_are_few(config, corpus, scores):
    trials = [scores, *(self_training_scores(override(config, {"seed": s}), corpus, 18) for s in (1, 2, 3))]
    assert np.mean([trial["test/student"] - trial["test/teacher"] for trial in trials]) > 0.01


def test_the_longer_teacher_takes_as_many_steps_as_the_student(config):
    content = {"labelled": {"a": 30, "b": 30}, "rounds": [{"accepted": {}}, {"accepted": {"a": 100, "b": 80}}]}
    changes = {"fusion.batch_size": 32, "fusion.passes_per_epoch": 10}
    longer = with_steps_of_student(override(config, changes), content)
    assert longer.fusion.passes_per_epoch * 2 == 10 * 8  # 60 clips are 2 steps, 240 are 8


def test_acceptance_is_measured_on_hidden_clips():
    label_of = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 1}
    assert acceptance({"b": 1, "c": 1}, label_of, labelled=1) == {"accepted/share": 0.5, "accepted/right": 0.5}
    assert acceptance({}, label_of, labelled=1) == {"accepted/share": 0.0, "accepted/right": 0.0}
