"""Voices of the synthetic corpus: glottal pulses and breath, shaped by the formants of a vowel per syllable.

Two random generators decide every sample: `speaker_rng` what belongs to the speaker, `clip_rng` what belongs to the
clip. The order of the draws is part of the corpus: another order gives other clips from the same seed.
"""

from dataclasses import asdict, dataclass

import numpy as np

from emo_ray.config.media_settings import RATE_HZ

_HOP = 256  # samples; filtering windows are twice as long
_VOWELS_HZ = ((730, 1090, 2440), (530, 1840, 2480), (300, 2250, 3000), (570, 840, 2410), (320, 870, 2240))
_BANDWIDTHS_HZ = (80.0, 110.0, 170.0)


@dataclass(frozen=True)
class _Manner:
    """How somebody speaks. Units are in the names: st for semitones, dB, Hz."""

    pitch_st: float = 0.0  # relative to the speaker's usual pitch
    accent_st: float = 1.2  # spread of the pitch over syllables
    glide_st: float = -1.5  # from first to last sample
    level_db: float = 0.0
    rate_hz: float = 4.0  # syllables
    breath: float = 0.06  # noise relative to the pulses
    tilt_db: float = 0.0  # per octave; positive is a tense, bright voice
    tremor_st: float = 0.0
    attack: float = 0.5  # share of a syllable spent rising
    pause: float = 0.15  # share of syllables left out


MANNERS = {
    "neutral": _Manner(),
    "angry": _Manner(
        pitch_st=2.5, accent_st=2, glide_st=-2, level_db=8, rate_hz=5, breath=0.12, tilt_db=4, attack=0.2, pause=0.05
    ),
    "happy": _Manner(pitch_st=5.5, accent_st=4, glide_st=0.5, level_db=3, rate_hz=4.6, tilt_db=1, pause=0.05),
    "sad": _Manner(
        pitch_st=-2, accent_st=0.6, glide_st=-3.5, level_db=-6, rate_hz=2.7, breath=0.35, tilt_db=-3, pause=0.3
    ),
    "worried": _Manner(
        pitch_st=2, glide_st=0.5, level_db=-3, rate_hz=5.4, breath=0.3, tilt_db=-0.5, tremor_st=1, pause=0.35
    ),
    "surprise": _Manner(
        pitch_st=4, accent_st=2, glide_st=9, level_db=2, rate_hz=2.9, breath=0.12, attack=0.3, pause=0.1
    ),
}


def voice(
    label: str,
    speaker_rng: np.random.Generator,
    clip_rng: np.random.Generator,
    duration_s: float,
    noisy: bool = False,
) -> np.ndarray:
    """int16 samples_S at 16 kHz of a voice that sounds `label`; with `noisy`, beside a street about as loud."""
    manner = _at_random_intensity(MANNERS[label], clip_rng)
    base_hz = 110 * 2 ** speaker_rng.uniform(0, 1)
    tract = speaker_rng.uniform(0.95, 1.15)
    gain_db = speaker_rng.normal(0, 2)
    samples = round(duration_s * RATE_HZ)
    starts_s, lengths_s = _syllables(manner, clip_rng, duration_s)
    pulses_S = _pulses(_pitch_hz(manner, base_hz, starts_s, clip_rng, samples), 0.6 - 0.04 * manner.tilt_db)
    source_S = pulses_S + manner.breath * clip_rng.standard_normal(samples)
    source_S *= _loudness(manner, starts_s, lengths_s, clip_rng, samples)
    spoken_S = _filter(source_S, starts_s, tract, manner.tilt_db, clip_rng)
    rms = np.sqrt(np.mean(spoken_S**2)) + 1e-9
    level_db = -24 + manner.level_db + gain_db + clip_rng.normal(0, 1.5)
    spoken_S = spoken_S / rms * 10 ** (level_db / 20)
    room_S = 10 ** (clip_rng.uniform(-62, -50) / 20) * clip_rng.standard_normal(samples)
    if noisy:
        room_S += 10 ** ((level_db - clip_rng.uniform(-3, 9)) / 20) * _street(clip_rng, samples)
    recorded_S = np.tanh(spoken_S + room_S)  # a microphone that saturates softly
    return np.round(recorded_S * 32_000).astype(np.int16)


def _street(clip_rng: np.random.Generator, samples: int) -> np.ndarray:
    """Pink noise of power 1."""
    spectrum = np.fft.rfft(clip_rng.standard_normal(samples))
    noise_S = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 40)), samples)
    return noise_S / np.sqrt(np.mean(noise_S**2))


def _at_random_intensity(manner: _Manner, clip_rng: np.random.Generator) -> _Manner:
    """The manner at the clip's intensity: 0 would be neutral, 1 is the manner itself."""
    intensity = clip_rng.uniform(0.65, 1.15)
    neutral = asdict(MANNERS["neutral"])
    return _Manner(**{name: neutral[name] + intensity * (v - neutral[name]) for name, v in asdict(manner).items()})


def _syllables(manner: _Manner, clip_rng: np.random.Generator, duration_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths in seconds. Some syllables are left out as pauses, but never the first."""
    first_s = clip_rng.uniform(0.05, 0.2)
    count = int(duration_s * manner.rate_hz) + 1
    lengths_s = clip_rng.uniform(0.75, 1.25, count) / manner.rate_hz
    starts_s = first_s + np.cumsum(lengths_s) - lengths_s
    spoken = (clip_rng.uniform(size=count) >= manner.pause) & (starts_s + lengths_s < duration_s - 0.05)
    spoken[0] = True
    return starts_s[spoken], lengths_s[spoken]


def _pitch_hz(
    manner: _Manner, base_hz: float, starts_s: np.ndarray, clip_rng: np.random.Generator, samples: int
) -> np.ndarray:
    """The fundamental frequency in each sample: level, accents, glide, tremor and a little jitter."""
    time_S = np.arange(samples) / RATE_HZ
    accents_S = np.interp(time_S, starts_s, clip_rng.normal(0, 1, len(starts_s)))
    knots_s = np.arange(0, time_S[-1] + 0.02, 0.01)
    jitter_S = np.interp(time_S, knots_s, clip_rng.normal(0, 0.15, len(knots_s)))
    tremor_S = np.sin(2 * np.pi * (clip_rng.uniform(5, 7) * time_S + clip_rng.uniform()))
    glide_S = (time_S / time_S[-1]) ** 2 - 1 / 3
    pitch_st_S = manner.pitch_st + clip_rng.normal(0, 0.8) + manner.accent_st * accents_S + jitter_S
    pitch_st_S += manner.glide_st * glide_S + manner.tremor_st * tremor_S
    return base_hz * 2 ** (pitch_st_S / 12)


def _pulses(pitch_S: np.ndarray, open_share: float) -> np.ndarray:
    """Derivative of the flow through the glottis (Rosenberg 1971): slow opening, fast closing, shut; mean power 1."""
    phase_S = np.cumsum(pitch_S / RATE_HZ) % 1
    opening = 0.66 * open_share
    closing = 0.34 * open_share
    rise_S = 0.5 - 0.5 * np.cos(np.pi * phase_S / opening)
    fall_S = np.cos(np.pi / 2 * np.clip((phase_S - opening) / closing, 0, 1))
    flow_S = np.diff(np.where(phase_S < opening, rise_S, fall_S), prepend=0.0)
    return flow_S / np.sqrt(np.mean(flow_S**2))


def _loudness(
    manner: _Manner, starts_s: np.ndarray, lengths_s: np.ndarray, clip_rng: np.random.Generator, samples: int
) -> np.ndarray:
    """The envelope: a bump per syllable, zero between phrases."""
    knots_s = starts_s[:, None] + lengths_s[:, None] * np.array([0, manner.attack * 0.5, 0.6, 0.95])
    heights = np.exp(clip_rng.normal(0, 0.2, len(starts_s)))[:, None] * np.array([0.0, 1.0, 0.8, 0.0])
    return np.interp(np.arange(samples) / RATE_HZ, knots_s.ravel(), heights.ravel(), left=0.0, right=0.0)


def _filter(
    source_S: np.ndarray, starts_s: np.ndarray, tract: float, tilt_db: float, clip_rng: np.random.Generator
) -> np.ndarray:
    """The source, filtered by the formants of its vowels and by the tilt: windowed spectra, overlap-added."""
    vowels = np.array(_VOWELS_HZ)[clip_rng.integers(len(_VOWELS_HZ), size=len(starts_s))] * tract
    windows_NW = np.lib.stride_tricks.sliding_window_view(np.pad(source_S, _HOP), 2 * _HOP)[::_HOP]
    time_N = np.arange(len(windows_NW)) * _HOP / RATE_HZ
    formants_NF = np.stack([np.interp(time_N, starts_s + 0.05, track) for track in vowels.T], axis=1)
    hz_Q = np.fft.rfftfreq(2 * _HOP, 1 / RATE_HZ)
    response_NQ = np.zeros((len(time_N), len(hz_Q)))
    for track_hz, bandwidth_hz in zip(formants_NF.T[:, :, None], _BANDWIDTHS_HZ, strict=True):
        response_NQ += bandwidth_hz / np.hypot(hz_Q - track_hz, bandwidth_hz)
    response_NQ *= (np.maximum(hz_Q, 60) / 500) ** (tilt_db / 6.02)
    window_W = np.hanning(2 * _HOP + 1)[:-1]
    spoken_NW = np.fft.irfft(np.fft.rfft(windows_NW * window_W) * response_NQ)
    spoken_S = np.zeros((len(time_N) + 1) * _HOP)
    for part in (0, 1):
        halves = spoken_NW[:, part * _HOP : (part + 1) * _HOP].ravel()
        spoken_S[part * _HOP : part * _HOP + len(halves)] += halves
    return spoken_S[_HOP : _HOP + len(source_S)]
