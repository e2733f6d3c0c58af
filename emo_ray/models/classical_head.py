"""Classical classifiers in the place of the fusion head: logistic regression or support vector machines.

There is one classifier for each subset of the modalities, and a clip goes to the one of all modalities that it has.
scikit-learn fits them (`training.classical`); here they are plain tensors, so a checkpoint holds numbers and no code.
"""

from collections.abc import Mapping
from inspect import signature

import torch
from torch import nn

from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch, Output
from emo_ray.models.fusion import FeatureScaling

NEVER = -30.0  # the logit of a class that no training clip of a classifier has


class LinearClassifier(nn.Module):
    """Logistic regression: logits of the K classes from D standardised features."""

    def __init__(self, weight_KD: torch.Tensor, bias_K: torch.Tensor):
        super().__init__()
        _check(weight_KD.ndim == 2 and bias_K.shape == weight_KD.shape[:1])
        self.weight_KD = nn.Buffer(weight_KD)
        self.bias_K = nn.Buffer(bias_K)

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of features and of classes."""
        return self.weight_KD.shape[1], len(self.weight_KD)

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Standardised features to logits (B, K)."""
        return features_BD @ self.weight_KD.T + self.bias_K


class KernelClassifier(nn.Module):
    """Support vector machines with an RBF kernel, one for each pair of classes, which vote.

    `dual_SP` holds the signed coefficients of the S support vectors in each of the P pairs (0, 1), (0, 2), ..., (1, 2),
    ..., of which a positive sum votes for the first class. Only C of the K classes need occur: `place_K` is the place
    of each among the C, -1 for one that no training clip has.
    """

    def __init__(
        self,
        support_SD: torch.Tensor,
        dual_SP: torch.Tensor,
        intercept_P: torch.Tensor,
        gamma: torch.Tensor,
        place_K: torch.Tensor,
    ):
        super().__init__()
        _check(all(tensor.ndim == 2 for tensor in (support_SD, dual_SP)) and place_K.ndim == 1)
        self.count = int((place_K >= 0).sum())
        _check(sorted(place_K[place_K >= 0].tolist()) == list(range(self.count)))
        pairs = self.count * (self.count - 1) // 2
        _check(dual_SP.shape == (len(support_SD), pairs) and intercept_P.shape == (pairs,))
        _check(gamma.ndim == 0)
        self.support_SD, self.dual_SP = nn.Buffer(support_SD), nn.Buffer(dual_SP)
        self.intercept_P, self.place_K = nn.Buffer(intercept_P), nn.Buffer(place_K)
        self.gamma = nn.Buffer(gamma)

    @property
    def sizes(self) -> tuple[int, int]:
        """The numbers of features and of classes."""
        return self.support_SD.shape[1], len(self.place_K)

    def decision(self, features_BD: torch.Tensor) -> torch.Tensor:
        """The decision function of scikit-learn's SVC, each class against the rest, float64 (B, C)."""
        distance_BS = torch.cdist(features_BD.double(), self.support_SD.double())
        pair_BP = (-self.gamma * distance_BS**2).exp() @ self.dual_SP + self.intercept_P
        first_P, second_P = torch.triu_indices(self.count, self.count, 1, device=pair_BP.device)
        nothing_BC = pair_BP.new_zeros(len(pair_BP), self.count)
        is_first_BP = (pair_BP >= 0).double()
        vote_BC = nothing_BC.index_add(1, first_P, is_first_BP).index_add(1, second_P, 1 - is_first_BP)
        clear_BC = nothing_BC.index_add(1, first_P, pair_BP).index_add(1, second_P, -pair_BP)
        return vote_BC + clear_BC / (3 * (clear_BC.abs() + 1))  # less than 1/3: it orders classes of equal votes

    def forward(self, features_BD: torch.Tensor) -> torch.Tensor:
        """Standardised features to logits (B, K): a vote more makes a class e times as likely."""
        logits_BK = self.decision(features_BD)[:, self.place_K.clamp(min=0)].masked_fill(self.place_K < 0, NEVER)
        return logits_BK.float()


Classifier = LinearClassifier | KernelClassifier


class ClassicalHead(FeatureScaling):
    """A classifier for each subset of the modalities, which takes their standardised features side by side.

    A clip whose modalities no training clip had together goes to the classifier of the largest part of them. One that
    has none of the trained modalities gets the classes as often as training clips have them.
    """

    offsets: tuple[int, ...] = ()  # it sees no neighbours

    def __init__(
        self,
        scaling: Mapping[str, torch.Tensor],
        classifiers: Mapping[str, Classifier],
        log_frequency_K: torch.Tensor,
    ):
        super().__init__(scaling)
        self.project = tuple(scaling)  # the modalities that it has learnt
        self.log_frequency_K = nn.Buffer(log_frequency_K)
        for subset, classifier in classifiers.items():
            _check(set(SUBSETS[subset]) <= set(scaling) and log_frequency_K.ndim == 1)
            width = sum(scaling[name].shape[1] for name in SUBSETS[subset])
            _check(classifier.sizes == (width, len(log_frequency_K)))
        self.classifiers = nn.ModuleDict(classifiers)

    def forward(self, batch: FeatureBatch) -> Output:
        """A batch with features to logits_BK, which stand for features_BD too."""
        present_BM, standardised = batch.present_BM, {}
        for m, name in enumerate(MODALITIES):
            if name in self.project and name in batch.features:
                standardised[name] = self.standardise(batch.features[name], name, present_BM[:, m])
        logits_BK = self.log_frequency_K.repeat(len(batch), 1)
        waiting_B = torch.ones_like(present_BM[:, 0])
        for subset in sorted(self.classifiers, key=len, reverse=True):
            names = SUBSETS[subset]
            if not all(name in standardised for name in names):
                continue
            rows_B = waiting_B & present_BM[:, [MODALITIES.index(name) for name in names]].all(dim=1)
            features_BD = torch.cat([standardised[name][rows_B] for name in names], dim=1)
            logits_BK[rows_B] = self.classifiers[subset](features_BD)
            waiting_B = waiting_B & ~rows_B
        return Output(logits_BK, logits_BK)


def from_state(state: Mapping[str, torch.Tensor], scaling: Mapping[str, torch.Tensor]) -> ClassicalHead:
    """The head of a `trained_state`. Raises ValueError for tensors that make none."""
    classifiers: dict[str, Classifier] = {}
    rest = {name: value for name, value in state.items() if not name.startswith("scaling_")}
    for subset in SUBSETS:
        prefix = f"classifiers.{subset}."
        part = {name.removeprefix(prefix): rest.pop(name) for name in list(rest) if name.startswith(prefix)}
        kind = next((kind for kind in (LinearClassifier, KernelClassifier) if set(part) == _names(kind)), None)
        _check(kind is not None or not part)
        if kind is not None:
            classifiers[subset] = kind(**part)
    _check(set(rest) == {"log_frequency_K"})
    return ClassicalHead(scaling, classifiers, rest["log_frequency_K"])


def _names(kind: type[nn.Module]) -> set[str]:
    return set(signature(kind).parameters)


def _check(fits: bool) -> None:
    if not fits:
        raise ValueError(
            "found weights that do not fit a classical head (fusion.kind), expected those of the same config"
        )
