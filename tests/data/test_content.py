"""What is seen and heard in decoded clips, and what descriptors forgive: coding, level, noise and shifts."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from emo_ray.data import content
from emo_ray.data.content import ALIKE, LOUD_SOUND, PICTURES, WHOLE_SOUND, content_of, near_pairs

RATE_HZ = 16_000


def scene(seed, frames=8, side=64):
    """uint8 frames_THWC of coloured spots that move."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).resize((2 * side, 2 * side))
    return np.stack([np.asarray(image.crop((4 * t, 0, 4 * t + side, side))) for t in range(frames)])


def jpegs(frames_THWC, quality=90):
    streams = [io.BytesIO() for _ in frames_THWC]
    for stream, frame_HWC in zip(streams, frames_THWC, strict=True):
        Image.fromarray(frame_HWC).save(stream, "JPEG", quality=quality)
    return [stream.getvalue() for stream in streams]


def speech(seed, seconds=3.0):
    """int16 samples like speech: bursts of coloured noise between pauses."""
    rng = np.random.default_rng(seed)
    pieces = []
    while sum(map(len, pieces)) < seconds * RATE_HZ:
        length = int(rng.integers(1000, 4000))
        hz = rng.uniform(200, 4000, 6)
        time_S = np.arange(length) / RATE_HZ
        pieces += [np.sin(2 * np.pi * hz[:, None] * time_S).sum(0) * np.hanning(length), np.zeros(length // 3)]
    samples_S = np.concatenate(pieces)[: int(seconds * RATE_HZ)]
    return np.round(samples_S / np.abs(samples_S).max() * 12_000).astype(np.int16)


def likeness(first, second, name):
    return float(first.descriptors[name] @ second.descriptors[name])


@pytest.mark.parametrize("seed", range(5))
def test_pictures_are_known_again_after_coding_and_blur_and_others_are_not(seed):
    frames_THWC = scene(seed)
    blurred = np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(1))) for f in frames_THWC])
    original = content_of(jpegs(frames_THWC), None)
    assert likeness(original, content_of(jpegs(frames_THWC, 30), None), PICTURES) >= ALIKE[PICTURES]
    assert likeness(original, content_of(jpegs(blurred), None), PICTURES) >= ALIKE[PICTURES]
    assert likeness(original, content_of(jpegs(scene(seed + 100)), None), PICTURES) < 0.6


@pytest.mark.parametrize("seed", range(5))
def test_sound_is_known_again_and_others_are_not(seed):
    samples_S = speech(seed)
    original = content_of(None, samples_S)
    noise_S = np.random.default_rng(0).normal(0, samples_S.std() / 20, len(samples_S))
    copies = {
        "quieter": (samples_S * 0.3).astype(np.int16),
        "noisy": (samples_S + noise_S).astype(np.int16),
        "later": np.concatenate([np.zeros(1500, np.int16), samples_S]),
    }
    for samples_of_copy in copies.values():
        copy = content_of(None, samples_of_copy)
        assert any(likeness(original, copy, name) >= ALIKE[name] for name in (WHOLE_SOUND, LOUD_SOUND))
    other = content_of(None, speech(seed + 100))
    assert all(likeness(original, other, name) < 0.6 for name in (WHOLE_SOUND, LOUD_SOUND))


def test_faults_of_pictures_are_told():
    moving, black = scene(0), np.zeros((8, 64, 64, 3), np.uint8)
    assert content_of(jpegs(moving), None).is_dark is False
    assert content_of(jpegs(moving), None).is_still is False
    assert content_of(jpegs(np.repeat(moving[:1], 8, 0)), None).is_still is True
    assert content_of(jpegs(black), None).is_dark is True
    assert content_of(jpegs(black + 200), None).is_dark is True
    assert PICTURES not in content_of(jpegs(black), None).descriptors
    assert content_of(jpegs(moving[:1]), None).is_still is False  # one picture cannot move


def test_faults_of_sound_are_told():
    samples_S = speech(0)
    assert not content_of(None, samples_S).is_silent
    assert content_of(None, samples_S).clipped_share == 0
    assert content_of(None, (samples_S / 3000).astype(np.int16)).is_silent
    loud_S = (samples_S.astype(np.int32) * 10).clip(-32768, 32767).astype(np.int16)
    assert content_of(None, loud_S).clipped_share == pytest.approx(
        (np.abs(loud_S.astype(int)) > 32_700).mean(), abs=0.01
    )
    assert not content_of(None, np.zeros(RATE_HZ, np.int16)).descriptors


@pytest.mark.parametrize("length", [1, 10, 511, 512, 513, 1024, 5000])
def test_sounds_of_any_length_have_descriptors_of_length_one(length):
    samples_S = np.random.default_rng(0).integers(-9000, 9000, length).astype(np.int16)
    for vector_D in content_of(None, samples_S).descriptors.values():
        assert vector_D.shape == (512,)
        assert np.linalg.norm(vector_D) == pytest.approx(1, abs=1e-4) or not vector_D.any()


def test_a_clip_without_media_has_nothing():
    assert content_of(None, None) == content.Content()


def test_pairs_are_those_of_all_products(monkeypatch):
    monkeypatch.setattr(content, "_BLOCK", 7)
    vectors_ND = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    for queries in (0, 10, 40):
        expected = {(i, j) for i in range(queries) for j in range(i + 1, 40) if vectors_ND[i] @ vectors_ND[j] >= 0.8}
        pairs = list(near_pairs(vectors_ND, 0.8, queries))
        assert {(i, j) for i, j, _ in pairs} == expected
        assert len(pairs) == len(expected)
