"""Quality through the product's path: a small world, the stages as a user runs them, and truth from the generator.

The report's own table and the labels beside the predictions are not believed: what a clip is comes from its script, and
scores from scikit-learn.
"""

import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score
from sklearn.neighbors import NearestCentroid

from emo_ray.config import load
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.synthetic import LABELS, Script, ceiling, write_scripts
from emo_ray.stages.evaluate import evaluate

CLIPS = {"synthetic.train_clips": 120, "synthetic.validation_clips": 12, "synthetic.test_clips": 96}
SMALL = {"synthetic.unlabelled_clips": 0, "media.frames": 2, "train.epochs": 3, "train.num_workers": 0}
SMALL |= {"tracking.enabled": False, "evaluate.floors": False}
CHANCE, MARGIN = 1 / len(LABELS), 0.25  # on some 90 clips, six standard errors of a guess
SINGLE = {name: modalities[0] for name, modalities in SUBSETS.items() if len(modalities) == 1}


class World(NamedTuple):
    """A small world after the whole job."""

    scripts: dict[str, Script]  # what the generator made, by clip_id
    present: dict[str, dict[str, bool]]  # modality -> clip_id -> whether the product says that the clip has it
    guesses: dict[str, dict[str, str]]  # subset -> clip_id -> class, on clips that have all modalities of the subset
    video_features: pa.Table  # of all clips, by the trained EmoVCLIP


@pytest.fixture(scope="module")
def world(ray_session, tmp_path_factory):
    """The offline recipe from nothing to predictions for people whom no training clip shows."""
    root = tmp_path_factory.mktemp("world")
    config = load("mini", CLIPS | SMALL | {"store.root": str(root)})
    scripts = {script.clip_id: script for script in write_scripts(config.synthetic)}
    table = pq.read_table(evaluate(config).path / "predictions.parquet")
    labels, clip_ids = json.loads(table.schema.metadata[b"labels"]), table["clip_id"].to_pylist()
    present = {name: dict(zip(clip_ids, table[f"has_{name}"].to_pylist(), strict=True)) for name in MODALITIES}
    guesses = {}
    for name, modalities in SUBSETS.items():
        best_B = np.array(table[f"p_{name}"].to_pylist()).argmax(axis=1)
        whole_B = [all(is_usable(scripts[clip_id], modality) for modality in modalities) for clip_id in clip_ids]
        rows = zip(clip_ids, best_B, whole_B, strict=True)
        guesses[name] = {clip_id: labels[k] for clip_id, k, is_whole in rows if is_whole}
    features = [pq.read_table(path) for path in root.glob("features/video-*/part-*.parquet")]
    return World(scripts, present, guesses, pa.concat_tables(features))


def is_usable(script, modality):
    """Whether the generator gave a clip this modality, and words where it is text."""
    return modality in script.shown and script.flaws.get(modality) != "empty"


def truth(world, clip_ids):
    return [world.scripts[clip_id].label for clip_id in clip_ids]


def accuracy(world, name):
    return accuracy_score(truth(world, world.guesses[name]), list(world.guesses[name].values()))


def test_all_test_clips_are_predicted_with_what_the_generator_gave_them(world):
    test = {clip_id: script for clip_id, script in world.scripts.items() if script.split == "test"}
    assert len(test) == CLIPS["synthetic.test_clips"]
    for modality, present in world.present.items():
        assert present == {clip_id: is_usable(script, modality) for clip_id, script in test.items()}


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_is_above_chance_by_a_margin(world, name):
    guesses = world.guesses[name]
    waf = f1_score(truth(world, guesses), list(guesses.values()), average="weighted", zero_division=0)
    assert len(guesses) > 75
    assert waf > CHANCE + MARGIN
    assert accuracy(world, name) > CHANCE + MARGIN


@pytest.mark.parametrize("name", SUBSETS)
def test_no_subset_is_better_than_the_world_allows(world, name):
    """A modality shows another class now and then, so that a higher score would tell of labels that leak."""
    most, clips = ceiling(SUBSETS[name], load("mini").synthetic.true_rate), len(world.guesses[name])
    assert accuracy(world, name) <= most + 3 * np.sqrt(most * (1 - most) / clips)


def test_three_modalities_are_better_than_the_best_of_them(world):
    assert accuracy(world, "VAT") > max(accuracy(world, name) for name in SINGLE) + 0.08
    assert accuracy(world, "VAT") > 0.75


def test_modalities_tell_what_they_show_and_not_what_the_clip_is(world):
    """A misleading modality shows a class that is easily confused with the clip's, so a few guesses name the latter."""
    as_shown, as_is = [], []
    for name, modality in SINGLE.items():
        shown = {clip_id: world.scripts[clip_id].shown[modality] for clip_id in world.guesses[name]}
        misleading = [clip_id for clip_id in shown if shown[clip_id] != world.scripts[clip_id].label]
        assert len(misleading) > 8
        as_shown.append(sum(world.guesses[name][clip_id] == shown[clip_id] for clip_id in misleading))
        as_is.append(sum(world.guesses[name][clip_id] == world.scripts[clip_id].label for clip_id in misleading))
    assert all(np.greater(as_shown, as_is)), (as_shown, as_is)
    assert sum(as_shown) > 2 * sum(as_is), (as_shown, as_is)


def test_features_of_emovclip_tell_the_class_to_the_simplest_classifier(world):
    table = world.video_features.filter(world.video_features["present"])
    features_BD = np.array(table["feature"].to_pylist())
    split_B = np.array([world.scripts[clip_id].split for clip_id in table["clip_id"].to_pylist()])
    label_B = np.array(truth(world, table["clip_id"].to_pylist()))
    classifier = NearestCentroid().fit(features_BD[split_B == "train"], label_B[split_B == "train"])
    assert classifier.score(features_BD[split_B == "test"], label_B[split_B == "test"]) > CHANCE + MARGIN
