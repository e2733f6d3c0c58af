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
    labels_B = _indices(labels)
    groups_B = _indices(groups)
    counts_GK = _counts(groups_B, labels_B)
    best: Cut | None = None
    for fold_B in _ways(labels, groups, range(count, 1, -1), seed):
        fold_G = np.zeros(len(counts_GK), np.int64)
        fold_G[groups_B] = fold_B
        for fold, cost in enumerate(_cut_costs(counts_GK, fold_G, 1 / count, kept_parts)):
            if best is None or cost < best.cost:
                best = Cut(fold_B == fold, cost)
            if cost == (False, 0, _NEAR):
                return best.moved_B
    assert best is not None, "scikit-learn always gives folds"
    return best.moved_B


def best_folds(labels: Sequence[Any], groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """The fold of each clip, int64 (B,), in the first way in which the fewest folds lack a class needlessly.

    A class of n groups can be in n folds at most.
    """
    labels_B = _indices(labels)
    groups_B = _indices(groups)
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
    labels_B = _indices(labels)
    groups_B = _indices(groups)
    counts_GK = _counts(groups_B, labels_B)
    brought_GK = _brought(counts_GK)
    for way in range(min(_RANDOM_WAYS, 1 + _RANDOM_GROUPS // len(counts_GK))):
        rng = np.random.default_rng([seed % 2**32, way])
        yield _random_folds(brought_GK, counts[way % len(counts)], rng)[groups_B]


def _indices(values: Sequence[Any]) -> np.ndarray:
    """Equal values as equal numbers from 0 on, int64 (B,)."""
    return np.unique(np.asarray(values), return_inverse=True)[1].reshape(-1)


def _brought(counts_GK: np.ndarray) -> np.ndarray:
    """The share of all clips of each class that a group has, float64 (G, K + 1); its size counts as one more class."""
    brought_GK = np.hstack([counts_GK, counts_GK.sum(axis=1, keepdims=True)]).astype(float)
    return brought_GK / brought_GK.sum(axis=0)


def _random_folds(brought_GK: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each group, int64 (G,): in random order, each to the fold that has least of what it brings."""
    held_FK = np.zeros((count, brought_GK.shape[1]))
    fold_G = np.zeros(len(brought_GK), np.int64)
    for group in rng.permutation(len(brought_GK)):
        fold = int((held_FK @ brought_GK[group]).argmin())
        held_FK[fold] += brought_GK[group]
        fold_G[group] = fold
    return fold_G


def _cut_costs(
    counts_GK: np.ndarray, fold_G: np.ndarray, size: float, kept_parts: int
) -> list[tuple[bool, int, float]]:
    """What moving each fold would cost, all folds at once, as most cuts are of few clips and tried some hundred times.

    Whether too much is moved; how many classes a side lacks; the distance from an even cut, at least _NEAR.
    """
    is_in_FG = np.arange(fold_G.max() + 1)[:, None] == fold_G
    has_GK, counts_K = counts_GK > 0, counts_GK.sum(axis=0)
    moved_FK, groups_K = is_in_FG @ counts_GK, has_GK.sum(axis=0)
    total, moved_F = counts_K.sum(), moved_FK.sum(axis=1)
    is_cut_F = (moved_F > 0) & (moved_F < total)
    needed_K = np.minimum(np.maximum(groups_K - 1, 1), kept_parts)
    kept_groups_FK = groups_K - is_in_FG @ has_GK.astype(np.int64)
    lacking_F = np.maximum(0, needed_K - kept_groups_FK).sum(axis=1) + ((moved_FK == 0) & (groups_K > 1)).sum(axis=1)
    distance_F = np.abs(moved_F / total / size - 1) / 2
    sides = [
        np.abs(side_FK / np.maximum(side_FK.sum(axis=1), 1)[:, None] - counts_K / total).sum(axis=1) / 2
        for side_FK in (moved_FK, counts_K - moved_FK)
    ]
    distance_F = np.where(is_cut_F, np.maximum(_NEAR, sum(sides) + distance_F), 2.0)
    is_too_much_F = ~is_cut_F | (moved_F > total / 2) | ((~is_in_FG).sum(axis=1) < kept_parts)
    lacking_F = np.where(is_cut_F, lacking_F, 2 * len(counts_K))
    return list(zip(is_too_much_F.tolist(), lacking_F.tolist(), distance_F.tolist(), strict=True))


def _counts(rows_B: np.ndarray, labels_B: np.ndarray) -> np.ndarray:
    """Clips of each label in each group or fold, int64 (G, K)."""
    shape = rows_B.max(initial=-1) + 1, labels_B.max(initial=-1) + 1
    return np.bincount(rows_B * shape[1] + labels_B, minlength=shape[0] * shape[1]).reshape(shape)
