"""Classical heads: scikit-learn's classifiers, fitted as the floors are, in the place of the fusion head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from emo_ray.config import Config
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.classical_head import NEVER, ClassicalHead, Classifier, KernelClassifier, LinearClassifier
from emo_ray.models.fusion import scalings, standardised
from emo_ray.training.floors import LOGISTIC, SVM, Floor, spanned

_FLOORS = {"linear": LOGISTIC, "svm": SVM}


def fit(train: FeatureBatch, config: Config, classes: int, groups: Sequence[str]) -> ClassicalHead:
    """The head of `fusion.kind` for clips that all have a label, in evaluation mode.

    A classifier of a subset of the modalities learns from the clips that have all of it. Inner folds of these clips, of
    which none divides one of `groups`, choose the strength of its regularisation.
    """
    scaling_of = scalings(train)
    classifiers: dict[str, Classifier] = {}
    for subset, names in SUBSETS.items():
        rows = train.places_with(names)
        label_B = train.label_B.numpy()[rows]
        if len(np.unique(label_B)) < 2:
            continue
        columns = [standardised(train.features[name][rows], scaling_of[name]) for name in names]
        features_BD = torch.cat(columns, dim=1).double().numpy()
        floor = Floor(_FLOORS[config.fusion.kind], 1 / features_BD.shape[1], config.seed)
        axes_DB = spanned(features_BD)
        inside_BD = features_BD if axes_DB is None else features_BD @ axes_DB
        model = floor.fitted(inside_BD, label_B, [groups[row] for row in rows])
        if config.fusion.kind == "linear":
            classifiers[subset] = linear(model, axes_DB, classes)
        else:
            classifiers[subset] = kernel(model, features_BD, classes)
    count_K = torch.bincount(train.label_B, minlength=classes) + 1  # a class without clips is rare, not impossible
    return ClassicalHead(scaling_of, classifiers, (count_K / count_K.sum()).log()).eval()


def linear(model: Any, axes_DB: np.ndarray | None, classes: int) -> LinearClassifier:
    """A fitted LogisticRegression on features along these axes, None for the features themselves, as tensors."""
    weight_CD, bias_C = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row says how much likelier the second class is
        weight_CD, bias_C = np.vstack([0 * weight_CD, weight_CD]), np.append(0.0, bias_C)
    if axes_DB is not None:
        weight_CD = weight_CD @ axes_DB.T
    weight_KD, bias_K = np.zeros((classes, weight_CD.shape[1])), np.full(classes, NEVER)
    weight_KD[model.classes_], bias_K[model.classes_] = weight_CD, bias_C
    return LinearClassifier(torch.from_numpy(weight_KD).float(), torch.from_numpy(bias_K).float())


def kernel(model: Any, features_BD: np.ndarray, classes: int) -> KernelClassifier:
    """A fitted SVC, whose training clips have these features, as tensors.

    scikit-learn keeps, for a support vector of class c, its coefficients in the pairs of c with the other classes, in
    their order. With two classes it turns their signs.
    """
    count = len(model.classes_)
    sign = -1.0 if count == 2 else 1.0
    class_S = np.repeat(np.arange(count), model.n_support_)
    dual_SP = np.zeros((len(class_S), count * (count - 1) // 2))
    for pair, (first, second) in enumerate(zip(*np.triu_indices(count, 1), strict=True)):
        dual_SP[class_S == first, pair] = sign * model.dual_coef_[second - 1, class_S == first]
        dual_SP[class_S == second, pair] = sign * model.dual_coef_[first, class_S == second]
    place_K = np.full(classes, -1)
    place_K[model.classes_] = np.arange(count)
    return KernelClassifier(
        support_SD=torch.from_numpy(features_BD[model.support_]).float(),
        dual_SP=torch.from_numpy(dual_SP),
        intercept_P=torch.from_numpy(sign * model.intercept_),
        gamma=torch.tensor(model.gamma, dtype=torch.float64),
        place_K=torch.from_numpy(place_K),
    )
