"""Scores of a fusion head: they follow from its predictions, and hidden modalities have no part in them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score, recall_score

from emo_ray.config.model_settings import SUBSETS
from emo_ray.stages.evaluate import PREDICTIONS

pytestmark = pytest.mark.usefixtures("ray_session")


def test_every_number_follows_from_the_predictions(evaluated):
    table = pq.read_table(evaluated.path / PREDICTIONS)
    labels = json.loads(table.schema.metadata[b"labels"])
    truth = np.array([labels.index(name) for name in table["label"].to_pylist()])
    assert len(table) == evaluated.content["n_clips"] == 24
    for name, modalities in SUBSETS.items():
        rows = np.all([table[f"has_{m}"].to_numpy() for m in modalities], axis=0)
        probabilities = np.array(table[f"p_{name}"].to_pylist())
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(24), abs=1e-5)
        guess, scores = probabilities.argmax(axis=1)[rows], evaluated.content["subsets"][name]
        assert scores["n"] == rows.sum()
        assert scores["accuracy"] == pytest.approx((guess == truth[rows]).mean())
        assert scores["waf"] == pytest.approx(f1_score(truth[rows], guess, average="weighted", zero_division=0))
        assert scores["uar"] == pytest.approx(
            recall_score(truth[rows], guess, average="macro", labels=np.unique(truth[rows]), zero_division=0)
        )


def test_a_subset_hides_the_other_modalities(evaluated):
    table = pq.read_table(evaluated.path / PREDICTIONS)
    without_text = ~table["has_text"].to_numpy()
    if without_text.any():
        both, all_three = (np.array(table[f"p_{name}"].to_pylist())[without_text] for name in ("VA", "VAT"))
        assert (both == all_three).all()
    text_only = np.array(table["p_T"].to_pylist())[without_text]
    assert (text_only == text_only[:1]).all()  # nothing is shown, so nothing can differ
