"""Small pictures show the same at a small size; bars and waves have the heights of their values."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from emo_ray.reports.drawings import THUMBNAIL_PX, WAVE_STEPS, bar, loudness, strip, thumbnail, wave


def plain(colour, side=224):
    return np.full((side, side, 3), colour, np.uint8)


def opened(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_a_strip_holds_frames_side_by_side():
    sheet = opened(strip([plain((200, 0, 0)), plain((0, 0, 200))]))
    assert sheet.shape == (THUMBNAIL_PX, 2 * THUMBNAIL_PX, 3)
    assert sheet[:, : THUMBNAIL_PX - 8].mean((0, 1)) == pytest.approx((200, 0, 0), abs=6)
    assert sheet[:, THUMBNAIL_PX + 8 :].mean((0, 1)) == pytest.approx((0, 0, 200), abs=6)


def test_a_thumbnail_is_a_small_picture_of_the_same():
    buffer = io.BytesIO()
    Image.fromarray(plain((0, 120, 240))).save(buffer, "JPEG")
    assert opened(thumbnail(buffer.getvalue())).mean((0, 1)) == pytest.approx((0, 120, 240), abs=4)


def test_loudness_is_the_largest_deflection_of_each_stretch():
    samples_S = np.zeros(16_000, np.int16)
    samples_S[4_000], samples_S[12_000] = 2**14, -(2**15)
    values = loudness(samples_S)
    assert len(values) == WAVE_STEPS
    assert np.flatnonzero(values).tolist() == [WAVE_STEPS // 4, 3 * WAVE_STEPS // 4]
    assert values.max() == 1
    assert loudness(np.array([100], np.int16)).tolist() == [100 / 2**15]
    assert len(loudness(np.zeros(0, np.int16))) == 0


def test_a_wave_is_as_high_as_its_picture_where_it_is_loudest():
    heights = [int(h) for h in re.findall(r"v(\d+)h", wave([0.1, 0.05, 0.0]))]
    assert heights == [100, 50, 2]
    assert wave([]) == ""
    assert "nan" not in wave([0.0])


def test_a_bar_stands_on_the_ground():
    assert bar(1, 2.5, 0.25) == "M1.0 100V75H2.5V100z"
