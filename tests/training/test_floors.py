"""Floors: scikit-learn on the same clips and features, which learns nothing of the clips that it is measured on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from emo_ray.config.model_settings import SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.models import fusion
from emo_ray.training import floors


@pytest.fixture(autouse=True)
def small_forests(monkeypatch):
    """Forests have few trees here. These tests hold for any number of trees."""
    monkeypatch.setattr(floors, "_TREES", 20)


def clips(count, seed=0, width=5, shift=1.5):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (count,), generator=generator)
    features = {
        name: torch.randn(count, width, generator=generator) + shift * torch.eye(3, width)[label]
        for name in ("audio", "text")
    }
    present = torch.ones(count, 3, dtype=torch.bool)
    present[:, 0] = False
    present[::4, 2] = False
    return FeatureBatch(
        clip_ids=tuple(f"{seed}-{i}" for i in range(count)),
        present_BM=present,
        label_B=label,
        features=features,
        speakers=tuple(f"s{i % 7}" for i in range(count)),
    )


@pytest.mark.parametrize("width", [5, 200], ids=["few features", "more features than clips"])
def test_a_floor_is_what_scikit_learn_says(width, monkeypatch):
    """With one strength to choose from, the plain pipeline says the same of every clip, however many features."""
    monkeypatch.setattr(floors, "_STRENGTHS", {floors.LOGISTIC: (0.1,), floors.SVM: (1.0,)})
    monkeypatch.setattr(fusion, "_OUTLIER", 100.0)
    train, test = clips(80, 1, width), clips(60, 2, width)
    answers = floors.guesses(train, test, train.speakers, seed=0)["A"]
    train_BD, test_BD = train.features["audio"].double().numpy(), test.features["audio"].double().numpy()
    for floor, model in (
        (floors.LOGISTIC, LogisticRegression(C=0.1, max_iter=2000, tol=1e-3)),
        (floors.SVM, SVC(C=1.0, gamma=1 / width)),
    ):
        expected = make_pipeline(StandardScaler(), model).fit(train_BD, train.label_B.numpy()).predict(test_BD)
        assert (answers[floor] == expected).mean() >= 0.98


def test_a_subset_is_answered_for_clips_that_have_all_of_it():
    train, test = clips(60, 1), clips(40, 2)
    answers = floors.guesses(train, test, train.speakers, seed=0)
    assert answers.keys() == SUBSETS.keys()
    has_text = test.present_BM[:, 2].numpy()
    for guess_B in answers["AT"].values():
        assert ((guess_B >= 0) == has_text).all()
    assert all((guess_B == -1).all() for guess_B in answers["VAT"].values())


def test_labels_of_the_tested_clips_change_nothing():
    train, test = clips(60, 1), clips(40, 2)
    blind = replace(test, label_B=torch.zeros_like(test.label_B))
    first, second = floors.guesses(train, test, train.speakers, 0), floors.guesses(train, blind, train.speakers, 0)
    assert all((first[s][f] == second[s][f]).all() for s in SUBSETS for f in floors.FLOORS)


def test_threads_of_a_forest_change_nothing(monkeypatch):
    """Clips alike of several classes end in one leaf, whose shares are no round numbers: their order matters."""
    monkeypatch.setattr(floors, "_TREES", 200)
    train, test = (clips(count, seed).features["text"][:, :2].round().numpy() for count, seed in ((90, 1), (300, 2)))
    label_B, before, answers = clips(90, 1).label_B.numpy(), torch.get_num_threads(), []
    for threads in (1, 4):
        torch.set_num_threads(threads)
        forest = floors.Floor(floors.FOREST, 0.2, 0).fitted(train, label_B, [str(i % 7) for i in range(90)])
        answers.append(forest.predict_proba(test))
    torch.set_num_threads(before)
    assert (answers[0] == answers[1]).all()


def test_unknown_values_and_constant_features_are_no_information():
    train, test = clips(60, 1), clips(40, 2)
    train.features["audio"][:, 4], test.features["audio"][:, 4] = 3.0, 1e6
    test.features["audio"][0, 0] = torch.nan
    train.features["audio"][:, 3], test.features["audio"][:, 3] = torch.nan, 1.0
    assert all((guess_B >= 0).all() for guess_B in floors.guesses(train, test, train.speakers, 0)["A"].values())


def test_the_comparison_is_on_the_same_clips_and_its_interval_covers_the_difference():
    train, test = clips(80, 1), clips(200, 2, shift=1.0)
    answers, label = floors.guesses(train, test, train.speakers, 0), test.label_B.numpy()
    ours = {subset: np.eye(3)[np.roll(label, 1) if subset == "T" else label] for subset in SUBSETS}
    content = floors.comparison(answers, ours, label, None, seed=0)
    assert set(content) == {"A", "T", "AT"}
    for subset, scores in content.items():
        rows = answers[subset][floors.SVM] >= 0
        expected = {
            floor: f1_score(label[rows], answers[subset][floor][rows], average="weighted") for floor in floors.FLOORS
        }
        assert scores["n"] == rows.sum()
        assert {f: v["waf"] for f, v in scores["floors"].items()} == pytest.approx(expected)
        assert scores["best"] == max(expected, key=expected.get)
        assert scores["difference"] == pytest.approx(scores["waf"] - max(expected.values()))
        assert scores["interval"][0] <= scores["difference"] <= scores["interval"][1]
    assert content["A"]["interval"][0] > 0  # a head that is always right is better beyond chance
    assert content["T"]["interval"][1] < 0
