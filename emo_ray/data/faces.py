"""Faces over boxes: who is who from frame to frame, whom the clip is about, and one square of the picture for a face.

Pure functions; a box may come from a detector or from a table. Coordinates are pixels of the picture as it is shown,
x to the right, y down. In an array of boxes a row is left, top, width, height, and where there is a fifth column the
confidence from 0 to 1. T counts the sampled frames of a clip.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from emo_ray.data import status

_SAME_IOU = 0.3  # boxes of two frames that overlap so much are one face
_SAME_DISTANCE = 0.5  # or whose centres are within so many widths: a face may move far between sampled frames
_STILL = 0.1  # a centre that strays from its median by less than this share of the face stands still: boxes jitter
_SEEN = 0.25  # share of the frames in which somebody is seen who counts as a person, and not as a slip of the detector
NO_FACE = "no face"


@dataclass
class Track:
    """One person's boxes by the number of the sampled frame; each box has five values."""

    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    person: str = ""  # the name that a table gives them

    @property
    def weight(self) -> float:
        """The sum of confidence times area: how much the clip is about this person."""
        return float(sum(box[4] * box[2] * box[3] for box in self.boxes.values()))

    @property
    def place(self) -> tuple[float, int]:
        """Where the person is: the centre from left to right, at its median, and the first frame that shows it."""
        return float(np.median([box[0] + box[2] / 2 for box in self.boxes.values()])), min(self.boxes)


@dataclass(frozen=True)
class Face:
    """A person's face in every frame of a clip."""

    box_T4: np.ndarray  # float64; a frame that misses the face has its neighbours' box
    confidence_T: np.ndarray  # float64; 0 in a frame that misses the face
    people: int  # in the clip
    person: str = ""  # the name that a table gives them, or else their number from left to right; of a main face none

    @property
    def weight(self) -> float:
        """The sum of confidence times area: how much the clip is about this face."""
        return float((self.confidence_T * self.box_T4[:, 2] * self.box_T4[:, 3]).sum())

    @property
    def status(self) -> str:
        """What a person should know of it."""
        hits, frames = int((self.confidence_T > 0).sum()), len(self.confidence_T)
        notes = [f"in {hits} of {frames} frames"] if hits < frames else []
        return status.ok([*notes, *([f"{self.people} people"] if self.people > 1 else [])])


def are_usable(boxes_N5: np.ndarray, min_confidence: float, min_side: float) -> np.ndarray:
    """Which boxes are sure and large enough, bool (N,): none that is no number or has no area."""
    is_number_N = np.isfinite(boxes_N5).all(axis=1)
    sides_N = boxes_N5[:, 2:4].min(axis=1, initial=np.inf)
    return is_number_N & (boxes_N5[:, 4] >= min_confidence) & (sides_N >= max(min_side, 1))


def iou(box: np.ndarray, other: np.ndarray) -> float:
    """The area that two boxes share, divided by the area that they cover together."""
    width = min(box[0] + box[2], other[0] + other[2]) - max(box[0], other[0])
    height = min(box[1] + box[3], other[1] + other[3]) - max(box[1], other[1])
    shared = max(0.0, float(width)) * max(0.0, float(height))
    return shared / float(box[2] * box[3] + other[2] * other[3] - shared)


def link(boxes_T: Sequence[np.ndarray]) -> list[Track]:
    """The boxes of each person through the frames, by overlap, or else by how near their centres are.

    In every frame the best matches are taken first, and nobody gets two boxes. A person who is gone for some frames is
    looked for where they were last.
    """
    tracks: list[Track] = []
    for t, boxes_N5 in enumerate(boxes_T):
        matches = [
            (-_likeness(last_box(track), box), place, n)
            for place, track in enumerate(tracks)
            for n, box in enumerate(boxes_N5)
            if _likeness(last_box(track), box) > 0
        ]
        linked: set[int] = set()
        for _, place, n in sorted(matches):
            if t not in tracks[place].boxes and n not in linked:
                tracks[place].boxes[t] = boxes_N5[n]
                linked.add(n)
        tracks += [Track({t: box}) for n, box in enumerate(boxes_N5) if n not in linked]
    return tracks


def last_box(track: Track) -> np.ndarray:
    """The box of the latest frame that shows a person."""
    return track.boxes[max(track.boxes)]


def _likeness(box: np.ndarray, other: np.ndarray) -> float:
    """How sure it is that two boxes are one face: above 1 for overlap, up to 1 for nearness, 0 for neither."""
    overlap = iou(box, other)
    if overlap >= _SAME_IOU:
        return 1 + overlap
    centres = [each[:2] + each[2:4] / 2 for each in (box, other)]
    distance = float(np.hypot(*(centres[0] - centres[1]))) / float(max(box[2], other[2]))
    return 1 - distance if distance <= _SAME_DISTANCE else 0.0


def of_people(boxes_T: Sequence[np.ndarray], people_T: Sequence[Sequence[str]]) -> list[Track]:
    """The boxes of each person where somebody has said whose they are; of two in one frame the surer one.

    Boxes whose person is an empty name are linked as if nobody had said it.
    """
    tracks: dict[str, Track] = {}
    nameless_T = []
    for t, (boxes_N5, people) in enumerate(zip(boxes_T, people_T, strict=True)):
        for box, person in sorted(zip(boxes_N5, people, strict=True), key=lambda pair: pair[0][4]):
            if person:
                tracks.setdefault(person, Track(person=person)).boxes[t] = box
        nameless_T.append(boxes_N5[np.array([not person for person in people], bool)])
    return [*tracks.values(), *link(nameless_T)]


def main_face(tracks: Sequence[Track], frames: int) -> Face | None:
    """The face with the largest sum of confidence times area; None where there is none."""
    people = _people(tracks, frames)
    return _face(people[0], frames, len(people)) if people else None


def all_faces(tracks: Sequence[Track], frames: int) -> list[Face]:
    """The face of each person from left to right, with their names or, for those without one, numbers from 1 on.

    A person is whoever is seen in a quarter of the frames, and the one whom `main_face` is about.
    """
    people = sorted(_people(tracks, frames), key=lambda track: track.place)
    names = {track.person for track in people}
    numbers = (str(n) for n in itertools.count(1) if str(n) not in names)
    return [replace(_face(track, frames, len(people)), person=track.person or next(numbers)) for track in people]


def _people(tracks: Sequence[Track], frames: int) -> list[Track]:
    """The tracks that are people, first the one with the largest sum of confidence times area."""
    if not tracks:
        return []
    main = max(tracks, key=lambda track: track.weight)  # of equal ones the first
    return [main, *(track for track in tracks if track is not main and len(track.boxes) >= _SEEN * frames)]


def _face(track: Track, frames: int, people: int) -> Face:
    confidence_T = np.array([track.boxes[t][4] if t in track.boxes else 0.0 for t in range(frames)])
    return Face(_filled(track, frames), confidence_T, people)


def _filled(track: Track, frames: int) -> np.ndarray:
    """A box for every frame, float64 (T, 4): between two sightings on the way from one to the other."""
    seen = sorted(track.boxes)
    values = np.stack([track.boxes[t][:4] for t in seen])
    return np.stack([np.interp(range(frames), seen, values[:, i]) for i in range(4)], axis=1)


def squares(face: Face, margin: float) -> np.ndarray:
    """The square of the picture to look at in each frame, int64 (T, 3): left, top, side. All have one side.

    The side is `margin` times the longer side of the face, at the median of the frames that show it. The centre follows
    the face smoothly, and stands still where the face hardly moves: jitter would look like motion.
    """
    sighted = face.confidence_T > 0
    longer = float(np.median(face.box_T4[sighted, 2:4].max(axis=1)))
    centre_T2 = face.box_T4[:, :2] + face.box_T4[:, 2:4] / 2
    median_2 = np.median(centre_T2[sighted], axis=0)
    if np.abs(centre_T2 - median_2).max() <= _STILL * longer:
        centre_T2 = np.broadcast_to(median_2, centre_T2.shape)
    else:
        padded = np.pad(centre_T2, ((1, 1), (0, 0)), mode="edge")
        centre_T2 = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    side = max(1, round(margin * longer))
    corner_T2 = np.floor(centre_T2 - side / 2 + 0.5).astype(np.int64)
    return np.concatenate([corner_T2, np.full((len(corner_T2), 1), side)], axis=1)


def cut(image_HWC: np.ndarray, square_3: np.ndarray) -> np.ndarray:
    """A square of a picture, (side, side, C). What lies outside the picture is its reflection."""
    left, top, side = (int(value) for value in square_3)
    rows, columns = (
        _reflected(start, side, length) for start, length in zip((top, left), image_HWC.shape[:2], strict=True)
    )
    if isinstance(rows, slice) and isinstance(columns, slice):
        return image_HWC[rows, columns]
    return image_HWC[rows][:, columns]


def _reflected(start: int, side: int, length: int) -> slice | np.ndarray:
    """Indices of a stretch of an axis; beyond its ends they run back again, as often as it takes."""
    if start >= 0 and start + side <= length:
        return slice(start, start + side)
    place = np.abs(np.arange(start, start + side)) % max(1, 2 * (length - 1))
    return np.minimum(place, 2 * (length - 1) - place)


def in_squares(face: Face, margin: float) -> np.ndarray:
    """The boxes in the frames that were cut out, float64 (T, 4), in shares of their side."""
    square_T3 = squares(face, margin)
    corner_T2 = face.box_T4[:, :2] - square_T3[:, :2]
    return np.concatenate([corner_T2, face.box_T4[:, 2:]], axis=1) / square_T3[:, 2:]
