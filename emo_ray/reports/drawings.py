"""Pieces that pages draw: small pictures, sound as a wave, and bars, the last two as paths of an SVG picture."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

THUMBNAIL_PX = 96  # twice the side on most pages, for sharp screens
_QUALITY = 75  # of JPEG
WAVE_STEPS = 150  # of a sound, whatever its length


def thumbnail(jpeg: bytes) -> bytes:
    """A small JPEG of a picture."""
    with Image.open(io.BytesIO(jpeg)) as image:
        return _jpeg(_small(image.convert("RGB")))


def strip(frames: Sequence[np.ndarray]) -> bytes:
    """One JPEG of small pictures side by side, from uint8 frames_HWC of one size."""
    images = [_small(Image.fromarray(frame_HWC)) for frame_HWC in frames]
    sheet = Image.new("RGB", (sum(image.width for image in images), images[0].height))
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width
    return _jpeg(sheet)


def _small(image: Image.Image) -> Image.Image:
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return image


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def bar(left: float, right: float, share: float) -> str:
    """A bar as a piece of an SVG path, in a picture 100 high; its height is a share in [0, 1]."""
    return f"M{left:.1f} 100V{100 - 100 * share:.0f}H{right:.1f}V100z"


def loudness(samples_S: np.ndarray) -> np.ndarray:
    """The largest deflection in each of WAVE_STEPS equal stretches of int16 sound, in [0, 1]."""
    if not len(samples_S):
        return np.zeros(0)
    edges = np.linspace(0, len(samples_S), min(WAVE_STEPS, len(samples_S)) + 1).astype(int)
    return np.maximum.reduceat(np.abs(samples_S.astype(np.int32)), edges[:-1]) / 2**15


def wave(loudness_N: Sequence[float]) -> str:
    """Sound as an SVG path in a picture N wide and 100 high: bars around the middle, the loudest over all of it."""
    highest = max(loudness_N, default=0.0) or 1.0
    heights = [max(50 * value / highest, 1) for value in loudness_N]
    return "".join(f"M{i} {50 - height:.0f}h.7v{2 * height:.0f}h-.7z" for i, height in enumerate(heights))
