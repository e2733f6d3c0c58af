"""Videos that are NumPy files: the frames of a clip as one array, as tools that cut faces out leave them."""

from fractions import Fraction
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame

from emo_ray.data.media.container import Corrupt, open_file
from emo_ray.data.media.packet_index import spread
from emo_ray.data.media.picture import check_pixels
from emo_ray.data.media.sample import Request, Sample
from emo_ray.data.suffixes import suffix

_SUFFIX = ".npy"
_EXPECTED = "expected an array of frames, uint8 (F, H, W, 3)"


def is_array(source: str) -> bool:
    """Whether a path or URI names a NumPy file."""
    return suffix(source) == _SUFFIX


def sample_array(source: str, request: Request) -> tuple[Sample, list[str]]:
    """Frames spread over an array of uint8 (F, H, W, 3). No others are read, and nothing is unpickled.

    Raises Corrupt for any other array, and for a span: an array has no clock.
    """
    if request.span is not None:
        raise Corrupt(f"{request.span}: an array of frames has no clock")
    with open_file(source, request.limits) as (file, size):
        count, height, width = _shape(file)
        check_pixels(width, height, request.limits)
        start, frame_bytes = file.tell(), height * width * 3
        if size < start + count * frame_bytes:
            raise Corrupt(f"truncated: {(size - start) // frame_bytes} of {count} frames are there")
        places = spread(count, request.frames)
        values = []
        for place in places:
            file.seek(start + place * frame_bytes)
            image_HWC = np.frombuffer(file.read(frame_bytes), np.uint8).reshape(height, width, 3)
            image_HWC = image_HWC[:, :, ::-1] if request.channels == "bgr" else image_HWC
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(image_HWC), format="rgb24")
            values.append(request.render(frame, Fraction(1)))
    return Sample(values, list(places), [None] * len(places)), []


def _shape(file: BinaryIO) -> tuple[int, int, int]:
    """Frames, height and width that the header states; the file then stands at the first frame."""
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, is_fortran, dtype = read_header[version](file)
    except (ValueError, KeyError) as error:
        raise Corrupt(f"no NumPy file: {error}") from error
    if dtype != np.uint8 or is_fortran or len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        order = " in Fortran's order" if is_fortran else ""
        raise Corrupt(f"{dtype} of shape {tuple(shape)}{order}: {_EXPECTED}")
    return shape[0], shape[1], shape[2]
