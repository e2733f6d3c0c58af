"""Floors: what scikit-learn's classifiers reach on the features that the fusion head gets.

A network that is not better than these need not be trained. Logistic regression, a support vector machine with an RBF
kernel and a random forest learn from the same clips. Inner folds of the training clips, which no speaker or dialogue
crosses, choose the strength of the first two's regularisation, so nothing is known of the clips they are measured on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from emo_ray.config.model_settings import SUBSETS
from emo_ray.data import folding
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.models.fusion import scaling, standardised
from emo_ray.training.bootstrap import difference_intervals, groups_among
from emo_ray.training.metrics import counts, of_counts

LOGISTIC, SVM, FOREST = "logistic regression", "support vector machine", "random forest"
FLOORS = (LOGISTIC, SVM, FOREST)
Guesses = dict[str, dict[str, np.ndarray]]  # subset of the modalities -> floor -> class of each clip (B,), -1: none
Comparison = dict[str, Any]  # subset of the modalities -> reports.floors.FloorScores

_STRENGTHS = {LOGISTIC: (0.001, 0.01, 0.1, 1.0), SVM: (1.0, 10.0)}  # C, the inverse of regularisation
_TREES = 200
_TUNED_ON = 1000  # clips; of more training clips so many are drawn to choose C on


def guesses(train: FeatureBatch, test: FeatureBatch, groups: Sequence[str], seed: int) -> Guesses:
    """What each floor takes the test clips for, for each subset of the modalities.

    A floor of a subset learns from the training clips that have all of it, and answers for the test clips that have all
    of it, -1 for others, and for all where training has fewer than two classes. `groups` names a group for each
    training clip (`splits.grouped`); the folds in which C is chosen divide none.
    """
    answers: Guesses = {subset: {floor: np.full(len(test), -1) for floor in FLOORS} for subset in SUBSETS}
    for subset, names in SUBSETS.items():
        rows, tested = train.places_with(names), test.places_with(names)
        label_B = train.label_B.numpy()[rows]
        if not len(tested) or len(np.unique(label_B)) < 2:
            continue
        train_BD, test_BD = _matrices(train, test, names, rows, tested)
        names_of_groups = [groups[row] for row in rows]
        for floor in FLOORS:
            model = Floor(floor, 1 / max(1, train_BD.shape[1]), seed)
            shown_BD, asked_BD = (train_BD, test_BD) if floor == FOREST else _in_span(train_BD, test_BD)
            answers[subset][floor][tested] = model.fitted(shown_BD, label_B, names_of_groups).predict(asked_BD)
    return answers


def comparison(
    answers: Guesses, probabilities: dict[str, np.ndarray], label_B: np.ndarray, group_B: np.ndarray | None, seed: int
) -> Comparison:
    """WAF and accuracy of every floor, and the difference in WAF of the head to the best, on the same clips.

    `interval` holds the ends of the 95 % interval of the difference, by paired bootstrap over the groups (see
    `bootstrap.speaker_groups`), or clips. The best floor is chosen after the fact, which flatters it.
    """
    content: Comparison = {}
    for subset, floors in answers.items():
        rows = np.flatnonzero(np.all([guess_B >= 0 for guess_B in floors.values()], axis=0))
        if not len(rows):
            continue
        classes = probabilities[subset].shape[1]
        ours_B = probabilities[subset].argmax(axis=1)
        both_FB = np.stack([guess_B[rows] for guess_B in (ours_B, *floors.values())])
        values = of_counts(counts(both_FB, label_B[rows], classes))
        best = 1 + int(values["waf"][1:].argmax())
        groups = groups_among(group_B, rows)
        intervals = difference_intervals(both_FB[[0, best]], label_B[rows], classes, groups, seed)
        content[subset] = {
            "floors": {
                name: {metric: float(values[metric][1 + i]) for metric in ("waf", "accuracy")}
                for i, name in enumerate(floors)
            },
            "waf": float(values["waf"][0]),
            "accuracy": float(values["accuracy"][0]),
            "best": list(floors)[best - 1],
            "difference": float(values["waf"][0] - values["waf"][best]),
            "interval": intervals["waf"],
            "n": len(rows),
        }
    return content


def _matrices(
    train: FeatureBatch, test: FeatureBatch, names: Sequence[str], rows: np.ndarray, tested: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The features of training and test clips as the head standardises them, side by side; float64 (B, D) of both."""
    columns = []
    for name in names:
        of_clips = train.features[name][rows], test.features[name][tested]
        columns.append([standardised(part_BD, scaling(of_clips[0])) for part_BD in of_clips])
    train_BD, test_BD = (torch.cat(parts, dim=1).double().numpy() for parts in zip(*columns, strict=True))
    return train_BD, test_BD


def spanned(train_BD: np.ndarray) -> np.ndarray | None:
    """The axes (D, B) of the space that B training clips span, where it has fewer than the features D; else None."""
    return None if train_BD.shape[1] <= len(train_BD) else np.linalg.svd(train_BD, full_matrices=False)[2].T


def _in_span(train_BD: np.ndarray, test_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same clips in the space that the training clips span, where that has fewer axes.

    The last column is the distance to that space, 0 for training clips. So the inner products and the distances of all
    clips to training clips stay as they are, which is all that logistic regression and the kernel look at.
    """
    axes_DB = spanned(train_BD)
    if axes_DB is None:
        return train_BD, test_BD
    inside_BD = test_BD @ axes_DB
    outside_B = np.sqrt(np.maximum(0.0, (test_BD**2).sum(axis=1) - (inside_BD**2).sum(axis=1)))
    return np.pad(train_BD @ axes_DB, ((0, 0), (0, 1))), np.column_stack([inside_BD, outside_B])


@dataclass(frozen=True)
class Floor:
    """A kind of classifier."""

    name: str
    gamma: float  # of the RBF kernel
    seed: int

    def make(self, strength: float | None) -> Any:
        """A fresh classifier of scikit-learn."""
        # Imported here because it takes a second, and most processes need none of it.
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.svm import SVC

        if self.name == LOGISTIC:
            return LogisticRegression(C=strength, max_iter=2000, tol=1e-3)
        if self.name == SVM:
            return SVC(C=strength, gamma=self.gamma)
        # As many threads as this process has for torch: the folds of cross-validation have one each.
        return RandomForestClassifier(_TREES, random_state=self.seed, n_jobs=torch.get_num_threads())

    def fitted(self, features_BD: np.ndarray, label_B: np.ndarray, groups: Sequence[str]) -> Any:
        """The classifier with the best C, fitted to these clips."""
        model = self.make(self.best_strength(features_BD, label_B, groups)).fit(features_BD, label_B)
        # Threads would add up what trees say in the order in which they end, and rounding decides between equals.
        return model.set_params(n_jobs=1) if self.name == FOREST else model

    def best_strength(self, features_BD: np.ndarray, label_B: np.ndarray, groups: Sequence[str]) -> float | None:
        """The C that is best in inner folds, which no group crosses; None for a floor without."""
        strengths = _STRENGTHS.get(self.name, ())
        drawn = np.sort(np.random.default_rng(self.seed).permutation(len(label_B))[:_TUNED_ON])
        features_BD, label_B, groups = features_BD[drawn], label_B[drawn], [groups[i] for i in drawn]
        count = min(INNER_FOLDS, len(set(groups)))
        if count < 2 or not strengths:
            return strengths[0] if strengths else None
        fold_B = folding.stratified(folding.balanced_labels(label_B.tolist(), count), groups, count, self.seed)

        def accuracy(strength: float) -> float:
            right = 0
            for fold in range(count):
                tested_B = fold_B == fold
                if len(np.unique(label_B[~tested_B])) > 1 and tested_B.any():
                    model = self.make(strength).fit(features_BD[~tested_B], label_B[~tested_B])
                    right += int((model.predict(features_BD[tested_B]) == label_B[tested_B]).sum())
            return right / len(label_B)

        return max(strengths, key=accuracy)
