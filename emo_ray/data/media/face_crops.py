"""Frames cut out around a face: T frames of a clip are decoded, faces found in them, and one person followed.

Faces are looked for in shrunk frames; what is cut out comes from the frames as they are stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from emo_ray.data import faces
from emo_ray.data.face_boxes import ClipBoxes
from emo_ray.data.face_detector import detector
from emo_ray.data.media.container import LIMITS, Limits, Missing, with_status
from emo_ray.data.media.picture import Renderer, Resizer, resize
from emo_ray.data.media.sample import Channels, Request, Sample
from emo_ray.data.media.span import Span
from emo_ray.data.media.video import sample_frames


@dataclass(frozen=True)
class FaceRequest:
    """How faces are found and cut out. `boxes` are those of a table, and None where the detector looks for them."""

    frames: int
    size: int  # of the pictures that come of it, pixels
    detector: str
    model: str | None
    margin: float
    min_confidence: float
    min_side: float
    long_side: int  # of the frames in which faces are looked for
    without: Literal["frame", "absent"]
    boxes: ClipBoxes | None = None


class FaceClip(NamedTuple):
    """The pictures of a clip, and the face that is in them; None where there is no face."""

    frames_THWC: np.ndarray
    face: faces.Face | None


class _Shot(NamedTuple):
    """A sampled frame as it is stored, and the boxes that were found in it, in pixels of the picture as shown."""

    frame: VideoFrame
    pixel_aspect: Fraction
    boxes_N5: np.ndarray


def read_faces(
    source: str | None,
    request: FaceRequest,
    limits: Limits = LIMITS,
    span: Span | None = None,
    channels: Channels = "rgb",
) -> tuple[FaceClip | None, str]:
    """The frames that `read_video` takes, each cut to a square around the clip's main face, and a status.

    A clip without a face gives the frames of `read_video`, or None and "missing: no face" by `request.without`.
    """
    detect = None if request.boxes else _Detector(request, limits)

    def shoot(frame: VideoFrame, pixel_aspect: Fraction) -> _Shot:
        boxes_N5 = np.zeros((0, 5)) if detect is None else detect(frame, pixel_aspect)
        return _Shot(frame, pixel_aspect, boxes_N5)

    def decode(path: str) -> tuple[FaceClip, list[str]]:
        sample, notes = sample_frames(path, Request(request.frames, shoot, limits, span, channels))
        face = _main_face(sample, request)
        if face is None and request.without == "absent":
            raise Missing(faces.NO_FACE)
        return FaceClip(np.stack(_pictures(sample.values, face, request, limits)), face), notes

    return with_status(decode, source)


class _Detector:
    """Looks for faces in a decoded frame, shrunk."""

    def __init__(self, request: FaceRequest, limits: Limits) -> None:
        self._renderer = Renderer(request.long_side, limits)
        self._detect = detector(request.detector, request.model)

    def __call__(self, frame: VideoFrame, pixel_aspect: Fraction) -> np.ndarray:
        """Boxes in pixels of the frame as it is shown."""
        image_HWC = self._renderer.picture(frame, pixel_aspect)
        scale = max(frame.width * float(pixel_aspect), frame.height) / max(image_HWC.shape)
        return self._detect(image_HWC) * (scale, scale, scale, scale, 1)


def _main_face(sample: Sample, request: FaceRequest) -> faces.Face | None:
    """The face that a clip is about; None where there is none that is sure and large enough."""
    people_T: list[Sequence[str]] | None = None
    boxes_T = [shot.boxes_N5 for shot in sample.values]
    if request.boxes is not None:
        rows = [request.boxes.at(*moment) for moment in zip(sample.numbers, sample.times_s, strict=True)]
        boxes_T = [boxes_N5 for boxes_N5, _ in rows]
        people_T = [people for _, people in rows] if request.boxes.people_N is not None else None
    keep_T = [faces.are_usable(boxes_N5, request.min_confidence, request.min_side) for boxes_N5 in boxes_T]
    boxes_T = [boxes_N5[keep] for boxes_N5, keep in zip(boxes_T, keep_T, strict=True)]
    if people_T is None:
        return faces.main_face(faces.link(boxes_T), len(boxes_T))
    people_T = [
        [p for p, kept in zip(people, keep, strict=True) if kept] for people, keep in zip(people_T, keep_T, strict=True)
    ]
    return faces.main_face(faces.of_people(boxes_T, people_T), len(boxes_T))


def _pictures(shots: list[_Shot], face: faces.Face | None, request: FaceRequest, limits: Limits) -> list[np.ndarray]:
    """The square pictures of a clip: of its face, or else of its middle."""
    if face is None:
        resizer = Resizer(request.size, limits)
        return [resizer.picture(shot.frame, shot.pixel_aspect) for shot in shots]
    whole, scaler = Renderer(None, limits), VideoReformatter()
    pictures = []
    for shot, square_3 in zip(shots, faces.squares(face, request.margin), strict=True):
        square_HWC = faces.cut(whole.picture(shot.frame, shot.pixel_aspect), square_3)
        pictures.append(resize(square_HWC, request.size, scaler))
    return pictures
