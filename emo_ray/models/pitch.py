"""Voice pitch and its irregularity: fundamental frequency, harmonics-to-noise ratio, jitter and shimmer.

The fundamental frequency (F0) is found by autocorrelation, and a path through its candidates keeps it from jumping by
octaves: Boersma, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound", Proc. Institute of Phonetic Sciences Amsterdam 17 (1993), with that paper's costs. Glottal pulses are
then followed from period to period by cross-correlation.

Legend: S sample, F frame of 10 ms, L lag, K candidate.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft

from emo_ray.config.media_settings import RATE_HZ

HOP = 160  # samples: 10 ms
FLOOR_HZ, CEILING_HZ = 75.0, 600.0
WINDOW = 3 * round(RATE_HZ / FLOOR_HZ)  # three periods of the lowest pitch: 40 ms
_FFT = 1024  # samples: the window and the longest lag, without wrapping around
_FINER = 2  # lags for each sample
_CANDIDATES = 6  # of a frame, besides "unvoiced"
_SILENCE, _VOICING, _OCTAVE = 0.03, 0.45, 0.01  # thresholds, and what an octave downwards costs
_JUMP, _SWITCH = 0.35, 0.14  # of a jump by an octave, and between voiced and unvoiced
_PERIOD_RATIO, _AMPLITUDE_RATIO = 1.3, 1.6  # of neighbours; larger ones are slips of the pulse, not a voice's


@dataclass(frozen=True)
class Pitch:
    """The voice in each frame."""

    hz_F: np.ndarray  # 0 where there is none
    hnr_db_F: np.ndarray  # harmonics to noise; 0 where there is no voice
    power_FB: np.ndarray  # power spectrum of the frame's 40 ms, in bins of `BIN_HZ`

    @property
    def is_voiced_F(self) -> np.ndarray:
        """Whether there is a voice, bool."""
        return self.hz_F > 0


BIN_HZ = RATE_HZ / _FFT


def frames(wave_S: np.ndarray, window: int, hop: int = HOP) -> np.ndarray:
    """Windows of samples (F, window), one for each whole hop, around its middle; beyond the ends there is silence."""
    count = max(1, len(wave_S) // hop)
    before = (window - hop) // 2
    after = max(0, (count - 1) * hop + window - before - len(wave_S))
    padded_S = np.pad(wave_S, (before, after))
    return np.lib.stride_tricks.sliding_window_view(padded_S, window)[::hop][:count]


def power(spectrum_FB: np.ndarray) -> np.ndarray:
    """The square of the absolute value of complex numbers, without the root that `abs` takes."""
    return spectrum_FB.real**2 + spectrum_FB.imag**2


def pitch(wave_S: np.ndarray) -> Pitch:
    """F0 and the harmonics-to-noise ratio, frame by frame."""
    correlation_FL, power_FB, peak_F = _correlations(wave_S)
    lags_FK, correlation_FK = _candidates(correlation_FL)
    hz_FK = RATE_HZ * _FINER / lags_FK
    strength_FK = correlation_FK - _OCTAVE * np.log2(FLOOR_HZ / hz_FK)
    loudest = peak_F.max()
    relative_F = peak_F / loudest if loudest > 0 else peak_F
    unvoiced_F = _VOICING + np.maximum(0, 2 - relative_F * (1 + _VOICING) / _SILENCE)
    path_F = _best_path(np.column_stack([unvoiced_F, strength_FK]), hz_FK)
    rows_F, chosen_F = np.arange(len(path_F)), np.maximum(path_F - 1, 0)
    is_voiced_F = path_F > 0
    harmonic_F = np.clip(correlation_FK[rows_F, chosen_F], 1e-4, 1 - 1e-6)
    hnr_db_F = 10 * np.log10(harmonic_F / (1 - harmonic_F))
    return Pitch(np.where(is_voiced_F, hz_FK[rows_F, chosen_F], 0.0), np.where(is_voiced_F, hnr_db_F, 0.0), power_FB)


def _correlations(wave_S: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The normalised autocorrelation by lag (F, L), the power spectrum (F, bins) and the peak amplitude of each frame.

    The window's own autocorrelation is divided out (eq. 9 of the paper), so that a periodic sound has peaks of 1.
    """
    window_S = np.hanning(WINDOW + 2)[1:-1]
    frames_FS = frames(wave_S, WINDOW)
    frames_FS = frames_FS - frames_FS.mean(axis=1, keepdims=True)
    power_FB = power(fft.rfft(frames_FS * window_S, _FFT))
    lags = _FINER * round(RATE_HZ / FLOOR_HZ) + 2
    raw_FL = fft.irfft(power_FB, _FINER * _FFT)[:, :lags]
    of_window_L = fft.irfft(power(fft.rfft(window_S, _FFT)), _FINER * _FFT)[:lags]
    correlation_FL = raw_FL / np.maximum(raw_FL[:, :1], 1e-12) / (of_window_L / of_window_L[0])
    return correlation_FL, power_FB, np.abs(frames_FS).max(axis=1)


def _candidates(correlation_FL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lags (F, K) of the highest peaks, between lags by parabolas, and the correlations there.

    A frame with fewer peaks is filled up with lags whose correlation is minus infinity.
    """
    shortest = int(np.ceil(_FINER * RATE_HZ / CEILING_HZ))
    left_FL, middle_FL, right_FL = (
        correlation_FL[:, shortest + i : correlation_FL.shape[1] - 1 + i] for i in (-1, 0, 1)
    )
    is_peak_FL = (middle_FL > left_FL) & (middle_FL >= right_FL) & (middle_FL > _VOICING / 2)
    heights_FL = np.where(is_peak_FL, middle_FL, -np.inf)
    best_FK = np.argpartition(-heights_FL, _CANDIDATES, axis=1)[:, :_CANDIDATES]
    left_FK, middle_FK, right_FK = (
        np.take_along_axis(values, best_FK, axis=1) for values in (left_FL, middle_FL, right_FL)
    )
    offset_FK, peak_FK = parabola(left_FK, middle_FK, right_FK)
    is_peak_FK = np.take_along_axis(is_peak_FL, best_FK, axis=1)
    lags_FK = np.where(is_peak_FK, best_FK + shortest + offset_FK, best_FK + shortest)
    return lags_FK, np.where(is_peak_FK, peak_FK, -np.inf)


def parabola(left: np.ndarray, middle: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the parabola through three neighbours has its top, relative to the middle one, and how high it is."""
    curvature = np.minimum(left - 2 * middle + right, -1e-12)
    offset = np.clip(0.5 * (left - right) / curvature, -0.5, 0.5)
    return offset, middle - 0.25 * (left - right) * offset


def _best_path(strength_FC: np.ndarray, hz_FK: np.ndarray) -> np.ndarray:
    """The candidate of each frame, 0 for unvoiced, that make the strongest path: dynamic programming (Viterbi)."""
    octaves_FK = np.log2(hz_FK)
    costs_FCC = np.full((len(hz_FK) - 1, *2 * (strength_FC.shape[1],)), _SWITCH)
    costs_FCC[:, 0, 0] = 0
    costs_FCC[:, 1:, 1:] = _JUMP * np.abs(octaves_FK[:-1, :, None] - octaves_FK[1:, None, :])
    total_C, origins_FC = strength_FC[0], np.zeros(strength_FC.shape, int)
    for frame, costs_CC in enumerate(costs_FCC, start=1):
        totals_CC = total_C[:, None] - costs_CC
        origins_FC[frame] = totals_CC.argmax(axis=0)
        total_C = totals_CC.max(axis=0) + strength_FC[frame]
    path_F = np.empty(len(strength_FC), int)
    path_F[-1] = total_C.argmax()
    for frame in range(len(path_F) - 1, 0, -1):
        path_F[frame - 1] = origins_FC[frame, path_F[frame]]
    return path_F


def stretches(is_true_F: np.ndarray) -> np.ndarray:
    """The runs of true frames as (first, last + 1), int (runs, 2)."""
    edges = np.diff(np.concatenate([[0], is_true_F.astype(int), [0]]))
    return np.column_stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)])


def jitter_and_shimmer(wave_S: np.ndarray, hz_F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much neighbouring periods of a voice differ: in length, as a share of it, and in peak amplitude, in dB.

    Both are arrays over pairs of periods, empty where no voiced stretch has four pulses.
    """
    jitters, shimmers_db = [np.empty(0)], [np.empty(0)]
    energies_S = np.concatenate([[0.0], (wave_S**2).cumsum()])  # of all samples before each
    for first, end in stretches(hz_F > 0):
        pulses = _pulses(wave_S, energies_S, hz_F[first:end], first * HOP)
        if len(pulses) < 4:
            continue
        lengths = np.diff(pulses)
        edges = np.round((pulses[1:] + pulses[:-1]) / 2).astype(int)  # midway between pulses
        periods_S = wave_S[: edges[-1]]
        highest, lowest = (extreme.reduceat(periods_S, edges[:-1]) for extreme in (np.maximum, np.minimum))
        amplitudes = np.maximum(highest - lowest, 1e-9)
        longer, louder = lengths[1:] / lengths[:-1], amplitudes[1:] / amplitudes[:-1]
        regular, steady = np.maximum(longer, 1 / longer), np.maximum(louder, 1 / louder)
        differences = 2 * np.abs(np.diff(lengths)) / (lengths[1:] + lengths[:-1])
        jitters.append(differences[regular < _PERIOD_RATIO])
        shimmers_db.append(np.abs(20 * np.log10(louder))[steady < _AMPLITUDE_RATIO])
    return np.concatenate(jitters), np.concatenate(shimmers_db)


def _pulses(wave_S: np.ndarray, energies_S: np.ndarray, hz_F: np.ndarray, start: int) -> np.ndarray:
    """Positions of the glottal pulses in a voiced stretch that starts at sample `start`, in samples and in order.

    The first one is the loudest sample near the middle. From there the others are followed both ways. `energies_S` is
    the sum of squares before each sample.
    """
    end = start + len(hz_F) * HOP
    periods_S = RATE_HZ / np.interp(np.arange(start, end), start + HOP // 2 + HOP * np.arange(len(hz_F)), hz_F)
    middle = (start + end) // 2
    period = int(periods_S[middle - start])
    left = max(0, middle - period // 2)
    anchor = left + int(np.abs(wave_S[left : left + period]).argmax())
    pulses = [float(anchor)]
    for direction in (-1, 1):
        pulse = float(anchor)
        while start <= pulse < end:
            following = _next_pulse(wave_S, energies_S, pulse, float(periods_S[int(pulse) - start]), direction)
            if following is None:
                break
            pulses.append(following)
            pulse = following
    return np.sort(np.array(pulses))


def _next_pulse(
    wave_S: np.ndarray, energies_S: np.ndarray, pulse: float, period: float, direction: int
) -> float | None:
    """Where the period around a pulse is found again, .8 to 1.25 periods on (direction 1) or back (-1).

    It is where the normalised cross-correlation is highest; None where that would reach beyond the sound's ends.
    """
    half, centre = int(period / 2), round(pulse)
    shortest, longest = int(0.8 * period), math.ceil(1.25 * period)
    low, high = (centre + shortest, centre + longest) if direction > 0 else (centre - longest, centre - shortest)
    if min(low, centre) - half < 0 or max(high, centre) + half >= len(wave_S):
        return None
    fits_L = np.correlate(wave_S[low - half : high + half + 1], wave_S[centre - half : centre + half + 1])
    energies_L = energies_S[low + half + 1 : high + half + 2] - energies_S[low - half : high - half + 1]
    fits_L /= np.sqrt(np.maximum(energies_L, 1e-12, out=energies_L), out=energies_L)
    best = int(fits_L.argmax())
    offset = 0.0
    if 0 < best < len(fits_L) - 1:  # as `parabola`, whose arrays take longer than all of the above
        left, middle, right = fits_L[best - 1 : best + 2].tolist()
        offset = 0.5 * (left - right) / min(left - 2 * middle + right, -1e-12)
        offset = max(-0.5, min(0.5, offset))
    return pulse + low + best - centre + offset  # the fraction that `centre` lacks is no part of the period
