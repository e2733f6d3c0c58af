"""`functionals`: statistics over time of a voice's pitch, loudness and colour, without any download.

They are the parameters of the extended Geneva set (eGeMAPS: Eyben et al., IEEE Transactions on Affective Computing 7,
2016), computed anew: means and deviations of every descriptor, percentiles and slopes of pitch and loudness, and
the lengths of voiced and unvoiced stretches. Where that set divides a deviation by its mean, it stands alone here,
because many means lie near zero.

Legend: S sample, F frame of 10 ms, V voiced frame, N descriptor.
"""

import numpy as np
import torch
from scipy.signal import find_peaks
from torch import nn

from emo_ray.config.model_settings import Audio
from emo_ray.data.batch import AudioBatch
from emo_ray.models.pitch import HOP, RATE_HZ, Pitch, jitter_and_shimmer, pitch, stretches
from emo_ray.models import spectra

HOP_S = HOP / RATE_HZ
SHORTEST = spectra.WINDOW  # samples: shorter sound has no feature
MFCCS = 12


def _names() -> list[str]:
    """What each feature is, in order."""
    spread = ("mean", "deviation")
    contour = (*spread, "p20", "p50", "p80", "range", "rise", "rise deviation", "fall", "fall deviation")
    balance = ("alpha ratio", "Hammarberg index", "slope 0-500", "slope 500-1500")
    mfccs = [f"mfcc{i}" for i in range(1, MFCCS + 1)]
    formants = [f"F{i} {what}" for what in ("frequency", "bandwidth") for i in (1, 2, 3)]
    harmonics = ("H1-H2", "H1-A3", "F1 level", "F2 level", "F3 level")
    parts = [
        *(("all", name) for name in ("flux", *mfccs)),
        *(("voiced", name) for name in ("flux", *balance, *mfccs, "HNR", *formants, *harmonics)),
    ]
    return [
        *(f"{curve} {what}" for curve in ("F0", "loudness") for what in contour),
        *(f"{name} {what} ({where})" for where, name in parts for what in spread),
        *(f"{name} mean (unvoiced)" for name in ("flux", *balance)),
        *(f"{name} {what}" for name in ("jitter", "shimmer") for what in spread),
        *("loudness peaks per s", "voiced stretches per s", "voiced length mean", "voiced length deviation"),
        *("unvoiced length mean", "unvoiced length deviation", "level"),
    ]


NAMES = tuple(_names())


class Functionals(nn.Module):
    """Statistics of a voice that follow eGeMAPS: the offline substitute for a speech model."""

    dim = len(NAMES)

    def __init__(self, config: Audio):
        super().__init__()

    @torch.inference_mode()
    def forward(self, batch: AudioBatch) -> torch.Tensor:
        """float32 features_BD in the order of NAMES; NaN for sound under 25 ms. Padding is cut off, so neighbours
        cannot matter. What a clip has none of, such as the pitch of a noise, is 0."""
        waves_BS = batch.audio_BS.cpu().numpy().astype(np.float64)
        clips = zip(waves_BS, batch.audio_lengths_B.tolist(), strict=True)
        features_BD = np.stack([_features(wave_S[:length]) for wave_S, length in clips])
        return torch.from_numpy(features_BD.astype(np.float32)).to(batch.audio_BS.device)


def _features(wave_S: np.ndarray) -> np.ndarray:
    """The features of one clip (D,)."""
    if len(wave_S) < SHORTEST:
        return np.full(len(NAMES), np.nan)
    voice = pitch(wave_S)
    is_voiced_F = voice.is_voiced_F
    power_FB = spectra.power_spectrum(wave_S)
    mel_FM = spectra.mel_spectrum(power_FB)
    auditory_FM = spectra.auditory_spectrum(mel_FM)
    loudness_F = _smooth(auditory_FM.sum(axis=1))
    flux_F1, mfcc_FN = spectra.flux(auditory_FM)[:, None], spectra.mfcc(mel_FM, MFCCS)
    balance_FN = spectra.balance(power_FB)
    return np.concatenate(
        [
            _contour(12 * np.log2(np.where(is_voiced_F, voice.hz_F, 1) / 27.5), is_voiced_F),
            _contour(loudness_F, np.full(len(loudness_F), True)),
            _spread(_smooth(np.hstack([flux_F1, mfcc_FN]))),
            _spread(np.hstack([np.hstack([flux_F1, balance_FN, mfcc_FN])[is_voiced_F], _of_voice(wave_S, voice)])),
            _means(np.hstack([flux_F1, balance_FN])[~is_voiced_F]),
            *(_spread(values[:, None]) for values in jitter_and_shimmer(wave_S, voice.hz_F)),
            _rhythm(loudness_F, is_voiced_F),
            [10 * np.log10(np.mean(wave_S**2) + 1e-10)],
        ]
    )


def _of_voice(wave_S: np.ndarray, voice: Pitch) -> np.ndarray:
    """The descriptors (V, N) that only voiced frames have: HNR, formants, harmonics."""
    is_voiced_F = voice.is_voiced_F
    hz_V3, bandwidth_hz_V3 = spectra.formants(wave_S, is_voiced_F)
    harmonics_VN = spectra.harmonics(voice.power_FB[is_voiced_F], voice.hz_F[is_voiced_F], hz_V3)
    return np.hstack([voice.hnr_db_F[is_voiced_F, None], hz_V3, bandwidth_hz_V3, harmonics_VN])


def _smooth(values: np.ndarray) -> np.ndarray:
    """The mean over three neighbouring frames, of which there are two at the ends."""
    padded = np.pad(values, [(1, 1), *[(0, 0)] * (values.ndim - 1)], mode="edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def _means(values_FN: np.ndarray) -> np.ndarray:
    """The mean of each descriptor over its frames; 0 for one without any. NaN is no frame of a descriptor."""
    counts_N = np.isfinite(values_FN).sum(axis=0)
    return np.nansum(values_FN, axis=0) / np.maximum(counts_N, 1)


def _spread(values_FN: np.ndarray) -> np.ndarray:
    """Mean and deviation of each descriptor, side by side (2 N,)."""
    means_N = _means(values_FN)
    return np.column_stack([means_N, np.sqrt(_means((values_FN - means_N) ** 2))]).ravel()


def _contour(values_F: np.ndarray, exists_F: np.ndarray) -> np.ndarray:
    """Mean, deviation, three percentiles, their range, and the slopes per second of where a curve rises and falls.

    Slopes are those between neighbouring frames that both exist.
    """
    values = values_F[exists_F]
    if len(values) == 0:
        return np.zeros(10)
    slopes = np.diff(values_F)[exists_F[1:] & exists_F[:-1]] / HOP_S
    low, middle, high = np.percentile(values, [20, 50, 80])
    runs = [_spread(slopes[is_one, None]) for is_one in (slopes > 0, slopes < 0)]
    return np.array([values.mean(), values.std(), low, middle, high, high - low, *runs[0], *runs[1]])


def _rhythm(loudness_F: np.ndarray, is_voiced_F: np.ndarray) -> np.ndarray:
    """Peaks of loudness and voiced stretches per second; mean and deviation of voiced and unvoiced lengths in s."""
    duration_s = len(loudness_F) * HOP_S
    peaks, _ = find_peaks(loudness_F, prominence=0.1 * max(loudness_F.max(), 1e-9))
    lengths_s = [HOP_S * np.diff(stretches(is_one), axis=1) for is_one in (is_voiced_F, ~is_voiced_F)]
    return np.array([len(peaks) / duration_s, len(lengths_s[0]) / duration_s, *_spread(lengths_s[0]), *_spread(lengths_s[1])])
