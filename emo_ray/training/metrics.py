"""Metrics of the field, all derived from confusion counts, so that many models are measured at once.

scikit-learn gives the same numbers (tests/training/test_metrics.py), but takes a second to import in every worker.
"""

from collections.abc import Mapping, Sequence
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


def per_class(counts_KK: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class (K), from confusion counts; 0 where nothing is to be divided."""
    hit_K = np.diagonal(counts_KK)
    return {
        "precision": hit_K / np.maximum(counts_KK.sum(axis=0), 1),
        "recall": hit_K / np.maximum(counts_KK.sum(axis=1), 1),
        "f1": _f1(counts_KK),
    }


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


def validation_metrics(counts_SKK: np.ndarray, loss_sum: float, subsets: Sequence[str]) -> dict[str, float]:
    """An epoch's metrics from the confusion counts (1 + S, K, K) of every clip and of each subset, and the loss.

    `loss_sum` is the sum of the clips' negative log likelihoods, `val_loss` their mean. `val_waf` is measured on what
    each clip has, `val_V/waf` on a subset alone, and `val_mean/waf` is the mean over subsets. A subset is left out
    where no clip has all of its modalities.
    """
    metrics = {f"val_{name}": float(value) for name, value in of_counts(counts_SKK[0]).items()}
    metrics["val_n"] = int(counts_SKK[0].sum())
    metrics["val_loss"] = loss_sum / metrics["val_n"]
    occurring = [i for i in range(len(subsets)) if counts_SKK[1 + i].any()]
    for name, value_S in of_counts(counts_SKK[1:][occurring]).items() if occurring else ():
        metrics |= {f"val_{subsets[i]}/{name}": float(value) for i, value in zip(occurring, value_S, strict=True)}
        metrics[f"val_mean/{name}"] = float(value_S.mean())
    return metrics


def objective(metrics: Mapping[str, float], name: str) -> float:
    """The value of an objective such as VAT/waf, mean/uar or available/accuracy in an epoch's metrics.

    Raises ValueError where no validation clip has the modalities that it names.
    """
    where, metric = name.split("/")
    key = f"val_{metric}" if where == "available" else f"val_{where}/{metric}"
    if key not in metrics:
        raise ValueError(f"found no validation clip for tune.objective={name}, expected some that have all of {where}")
    return metrics[key]
