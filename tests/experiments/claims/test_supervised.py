"""Trials with all labels, on the tiny world: their scores follow from what the stages wrote."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from emo_ray import store
from emo_ray.config import override
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import video_from_shards
from emo_ray.experiments.claims.supervised import complete_clips, emovclip_scores, model_scores
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.evaluate import PREDICTIONS
from emo_ray.training import loop

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def corpus(evaluated, tiny_config):
    return open_corpus(tiny_config)


@pytest.fixture(scope="module")
def model(evaluated, tiny_config):
    return Path(tiny_config.store.root) / "checkpoints" / evaluated.content["checkpoint"]


def test_a_models_scores_follow_from_the_predictions_of_its_report(tiny_config, corpus, evaluated):
    table = pq.read_table(evaluated.path / PREDICTIONS)
    labels = json.loads(table.schema.metadata[b"labels"])
    complete = np.all([table[f"has_{name}"].to_numpy() for name in MODALITIES], axis=0)
    truth = np.array([labels.index(label) for label in table["label"].to_pylist()])[complete]
    scores = model_scores(tiny_config, corpus)
    assert set(scores) == {f"{split}/{key}" for split in ("validation", "test") for key in SUBSETS}
    for key in SUBSETS:
        guess = np.array(table[f"p_{key}"].to_pylist()).argmax(axis=1)[complete]
        expected = f1_score(truth, guess, average="weighted", zero_division=0)
        assert scores[f"test/{key}"] == pytest.approx(expected), key


def test_a_model_of_some_modalities_is_measured_on_their_subsets_and_the_same_clips(tiny_config, corpus):
    scores = model_scores(override(tiny_config, {"modalities": ["audio", "text"]}), corpus)
    assert set(scores) == {f"{split}/{key}" for split in ("validation", "test") for key in ("A", "T", "AT")}


def test_complete_clips_lack_nothing(corpus):
    prepared = corpus.prepared
    label_of = prepared.labels_of("train")
    lacking = {
        row["clip_id"]
        for row in prepared.ledger.to_pylist()
        if any(row[f"{name}_status"] != "ok" for name in MODALITIES)
    }
    assert complete_clips(prepared, label_of) == {i: k for i, k in label_of.items() if i not in lacking}
    assert 0 < len(complete_clips(prepared, label_of)) < len(label_of)


def test_emovclips_scores_are_of_its_best_epoch_and_of_its_own_forward_pass(tiny_config, corpus, model):
    prepared, folder = corpus.prepared, model / checkpoint_files.EMOVCLIP
    label_of, batches = prepared.labels_of("test"), []
    for part in prepared.parts_with(label_of):
        table = pq.read_table(prepared.shards / part)
        rows = (np.array(table["video_status"]) == "ok") & np.isin(np.array(table["clip_id"]), list(label_of))
        if rows.any():
            batches.append(video_from_shards(table.filter(rows), label_of))
    probability_BK, label_B = loop.predict(checkpoint.load_emovclip(folder), batches)
    scores = emovclip_scores(tiny_config, corpus)
    assert scores["validation/V"] == store.read_meta(folder)["best"]["emovclip"]["waf"]
    expected = f1_score(label_B, probability_BK.argmax(axis=1), average="weighted", zero_division=0)
    assert scores["test/V"] == pytest.approx(expected)
