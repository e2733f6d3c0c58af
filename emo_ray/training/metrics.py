"""Metrics of the field from probabilities and labels, by scikit-learn."""

import numpy as np
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score


def metrics(probability_BK: np.ndarray, label_B: np.ndarray) -> dict[str, float]:
    """WAF (F1 weighted by class frequency), accuracy, UAR (mean recall), macro F1, and n.

    UAR and macro F1 average over the classes that occur in `label_B`. Raises ValueError without clips.
    """
    if not len(label_B):
        raise ValueError("found no labelled clips, expected at least one to measure on")
    found, guess_B = np.unique(label_B), probability_BK.argmax(axis=1)
    options = {"labels": found, "zero_division": 0}
    return {
        "waf": float(f1_score(label_B, guess_B, average="weighted", **options)),
        "accuracy": float(accuracy_score(label_B, guess_B)),
        "uar": float(recall_score(label_B, guess_B, average="macro", **options)),
        "macro_f1": float(f1_score(label_B, guess_B, average="macro", **options)),
        "n": len(label_B),
    }


def per_class_f1(probability_BK: np.ndarray, label_B: np.ndarray) -> np.ndarray:
    """F1 of each of the K classes; 0 where a class occurs neither in truth nor in guesses."""
    classes = range(probability_BK.shape[1])
    return f1_score(label_B, probability_BK.argmax(axis=1), labels=classes, average=None, zero_division=0)


def confusion(probability_BK: np.ndarray, label_B: np.ndarray) -> np.ndarray:
    """K x K counts: rows are the truth, columns the guesses."""
    return confusion_matrix(label_B, probability_BK.argmax(axis=1), labels=range(probability_BK.shape[1]))


def chance(label_B: np.ndarray, classes: int) -> dict[str, float]:
    """What guessing reaches: uniformly, and always the most frequent class."""
    majority_BK = np.zeros((len(label_B), classes))
    majority_BK[:, np.bincount(label_B, minlength=classes).argmax()] = 1
    measured = metrics(majority_BK, label_B)
    return {
        "uniform_accuracy": 1 / classes,
        "majority_accuracy": measured["accuracy"],
        "majority_waf": measured["waf"],
    }
