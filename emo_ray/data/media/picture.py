"""One decoded frame to a picture as players show it: whole, or the square that a model sees, resized and cropped."""

from fractions import Fraction

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from emo_ray.data.media.container import Corrupt, Limits


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raise Corrupt for a picture that is larger than the limit."""
    if width * height > limits.max_pixels:
        raise Corrupt(f"{width} x {height} pixels are more than media.max_pixels={limits.max_pixels}")


def _upright(image: np.ndarray, frame: VideoFrame) -> np.ndarray:
    """Turn and mirror an image as the display matrix of its frame says.

    In PyAV, `side_data` and its frame refer to each other, and stay until Python's collector runs: ask for that of a
    resized frame, which is small, never for that of a decoded one.
    """
    if "DISPLAYMATRIX" not in frame.side_data:
        return image
    matrix = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # PyAV's stub does not list it
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5] / 2**16
    mirrored = a * d < b * c  # frame.rotation follows from a and b alone and would show it upside down
    return np.rot90(image[::-1] if mirrored else image, round(frame.rotation / 90) % 4)


class Resizer:
    """Makes square pictures of one size. The scaler is set up once, and used for all frames of a clip."""

    def __init__(self, size: int, limits: Limits) -> None:
        self._size, self._limits = size, limits
        self._scaler = VideoReformatter()

    def picture(self, frame: VideoFrame, pixel_aspect: Fraction) -> np.ndarray:
        """uint8 (size, size, 3): upright, pixels made square, short side resized, centre crop.

        `pixel_aspect` is the width of a stored pixel divided by its height.
        """
        size = self._size
        shown_width = frame.width * float(pixel_aspect)
        scale = size / min(shown_width, frame.height)
        width, height = max(size, round(shown_width * scale)), max(size, round(frame.height * scale))
        check_pixels(width, height, self._limits)
        # One thread: parallelism is over clips.
        resized = self._scaler.reformat(frame, width, height, "rgb24", interpolation="BICUBIC", threads=1)
        image = resized.to_ndarray()
        left, top = (width - size) // 2, (height - size) // 2
        image = image[top : top + size, left : left + size]
        return np.ascontiguousarray(_upright(image, resized))


class Renderer:
    """Makes whole pictures, as large as they are or with at most so many pixels on their longer side."""

    def __init__(self, long_side: int | None, limits: Limits) -> None:
        self._long_side, self._limits = long_side, limits
        self._scaler = VideoReformatter()

    def picture(self, frame: VideoFrame, pixel_aspect: Fraction) -> np.ndarray:
        """uint8 (H, W, 3): upright, pixels made square."""
        shown_width = frame.width * float(pixel_aspect)
        longer = max(shown_width, frame.height)
        scale = min(1.0, (self._long_side or longer) / longer)
        width, height = max(1, round(shown_width * scale)), max(1, round(frame.height * scale))
        check_pixels(width, height, self._limits)
        resized = self._scaler.reformat(frame, width, height, "rgb24", interpolation="BILINEAR", threads=1)
        return _upright(resized.to_ndarray(), resized)


def resize(image_HWC: np.ndarray, size: int, scaler: VideoReformatter) -> np.ndarray:
    """A square picture, uint8, at another size."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
    return scaler.reformat(frame, size, size, "rgb24", interpolation="BICUBIC", threads=1).to_ndarray()
