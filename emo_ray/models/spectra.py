"""The colour of a voice: loudness, cepstrum, balance of the spectrum, harmonics and formants, frame by frame.

The descriptors are those of Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for voice research
and affective computing", IEEE Transactions on Affective Computing 7 (2016), section 3, written anew from that paper.

Legend: S sample, F frame of 10 ms, B bin of the spectrum, M mel band, V voiced frame.
"""

from functools import cache

import numpy as np
import torchaudio.functional as AF
from scipy import fft, sparse
from scipy.signal import resample_poly

from emo_ray.models.pitch import BIN_HZ, RATE_HZ, frames, power

WINDOW = 400  # samples: 25 ms
FORMANTS = 3
_FFT = 512
_MELS = 26
_SILENCE = 1e-10  # power that is added before a logarithm, so that silence has one
_FORMANT_UP, _FORMANT_DOWN = 11, 16  # 16 kHz to 11 kHz: five formants lie below 5.5 kHz
_FORMANT_RATE_HZ = RATE_HZ * _FORMANT_UP // _FORMANT_DOWN
_FORMANT_HOP, _FORMANT_WINDOW = 110, 550  # samples: 10 ms, 50 ms
_LPC_ORDER = 10  # two for each formant
_BURG_FRAMES = 32  # at a time: their errors stay in the processor's cache
_EMPHASIS_HZ, _EDGE_HZ = 50.0, 50.0  # 6 dB per octave from here on; poles this near to the ends are no formants


def power_spectrum(wave_S: np.ndarray) -> np.ndarray:
    """Power of the 25 ms around each frame's middle (F, B), where a full-scale sine has 1."""
    window_S = np.hanning(WINDOW)
    return power(fft.rfft(frames(wave_S, WINDOW) * window_S, _FFT)) * (2 / window_S.sum()) ** 2


def mel_spectrum(power_FB: np.ndarray) -> np.ndarray:
    """Power in each of 26 mel bands (F, M)."""
    return np.asarray(power_FB @ _sparse_mel_filters())


def auditory_spectrum(mel_FM: np.ndarray) -> np.ndarray:
    """Loudness of each mel band (F, M): equal-loudness weights, then the cube root of power (Hermansky, PLP, 1990)."""
    hz_M = _mel_centres_hz()
    square_M = hz_M**2
    equal_loudness_M = (square_M / (square_M + 1.6e5)) ** 2 * (square_M + 1.44e6) / (square_M + 9.61e6)
    return np.cbrt(mel_FM * equal_loudness_M)


def flux(auditory_FM: np.ndarray) -> np.ndarray:
    """How much the auditory spectrum differs from that of the frame before (F,); 0 for the first frame."""
    changes_FM = np.diff(auditory_FM, axis=0, prepend=auditory_FM[:1])
    return np.sqrt((changes_FM**2).mean(axis=1))


def mfcc(mel_FM: np.ndarray, count: int) -> np.ndarray:
    """Mel-frequency cepstral coefficients 1 to `count` (F, count); the 0th, the level, is left out."""
    return fft.dct(np.log(mel_FM + _SILENCE), axis=1, norm="ortho")[:, 1 : count + 1]


def balance(power_FB: np.ndarray) -> np.ndarray:
    """Alpha ratio and Hammarberg index in dB, slopes of 0-500 Hz and 500-1,500 Hz in dB per kHz (F, 4)."""
    power_FB = power_FB + _SILENCE
    low, high = power_FB[:, _bins(50, 1000)], power_FB[:, _bins(1000, 5000)]
    alpha_F = 10 * np.log10(low.sum(axis=1) / high.sum(axis=1))
    lower, upper = power_FB[:, _bins(0, 2000)], power_FB[:, _bins(2000, 5000)]
    hammarberg_F = 10 * np.log10(lower.max(axis=1) / upper.max(axis=1))
    level_db_FB = 10 * np.log10(power_FB)
    slopes = [_slope(level_db_FB[:, _bins(*band)]) for band in ((0, 500), (500, 1500))]
    return np.stack([alpha_F, hammarberg_F, *slopes], axis=1)


def formants(wave_S: np.ndarray, is_voiced_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and bandwidths in Hz of the first three formants of voiced frames, both (V, 3).

    They are poles of a linear prediction by Burg's method of what is below 5.5 kHz, with high frequencies raised by
    6 dB per octave. NaN for a formant that a frame has not.
    """
    lower_S = resample_poly(wave_S, _FORMANT_UP, _FORMANT_DOWN)
    lower_S[1:] -= np.exp(-2 * np.pi * _EMPHASIS_HZ / _FORMANT_RATE_HZ) * lower_S[:-1]
    windows_FS = frames(lower_S, _FORMANT_WINDOW, _FORMANT_HOP)
    voiced = np.minimum(np.flatnonzero(is_voiced_F), len(windows_FS) - 1)
    time_S = np.linspace(-1, 1, _FORMANT_WINDOW)
    polynomials_VP = burg(windows_FS[voiced] * np.exp(-6 * time_S**2), _LPC_ORDER)
    companions_VPP = np.zeros((len(voiced), _LPC_ORDER, _LPC_ORDER))
    companions_VPP[:, 0] = -polynomials_VP[:, 1:]
    companions_VPP[:, np.arange(1, _LPC_ORDER), np.arange(_LPC_ORDER - 1)] = 1
    poles_VP = np.linalg.eigvals(companions_VPP)
    hz_VP = np.angle(poles_VP) * _FORMANT_RATE_HZ / (2 * np.pi)
    bandwidth_hz_VP = -np.log(np.clip(np.abs(poles_VP), 1e-6, 1 - 1e-6)) * _FORMANT_RATE_HZ / np.pi
    is_formant_VP = (hz_VP > _EDGE_HZ) & (hz_VP < _FORMANT_RATE_HZ / 2 - _EDGE_HZ)
    order_VP = np.argsort(np.where(is_formant_VP, hz_VP, np.inf), axis=1, kind="stable")[:, :FORMANTS]
    exists_V3 = np.take_along_axis(is_formant_VP, order_VP, axis=1)
    hz_V3, bandwidth_hz_V3 = (np.take_along_axis(values, order_VP, axis=1) for values in (hz_VP, bandwidth_hz_VP))
    return np.where(exists_V3, hz_V3, np.nan), np.where(exists_V3, bandwidth_hz_V3, np.nan)


def burg(frames_FS: np.ndarray, order: int) -> np.ndarray:
    """Linear prediction of frames by Burg's method: the prediction-error filters (F, order + 1), which begin with 1."""
    filters_FP = np.zeros((len(frames_FS), order + 1))
    filters_FP[:, 0] = 1
    for first in range(0, len(frames_FS), _BURG_FRAMES):
        block = slice(first, first + _BURG_FRAMES)
        _burg(frames_FS[block, 1:].copy(), frames_FS[block, :-1].copy(), filters_FP[block])
    return filters_FP


def _burg(forward_FS: np.ndarray, backward_FS: np.ndarray, filters_FP: np.ndarray) -> None:
    """Write filters of a few frames, from their errors of prediction forwards and backwards, which are overwritten."""
    room_FS = np.empty_like(forward_FS)
    for p in range(1, filters_FP.shape[1]):
        power_F = sum(np.einsum("fs,fs->f", error_FS, error_FS) for error_FS in (forward_FS, backward_FS))
        product_F = np.einsum("fs,fs->f", forward_FS, backward_FS)
        reflection_F1 = (-2 * product_F / np.maximum(power_F, 1e-30))[:, None]
        filters_FP[:, : p + 1] += reflection_F1 * filters_FP[:, p::-1]
        change_FS = np.multiply(reflection_F1, backward_FS, out=room_FS[:, : forward_FS.shape[1]])
        backward_FS += reflection_F1 * forward_FS
        forward_FS += change_FS
        forward_FS, backward_FS = forward_FS[:, 1:], backward_FS[:, :-1]


def harmonics(power_VB: np.ndarray, hz_V: np.ndarray, formants_hz_V3: np.ndarray) -> np.ndarray:
    """Levels of harmonics against the first one, H1, in dB (V, 5): H1-H2, H1-A3, then F1 to F3's.

    `power_VB` is the spectrum that the pitch was found in. The level of a formant is that of the highest harmonic near
    it, which is A3 for the third. NaN where there is no formant.
    """
    level_db_VB = 10 * np.log10(power_VB + _SILENCE)
    first_V, second_V = (_highest(level_db_VB, k * hz_V, hz_V / 4) for k in (1, 2))
    of_formants_V3 = np.stack([_highest(level_db_VB, hz, hz_V * 0.55) for hz in formants_hz_V3.T], axis=1)
    relative_V3 = of_formants_V3 - first_V[:, None]
    return np.column_stack([first_V - second_V, -relative_V3[:, 2], relative_V3])


def _highest(level_db_VB: np.ndarray, hz_V: np.ndarray, reach_hz_V: np.ndarray) -> np.ndarray:
    """The highest level in dB within reach of a frequency; NaN where there is none."""
    distance_VB = np.abs(BIN_HZ * np.arange(level_db_VB.shape[1]) - hz_V[:, None])
    near_VB = distance_VB <= np.maximum(reach_hz_V, BIN_HZ)[:, None]
    highest_V = np.where(near_VB, level_db_VB, -np.inf).max(axis=1, initial=-np.inf)
    return np.where(np.isfinite(highest_V), highest_V, np.nan)


def _bins(low_hz: float, high_hz: float) -> slice:
    """The bins of `power_spectrum` from one frequency to another."""
    return slice(round(low_hz * _FFT / RATE_HZ), round(high_hz * _FFT / RATE_HZ) + 1)


def _slope(level_db_FB: np.ndarray) -> np.ndarray:
    """The slope of a least-squares line through neighbouring bins (F,), in dB per kHz."""
    khz_B = np.arange(level_db_FB.shape[1]) * RATE_HZ / _FFT / 1000
    centred_B = khz_B - khz_B.mean()
    return np.einsum("fb,b->f", level_db_FB, centred_B) / (centred_B**2).sum()


@cache
def _mel_filters() -> np.ndarray:
    """Triangles on the mel scale (B, M), 20 Hz to 8 kHz."""
    return AF.melscale_fbanks(_FFT // 2 + 1, 20.0, RATE_HZ / 2, _MELS, RATE_HZ).double().numpy()


@cache
def _sparse_mel_filters() -> sparse.csr_array:
    """`_mel_filters` as a sparse matrix, as dense products wake BLAS' threads, which then spin for milliseconds."""
    return sparse.csr_array(_mel_filters())


@cache
def _mel_centres_hz() -> np.ndarray:
    """The middle of each mel band in Hz (M,), as the scale of `_mel_filters` has it."""
    filters_BM = _mel_filters()
    return np.arange(len(filters_BM)) @ filters_BM / filters_BM.sum(axis=0) * RATE_HZ / _FFT
