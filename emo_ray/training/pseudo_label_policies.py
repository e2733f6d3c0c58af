"""Which pseudo-labels are kept: thresholds, agreement, a cap; and whether the kept ones drift from the labelled set.

N clips have a `confidence_N` (float32, the highest calibrated probability) and a `prediction_N` (its class, below K). A
policy gives the K thresholds that confidences are compared with: a clip is kept where it reaches that of its class.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from emo_ray.config.job_settings import Pseudo

DISAGREE, MODALITIES_DISAGREE = "teachers disagree", "modalities disagree"
BELOW, OVER_QUOTA, OVER_CAP = "below threshold", "over the quota", "over the cap"
STARVED, FLOODS = 1 / 3, 3.0  # times its share among labelled clips: below the one, above the other a class drifts


def select(
    own: Pseudo, confidence_N: np.ndarray, prediction_N: np.ndarray, against_N: np.ndarray, labels: Sequence[str],
    most: int | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """What speaks against each clip (N, None: it is kept), and the K thresholds.

    `against_N` holds what speaks against a clip however sure the teacher is, else None: those take no part in any
    threshold, quota or cap. `most` caps the kept clips.
    """
    reason_N, open_N = against_N.copy(), np.equal(against_N, None).astype(bool)
    threshold_K = thresholds(own, confidence_N[open_N], prediction_N[open_N], labels)
    passed_N = open_N.copy()
    passed_N[open_N] = confidence_N[open_N] >= threshold_K[prediction_N[open_N]]
    reason_N[open_N & ~passed_N] = BELOW
    if own.policy == "quota":
        full_N = most_confident(confidence_N, prediction_N, passed_N, np.full(len(labels), own.quota))
        reason_N[passed_N & ~full_N] = OVER_QUOTA
        passed_N = full_N
    if most is not None:
        kept_N = capped(confidence_N, prediction_N, passed_N, most)
        reason_N[passed_N & ~kept_N] = OVER_CAP
    return reason_N, threshold_K


def thresholds(own: Pseudo, confidence_N: np.ndarray, prediction_N: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The thresholds of `own.policy` as float32 (K,), as fine as the confidences that they are compared with."""
    policies = {
        "fixed": lambda: fixed(own.threshold, len(labels)),
        "per_class": lambda: per_class(own.thresholds, own.threshold, labels),
        "quota": lambda: quota(confidence_N, prediction_N, len(labels), own.quota),
        "adaptive": lambda: adaptive(confidence_N, prediction_N, len(labels), own.threshold, own.floor),
        "quantile": lambda: quantile(confidence_N, prediction_N, len(labels), own.quantile, own.floor),
    }
    return policies[own.policy]().astype(np.float32)


def fixed(threshold: float, classes: int) -> np.ndarray:
    """The same for every class."""
    return np.full(classes, threshold)


def per_class(named: Mapping[str, float], otherwise: float, labels: Sequence[str]) -> np.ndarray:
    """Those of the named classes, and another for the rest. Raises ValueError for a name that is no class."""
    if unknown := sorted(set(named) - set(labels)):
        raise ValueError(f"pseudo.thresholds: found {', '.join(unknown)}, expected classes of {', '.join(labels)}")
    return np.array([named.get(label, otherwise) for label in labels], float)


def quota(confidence_N: np.ndarray, prediction_N: np.ndarray, classes: int, most: int) -> np.ndarray:
    """The confidence of the `most`-th most confident clip of each class, 0 where there are fewer.

    Clips that tie with it are one too many: see `most_confident`.
    """
    of_class = (confidence_N[prediction_N == k] for k in range(classes))
    return np.array([np.sort(own)[-most] if len(own) >= most else 0.0 for own in of_class], float)


def adaptive(
    confidence_N: np.ndarray, prediction_N: np.ndarray, classes: int, threshold: float, floor: float
) -> np.ndarray:
    """FlexMatch (Zhang et al. 2021, section 3.1-3.3): a class is taken for learnt as far as its clips pass `threshold`.

    With c_k clips of class k that pass, beta_k = c_k / max(max c, N - sum c): while most clips pass nowhere, all
    thresholds are low (warm-up). The class' threshold is M(beta_k) * threshold with the convex M(x) = x / (2 - x), and
    no less than `floor`, or a class that nothing passes would take every clip.
    """
    passed_K = np.bincount(prediction_N[confidence_N >= np.float32(threshold)], minlength=classes)
    most = max(passed_K.max(initial=0), len(confidence_N) - passed_K.sum())
    beta_K = passed_K / max(most, 1)
    return np.maximum(floor, beta_K / (2 - beta_K) * threshold)


def quantile(
    confidence_N: np.ndarray, prediction_N: np.ndarray, classes: int, share: float, floor: float
) -> np.ndarray:
    """The quantile of each class' confidences, and no less than `floor`: rare classes keep their share of clips."""
    of_class = (confidence_N[prediction_N == k] for k in range(classes))
    return np.array([max(floor, np.quantile(own, share)) if len(own) else floor for own in of_class], float)


def most_confident(
    confidence_N: np.ndarray, prediction_N: np.ndarray, among_N: np.ndarray, most_K: np.ndarray
) -> np.ndarray:
    """A mask of at most `most_K` clips of each class, the most confident of `among_N`; of equal ones the first."""
    rows = np.flatnonzero(among_N)
    order = rows[np.lexsort((rows, -confidence_N[rows], prediction_N[rows]))]  # class by class, the best first
    class_of, kept_N = prediction_N[order], np.zeros(len(among_N), bool)
    starts = np.searchsorted(class_of, np.arange(len(most_K)))
    rank = np.arange(len(order)) - starts[class_of]
    kept_N[order[rank < np.asarray(most_K)[class_of]]] = True
    return kept_N


def capped(confidence_N: np.ndarray, prediction_N: np.ndarray, accepted_N: np.ndarray, most: int) -> np.ndarray:
    """A mask of at most `most` of the accepted clips: the most confident of each class, which all keep their shares."""
    accepted_K = np.bincount(prediction_N[accepted_N])
    total = int(accepted_K.sum())
    if total <= most:
        return accepted_N
    wanted_K = accepted_K * most / total
    most_K = np.floor(wanted_K).astype(int)
    largest_rests = np.argsort(most_K - wanted_K, kind="stable")[: most - most_K.sum()]
    most_K[largest_rests] += 1
    return most_confident(confidence_N, prediction_N, accepted_N, most_K)


def teachers_agree(votes_TN: np.ndarray, prediction_N: np.ndarray, share: float) -> np.ndarray:
    """Where at least `share` of the teachers that have a vote (a class; -1: none) vote for the prediction."""
    voters_N = (votes_TN >= 0).sum(axis=0)
    return (votes_TN == prediction_N).sum(axis=0) >= share * voters_N - 1e-9


def modalities_agree(votes_MN: np.ndarray, prediction_N: np.ndarray, least: int) -> np.ndarray:
    """Where at least `least` of a clip's modalities, or all it has, give its prediction when shown alone (-1: absent).

    A clip with one modality passes: there is nothing that could disagree.
    """
    present_N = (votes_MN >= 0).sum(axis=0)
    same_N = ((votes_MN == prediction_N) & (votes_MN >= 0)).sum(axis=0)
    return (present_N <= 1) | (same_N >= np.minimum(least, present_N))


def drift(labelled_K: np.ndarray, accepted_K: np.ndarray) -> list[str | None]:
    """For each class "starved" or "floods" where its share of accepted clips left that of labelled ones, else None.

    Nothing drifts where there are no labelled or no accepted clips to take shares of.
    """
    if not labelled_K.sum() or not accepted_K.sum():
        return [None] * len(labelled_K)
    expected_K, found_K = labelled_K / labelled_K.sum(), accepted_K / accepted_K.sum()
    return [
        "starved" if found < STARVED * expected else "floods" if found > FLOODS * expected else None
        for expected, found in zip(expected_K, found_K, strict=True)
    ]
