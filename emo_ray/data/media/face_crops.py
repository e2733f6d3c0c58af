"""Frames cut out around faces: T frames of a clip are decoded, faces found in them, and one person or all followed.

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
    which: Literal["main", "all"]
    boxes: ClipBoxes | None = None


class FaceClip(NamedTuple):
    """Pictures of a clip, and the face that is in them; None where there is no face."""

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
) -> tuple[list[FaceClip] | None, str]:
    """The frames that `read_video` takes, each cut to a square around a face, and a status.

    By `request.which` that is done for the clip's main face, or for the face of each person. A clip without a face
    gives the frames of `read_video`, or None and "missing: no face" by `request.without`.
    """
    detect = None if request.boxes else _Detector(request, limits)

    def shoot(frame: VideoFrame, pixel_aspect: Fraction) -> _Shot:
        boxes_N5 = np.zeros((0, 5)) if detect is None else detect(frame, pixel_aspect)
        return _Shot(frame, pixel_aspect, boxes_N5)

    def decode(path: str) -> tuple[list[FaceClip], list[str]]:
        sample, notes = sample_frames(path, Request(request.frames, shoot, limits, span, channels))
        clip_faces = _faces(sample, request)
        if clip_faces:
            return _cut_out(sample.values, clip_faces, request, limits), notes
        if request.without == "absent":
            raise Missing(faces.NO_FACE)
        resizer = Resizer(request.size, limits)
        frames = [resizer.picture(shot.frame, shot.pixel_aspect) for shot in sample.values]
        return [FaceClip(np.stack(frames), None)], notes

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


def _faces(sample: Sample, request: FaceRequest) -> list[faces.Face]:
    """The faces to cut out; none where no box is sure and large enough."""
    people_T: list[Sequence[str]] | None = None
    boxes_T = [shot.boxes_N5 for shot in sample.values]
    if request.boxes is not None:
        rows = [request.boxes.at(*moment) for moment in zip(sample.numbers, sample.times_s, strict=True)]
        boxes_T = [boxes_N5 for boxes_N5, _ in rows]
        people_T = [people for _, people in rows] if request.boxes.people_N is not None else None
    keep_T = [faces.are_usable(boxes_N5, request.min_confidence, request.min_side) for boxes_N5 in boxes_T]
    boxes_T = [boxes_N5[keep] for boxes_N5, keep in zip(boxes_T, keep_T, strict=True)]
    if people_T is None:
        tracks = faces.link(boxes_T)
    else:
        tracks = faces.of_people(
            boxes_T,
            [
                [person for person, kept in zip(people, keep, strict=True) if kept]
                for people, keep in zip(people_T, keep_T, strict=True)
            ],
        )
    if request.which == "all":
        return faces.all_faces(tracks, len(boxes_T))
    main = faces.main_face(tracks, len(boxes_T))
    return [] if main is None else [main]


def _cut_out(
    shots: list[_Shot], clip_faces: Sequence[faces.Face], request: FaceRequest, limits: Limits
) -> list[FaceClip]:
    """The square pictures of each face."""
    whole, scaler = Renderer(None, limits), VideoReformatter()
    squares_FT3 = [faces.squares(face, request.margin) for face in clip_faces]
    pictures: list[list[np.ndarray]] = [[] for _ in clip_faces]
    for t, shot in enumerate(shots):
        image_HWC = whole.picture(shot.frame, shot.pixel_aspect)
        for f, square_T3 in enumerate(squares_FT3):
            pictures[f].append(resize(faces.cut(image_HWC, square_T3[t]), request.size, scaler))
    return [FaceClip(np.stack(frames), face) for frames, face in zip(pictures, clip_faces, strict=True)]
