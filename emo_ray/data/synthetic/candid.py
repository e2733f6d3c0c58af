"""Candid shots of the synthetic corpus: weak expressions of people who do not look into the camera, badly filmed.

They differ from posed stills (`posed_act`) in everything that differs between pictures of the web and clips of talking
people: strength, pose, distance, skin, light, motion blur, compression. `camera_rng` decides all that the module `face`
does not; the face itself moves by the same action units in the same order of time.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from emo_ray.data.synthetic.canvas import SIZE, Colour, whole_side
from emo_ray.data.synthetic.face import EXPRESSIONS, RATE_FPS, UNITS, Act, add_flaw, paint, sample_act, sample_look

CRF = 36  # of H.264: a low rate; clips of other shots have 20

_SKINS: tuple[Colour, ...] = ((152, 112, 88), (128, 96, 70), (112, 78, 58), (96, 66, 50))
_STRENGTH = (0.65, 0.95)  # of all action units
_SCALE = (0.88, 1.0)  # size of the face, as a share of a close shot's
_TURN = 0.3  # largest turn and nod of the head, in radians: the face gets narrower and lower by their cosines
_ROLL = 0.1  # radians
_SHEAR = 0.05
_SHIFT = 0.04  # face units
_GAIN = (0.55, 0.95)  # of all colours
_CAST = 0.2  # by which red and blue differ from it, in opposite directions
_SIDE_LIGHT = 0.3
_GRAIN = 4.0  # grey levels of 255
_BLUR = (1, 3)  # pixels of the path that the camera or the head moves during a frame


def posed_act(label: str, rng: np.random.Generator) -> Act:
    """A single moment: an expression at its apex, held for a photographer, in a face that looks into the camera."""
    intensity = rng.uniform(0.9, 1.1)
    rest = np.clip(rng.normal(0.03, 0.07, len(UNITS)), 0, 0.25)
    units = {
        name: float(intensity * EXPRESSIONS[label].units.get(name, 0.0) + level)
        for name, level in zip(UNITS, rest, strict=True)
    }
    return Act(({**units, "blink": 0.0, "talk": 0.0, "gaze": 0.0},), np.zeros((1, 3)), rng.uniform(0.97, 1.03))


def candid_shot(
    label: str, rngs: tuple[np.random.Generator, ...], duration_s: float, flaw: str | None = None
) -> np.ndarray:
    """uint8 frames_THWC in which a face shows `label` weakly; `flaw` is one of face.FLAWS or None.

    `rngs` are the speaker_rng and clip_rng that `face` takes, and camera_rng.
    """
    speaker_rng, clip_rng, camera_rng = rngs
    time_T = np.arange(round(duration_s * RATE_FPS)) / RATE_FPS
    look, act = sample_look(speaker_rng), sample_act(label, clip_rng, time_T, duration_s)
    skin = np.clip(_SKINS[speaker_rng.integers(len(_SKINS))] + speaker_rng.integers(-8, 9, 3), 0, 255).tolist()
    look = replace(look, skin=tuple(skin))
    strength = camera_rng.uniform(*_STRENGTH)
    units_T = tuple(
        {name: value * strength if name in UNITS else value for name, value in units.items()} for units in act.units_T
    )
    still_pose = Act(units_T, np.zeros_like(act.pose_T3), 1.0)  # the camera's map moves the head
    whole_THWC = paint(look, still_pose, whole_side(1.0))
    matrices_T = _views(camera_rng, act.pose_T3, whole_THWC.shape[1])
    frames_THWC = np.stack([_filmed(*row, look.backdrop) for row in zip(whole_THWC, matrices_T, strict=True)])
    if flaw:
        frames_THWC = add_flaw(frames_THWC, flaw, clip_rng)
    return _lit(_blurred(frames_THWC, camera_rng), camera_rng)


def _views(rng: np.random.Generator, pose_T3: np.ndarray, side: int) -> list[tuple[float, ...]]:
    """The affine map of each frame from its pixels to those of the whole canvas, `side` pixels wide and high."""
    turn, nod = rng.uniform(-_TURN, _TURN, 2)
    squeeze = rng.uniform(*_SCALE) * np.diag([np.cos(turn), np.cos(0.6 * nod)])
    sheared = np.array([[1, rng.uniform(-_SHEAR, _SHEAR)], [0, 1]]) @ squeeze
    roll_T = rng.uniform(-_ROLL, _ROLL) + pose_T3[:, 2]
    centre_T2 = SIZE / 2 * (1 + rng.uniform(-_SHIFT, _SHIFT, 2) + pose_T3[:, :2])  # of the face
    matrices = []
    for roll, centre in zip(roll_T, centre_T2, strict=True):
        rotation = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        to_canvas = np.linalg.inv(rotation @ sheared)
        offset = side / 2 - to_canvas @ centre
        matrices.append((*to_canvas[0].tolist(), offset[0], *to_canvas[1].tolist(), offset[1]))
    return matrices


def _filmed(frame_HWC: np.ndarray, matrix: tuple[float, ...], backdrop: Colour) -> np.ndarray:
    view = Image.fromarray(frame_HWC).transform(
        (SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=backdrop
    )
    return np.asarray(view)


def _blurred(frames_THWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of the frames moved along a straight path, in float32."""
    length, angle = int(rng.integers(_BLUR[0], _BLUR[1] + 1)), rng.uniform(0, np.pi)
    moves = [
        (round(step * np.sin(angle)), round(step * np.cos(angle))) for step in np.arange(length) - (length - 1) / 2
    ]
    return np.stack([np.roll(frames_THWC, move, (1, 2)) for move in moves]).mean(axis=0, dtype=np.float32)


def _lit(frames_THWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The frames in a weak, coloured light from one side, with the grain of a camera that amplifies it."""
    gain, cast, side = rng.uniform(*_GAIN), rng.uniform(-_CAST, _CAST), rng.uniform(-_SIDE_LIGHT, _SIDE_LIGHT)
    light_WC = gain * np.array([1 + cast, 1, 1 - cast]) * (1 + side * np.linspace(-1, 1, SIZE))[:, None]
    grain_THWC = _GRAIN * rng.standard_normal(frames_THWC.shape, np.float32)
    return np.clip(frames_THWC * light_WC + grain_THWC, 0, 255).astype(np.uint8)
