"""Voices of the synthetic corpus: int16 sound whose loudness, brightness and pitch depend on the class."""

import numpy as np
import pytest

from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic.voice import RATE_HZ, voice

DURATION_S = 2.0


def speak(label, person=0, clip=0, noisy=False, duration_s=DURATION_S):
    return voice(label, np.random.default_rng([1, person]), np.random.default_rng([2, clip]), duration_s, noisy)


def db(samples_S, axis=-1):
    """Mean power in dB relative to full scale."""
    return 10 * np.log10(np.mean(np.square(samples_S / 2**15), axis) + 1e-12)


@pytest.mark.parametrize("label", LABELS)
def test_a_voice_is_int16_unclipped_and_repeats(label):
    samples_S = speak(label)
    assert (samples_S.dtype, samples_S.shape) == (np.int16, (round(DURATION_S * RATE_HZ),))
    assert len(speak(label, duration_s=0.7)) == round(0.7 * RATE_HZ)
    assert 300 < np.abs(samples_S.astype(int)).max() < 32_001
    assert np.array_equal(samples_S, speak(label))
    assert not np.array_equal(samples_S, speak(label, person=1))
    assert not np.array_equal(samples_S, speak(label, clip=1))


@pytest.mark.parametrize("label", LABELS)
def test_noise_is_about_as_loud_as_the_voice_and_fills_its_pauses(label):
    ratios_db, ranges_db = [], []
    for clip in range(6):
        clean_S, noisy_S = speak(label, clip, clip), speak(label, clip, clip, noisy=True)
        assert (noisy_S.dtype, noisy_S.shape) == (clean_S.dtype, clean_S.shape)
        ratios_db.append(db(clean_S) - db(noisy_S - clean_S.astype(float)))
        levels_db = [db(samples_S.reshape(-1, 320)) for samples_S in (clean_S, noisy_S)]
        ranges_db.append([np.percentile(level_db, 90) - np.percentile(level_db, 5) for level_db in levels_db])
    assert min(ratios_db) > -5
    assert max(ratios_db) < 12
    assert np.ptp(ratios_db) > 1  # the noise is not equally loud in every clip
    clean_db, noisy_db = np.array(ranges_db).T
    assert (clean_db > noisy_db + 5).all()


def test_anger_is_louder_and_brighter_than_sadness_of_the_same_speaker():
    def brightness(samples_S):
        power_Q = np.abs(np.fft.rfft(samples_S.astype(float))) ** 2
        return np.arange(len(power_Q)) @ power_Q / power_Q.sum()

    pairs = [(speak("angry", n, n), speak("sad", n, n + 100)) for n in range(12)]
    assert np.mean([db(a) > db(b) for a, b in pairs]) == 1
    assert np.mean([brightness(a) > brightness(b) for a, b in pairs]) >= 0.9


def test_surprise_ends_higher_than_it_began_and_sadness_lower():
    def rise_octaves(samples_S):
        """From the first third of the loud windows to the last; pitch by autocorrelation."""
        windows_NW = np.lib.stride_tricks.sliding_window_view(samples_S / 2**15, 1024)[::256]
        loud_NW = windows_NW[db(windows_NW * 2**15) > db(samples_S) - 3]
        spectra_NQ = np.abs(np.fft.rfft(loud_NW * np.hanning(1024), 4096)) ** 2
        lags_N = np.fft.irfft(spectra_NQ)[:, 30:270].argmax(1) + 30
        third = len(lags_N) // 3
        return np.log2(np.median(lags_N[:third]) / np.median(lags_N[-third:]))

    rises = {label: np.median([rise_octaves(speak(label, n, n)) for n in range(20)]) for label in ("surprise", "sad")}
    assert rises["surprise"] > 0.15, rises
    assert rises["sad"] < -0.05, rises
