"""Which pseudo-labels are kept: thresholds, agreement and a cap; and whether their classes drift.

Each of N clips has a `confidence_N` (float32, its highest calibrated probability) and a `prediction_N` (the class of
that probability, below K). A policy gives a threshold for each of the K classes, and a clip is kept where its
confidence reaches the threshold of its predicted class.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emo_ray.config.job_settings import Pseudo

DISAGREE, MODALITIES_DISAGREE = "teachers disagree", "modalities disagree"
CHAT_DISAGREES, NO_CHAT_LABEL = "the chat model disagrees", "no label of the chat model"
BELOW, OVER_QUOTA, OVER_CAP = "below threshold", "over the quota", "over the cap"
STARVED, FLOODS = 1 / 3, 3.0  # a class drifts outside these multiples of its share among labelled clips


def select(
    settings: Pseudo, confidence_N: np.ndarray, prediction_N: np.ndarray, veto_N: np.ndarray, labels: Sequence[str],
    most: int | None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The reason against each clip (N, objects; None for a kept clip), and the K thresholds.

    `veto_N` (objects) holds a reason against a clip however sure the teacher is, or None. Vetoed clips take no part in
    any threshold, quota or cap. `most` limits the number of kept clips.
    """
    reason_N, open_N = veto_N.copy(), np.array([veto is None for veto in veto_N], bool)
    threshold_K = thresholds(settings, confidence_N[open_N], prediction_N[open_N], labels)
    passed_N = open_N.copy()
    passed_N[open_N] = confidence_N[open_N] >= threshold_K[prediction_N[open_N]]
    reason_N[open_N & ~passed_N] = BELOW
    if settings.policy == "quota":
        within_N = most_confident(confidence_N, prediction_N, passed_N, np.full(len(labels), settings.quota))
        reason_N[passed_N & ~within_N] = OVER_QUOTA
        passed_N = within_N
    if most is not None:
        kept_N = capped(confidence_N, prediction_N, passed_N, most)
        reason_N[passed_N & ~kept_N] = OVER_CAP
    return reason_N, threshold_K


def thresholds(
    settings: Pseudo, confidence_N: np.ndarray, prediction_N: np.ndarray, labels: Sequence[str]
) -> np.ndarray:  # fmt: skip
    """The K thresholds of `settings.policy`, in float32 as the confidences that they are compared with."""
    classes = len(labels)
    policies: dict[str, Callable[[], np.ndarray]] = {
        "fixed": lambda: fixed(settings.threshold, classes),
        "per_class": lambda: per_class(settings.thresholds, settings.threshold, labels),
        "quota": lambda: quota(confidence_N, prediction_N, classes, settings.quota),
        "adaptive": lambda: adaptive(confidence_N, prediction_N, classes, settings.threshold, settings.floor),
        "quantile": lambda: quantile(confidence_N, prediction_N, classes, settings.quantile, settings.floor),
    }
    return policies[settings.policy]().astype(np.float32)


def fixed(threshold: float, classes: int) -> np.ndarray:
    """One threshold for every class."""
    return np.full(classes, threshold)


def per_class(threshold_of: Mapping[str, float], otherwise: float, labels: Sequence[str]) -> np.ndarray:
    """A threshold for each named class, and another for the rest. Raises ValueError for a name that is no class."""
    if unknown := sorted(set(threshold_of) - set(labels)):
        raise ValueError(f"pseudo.thresholds: found {', '.join(unknown)}, expected classes of {', '.join(labels)}")
    return np.array([threshold_of.get(label, otherwise) for label in labels], float)


def quota(confidence_N: np.ndarray, prediction_N: np.ndarray, classes: int, most: int) -> np.ndarray:
    """The confidence of the `most`-th most confident clip of each class; 0 for a class with fewer clips.

    More clips pass it where several tie with that clip: `select` then keeps the first of them (`most_confident`).
    """
    confidences = (confidence_N[prediction_N == k] for k in range(classes))
    return np.array([np.sort(c_N)[-most] if len(c_N) >= most else 0.0 for c_N in confidences], float)


def adaptive(
    confidence_N: np.ndarray, prediction_N: np.ndarray, classes: int, threshold: float, floor: float
) -> np.ndarray:
    """FlexMatch (Zhang et al. 2021, sections 3.1 to 3.3): classes that are learnt less have lower thresholds.

    How far class k is learnt is told by c_k, the number of its clips that pass `threshold`: beta_k = c_k / max(max c,
    N - sum c), so all thresholds are low while most clips pass nowhere (warm-up). The threshold of the class is
    M(beta_k) * threshold with the convex M(x) = x / (2 - x). It is no less than `floor`, because a class without
    passing clips would otherwise take every clip.
    """
    passed_K = np.bincount(prediction_N[confidence_N >= np.float32(threshold)], minlength=classes)
    most = max(passed_K.max(initial=0), len(confidence_N) - passed_K.sum())
    beta_K = passed_K / max(most, 1)
    return np.maximum(floor, beta_K / (2 - beta_K) * threshold)


def quantile(
    confidence_N: np.ndarray, prediction_N: np.ndarray, classes: int, share: float, floor: float
) -> np.ndarray:
    """A quantile of each class' confidences, and no less than `floor`: rare classes keep their share of clips."""
    confidences = (confidence_N[prediction_N == k] for k in range(classes))
    return np.array([max(floor, np.quantile(c_N, share)) if len(c_N) else floor for c_N in confidences], float)


def most_confident(
    confidence_N: np.ndarray, prediction_N: np.ndarray, among_N: np.ndarray, most_K: np.ndarray
) -> np.ndarray:
    """A mask (N,) of at most `most_K` clips of each class, the most confident of `among_N`; of equal ones the first."""
    rows = np.flatnonzero(among_N)
    order = rows[np.lexsort((rows, -confidence_N[rows], prediction_N[rows]))]  # class by class, the best first
    class_of, kept_N = prediction_N[order], np.zeros(len(among_N), bool)
    starts = np.searchsorted(class_of, np.arange(len(most_K)))
    rank = np.arange(len(order)) - starts[class_of]
    kept_N[order[rank < np.asarray(most_K)[class_of]]] = True
    return kept_N


def capped(confidence_N: np.ndarray, prediction_N: np.ndarray, accepted_N: np.ndarray, most: int) -> np.ndarray:
    """A mask (N,) of at most `most` accepted clips: the most confident of each class, all of which keep their share."""
    accepted_K = np.bincount(prediction_N[accepted_N])
    total = int(accepted_K.sum())
    if total <= most:
        return accepted_N
    share_K = accepted_K * most / total
    most_K = np.floor(share_K).astype(int)
    largest_remainders = np.argsort(most_K - share_K, kind="stable")[: most - most_K.sum()]
    most_K[largest_remainders] += 1
    return most_confident(confidence_N, prediction_N, accepted_N, most_K)


def teachers_agree(votes_TN: np.ndarray, prediction_N: np.ndarray, share: float) -> np.ndarray:
    """A mask (N,) of the clips where at least `share` of the teachers with a vote give the prediction (-1: no vote)."""
    voters_N = (votes_TN >= 0).sum(axis=0)
    return (votes_TN == prediction_N).sum(axis=0) >= share * voters_N - 1e-9


def modalities_agree(votes_MN: np.ndarray, prediction_N: np.ndarray, least: int) -> np.ndarray:
    """A mask (N,) of the clips where at least `least` modalities, or all present, give the prediction when shown alone.

    An absent modality votes -1. A clip with one modality passes: there is nothing that could disagree.
    """
    present_N = (votes_MN >= 0).sum(axis=0)
    same_N = ((votes_MN == prediction_N) & (votes_MN >= 0)).sum(axis=0)
    return (present_N <= 1) | (same_N >= np.minimum(least, present_N))


def drift(labelled_K: np.ndarray, accepted_K: np.ndarray) -> list[str | None]:
    """For each class "starved" or "floods" if its share of accepted clips is far from that of labelled ones, else None.

    Without labelled or without accepted clips there are no shares, and no class drifts.
    """
    if not labelled_K.sum() or not accepted_K.sum():
        return [None] * len(labelled_K)
    labelled_share_K = labelled_K / labelled_K.sum()
    accepted_share_K = accepted_K / accepted_K.sum()
    return [
        "starved" if accepted < STARVED * labelled else "floods" if accepted > FLOODS * labelled else None
        for labelled, accepted in zip(labelled_share_K, accepted_share_K, strict=True)
    ]
