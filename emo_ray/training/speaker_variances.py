"""How far speakers differ in their features, told from labelled clips: the variances that decide how much is taken off.

The mean of a speaker's n clips differs from the corpus' for three reasons: the speaker's own way of speaking (variance
tau^2 over speakers), the mixture of emotions in these clips (gamma^2), and chance (sigma^2 / n). Only the first shall
be taken off. The share w of the difference that goes is

    w = (tau^2 - gamma^2 (1 / eta - 1)) / (tau^2 + gamma^2 + sigma^2 / n), at least 0

With eta = 1 this is the best linear prediction of the speaker's own offset. But a speaker's mean also tells which
emotions the clips show, and that goes along. The best linear predictor of the class from one feature and the speaker's
mean of it has eta = beta^2 / sigma^2, the share that classes explain of the variance within speakers: the less emotion
is left there, the less may be taken off. A model sees many features, which tell more together, so eta is the square
root of that share, over all features of a modality. The root was chosen by trial: on RAVDESS and eGeMAPS features with
2 to 4 emotions of each actor it was best among powers of 0, 1/2, 3/4 and 1, of which 0 and 1 gave up to 2 points less.

Where all speakers show all emotions equally often, gamma is 0 and w near 1, the plain z-score by speaker. Where each
shows one or two emotions, w falls to 0, so that the emotion stays.

The variances come from a model of a feature with an effect of each class and a random effect of each speaker, fitted by
EM (Henderson's mixed-model equations; Searle, Casella & McCulloch, "Variance Components", 1992, chapter 8). sigma^2 is
the variance of a speaker's clips about the speaker's mean, classes included: clips come from the mixture by chance.

Legend: S speaker, K class, D feature.
"""

import torch

_ITERATIONS = 50
_LEAST = 1e-9  # a variance, in units of the corpus' own
_CHUNK = 2**24  # numbers of a table (S, K, D) that are in memory at once


def speaker_variances(
    values_BD: torch.Tensor, speaker_B: torch.Tensor, label_B: torch.Tensor
) -> torch.Tensor:  # fmt: skip
    """tau^2, gamma^2, sigma^2 and beta^2 (4, D), float64, of labelled clips in deviations of the corpus.

    A value that is NaN is unknown. `speaker_B` and `label_B` count from 0. A feature that fewer than two speakers have
    gets a tau^2 of 0.
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
    mixture_D = _variance(mixture_SD, has_SD.double())
    emotion_D = (_variance(class_KD, count_KD) - mixture_D).clamp(min=0.0)  # beta^2
    return torch.stack([between_D.masked_fill(has_SD.sum(0) < 2, 0.0), mixture_D, within_D, emotion_D])


def _variance(values_ND: torch.Tensor, weight_ND: torch.Tensor) -> torch.Tensor:
    """The weighted variance over N."""
    share_ND = weight_ND / weight_ND.sum(0).clamp(min=1)
    return (share_ND * (values_ND - (share_ND * values_ND).sum(0)).square()).sum(0)


def share_taken_off(variances_4D: torch.Tensor, count_SD: torch.Tensor) -> torch.Tensor:
    """The share w (S, D) that is taken off of the difference between a speaker's mean of n clips and the corpus'."""
    between_D, mixture_D, within_D, emotion_D = variances_4D
    eta = (emotion_D.sum() / within_D.sum()).sqrt().clamp(1e-3, 1.0)
    own_D = (between_D - mixture_D * (1 / eta - 1)).clamp(min=0.0)
    return own_D / (between_D + mixture_D + within_D / count_SD.clamp(min=1)).clamp(min=_LEAST)
