"""Degraded clips: as much noise, blur and fewer words as was asked for, the same every time."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emo_ray.data.degradation import (
    blurred,
    blurred_frames,
    clip_rng,
    halved_frames,
    noise,
    with_noise,
    with_words_dropped,
)

RATE_HZ = 16_000


def tone(hz=220, seconds=1.0, loudness=8000):
    return (loudness * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(np.int16)


def jpeg(picture):
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def checkerboard(cell_px=2, side_px=64):
    board = (np.indices((side_px, side_px)) // cell_px).sum(axis=0) % 2
    return Image.fromarray((255 * np.repeat(board[..., None], 3, axis=2)).astype(np.uint8))


@pytest.mark.parametrize("snr_db", [20, 10, 5, 0])
@pytest.mark.parametrize("loudness", [500, 30_000])  # the latter is too loud once noise is added
def test_the_ratio_of_signal_to_noise_is_the_one_asked_for(snr_db, loudness):
    sound_S = tone(loudness=loudness)
    noise_S = noise(len(sound_S), [tone(hz=hz) for hz in (100, 130, 170)], clip_rng(0, "a", "5 dB"))
    mixed_S = with_noise(sound_S, noise_S, snr_db).astype(float)
    assert np.abs(mixed_S).max() <= 32767
    gain = mixed_S @ sound_S / (sound_S.astype(float) @ sound_S)  # noise is unlike the tone, so this is the quieting
    rest_S = mixed_S - gain * sound_S
    measured_db = 10 * np.log10(np.square(gain * sound_S.astype(float)).sum() / np.square(rest_S).sum())
    assert measured_db == pytest.approx(snr_db, abs=0.3)


def test_half_of_the_noise_is_white_and_half_are_other_voices():
    voices = [tone(hz=300), tone(hz=500)]
    spectrum = np.square(np.abs(np.fft.rfft(noise(RATE_HZ, voices, clip_rng(0, "a", "x")))))
    at_voices = spectrum[[300, 500]].sum() / spectrum.sum()
    assert at_voices == pytest.approx(0.5, abs=0.05)
    alone = np.square(np.abs(np.fft.rfft(noise(RATE_HZ, [], clip_rng(0, "a", "x")))))
    assert alone[[300, 500]].sum() / alone.sum() < 0.01


def test_silence_stays_silence_and_the_same_clip_is_spoilt_alike():
    silence_S = np.zeros(100, np.int16)
    assert not with_noise(silence_S, np.ones(100), 0).any()
    first, second, other = (noise(50, [tone()], clip_rng(0, name, "x")) for name in ("a", "a", "b"))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_more_levels_leave_less_detail_and_the_size_stays():
    board = checkerboard()
    detail = [np.asarray(blurred(board, levels), float).std() for levels in (0, 1, 2, 4)]
    assert detail[0] > detail[1] > detail[2] > 0.9 * detail[3]
    assert detail[3] < 0.1 * detail[0]
    (frame,) = blurred_frames([jpeg(board)], 2)
    assert Image.open(io.BytesIO(frame)).size == board.size
    flat = Image.new("RGB", (30, 17), (10, 200, 30))
    assert np.abs(np.asarray(blurred(flat, 4), int) - np.asarray(flat, int)).max() <= 1


def test_half_of_the_frames_are_shown_twice():
    assert halved_frames([b"0", b"1", b"2", b"3", b"4"]) == [b"0", b"0", b"2", b"2", b"4"]
    assert halved_frames([]) == []


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=30), st.sampled_from([0.25, 0.5]), st.integers(0, 99))
def test_words_are_dropped_in_their_order(words, share, seed):
    numbered = [f"{word}{i}" for i, word in enumerate(words)]
    kept = with_words_dropped(" ".join(numbered), share, np.random.default_rng(seed)).split()
    assert kept == [word for word in numbered if word in set(kept)]
    assert len(kept) == max(1, len(words) - round(share * len(words)))


def test_a_text_without_spaces_loses_letters():
    assert len(with_words_dropped("我今天非常高兴啊", 0.5, np.random.default_rng(0))) == 4
    assert with_words_dropped("schön", 0.5, np.random.default_rng(0)) == "schön"
    assert with_words_dropped("", 0.5, np.random.default_rng(0)) == ""
