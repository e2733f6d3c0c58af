"""The functionals against voices whose pitch, irregularity, noise, formants and rhythm are known.

Voices are pulses at fractional times, made at eight times the rate and shaped by resonators of scipy.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.signal import lfilter, resample_poly

from emo_ray.models import pitch, spectra
from emo_ray.models.functionals import statistics

RATE = 16_000
FINER = 8  # pulses lie between samples
SCHWA = ((500, 60), (1500, 90), (2500, 120), (3500, 150), (4500, 200))  # formants: Hz, bandwidth in Hz


@dataclass
class Voice:
    wave_S: np.ndarray
    lengths_s: np.ndarray  # of its periods
    amplitudes: np.ndarray  # of its pulses


def vowel(hz_S, formants=SCHWA, jitter=0.0, shimmer_db=0.0, noise_db=None):
    """A voice that follows a curve of pitch; `noise_db`: how far white noise lies below it."""
    rng, rate = np.random.default_rng(0), RATE * FINER
    times, at = [], 0.0
    while at < len(hz_S) / RATE:
        times.append(at)
        at += (1 + rng.normal(0, jitter)) / hz_S[int(at * RATE)]
    amplitudes = 10 ** (rng.normal(0, shimmer_db, len(times)) / 20)
    source = np.zeros(len(hz_S) * FINER)
    source[(np.array(times) * rate).astype(int)] = amplitudes
    for _ in range(2):  # a glottis takes 12 dB per octave, lips give 6 back
        source = lfilter([1], [1, -np.exp(-2 * np.pi * 100 / rate)], source)
    source = np.diff(source, prepend=0)
    for hz, bandwidth_hz in formants:
        radius = np.exp(-np.pi * bandwidth_hz / rate)
        source = lfilter([1], [1, -2 * radius * np.cos(2 * np.pi * hz / rate), radius**2], source)
    wave_S = resample_poly(source, 1, FINER)
    wave_S *= 0.1 / np.sqrt(np.mean(wave_S**2))
    if noise_db is not None:
        wave_S += 0.1 * 10 ** (-noise_db / 20) * rng.normal(size=len(wave_S))
    return Voice(wave_S, np.diff(times), amplitudes)


def steady(hz, seconds=1.0):
    return np.full(round(seconds * RATE), float(hz))


def sines(amplitudes, seconds=0.5):
    """A sum of sines, from frequencies in Hz to amplitudes."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    return sum(amplitude * np.sin(2 * np.pi * hz * time_s) for hz, amplitude in amplitudes.items())


def coloured_noise(gain_of_hz, seconds=2.0):
    """Noise whose amplitude is a function of frequency."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=round(seconds * RATE)))
    hz = np.fft.rfftfreq(round(seconds * RATE), 1 / RATE)
    return 0.05 * np.fft.irfft(spectrum / np.abs(spectrum) * gain_of_hz(hz) * len(hz) ** 0.5)


def test_names_are_as_many_as_features_whatever_a_clip_holds():
    names = list(statistics(np.zeros(400)))
    for wave_S in (vowel(steady(150)).wave_S, coloured_noise(np.ones_like), np.ones(16_000)):
        features = statistics(wave_S)
        assert list(features) == names
        assert np.isfinite(list(features.values())).all()


@pytest.mark.parametrize("hz", [80, 123.4, 220, 311, 480])
def test_pitch_of_a_steady_voice(hz):
    features = statistics(vowel(steady(hz)).wave_S)
    assert abs(features["F0: mean"] - 12 * np.log2(hz / 27.5)) < 0.05
    assert features["F0: range"] < 0.1
    assert features["HNR: mean"] > 25


def test_pitch_follows_a_glide_and_its_slope_is_that_of_its_parts():
    time_s = np.arange(2 * RATE) / RATE
    up_and_down = 150 * 2 ** (np.minimum(10 * time_s, 20 - 10 * time_s) / 12)  # 10 semitones up, then down
    features = statistics(vowel(up_and_down, noise_db=40).wave_S)
    assert abs(features["F0 rising: mean"] - 10) < 0.5
    assert abs(features["F0 falling: mean"] + 10) < 0.5
    assert abs(features["F0: range"] - 6) < 0.5  # from 20 to 80 % of 10 semitones


@pytest.mark.parametrize("noise_db", [20, 10, 5])
@pytest.mark.parametrize("hz", [110, 230])
def test_harmonics_to_noise_is_that_of_the_noise(hz, noise_db):
    assert abs(statistics(vowel(steady(hz), noise_db=noise_db).wave_S)["HNR: mean"] - noise_db) < 0.5


@pytest.mark.parametrize("jitter", [0.0, 0.005, 0.01, 0.02])
def test_jitter_is_that_of_the_periods(jitter):
    voice = vowel(steady(110, 2), jitter=jitter)  # so low that a period rings off before the next one
    expected = np.abs(np.diff(voice.lengths_s)).mean() / voice.lengths_s.mean()
    assert abs(statistics(voice.wave_S)["jitter: mean"] - expected) < 0.001 + 0.1 * expected


@pytest.mark.parametrize("shimmer_db", [0.0, 0.3, 1.0])
def test_shimmer_is_that_of_the_pulses(shimmer_db):
    voice = vowel(steady(110, 2), shimmer_db=shimmer_db)
    expected = np.abs(20 * np.diff(np.log10(voice.amplitudes))).mean()
    assert abs(statistics(voice.wave_S)["shimmer: mean"] - expected) < 0.06 + 0.15 * expected


def test_noise_and_silence_have_no_pitch():
    for wave_S in (coloured_noise(np.ones_like), np.zeros(RATE)):
        assert not pitch.pitch(wave_S).is_voiced_F.mean() > 0.05
    assert statistics(np.zeros(RATE))["F0: mean"] == 0


def test_burg_finds_the_filter_that_coloured_a_noise():
    expected = np.poly(np.exp(1j * np.array([0.3, -0.3, 1.2, -1.2])) * [0.95, 0.95, 0.9, 0.9]).real
    frames_FS = lfilter([1], expected, np.random.default_rng(0).normal(size=(3, 4000)))
    np.testing.assert_allclose(spectra.burg(frames_FS, 4), np.tile(expected, (3, 1)), atol=0.05)


def test_a_frame_is_predicted_alike_whatever_is_beside_it():
    frames_FS = np.random.default_rng(0).standard_normal((70, 100)).cumsum(axis=1)
    filters_FP = spectra.burg(frames_FS, 6)
    for frame in (0, 31, 32, 69):
        assert filters_FP[frame] == pytest.approx(spectra.burg(frames_FS[frame, None], 6)[0], rel=1e-9)


@pytest.mark.parametrize(
    "expected_hz", [(500, 1500, 2500), (300, 2200, 3000), (700, 1200, 2600)], ids=["schwa", "i", "a"]
)
def test_formants_of_a_vowel(expected_hz):
    formants = (*((hz, 80) for hz in expected_hz), (3700, 150), (4600, 200))
    features = statistics(vowel(steady(100), formants, noise_db=40).wave_S)
    actual_hz = [features[f"F{i} frequency: mean"] for i in (1, 2, 3)]
    np.testing.assert_allclose(actual_hz, expected_hz, rtol=0.03, atol=15)
    assert all(30 < features[f"F{i} bandwidth: mean"] < 250 for i in (1, 2, 3))


def test_harmonics_have_their_levels():
    wave_S = sines({200: 0.4, 400: 0.2, 600: 0.1, 2400: 0.05, 2600: 0.01})
    voice = pitch.pitch(wave_S)
    formants_hz_V3 = np.tile([420.0, 590, 2500], (len(voice.hz_F), 1))
    levels = spectra.harmonics(voice.power_FB, voice.hz_F, formants_hz_V3)[10]
    expected = 20 * np.log10([0.4 / 0.2, 0.4 / 0.05, 0.2 / 0.4, 0.1 / 0.4, 0.05 / 0.4])
    np.testing.assert_allclose(levels, expected, atol=0.3)


def test_balance_of_the_spectrum():
    two = spectra.balance(spectra.power_spectrum(sines({500: 0.3, 3000: 0.03})))[10]
    np.testing.assert_allclose(two[:2], 20, atol=0.3)  # alpha ratio and Hammarberg index
    falling = coloured_noise(lambda hz: 10 ** (-12 * hz / 1000 / 20))
    slopes = spectra.balance(spectra.power_spectrum(falling)).mean(axis=0)[2:]
    np.testing.assert_allclose(slopes, -12, atol=1.5)


def test_loudness_is_the_cube_root_of_power_and_colour_is_apart_from_it():
    voice = vowel(steady(140), noise_db=30)
    loud, quiet = statistics(voice.wave_S), statistics(0.1 * voice.wave_S)
    assert abs(loud["loudness: mean"] / quiet["loudness: mean"] - 100 ** (1 / 3)) < 0.01
    assert abs(loud["level"] - quiet["level"] - 20) < 0.01
    for name in ("MFCC 1, voiced: mean", "HNR: mean", "F2 frequency: mean", "jitter: mean", "H1-H2: mean"):
        assert abs(loud[name] - quiet[name]) < 0.02 * abs(loud[name]) + 0.01, name


def test_flux_is_change_of_the_spectrum():
    steady_tone, switched = sines({500: 0.1}, 2), sines({500: 0.1}, 2)
    switched[RATE:] = sines({1500: 0.1}, 1)
    assert statistics(switched)["flux: mean"] > 1.5 * statistics(steady_tone)["flux: mean"]
    assert spectra.flux(np.ones((5, 26))).tolist() == [0] * 5


def test_stretches_and_peaks_are_counted_and_measured():
    voice_S, pause_S = vowel(steady(180, 0.3)).wave_S, np.zeros(round(0.2 * RATE))
    features = statistics(np.concatenate([pause_S, *[voice_S, pause_S] * 6]))
    duration_s = 0.2 + 6 * 0.5
    assert abs(features["voiced stretches per s"] * duration_s - 6) < 0.01
    assert abs(features["voiced length: mean"] - 0.3) < 0.03
    assert abs(features["unvoiced length: mean"] - 0.2) < 0.03
    assert features["voiced length: deviation"] < 0.02
    assert 5 <= features["loudness peaks per s"] * duration_s <= 7
