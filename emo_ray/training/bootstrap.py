"""Intervals of scores by bootstrap: whole speakers, or clips, are drawn with replacement many times.

Clips of one speaker are right and wrong together, so intervals over clips are too narrow for what matters: other
speakers. All metrics follow from confusion counts, so a resample is a weighted sum of small tables of counts, one for
each speaker, or for each kind of clip (its class and what each model takes it for), and no clip is touched twice.

Intervals are percentiles (Efron and Tibshirani 1993, chapter 13). tests/training/test_bootstrap.py holds them to
`scipy.stats.bootstrap`, which takes a thousand times as long.
"""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from emo_ray.training.metrics import of_counts

RESAMPLES = 2000
FEW_SPEAKERS = 5  # with fewer, their resamples say little: clips are drawn
_CHUNK = 250  # resamples at a time, which bounds memory
Interval = list[float]  # the ends of the 95 % interval


class DrawnInterval(TypedDict):
    """A 95 % interval with what its bootstrap draws."""

    ends: Interval
    drawn: str  # "speakers" or "clips"


def speaker_groups(speakers: Sequence[str | None]) -> np.ndarray | None:
    """The speaker of each clip as an index (B,), for `resampled`; None where intervals have to be over clips.

    That is where fewer than `FEW_SPEAKERS` are known. A clip without a speaker is a group by itself.
    """
    if len(set(speakers) - {None}) < FEW_SPEAKERS:
        return None
    names = [f"speaker:{name}" if name is not None else f"clip:{place}" for place, name in enumerate(speakers)]
    return np.unique(names, return_inverse=True)[1]


def groups_among(group_B: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """The groups of some rows alone, counted from 0 on; None where there are no groups."""
    return None if group_B is None else np.unique(group_B[rows], return_inverse=True)[1]


def resampled(
    guess_XB: np.ndarray, label_B: np.ndarray, classes: int, group_B: np.ndarray | None, seed: int
) -> np.ndarray:
    """Confusion counts (R, X, K, K) of the classes that X models name, in R resamples that are the same for all models.

    Whole groups are drawn where `group_B` names them, else clips. Raises ValueError without clips.
    """
    if not len(label_B):
        raise ValueError("found no labelled clips, expected at least one to draw")
    kind_BX = (label_B * classes + guess_XB).T  # a cell of each model's table
    unit_B = np.unique(kind_BX, axis=0, return_inverse=True)[1].ravel() if group_B is None else group_B
    units = int(unit_B.max()) + 1
    size_U = np.bincount(unit_B, minlength=units)
    models, cells = len(guess_XB), classes**2
    place_BX = (unit_B[:, None] * models + np.arange(models)) * cells + kind_BX
    counts_UC = np.bincount(place_BX.ravel(), minlength=units * models * cells).reshape(units, -1).astype(float)
    if group_B is None:
        chances_U, draws = size_U / len(label_B), len(label_B)
        counts_UC /= size_U[:, None]  # of one clip of the kind
    else:
        draws = int((size_U > 0).sum())
        chances_U = (size_U > 0) / draws
    rng = np.random.default_rng(seed)
    chunks = [rng.multinomial(draws, chances_U, size=_CHUNK) @ counts_UC for _ in range(RESAMPLES // _CHUNK)]
    return np.concatenate(chunks).reshape(RESAMPLES, models, classes, classes)


def interval(values_R: np.ndarray) -> Interval:
    """The ends of the 95 % interval of a value, from its resamples."""
    low, high = np.quantile(values_R, [0.025, 0.975])
    return [float(low), float(high)]


def score_intervals(
    guess_B: np.ndarray, label_B: np.ndarray, classes: int, group_B: np.ndarray | None, seed: int
) -> dict[str, Interval]:
    """The 95 % interval of each of `metrics.metrics`."""
    counts_RKK = resampled(guess_B[None], label_B, classes, group_B, seed)[:, 0]
    return {name: interval(values_R) for name, values_R in of_counts(counts_RKK).items()}


def difference_intervals(
    pair_2B: np.ndarray, label_B: np.ndarray, classes: int, group_B: np.ndarray | None, seed: int
) -> dict[str, Interval]:
    """The 95 % interval of the first model's lead over the second in each of `metrics.metrics` (paired bootstrap)."""
    values = of_counts(resampled(pair_2B, label_B, classes, group_B, seed))
    return {name: interval(values_R2[:, 0] - values_R2[:, 1]) for name, values_R2 in values.items()}
