"""Wide shots of the synthetic corpus: the same face in a room, off centre, sometimes with a second person.

A clip shows the face that the module `face` paints from the same random draws, and as large. `scene_rng` decides where
the face is and what is around it.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from emo_ray.data.synthetic.canvas import SIZE, mix, whole_side
from emo_ray.data.synthetic.face import (
    EXPRESSIONS,
    RATE_FPS,
    Act,
    Look,
    add_flaw,
    paint,
    sample_act,
    sample_look,
    silhouette,
)

WIDTH, HEIGHT = 320, 180
_SECOND_RATE = 0.3  # of the clips with another person
_SECOND_SCALES = (0.5, 0.65)  # size of that person's head, as a share: farther away than the one the clip is about
_SWAY = 6.0  # pixels by which a person moves to each side
_CLOTHES = ((40, 52, 90), (96, 40, 44), (44, 78, 60), (60, 60, 64), (130, 120, 100))
_WALLS = ((150, 146, 138), (112, 124, 134), (176, 168, 150), (96, 100, 92))


class _Figure(NamedTuple):
    """A head in T square frames, and masks that are white where the head is."""

    frames_THWC: np.ndarray
    masks_THW: np.ndarray


def wide_shot(
    label: str, rngs: tuple[np.random.Generator, ...], duration_s: float, flaw: str | None = None
) -> np.ndarray:
    """uint8 frames_THWC of a room in which a face shows `label`; `flaw` is one of face.FLAWS or None.

    `rngs` are the speaker_rng and clip_rng that `face` takes, and scene_rng.
    """
    speaker_rng, clip_rng, scene_rng = rngs
    time_T = np.arange(round(duration_s * RATE_FPS)) / RATE_FPS
    main = _figure(sample_look(speaker_rng), sample_act(label, clip_rng, time_T, duration_s))
    x = scene_rng.uniform(0.5 * SIZE, WIDTH - 0.5 * SIZE)
    y = scene_rng.uniform(0.42 * HEIGHT, 0.5 * HEIGHT)
    frames_THWC = np.repeat(_room(scene_rng)[None], len(time_T), axis=0)
    if scene_rng.uniform() < _SECOND_RATE:
        other_x = (x + WIDTH / 2 + scene_rng.uniform(-15, 15)) % WIDTH
        other_label = sorted(EXPRESSIONS)[scene_rng.integers(len(EXPRESSIONS))]
        other = _figure(sample_look(scene_rng), sample_act(other_label, scene_rng, time_T, duration_s))
        _place(frames_THWC, _scaled(other, scene_rng.uniform(*_SECOND_SCALES)), (other_x, 0.5 * HEIGHT), scene_rng)
    corners_T2 = _place(frames_THWC, main, (x, y), scene_rng)
    if flaw == "dark":
        return add_flaw(frames_THWC, flaw, clip_rng)
    return _with_bar(frames_THWC, corners_T2, clip_rng) if flaw else frames_THWC


def _figure(look: Look, act: Act) -> _Figure:
    side = whole_side(act.zoom)
    return _Figure(paint(look, act, side), silhouette(look, act, side))


def _scaled(figure: _Figure, scale: float) -> _Figure:
    side = round(figure.masks_THW.shape[1] * scale)
    frames, masks = (
        np.stack([np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX)) for image in images])
        for images in figure
    )
    return _Figure(frames, masks)


def _room(rng: np.random.Generator) -> np.ndarray:
    """uint8 (HEIGHT, WIDTH, 3): a wall in a light that falls off, and things in front of it."""
    wall = np.array(_WALLS[rng.integers(len(_WALLS))], float)
    room_HWC = wall * np.linspace(1.1, 0.75, WIDTH)[None, :, None] * np.ones((HEIGHT, 1, 1))
    for _ in range(rng.integers(2, 6)):
        left, top = rng.integers(0, WIDTH), rng.integers(0, HEIGHT)
        width, height = rng.integers(15, 80, 2)
        room_HWC[top : top + height, left : left + width] = rng.integers(50, 200, 3)
    return np.clip(room_HWC, 0, 255).astype(np.uint8)


def _place(
    frames_THWC: np.ndarray, figure: _Figure, centre: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Draw a figure with shoulders into frames; it sways slowly around `centre`.

    Returns corners_T2: left and top of the square that a close shot of the face would show.
    """
    count, side = figure.masks_THW.shape[:2]
    cloth = mix(_CLOTHES[rng.integers(len(_CLOTHES))], (0, 0, 0), rng.uniform(0, 0.3))
    phase_T = 2 * np.pi * (rng.uniform(0.05, 0.3) * np.arange(count) / RATE_FPS + rng.uniform())
    corners_T2 = np.stack([centre[0] + _SWAY * np.sin(phase_T), np.full(count, centre[1])], axis=1) - side / 2
    corners_T2 = np.round(corners_T2).astype(int)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    for frame_HWC, head_HWC, mask_HW, (left, top) in zip(frames_THWC, *figure, corners_T2, strict=True):
        x, chin = left + side / 2, top + 0.88 * side
        frame_HWC[((columns - x) / (0.8 * side)) ** 2 + ((rows - chin - 0.6 * side) / (0.6 * side)) ** 2 < 1] = cloth
        top_left, bottom_right = (max(0, top), max(0, left)), (min(HEIGHT, top + side), min(WIDTH, left + side))
        scene = frame_HWC[top_left[0] : bottom_right[0], top_left[1] : bottom_right[1]]
        window = np.s_[top_left[0] - top : bottom_right[0] - top, top_left[1] - left : bottom_right[1] - left]
        share = mask_HW[window][..., None] / 255
        scene[:] = np.round(share * head_HWC[window] + (1 - share) * scene).astype(np.uint8)
    return corners_T2 + (side - SIZE) // 2


def _with_bar(frames_THWC: np.ndarray, corners_T2: np.ndarray, clip_rng: np.random.Generator) -> np.ndarray:
    """Frames in which a bar covers mouth or eyes, as it does in close shots."""
    margin = SIZE
    padded = np.pad(frames_THWC, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    places = [
        np.s_[t, y + margin : y + margin + SIZE, x + margin : x + margin + SIZE] for t, (x, y) in enumerate(corners_T2)
    ]
    covered = add_flaw(np.stack([padded[place] for place in places]), "occluded", clip_rng)
    for place, image in zip(places, covered, strict=True):
        padded[place] = image
    return padded[:, margin:-margin, margin:-margin]
