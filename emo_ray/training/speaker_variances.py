"""How far speakers differ in their features, told from labelled clips: the variances that decide how much is taken off.

The mean of a speaker's n clips differs from the corpus' for three reasons: the speaker's own way of speaking (variance
tau^2 over speakers), the mixture of emotions that he happens to show (gamma^2), and chance (sigma^2 / n). Only the
first shall be taken off. The best linear prediction of it is w times the difference, with

    w = tau^2 / (tau^2 + gamma^2 + sigma^2 / n)

The variances come from a model of a feature with an effect of each class and a random effect of each speaker, fitted by
EM (Henderson's mixed-model equations; Searle, Casella & McCulloch, "Variance Components", 1992, chapter 8). sigma^2 is
the variance of a speaker's clips about the speaker's mean, classes included: clips come from the mixture by chance.
Where all speakers show all emotions equally often, gamma is 0 and w near 1, the plain z-score by speaker. Where each
shows one or two emotions, gamma is large and w falls, so that the emotion stays.

Legend: S speaker, K class, D feature.
"""

import torch

_ITERATIONS = 50
_LEAST = 1e-9  # a variance, in units of the corpus' own
_CHUNK = 2**24  # numbers of a table (S, K, D) that are in memory at once


def speaker_variances(
    values_BD: torch.Tensor, speaker_B: torch.Tensor, label_B: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """tau^2, gamma^2 and sigma^2 (3, D), float64, of labelled clips in units of their own deviation; NaN is unknown.

    `speaker_B` and `label_B` count from 0. A feature that fewer than two speakers have gets a tau^2 of 0.
    """
    shape = int(speaker_B.max()) + 1, int(label_B.max()) + 1
    cell_B = speaker_B * shape[1] + label_B
    width = max(1, _CHUNK // (shape[0] * shape[1]))
    return torch.cat([_variances(part_BD.double(), cell_B, shape) for part_BD in values_BD.split(width, dim=1)], dim=1)


def _variances(values_BD: torch.Tensor, cell_B: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    known_BD = ~values_BD.isnan()
    filled_BD = values_BD.nan_to_num(0.0)

    def summed(terms_BD: torch.Tensor) -> torch.Tensor:
        sums = terms_BD.new_zeros(shape[0] * shape[1], terms_BD.shape[1], dtype=torch.float64)
        return sums.index_add_(0, cell_B, terms_BD.double()).view(*shape, -1)

    count_SKD, sum_SKD, square_SKD = summed(known_BD), summed(filled_BD), summed(filled_BD.square())
    count_SD, count_KD, count_D = count_SKD.sum(1), count_SKD.sum(0), known_BD.sum(0)
    has_SD = count_SD > 0
    speakers_D = has_SD.sum(0).clamp(min=1)
    explained_D = (sum_SKD.sum(1).square() / count_SD.clamp(min=1)).sum(0)
    within_D = ((square_SKD.sum((0, 1)) - explained_D) / (count_D - has_SD.sum(0)).clamp(min=1)).clamp(min=_LEAST)

    class_KD = sum_SKD.sum(0) / count_KD.clamp(min=1)
    between_D, noise_D = within_D, within_D  # tau^2, and the variance about both effects
    for _ in range(_ITERATIONS):
        weight_SD = count_SD + noise_D / between_D
        speaker_SD = (sum_SKD.sum(1) - torch.einsum("skd,kd->sd", count_SKD, class_KD)) / weight_SD
        class_KD = (sum_SKD.sum(0) - torch.einsum("skd,sd->kd", count_SKD, speaker_SD)) / count_KD.clamp(min=1)
        doubt_SD = noise_D / weight_SD  # variance of each speaker's effect, given the clips
        between_D = (((speaker_SD.square() + doubt_SD) * has_SD).sum(0) / speakers_D).clamp(min=_LEAST)
        fitted_SKD = speaker_SD[:, None] + class_KD
        rest_D = (square_SKD - 2 * fitted_SKD * sum_SKD + fitted_SKD.square() * count_SKD).sum((0, 1))
        noise_D = ((rest_D + (count_SD * doubt_SD).sum(0)) / count_D.clamp(min=1)).clamp(min=_LEAST)

    mixture_SD = torch.einsum("skd,kd->sd", count_SKD, class_KD) / count_SD.clamp(min=1)
    centre_D = (mixture_SD * has_SD).sum(0) / speakers_D
    mixture_D = ((mixture_SD - centre_D).square() * has_SD).sum(0) / speakers_D
    return torch.stack([between_D.masked_fill(has_SD.sum(0) < 2, 0.0), mixture_D, within_D])
