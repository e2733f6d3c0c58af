"""Folds of labelled clips: groups (speakers) stay whole, and of many ways to fold the best one is taken.

Where speakers differ in their labels, one way of folding often leaves a class out of a fold although another way would
not. scikit-learn's stratified folds by group are such a way, the same for nearly every seed; they come first, and
random ones follow until one is good.

Suffixes of arrays: B clips, G groups, F folds, K classes.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

INNER_FOLDS = 3  # of training clips, in which settings are chosen
_RANDOM_WAYS = 50  # that are tried beside scikit-learn's, and fewer where there are very many groups
_RANDOM_GROUPS = 500_000  # that are put into folds for it, about 5 s
_NEAR = 0.03  # cuts are alike where their distance is at most this: one point in label shares, 2 % in size


@dataclass(frozen=True)
class Cut:
    """Which clips are moved out of their split, and how good that is: the lower the cost, the better."""

    moved_B: np.ndarray  # bool
    cost: tuple[bool, int, float]


def best_cut(labels: Sequence[Any], groups: Sequence[str], count: int, seed: int, kept_parts: int = 1) -> np.ndarray:
    """Which clips to move, bool (B,): the best fold of all ways of `count` folds and of fewer, larger ones.

    First come cuts that move no more than half of the clips and let `kept_parts` groups stay; of these, cuts that leave
    the fewest classes out on either side, where more than one group has the class; of these, the cut whose two sides
    have label shares nearest to those of all clips, and the size nearest to 1 / `count`. Ties go to the way that comes
    first. What stays is going to be cut into `kept_parts`, so a class should stay in as many groups, where there are
    enough.
    """
    labels_B = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
    groups_B = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    counts_GK = _counts(groups_B, labels_B)
    best: Cut | None = None
    for fold_B in _ways(labels, groups, range(count, 1, -1), seed):
        for fold in range(fold_B.max() + 1):
            moved_B = fold_B == fold
            moved_G = np.zeros(len(counts_GK), bool)
            moved_G[groups_B[moved_B]] = True
            cost = _cut_cost(counts_GK, moved_G, 1 / count, kept_parts)
            if best is None or cost < best.cost:
                best = Cut(moved_B, cost)
            if cost == (False, 0, _NEAR):
                return moved_B
    assert best is not None, "scikit-learn always gives folds"
    return best.moved_B


def best_folds(labels: Sequence[Any], groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """The fold of each clip, int64 (B,), in the first way in which the fewest folds lack a class needlessly.

    A class of n groups can be in n folds at most.
    """
    labels_B = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
    groups_B = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    groups_with_K = (_counts(groups_B, labels_B) > 0).sum(axis=0)
    best_B, least = np.zeros(len(labels_B), np.int64), np.inf
    for fold_B in _ways(labels, groups, [count], seed):
        folds_with_K = (_counts(fold_B, labels_B) > 0).sum(axis=0)
        empty = count - len(np.unique(fold_B))
        lacking = np.maximum(0, np.minimum(groups_with_K, count) - folds_with_K).sum() + len(labels_B) * empty
        if lacking < least:
            best_B, least = fold_B, lacking
        if not lacking:
            break
    return best_B


def stratified(labels: np.ndarray, groups: Sequence[str] | None, count: int, seed: int) -> np.ndarray:
    """scikit-learn's folds, int64 (B,): by group, or by clip where `groups` is None."""
    # Imported here because it takes a second, and most runs cut nothing.
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    fold_B = np.full(len(labels), -1)
    with warnings.catch_warnings():  # some classes rarer than the folds are fine here, and usual
        warnings.simplefilter("ignore", UserWarning)
        cuts = splitter(count, shuffle=True, random_state=seed).split(labels, labels, groups)
        for fold, (_, rows) in enumerate(cuts):
            fold_B[rows] = fold
    return fold_B


def balanced_labels(labels: Sequence[Any], folds: int) -> np.ndarray:
    """The labels to balance; all alike where every label has too few clips for the folds, so that sizes balance."""
    if max(Counter(labels).values(), default=0) < folds:
        return np.zeros(len(labels))
    return np.array(labels)


def _ways(labels: Sequence[Any], groups: Sequence[str], counts: Sequence[int], seed: int) -> Iterator[np.ndarray]:
    """Ways to fold, each the fold of every clip (B,): scikit-learn's, then random ones of seeds drawn from `seed`.

    scikit-learn's has `counts[0]` folds; the others take the numbers of folds in turn.
    """
    yield stratified(balanced_labels(labels, counts[0]), groups, counts[0], seed)
    labels_B = np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1)
    groups_B = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    counts_GK = _counts(groups_B, labels_B)
    for way in range(min(_RANDOM_WAYS, 1 + _RANDOM_GROUPS // len(counts_GK))):
        rng = np.random.default_rng([seed % 2**32, way])
        yield _random_folds(counts_GK, counts[way % len(counts)], rng)[groups_B]


def _random_folds(counts_GK: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each group, int64 (G,): in random order, each to the fold that has least of what it brings."""
    sizes_G1 = counts_GK.sum(axis=1, keepdims=True)
    brought_GK = np.hstack([counts_GK, sizes_G1]).astype(float)  # the size counts as one more class
    brought_GK /= brought_GK.sum(axis=0)
    held_FK = np.zeros((count, brought_GK.shape[1]))
    fold_G = np.zeros(len(counts_GK), np.int64)
    for group in rng.permutation(len(counts_GK)):
        fold = int((held_FK @ brought_GK[group]).argmin())
        held_FK[fold] += brought_GK[group]
        fold_G[group] = fold
    return fold_G


def _cut_cost(counts_GK: np.ndarray, moved_G: np.ndarray, size: float, kept_parts: int) -> tuple[bool, int, float]:
    """Whether too much is moved; how many classes a side lacks; the distance from an even cut, at least _NEAR."""
    counts_K, moved_K = counts_GK.sum(axis=0), counts_GK[moved_G].sum(axis=0)
    total, moved = counts_K.sum(), moved_K.sum()
    if not 0 < moved < total:
        return True, 2 * len(counts_K), 2.0
    groups_K, kept_groups_K = (counts_GK > 0).sum(axis=0), (counts_GK[~moved_G] > 0).sum(axis=0)
    needed_K = np.clip(groups_K - 1, 1, kept_parts)
    lacking = np.maximum(0, needed_K - kept_groups_K).sum() + ((moved_K == 0) & (groups_K > 1)).sum()
    distances = [np.abs(side_K / side_K.sum() - counts_K / total).sum() / 2 for side_K in (moved_K, counts_K - moved_K)]
    distance = sum(distances) + abs(moved / total / size - 1) / 2
    is_too_much = moved > total / 2 or (~moved_G).sum() < kept_parts
    return bool(is_too_much), int(lacking), max(_NEAR, float(distance))


def _counts(rows_B: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """Clips of each label in each group or fold, int64 (G, K)."""
    shape = rows_B.max(initial=-1) + 1, labels_B.max(initial=-1) + 1
    return np.bincount(rows_B * shape[1] + labels_B, minlength=shape[0] * shape[1]).reshape(shape)
