"""`functionals`: statistics over time of a voice's pitch, loudness and colour, without any download.

They are the parameters of the extended Geneva set (eGeMAPS: Eyben et al., IEEE Transactions on Affective Computing 7,
2016), computed anew: means and deviations of every descriptor, percentiles and slopes of pitch and loudness, and the
lengths of voiced and unvoiced stretches. Two things differ. Where that set divides a deviation by its mean, the
deviation stands alone here, because many means lie near zero; and there are 12 cepstral coefficients in place of 4.

Legend: S sample, F frame of 10 ms, V voiced frame, N descriptor.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.signal import find_peaks
from torch import nn

from emo_ray.config.model_settings import Audio
from emo_ray.data.batch import AudioBatch
from emo_ray.models import spectra
from emo_ray.models.pitch import HOP, RATE_HZ, Pitch, jitter_and_shimmer, pitch, stretches

SHORTEST = spectra.WINDOW  # samples: shorter sound has no feature
_HOP_S = HOP / RATE_HZ
_LOWEST_HZ = 27.5  # semitones are counted from here
_MFCC = [f"MFCC {i}" for i in range(1, 13)]
_TIMBRE = ["flux", *_MFCC]
_BALANCE = ["alpha ratio", "Hammarberg index", "slope 0-500 Hz", "slope 500-1500 Hz"]
_FORMANTS = [f"F{i} {what}" for what in ("frequency", "bandwidth") for i in (1, 2, 3)]
_VOICE = ["HNR", *_FORMANTS, "H1-H2", "H1-A3", "F1 level", "F2 level", "F3 level"]


class Functionals(nn.Module):
    """Statistics of a voice that follow eGeMAPS: the offline substitute for a speech model."""

    def __init__(self, config: Audio):
        super().__init__()
        self.dim = len(statistics(np.zeros(SHORTEST)))

    @torch.inference_mode()
    def forward(self, batch: AudioBatch) -> torch.Tensor:
        """float32 features_BD in the order of `statistics`; NaN for sound under 25 ms.

        Padding is cut off, so neighbours cannot matter.
        """
        features_BD = np.full((len(batch), self.dim), np.nan, np.float32)
        clips = zip(batch.audio_BS.cpu().numpy(), batch.audio_lengths_B.tolist(), features_BD, strict=True)
        for wave_S, length, row_D in clips:
            if length >= SHORTEST:
                row_D[:] = list(statistics(wave_S[:length].astype(np.float64)).values())
        return torch.from_numpy(features_BD).to(batch.audio_BS.device)


def statistics(wave_S: np.ndarray) -> dict[str, float]:
    """The features of one clip by name. What a clip has nothing of, such as the pitch of a noise, is 0."""
    wave_S = wave_S - wave_S.mean()  # an offset that a microphone adds is no sound
    voice = pitch(wave_S)
    is_voiced_F = voice.is_voiced_F
    power_FB = spectra.power_spectrum(wave_S)
    mel_FM = spectra.mel_spectrum(power_FB)
    auditory_FM = spectra.auditory_spectrum(mel_FM)
    loudness_F = _smooth(auditory_FM.sum(axis=1))
    flux_F1, balance_FN = spectra.flux(auditory_FM)[:, None], spectra.balance(power_FB)
    timbre_FN = np.hstack([flux_F1, spectra.mfcc(mel_FM, len(_MFCC))])
    semitones_F = 12 * np.log2(np.where(is_voiced_F, voice.hz_F, _LOWEST_HZ) / _LOWEST_HZ)
    jitters, shimmers_db = jitter_and_shimmer(wave_S, voice.hz_F)
    return {
        **_contour("F0", semitones_F, is_voiced_F),
        **_contour("loudness", loudness_F, np.full(len(loudness_F), True)),
        **_spread(_TIMBRE, _smooth(timbre_FN)),
        **_spread(
            [f"{name}, voiced" for name in (*_TIMBRE, *_BALANCE)], np.hstack([timbre_FN, balance_FN])[is_voiced_F]
        ),
        **_spread(_VOICE, _of_voice(wave_S, voice)),
        **_means([f"{name}, unvoiced" for name in ("flux", *_BALANCE)], np.hstack([flux_F1, balance_FN])[~is_voiced_F]),
        **_spread(["jitter"], jitters[:, None]),
        **_spread(["shimmer"], shimmers_db[:, None]),
        **_rhythm(loudness_F, is_voiced_F),
        "level": 10 * np.log10(np.mean(wave_S**2) + 1e-10),
    }


def _of_voice(wave_S: np.ndarray, voice: Pitch) -> np.ndarray:
    """The descriptors of _VOICE (V, N), which only voiced frames have."""
    is_voiced_F = voice.is_voiced_F
    hz_V3, bandwidth_hz_V3 = spectra.formants(wave_S, is_voiced_F)
    harmonics_VN = spectra.harmonics(voice.power_FB[is_voiced_F], voice.hz_F[is_voiced_F], hz_V3)
    return np.hstack([voice.hnr_db_F[is_voiced_F, None], hz_V3, bandwidth_hz_V3, harmonics_VN])


def _smooth(values_FN: np.ndarray) -> np.ndarray:
    """The mean over three neighbouring frames; the first and the last one count twice at the ends."""
    padded_FN = np.pad(values_FN, [(1, 1), *[(0, 0)] * (values_FN.ndim - 1)], mode="edge")
    return (padded_FN[:-2] + padded_FN[1:-1] + padded_FN[2:]) / 3


def _mean(values_FN: np.ndarray) -> np.ndarray:
    """The mean over frames of each descriptor, 0 for one without any. Frames in which it is NaN do not count."""
    return np.nansum(values_FN, axis=0) / np.maximum(np.isfinite(values_FN).sum(axis=0), 1)


def _means(names: Sequence[str], values_FN: np.ndarray) -> dict[str, float]:
    """The mean of each descriptor."""
    return dict(zip((f"{name}: mean" for name in names), _mean(values_FN), strict=True))


def _spread(names: Sequence[str], values_FN: np.ndarray) -> dict[str, float]:
    """Mean and deviation of each descriptor."""
    deviations_N = np.sqrt(_mean((values_FN - _mean(values_FN)) ** 2))
    return _means(names, values_FN) | dict(zip((f"{name}: deviation" for name in names), deviations_N, strict=True))


def _contour(name: str, values_F: np.ndarray, exists_F: np.ndarray) -> dict[str, float]:
    """Mean, deviation, three percentiles, their range, and the slopes per second of where a curve rises and falls.

    Slopes are those between neighbouring frames that both exist.
    """
    slopes = np.diff(values_F)[exists_F[1:] & exists_F[:-1], None] / _HOP_S
    low, median, high = np.percentile(values_F[exists_F] if exists_F.any() else np.zeros(1), [20, 50, 80])
    return {
        **_spread([name], values_F[exists_F, None]),
        **{f"{name}: 20 %": low, f"{name}: median": median, f"{name}: 80 %": high, f"{name}: range": high - low},
        **_spread([f"{name} rising"], slopes[slopes > 0, None]),
        **_spread([f"{name} falling"], slopes[slopes < 0, None]),
    }


def _rhythm(loudness_F: np.ndarray, is_voiced_F: np.ndarray) -> dict[str, float]:
    """Peaks of loudness and voiced stretches per second; lengths of voiced and of unvoiced stretches in seconds."""
    duration_s = len(loudness_F) * _HOP_S
    peaks, _ = find_peaks(loudness_F, prominence=0.1 * max(loudness_F.max(), 1e-9))
    voiced_s, unvoiced_s = (_HOP_S * np.diff(stretches(mask_F), axis=1) for mask_F in (is_voiced_F, ~is_voiced_F))
    return {
        "loudness peaks per s": len(peaks) / duration_s,
        "voiced stretches per s": len(voiced_s) / duration_s,
        **_spread(["voiced length"], voiced_s),
        **_spread(["unvoiced length"], unvoiced_s),
    }
