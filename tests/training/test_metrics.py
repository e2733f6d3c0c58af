"""Metrics against sums done by hand."""

import numpy as np
import pytest

from emo_ray.training.metrics import chance, confusion, metrics, per_class_f1

#  truth 0: 4 clips, 3 right, one taken for 1; truth 1: 2 clips, both right; truth 2: 1 clip, taken for 0.
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
GUESSES = np.array([0, 0, 0, 1, 1, 1, 0])
PROBABILITIES = np.eye(4)[GUESSES]
F1 = [2 * 3 / (2 * 3 + 1 + 1), 2 * 2 / (2 * 2 + 1 + 0), 0.0]


def test_against_sums_done_by_hand():
    found = metrics(PROBABILITIES, LABELS)
    assert found["n"] == 7
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert found["uar"] == pytest.approx((3 / 4 + 1 + 0) / 3)
    assert found["macro_f1"] == pytest.approx(sum(F1) / 3)
    assert found["waf"] == pytest.approx((4 * F1[0] + 2 * F1[1]) / 7)


def test_per_class_and_confusion_cover_all_classes():
    assert per_class_f1(PROBABILITIES, LABELS).tolist() == pytest.approx([*F1, 0.0])
    expected = [[3, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion(PROBABILITIES, LABELS).tolist() == expected


def test_chance_is_what_constant_guesses_reach():
    found = chance(LABELS, 4)
    assert found["uniform_accuracy"] == 0.25
    assert found["majority_accuracy"] == pytest.approx(4 / 7)
    assert found["majority_waf"] == pytest.approx(4 / 7 * (2 * 4 / (2 * 4 + 3)))


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="no labelled clips"):
        metrics(np.zeros((0, 3)), np.zeros(0, int))
