"""Metrics against hand computation and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    recall_score,
)

from emo_ray.training.metrics import chance, confusion, counts, metrics, objective, of_counts, per_class

#  truth 0: 4 clips, 3 right, one taken for 1; truth 1: 2 clips, both right; truth 2: 1 clip, taken for 0.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
GUESSES = np.array([0, 0, 0, 1, 1, 1, 0])
PROBABILITIES = np.eye(4)[GUESSES]
F1 = [2 * 3 / (2 * 3 + 1 + 1), 2 * 2 / (2 * 2 + 1 + 0), 0.0]


def test_against_sums_done_by_hand():
    actual = metrics(PROBABILITIES, LABELS)
    assert actual["n"] == 7
    assert actual["accuracy"] == pytest.approx(5 / 7)
    assert actual["uar"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert actual["macro_f1"] == pytest.approx(sum(F1) / 3)
    assert actual["waf"] == pytest.approx((4 * F1[0] + 2 * F1[1]) / 7)


@settings(max_examples=15)
@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 2**31))
def test_many_models_at_once_against_scikit_learn(clips, classes, seed):
    rng = np.random.default_rng(seed)
    label_B, guess_XB = rng.integers(classes, size=clips), rng.integers(classes, size=(2, 3, clips))
    counted = counts(guess_XB, label_B, classes)
    actual = of_counts(counted)
    options = {"labels": np.unique(label_B), "zero_division": 0}
    for x in np.ndindex(2, 3):
        guess_B = guess_XB[x]
        assert np.array_equal(counted[x], confusion_matrix(label_B, guess_B, labels=range(classes)))
        expected = {
            "waf": f1_score(label_B, guess_B, average="weighted", **options),
            "accuracy": accuracy_score(label_B, guess_B),
            "uar": recall_score(label_B, guess_B, average="macro", **options),
            "macro_f1": f1_score(label_B, guess_B, average="macro", **options),
        }
        assert {name: value[x] for name, value in actual.items()} == pytest.approx(expected)
        assert metrics(np.eye(classes)[guess_B], label_B) == pytest.approx(expected | {"n": clips})


def test_per_class_and_confusion_cover_all_classes():
    *expected, _ = precision_recall_fscore_support(LABELS, GUESSES, labels=range(4), zero_division=0)
    actual = per_class(confusion(PROBABILITIES, LABELS))
    assert actual["f1"].tolist() == pytest.approx([*F1, 0.0])
    for name, values in zip(("precision", "recall", "f1"), expected, strict=True):
        assert actual[name].tolist() == pytest.approx(values.tolist())
    expected = [[3, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion(PROBABILITIES, LABELS).tolist() == expected


def test_chance_is_what_constant_guesses_reach():
    actual = chance(LABELS, 4)
    assert actual["uniform_accuracy"] == 0.25
    assert actual["majority_accuracy"] == pytest.approx(4 / 7)
    assert actual["majority_waf"] == pytest.approx(4 / 7 * (2 * 4 / (2 * 4 + 3)))


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="no labelled clips"):
        metrics(np.zeros((0, 3)), np.zeros(0, int))


def test_an_objective_is_a_metric_of_the_report():
    epoch = {"val_waf": 0.5, "val_uar": 0.4, "val_V/waf": 0.3, "val_mean/waf": 0.2}
    assert objective(epoch, "available/uar") == 0.4
    assert objective(epoch, "V/waf") == 0.3
    assert objective(epoch, "mean/waf") == 0.2
    with pytest.raises(ValueError, match=r"no validation clip for tune\.objective=VA/waf"):
        objective(epoch, "VA/waf")
