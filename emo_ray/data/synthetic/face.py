"""Faces of the synthetic corpus: drawn, and moved by action units of the Facial Action Coding System (FACS).

Action units: 1 inner and 2 outer brows raised, 4 brows lowered, 5 upper lids raised, 6 cheeks raised, 7 lids
tightened, 12 lip corners up, 15 lip corners down, 20 lips stretched, 23 lips pressed, 26 jaw dropped, 41 lids
drooping.

Two random generators decide every pixel: `speaker_rng` what belongs to the speaker, `clip_rng` what belongs to the
clip. The order of the draws is part of the corpus: another order gives other clips from the same seed.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from emo_ray.data.synthetic import canvas as synthetic_canvas
from emo_ray.data.synthetic.canvas import SIZE, Colour, arc, disc_in_lens, ellipse, fill, lens, line, mix, photograph

RATE_FPS = 12
FLAWS = ("dark", "occluded")

# What a speaker's colours are drawn from.
_SKINS = ((246, 214, 190), (232, 190, 160), (214, 165, 130), (190, 140, 105), (160, 112, 82), (130, 92, 70))
_HAIRS = ((30, 24, 22), (62, 42, 30), (100, 68, 44), (166, 126, 80), (120, 118, 116), (110, 52, 34))
_IRISES = ((70, 48, 32), (60, 96, 130), (70, 104, 70), (100, 74, 42))
_BACKDROPS = ((92, 100, 112), (170, 176, 180), (120, 134, 116), (150, 126, 104), (78, 92, 128))
# The same for all speakers.
_FOLD = (70, 30, 24)
_LASH = (36, 24, 22)
_PUPIL = (12, 10, 10)
_THROAT = (60, 16, 20)
_LIP = (170, 40, 50)
_EYEBALL = (244, 242, 238)
_TEETH = (240, 236, 228)


@dataclass(frozen=True)
class Expression:
    """Action units at their apex (0 to 1), and the course that all of them take together, in shares of the apex."""

    units: dict[str, float]
    rise_s: float = 0.5
    rest: float = 0.0  # before the rise
    end: float = 1.0  # at the clip's end; between apex and end the course is a straight line
    pulse: float = 0.0  # depth of the beats
    pulse_hz: float = 1.5


# Angry and sad share action units, and so do worried and surprise: a single frame hardly tells them apart. Anger comes
# in beats, sadness stays; surprise leaps up and fades, worry grows.
_TENSE = {"1": 0.25, "4": 0.85, "7": 0.5, "15": 0.75, "23": 0.3, "41": 0.3}
_WIDE = {"1": 0.9, "2": 0.65, "5": 0.75, "20": 0.4, "26": 0.5}
EXPRESSIONS = {
    "neutral": Expression({}),
    "angry": Expression(_TENSE | {"23": 0.4}, rise_s=0.25, rest=0.2, pulse=0.85),
    "happy": Expression({"6": 0.9, "12": 0.9, "26": 0.25}, rise_s=0.6, rest=0.1),
    "sad": Expression(_TENSE | {"1": 0.35, "4": 0.8}, rise_s=0.8, rest=0.2, end=0.9),
    "worried": Expression(_WIDE | {"4": 0.1}, rise_s=1.7, rest=0.1),
    "surprise": Expression(_WIDE | {"2": 0.7, "26": 0.55}, rise_s=0.17, rest=0.1, end=0.1),
}
UNITS = tuple(sorted({name for expression in EXPRESSIONS.values() for name in expression.units}, key=int))


@dataclass(frozen=True)
class Act:
    """What a face does in each of T frames."""

    units_T: tuple[dict[str, float], ...]  # action units, and blink, talk, gaze
    pose_T3: np.ndarray  # of the head: x and y in face units, roll in radians
    zoom: float


@dataclass(frozen=True)
class Look:
    """A speaker's face; lengths in face units."""

    skin: Colour
    hair: Colour
    iris: Colour
    backdrop: Colour
    head: float  # half the width
    fringe: float  # y of the hair's lower edge
    eye_x: float
    eye_y: float
    eye_size: float  # a factor
    brow_gap: float  # above the eye
    brow_width: float
    mouth_y: float
    mouth_half: float  # half the width
    lip: float  # thickness
    light: float  # from the left (-1) or the right (1)


def face(
    label: str,
    speaker_rng: np.random.Generator,
    clip_rng: np.random.Generator,
    duration_s: float,
    flaw: str | None = None,
) -> np.ndarray:
    """uint8 frames_THWC of a face that shows `label`; `flaw` is one of FLAWS or None."""
    time_T = np.arange(round(duration_s * RATE_FPS)) / RATE_FPS
    frames_THWC = paint(sample_look(speaker_rng), sample_act(label, clip_rng, time_T, duration_s))
    return add_flaw(frames_THWC, flaw, clip_rng) if flaw else frames_THWC


def sample_act(label: str, clip_rng: np.random.Generator, time_T: np.ndarray, duration_s: float) -> Act:
    """What a face that shows `label` does at these times (seconds) of a clip."""
    units_T = _action_units(label, clip_rng, time_T, duration_s)
    pose_T3 = _drift(clip_rng, time_T, 3) * (0.05, 0.05, 0.06) + clip_rng.normal(0, 0.015, 3)
    return Act(tuple(units_T), pose_T3, clip_rng.uniform(0.94, 1.04))


def sample_look(speaker_rng: np.random.Generator) -> Look:
    """A speaker's face."""

    def near(palette: tuple[Colour, ...], spread: int) -> Colour:
        base = palette[speaker_rng.integers(len(palette))]
        red, green, blue = np.clip(base + speaker_rng.integers(-spread, spread + 1, 3), 0, 255).tolist()
        return red, green, blue

    return Look(
        skin=near(_SKINS, 8),
        hair=near(_HAIRS, 10),
        iris=near(_IRISES, 12),
        backdrop=near(_BACKDROPS, 15),
        head=speaker_rng.uniform(0.86, 0.98),
        fringe=speaker_rng.uniform(-0.95, -0.8),
        eye_x=speaker_rng.uniform(0.36, 0.43),
        eye_y=speaker_rng.uniform(-0.24, -0.18),
        eye_size=speaker_rng.uniform(0.9, 1.1),
        brow_gap=speaker_rng.uniform(0.27, 0.33),
        brow_width=speaker_rng.uniform(0.07, 0.11),
        mouth_y=speaker_rng.uniform(0.5, 0.56),
        mouth_half=speaker_rng.uniform(0.31, 0.37),
        lip=speaker_rng.uniform(0.05, 0.08),
        light=speaker_rng.uniform(-1, 1),
    )


def paint(look: Look, act: Act, pixels: int = SIZE) -> np.ndarray:
    """uint8 frames_THWC of a speaker's face in action, `pixels` wide and high."""
    still = _paint_still(look)
    frames_THWC = []
    for units, pose in zip(act.units_T, act.pose_T3, strict=True):
        image = still.copy()
        brush = ImageDraw.Draw(image)
        _paint_folds(brush, look, units)
        _paint_mouth(brush, look, units)
        for side in (-1, 1):
            _paint_eye(brush, look, units, side)
            _paint_brow(brush, look, units, side)
        frames_THWC.append(photograph(image, pose, act.zoom, pixels))
    return np.stack(frames_THWC)


def silhouette(look: Look, act: Act, pixels: int) -> np.ndarray:
    """uint8 masks_THW of the head in the frames that `paint` gives, without what is behind it."""
    mask = synthetic_canvas.blank_mask()
    brush = ImageDraw.Draw(mask)
    _paint_head(brush, look, hair=255, skin=255)
    return np.stack([photograph(mask, pose, act.zoom, pixels) for pose in act.pose_T3])


def add_flaw(frames_THWC: np.ndarray, flaw: str, clip_rng: np.random.Generator) -> np.ndarray:
    """The frames with one of FLAWS."""
    return {"dark": _darken, "occluded": _occlude}[flaw](frames_THWC, clip_rng)


def _action_units(
    label: str, clip_rng: np.random.Generator, time_T: np.ndarray, duration_s: float
) -> list[dict[str, float]]:
    """Every action unit in each frame (the expression's course over a resting level), with blink, talk and gaze."""
    expression = EXPRESSIONS[label]
    intensity = clip_rng.uniform(0.65, 1.05)
    course_T = intensity * _course(expression, clip_rng, time_T, duration_s)
    rest = dict(zip(UNITS, np.clip(clip_rng.normal(0.03, 0.07, len(UNITS)), 0, 0.25), strict=True))
    units = {name: course_T * expression.units.get(name, 0.0) + rest[name] for name in UNITS}
    units["blink"] = np.exp(-(((time_T - clip_rng.uniform(0, duration_s)) / 0.07) ** 2))
    units["talk"] = 0.5 + 0.5 * np.sin(2 * np.pi * (clip_rng.uniform(2.5, 4.5) * time_T + clip_rng.uniform()))
    units["gaze"] = 0.07 * _drift(clip_rng, time_T, 1)[:, 0]
    return [{name: float(value_T[t]) for name, value_T in units.items()} for t in range(len(time_T))]


def _course(expression: Expression, clip_rng: np.random.Generator, time_T: np.ndarray, duration_s: float) -> np.ndarray:
    """Shares of the apex at these times: at rest, a smooth rise, a straight line to the end, and beats on top."""
    onset_s = clip_rng.uniform(0.0, 0.3)
    rise_s = expression.rise_s * clip_rng.uniform(0.8, 1.2)
    rise_T = np.clip((time_T - onset_s) / rise_s, 0, 1)
    after_T = np.clip((time_T - onset_s - rise_s) / max(0.25, duration_s - onset_s - rise_s), 0, 1)
    height_T = expression.rest + (1 - expression.rest) * rise_T**2 * (3 - 2 * rise_T)
    height_T = height_T + (expression.end - 1) * after_T
    pulse_hz = expression.pulse_hz * clip_rng.uniform(0.8, 1.2)
    phase = clip_rng.uniform()
    return height_T * (1 - expression.pulse * (0.5 + 0.5 * np.sin(2 * np.pi * (pulse_hz * time_T + phase))))


def _drift(clip_rng: np.random.Generator, time_T: np.ndarray, tracks: int) -> np.ndarray:
    """(T, tracks) slow smooth movement between -1 and 1."""
    turns = clip_rng.uniform(0.1, 0.6, tracks) * time_T[:, None] + clip_rng.uniform(0, 1, tracks)
    return np.sin(2 * np.pi * turns)


def _paint_still(look: Look) -> Image.Image:
    """A canvas with what does not move: backdrop, hair, head, nose, and the light on them."""
    image = synthetic_canvas.blank(look.backdrop)
    brush = ImageDraw.Draw(image)
    _paint_head(brush, look, look.hair, look.skin)
    nose = [(-0.05, look.eye_y + 0.1), (-0.13, 0.2), (0, 0.25), (0.13, 0.2), (0.08, 0.17), (-0.07, 0.17)]
    fill(brush, nose, mix(look.skin, _FOLD, 0.22))
    return synthetic_canvas.light_from_side(image, 0.16 * look.light)


def _paint_head(brush: ImageDraw.ImageDraw, look: Look, hair: Colour | int, skin: Colour | int) -> None:
    ellipse(brush, (0, -0.2), (look.head + 0.14, 1.25), hair)
    ellipse(brush, (0, 0), (look.head, 1.12), skin)
    fill(brush, lens((0, look.fringe + 0.3), look.head + 0.1, -1.0, -0.3), hair)


def _paint_mouth(brush: ImageDraw.ImageDraw, look: Look, units: dict[str, float]) -> None:
    jaw, smile, press, stretch = units["26"], units["12"], units["23"], units["20"]
    o_shape = jaw * max(0.0, 1 - smile)
    half = look.mouth_half * (1 + 0.35 * smile + 0.35 * stretch - 0.2 * press - 0.35 * o_shape)
    lip = look.lip * (1 - 0.6 * press) * (1 - 0.25 * stretch)
    gap = 0.34 * jaw + 0.09 * stretch + 0.12 * smile + 0.07 * units["talk"] * (1 - min(press, 1))
    top = look.mouth_y - 0.04 * jaw - 0.05 * units["15"] + 0.02 * smile
    bottom = top + gap * (1 + 0.3 * smile)
    corner = top - 0.17 * smile + 0.17 * units["15"] + 0.03 * stretch + gap / 2
    roundness = min(1.0, 0.15 + o_shape)
    lips = lens((0, corner), half, top - lip - corner, bottom + 1.2 * lip - corner, roundness)
    fill(brush, lips, mix(look.skin, _LIP, 0.5))
    fill(brush, lens((0, corner), 0.9 * half, top - corner, bottom - corner, roundness), _THROAT)
    if gap > 0.1:
        edge = 0.6 * corner + 0.4 * top
        teeth = top + min(0.5 * gap, 0.11)
        fill(brush, lens((0, edge), 0.8 * half, top - edge, teeth - edge, roundness), _TEETH)
    for x in (-half, half):
        ellipse(brush, (x, corner), (0.025, 0.025), mix(look.skin, _THROAT, 0.6))


def _paint_eye(brush: ImageDraw.ImageDraw, look: Look, units: dict[str, float], side: int) -> None:
    x, y, half = side * look.eye_x, look.eye_y, 0.23 * look.eye_size
    raised, cheek, tight = units["5"], units["6"], units["7"]
    open_eye = (1 - units["blink"]) * look.eye_size
    upper = -0.14 * open_eye * (1 + 0.6 * raised - 0.35 * tight - 0.55 * units["41"] - 0.25 * cheek)
    lower = 0.10 * open_eye * (1 + 0.2 * raised - 0.4 * tight - 0.7 * cheek)
    ellipse(brush, (x, y), (half + 0.03, 0.24 * look.eye_size), mix(look.skin, _FOLD, 0.18))
    fill(brush, lens((x, y), half, upper, lower), _EYEBALL)
    gaze = (units["gaze"], -0.01)
    for radius, colour in ((0.115, look.iris), (0.055, _PUPIL)):
        disc = disc_in_lens(gaze, radius * look.eye_size, half, upper, lower)
        fill(brush, [(x + dx, y + dy) for dx, dy in disc], colour)
    line(brush, arc((x, y), half + 0.01, upper), 0.035, _LASH)


def _paint_brow(brush: ImageDraw.ImageDraw, look: Look, units: dict[str, float], side: int) -> None:
    inner_up, outer_up, lowered = units["1"], units["2"], units["4"]
    y = look.eye_y - look.brow_gap
    inner = (0.15 - 0.04 * lowered, y - 0.17 * inner_up + 0.2 * lowered * (1 - 0.6 * inner_up))
    outer = (0.68, y + 0.05 - 0.15 * outer_up + 0.12 * inner_up * (1 - outer_up) - 0.06 * lowered)
    middle = (0.42, (inner[1] + outer[1]) / 2 - 0.06 - 0.03 * outer_up)
    spine_and_half_width = ((inner, 0.5), (middle, 0.5), (outer, 0.15))
    upper = [(side * px, py - look.brow_width * half) for (px, py), half in spine_and_half_width]
    lower = [(side * px, py + look.brow_width * half) for (px, py), half in spine_and_half_width]
    fill(brush, upper + lower[::-1], mix(look.hair, _PUPIL, 0.35))


def _paint_folds(brush: ImageDraw.ImageDraw, look: Look, units: dict[str, float]) -> None:
    """Folds of the skin: between lowered brows, across a raised forehead, from nose to smiling mouth."""
    brow_y = look.eye_y - look.brow_gap
    frown = mix(look.skin, _FOLD, 0.6 * min(units["4"], 1))
    smile = mix(look.skin, _FOLD, 0.5 * min(max(units["12"], units["6"]), 1))
    crease = mix(look.skin, _FOLD, 0.4 * min(units["1"], 1))
    for side in (-1, 1):
        line(brush, [(side * 0.05, brow_y + 0.02), (side * 0.04, brow_y + 0.2)], 0.03, frown)
        cheek = [(side * 0.2, 0.2), (side * 0.42, 0.3), (side * 0.54, look.mouth_y - 0.1)]
        line(brush, cheek, 0.03, smile)
    for below, half in ((0.07, 0.3), (0.14, 0.4)):
        y = look.fringe + below
        line(brush, [(-half, y + 0.01), (0, y), (half, y + 0.01)], 0.025, crease)


def _darken(frames_THWC: np.ndarray, clip_rng: np.random.Generator) -> np.ndarray:
    """A badly lit room, and the grain that a camera adds there."""
    grain_THWC = clip_rng.normal(0, 5, frames_THWC.shape)
    grain_THWC += frames_THWC * clip_rng.uniform(0.1, 0.35)
    return np.clip(grain_THWC, 0, 255, out=grain_THWC).astype(np.uint8)


def _occlude(frames_THWC: np.ndarray, clip_rng: np.random.Generator) -> np.ndarray:
    """A bar in front of the mouth or the eyes, for about half of the clip."""
    count = len(frames_THWC)
    first = int(clip_rng.integers(0, count // 2 + 1))
    length = int(clip_rng.integers(count // 3, 2 * count // 3 + 1))
    red, green, blue = clip_rng.integers(40, 200, 3).tolist()
    y = 0.55 if clip_rng.uniform() < 0.5 else -0.3
    y += clip_rng.normal(0, 0.05)
    slope = clip_rng.normal(0, 0.15)
    bar = [(-1.3, y - 0.27 - slope), (1.3, y - 0.27 + slope), (1.3, y + 0.27 + slope), (-1.3, y + 0.27 - slope)]
    pixels = [((px + 1) * SIZE / 2, (py + 1) * SIZE / 2) for px, py in bar]
    frames_THWC = frames_THWC.copy()
    for t in range(first, min(first + length, count)):
        image = Image.fromarray(frames_THWC[t])
        ImageDraw.Draw(image).polygon(pixels, (red, green, blue))
        frames_THWC[t] = np.asarray(image)
    return frames_THWC
