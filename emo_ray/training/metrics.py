"""Metrics of the field, all derived from confusion counts, so that many models are measured at once.

scikit-learn gives the same numbers (tests/training/test_metrics.py), but takes a second to import in every worker.
"""

from math import prod

import numpy as np


def metrics(probability_BK: np.ndarray, label_B: np.ndarray) -> dict[str, float]:
    """WAF (F1 weighted by class frequency), accuracy, UAR (mean recall), macro F1, and n.

    UAR and macro F1 average over the classes that occur in `label_B`. Raises ValueError without clips.
    """
    if not len(label_B):
        raise ValueError("found no labelled clips, expected at least one to measure on")
    values = of_counts(counts(probability_BK.argmax(axis=1), label_B, probability_BK.shape[1]))
    return {name: float(value) for name, value in values.items()} | {"n": len(label_B)}


def counts(guess_XB: np.ndarray, label_B: np.ndarray, classes: int) -> np.ndarray:
    """Confusion counts (X, K, K) of the guesses of X models: rows are the truth. X is any number of axes."""
    guess_NB = guess_XB.reshape(prod(guess_XB.shape[:-1]), len(label_B))
    cell_NB = label_B * classes + guess_NB + np.arange(len(guess_NB))[:, None] * classes**2
    count_C = np.bincount(cell_NB.ravel(), minlength=len(guess_NB) * classes**2)
    return count_C.reshape(*guess_XB.shape[:-1], classes, classes)


def of_counts(counts_XKK: np.ndarray) -> dict[str, np.ndarray]:
    """The values of `metrics`, each (X), from X tables of confusion counts, none of which may be empty."""
    truth_XK, n_X = counts_XKK.sum(axis=-1), counts_XKK.sum(axis=(-2, -1))
    hit_XK = np.diagonal(counts_XKK, axis1=-2, axis2=-1)
    f1_XK = _f1(counts_XKK)
    classes_X = (truth_XK > 0).sum(axis=-1)
    return {
        "waf": (f1_XK * truth_XK).sum(axis=-1) / n_X,
        "accuracy": hit_XK.sum(axis=-1) / n_X,
        "uar": (hit_XK / np.maximum(truth_XK, 1)).sum(axis=-1) / classes_X,
        "macro_f1": np.where(truth_XK > 0, f1_XK, 0.0).sum(axis=-1) / classes_X,
    }


def per_class_f1(probability_BK: np.ndarray, label_B: np.ndarray) -> np.ndarray:
    """F1 of each of the K classes; 0 for a class that occurs neither in truth nor in guesses."""
    return _f1(confusion(probability_BK, label_B))


def confusion(probability_BK: np.ndarray, label_B: np.ndarray) -> np.ndarray:
    """K x K counts: rows are the truth, columns the guesses."""
    return counts(probability_BK.argmax(axis=1), label_B, probability_BK.shape[1])


def chance(label_B: np.ndarray, classes: int) -> dict[str, float]:
    """The scores of guessing: uniformly, and always the most frequent class."""
    majority_BK = np.zeros((len(label_B), classes))
    majority_BK[:, np.bincount(label_B, minlength=classes).argmax()] = 1
    majority = metrics(majority_BK, label_B)
    return {
        "uniform_accuracy": 1 / classes,
        "majority_accuracy": majority["accuracy"],
        "majority_waf": majority["waf"],
    }


def _f1(counts_XKK: np.ndarray) -> np.ndarray:
    """F1 of each class (X, K): 2 hits / (truth + guesses); 0 for a class that occurs in neither."""
    both_XK = counts_XKK.sum(axis=-1) + counts_XKK.sum(axis=-2)
    return 2 * np.diagonal(counts_XKK, axis1=-2, axis2=-1) / np.maximum(both_XK, 1)
