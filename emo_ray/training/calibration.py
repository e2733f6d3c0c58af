"""Calibration: temperature scaling and the expected calibration error (Guo et al. 2017, sections 2 and 4).

A row of NaN is a clip without probabilities. It stays NaN and takes no part in any measure.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from emo_ray.models.checkpoint_files import FittedTemperature

BINS = 15  # equally wide bins of confidence
LEAST, MOST = 0.1, 10.0  # bounds of the temperature: for a few clips that are all right the best would be 0
_TINY = 1e-12  # stands for a probability of zero, whose logarithm is infinite


@dataclass(frozen=True)
class Reliability:
    """Mean confidence and accuracy of the clips in each bin of confidence; NaN for a bin without clips."""

    edges: np.ndarray  # (bins + 1,); a bin includes its upper edge
    count: np.ndarray  # (bins,) int64
    confidence: np.ndarray  # (bins,) mean
    accuracy: np.ndarray  # (bins,)

    @property
    def error(self) -> float:
        """The expected calibration error in [0, 1]; NaN without clips."""
        filled = self.count > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return float(self.count[filled] @ gaps / self.count.sum()) if filled.any() else float("nan")


def fit_temperature(probability_BK: np.ndarray, label_B: np.ndarray) -> float:
    """The temperature in [LEAST, MOST] that maximises the likelihood of the labels; 1.0 without clips.

    `probability_BK` are softmax outputs. Their logarithms equal the logits up to a constant, which softmax ignores.
    """
    probability_BK, label_B = _measurable(probability_BK, label_B)
    if not len(label_B):
        return 1.0
    from scipy.optimize import minimize_scalar  # it takes half a second, and most processes fit nothing

    logits_BK, rows = _logits(probability_BK), np.arange(len(label_B))

    def nll(log_temperature: float) -> float:  # convex in 1 / temperature, so there is one minimum
        return float(-log_softmax(logits_BK / np.exp(log_temperature), axis=1)[rows, label_B].mean())

    result = minimize_scalar(nll, bounds=(np.log(LEAST), np.log(MOST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(result.x))


def fold_temperatures(probability_BK: np.ndarray, label_B: np.ndarray, fold_B: np.ndarray) -> list[float]:
    """The temperature of each fold, fitted on the clips of all other folds, of which no label is the fold's own.

    `probability_BK` says of each clip what a head gives that was trained on the other folds.
    """
    return [fit_temperature(probability_BK[fold_B != fold], label_B[fold_B != fold]) for fold in range(max(fold_B) + 1)]


def calibrated(probability_BK: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """Probabilities at a temperature T, softmax(log p / T), float32 (B, K). The most likely class stays the same.

    The temperature is that of all clips, or of each, as (B, 1).
    """
    if np.all(temperature == 1.0):
        return np.asarray(probability_BK, np.float32)
    return softmax(_logits(probability_BK) / temperature, axis=1).astype(np.float32)


def negative_log_likelihood(probability_BK: np.ndarray, label_B: np.ndarray) -> float:
    """The mean negative log-likelihood of the labels in nats; NaN without clips."""
    probability_BK, label_B = _measurable(probability_BK, label_B)
    if not len(label_B):
        return float("nan")
    return float(-_logits(probability_BK)[np.arange(len(label_B)), label_B].mean())


def reliability(probability_BK: np.ndarray, label_B: np.ndarray, bins: int = BINS) -> Reliability:
    """The values of a reliability diagram; a clip's confidence is its highest probability."""
    probability_BK, label_B = _measurable(probability_BK, label_B)
    edges, confidence_B = np.linspace(0, 1, bins + 1), probability_BK.max(axis=1)
    right_B = probability_BK.argmax(axis=1) == label_B
    bin_B = np.searchsorted(edges[1:-1], confidence_B)
    count = np.bincount(bin_B, minlength=bins)
    means = [
        np.divide(np.bincount(bin_B, values_B, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for values_B in (confidence_B, right_B)
    ]
    return Reliability(edges, count, *means)


def fitted(probability_BK: np.ndarray, label_B: np.ndarray, clips: str) -> FittedTemperature | None:
    """The temperature of a model with what it changes on these clips, which `clips` names; None without clips."""
    if not len(_measurable(probability_BK, label_B)[1]):
        return None
    temperature = fit_temperature(probability_BK, label_B)
    done = change(probability_BK, calibrated(probability_BK, temperature), label_B)
    return {"temperature": temperature, "n": done["n"], "clips": clips, "ece": done["ece"], "nll": done["nll"]}


def change(before_BK: np.ndarray, after_BK: np.ndarray, label_B: np.ndarray) -> Any:
    """What calibration did to probabilities, for JSON: `n` clips, and `ece`, `nll` and `reliability` before and after.

    Values are None where there are no clips to see them on.
    """
    probabilities = {"before": before_BK, "after": after_BK}
    bins = {name: reliability(values_BK, label_B) for name, values_BK in probabilities.items()}
    return {
        "n": int(bins["before"].count.sum()),
        "ece": {name: _number(diagram.error) for name, diagram in bins.items()},
        "nll": {
            name: _number(negative_log_likelihood(values_BK, label_B)) for name, values_BK in probabilities.items()
        },
        "reliability": {
            name: {key: [_number(value) for value in values.tolist()] for key, values in asdict(diagram).items()}
            for name, diagram in bins.items()
        },
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if value != value else value


def _measurable(probability_BK: np.ndarray, label_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities, as float64, and labels of the clips that have probabilities."""
    known_B = ~np.isnan(probability_BK).any(axis=1)
    return np.asarray(probability_BK, np.float64)[known_B], np.asarray(label_B)[known_B]


def _logits(probability_BK: np.ndarray) -> np.ndarray:
    return np.log(np.clip(np.asarray(probability_BK, np.float64), _TINY, None))
