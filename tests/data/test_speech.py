"""Spans of speech: against silero-vad's own functions, and by properties where those differ on purpose."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emo_ray.config.media_settings import Segment
from emo_ray.data import speech
from emo_ray.data.media import RATE_HZ
from emo_ray.data.synthetic.voice import voice

WINDOW_S = speech.WINDOW / RATE_HZ
UNCUT = Segment(max_s=10_000)


@pytest.fixture(scope="module")
def silero():
    threads = torch.get_num_threads()
    import silero_vad  # sets the number of threads of the process

    torch.set_num_threads(threads)
    return silero_vad


@pytest.fixture(scope="module")
def voice_S():
    """Four seconds: silence, then a synthetic voice, some of which the model hears as speech."""
    spoken_S = voice("neutral", np.random.default_rng(0), np.random.default_rng(10), 3.0)
    return np.concatenate([np.zeros(RATE_HZ, np.int16), spoken_S])


def probabilities_of(*pieces):
    """(seconds, probability) pieces as a probability a window."""
    return np.concatenate([np.full(round(seconds / WINDOW_S), p) for seconds, p in pieces])


def heard(sound_S, pieces):
    """The probabilities of a sound that comes in so many stretches of random lengths."""
    cuts = np.sort(np.random.default_rng(pieces).integers(0, len(sound_S), pieces - 1))
    return speech.speech_probabilities(np.split(sound_S, cuts))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.6, 0.95]), min_size=1, max_size=120),
    st.sampled_from([0.1, 0.3, 0.5, 0.7]),
    st.sampled_from([0.03, 0.1, 0.25]),
    st.sampled_from([0.05, 0.33]),
    st.sampled_from([0.0, 0.02, 0.2]),
)
def test_uncut_spans_are_those_of_silero(silero, probabilities, threshold, min_silence_s, min_speech_s, pad_s):
    probabilities = [*probabilities, *[0.0] * 30]  # to its end silero-vad takes a last pause for speech
    chosen = Segment(
        threshold=threshold, min_silence_s=min_silence_s, min_speech_s=min_speech_s, pad_s=pad_s, max_s=10_000
    )
    expected = silero.get_speech_timestamps_from_probs(
        torch.tensor(probabilities, dtype=torch.float64),
        threshold=threshold,
        min_silence_duration_ms=1000 * (min_silence_s - WINDOW_S),  # it waits for a window more than a pause has
        min_speech_duration_ms=1000 * min_speech_s,
        speech_pad_ms=1000 * pad_s,
    )
    spans = speech.spans(probabilities, len(probabilities) * WINDOW_S, chosen)
    assert [(round(start * RATE_HZ), round(end * RATE_HZ)) for start, end in spans] == [
        (span["start"], span["end"]) for span in expected
    ]


def test_probabilities_are_those_of_silero_however_the_sound_is_cut(silero, voice_S):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        model = silero.load_silero_vad()
    sound = torch.from_numpy(voice_S.astype(np.float32) / 32768)
    with torch.inference_mode():
        expected_W = model.audio_forward(sound, RATE_HZ)[0].numpy()
    assert 0 < (expected_W > 0.5).mean() < 1
    for pieces in (1, 2, 7, 300):
        probabilities_W, samples = heard(voice_S, pieces)
        np.testing.assert_array_equal(probabilities_W, expected_W)
        assert samples == len(voice_S)


def test_a_voice_is_found(voice_S):
    ((start_s, end_s),) = speech.speech_spans([voice_S], Segment())
    assert 1 - 0.2 <= start_s < end_s <= len(voice_S) / RATE_HZ


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(3 * RATE_HZ),
        np.random.default_rng(0).normal(0, 3000, 3 * RATE_HZ),
        9000 * np.sin(2 * np.pi * 440 * np.arange(3 * RATE_HZ) / RATE_HZ),
        np.zeros(0),
        np.zeros(1),
    ],
    ids=["silence", "noise", "tone", "nothing", "a sample"],
)
def test_what_is_no_voice_is_no_speech(sound):
    assert speech.speech_spans([sound.astype(np.int16)], Segment()) == []


def test_the_number_of_threads_is_left_as_it_was(voice_S):
    threads = torch.get_num_threads()
    speech.speech_probabilities([voice_S])
    assert torch.get_num_threads() == threads


def test_speech_that_goes_on_to_the_end_ends_with_the_sound():
    probabilities = probabilities_of((1, 0), (1, 0.9))
    assert speech.spans(probabilities, 1.99, UNCUT)[-1][1] == 1.99


def test_a_long_span_is_cut_at_its_quietest_places():
    probabilities = probabilities_of((1, 0), (7, 0.9), (0.3, 0.4), (2, 0.9), (0.3, 0.36), (9, 0.9), (1, 0))
    first, second = speech.spans(probabilities, len(probabilities) * WINDOW_S, Segment(max_s=16, pad_s=0))
    assert first[1] == second[0]
    assert 10.3 < first[1] < 10.6


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from([0.0, 0.2, 0.6, 1.0])), min_size=1, max_size=12),
    st.sampled_from([1.0, 2.5, 20.0]),
    st.sampled_from([0.0, 0.2, 3.0]),
)
def test_cut_spans_cover_what_uncut_ones_cover_and_none_is_too_long_or_too_short(runs, max_s, pad_s):
    probabilities = np.concatenate([np.full(windows, value) for windows, value in runs])
    sound_s = len(probabilities) * WINDOW_S
    uncut = speech.spans(probabilities, sound_s, Segment(max_s=10_000, pad_s=pad_s))
    cut = speech.spans(probabilities, sound_s, Segment(max_s=max_s, pad_s=pad_s))
    for start, end in uncut:
        pieces = [span for span in cut if start <= span[0] < end]
        assert [pieces[0][0], pieces[-1][1]] == [start, end]
        assert [piece[0] for piece in pieces[1:]] == [piece[1] for piece in pieces[:-1]]
        assert all(piece[1] - piece[0] <= max_s + 1e-9 for piece in pieces)
        assert len(pieces) == 1 or all(piece[1] - piece[0] >= max_s / 4 - 1e-9 for piece in pieces)
    assert all(0 <= start < end <= sound_s for start, end in cut)
    assert all(before[1] <= after[0] for before, after in pairwise(cut))
