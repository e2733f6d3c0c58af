"""Faces of the synthetic corpus: drawn, and moved by action units of the Facial Action Coding System (FACS).

Action units: 1 inner and 2 outer brows raised, 4 brows lowered, 5 upper lids raised, 6 cheeks raised, 7 lids
tightened, 12 lip corners up, 15 lip corners down, 20 lips stretched, 23 lips pressed, 26 jaw dropped, 41 lids
drooping.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96  # pixels, both sides
RATE_FPS = 12
FLAWS = ("dark", "occluded")

# Faces are drawn in face units: x to the right, y down, the frame reaching from -1 to 1. The canvas has a quarter
# more on every side, for the head to move in.
_SUPERSAMPLED = 2  # canvas pixels per frame pixel
_SCALE = _SUPERSAMPLED * SIZE / 2  # canvas pixels per face unit
_MARGIN = 1.25
_SIDE = round(2 * _MARGIN * _SCALE)
_SWEEP = tuple(float(u) for u in np.linspace(-1, 1, 13))
_CIRCLE = tuple((float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 17))

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

_SKINS = ((246, 214, 190), (232, 190, 160), (214, 165, 130), (190, 140, 105), (160, 112, 82), (130, 92, 70))
_HAIRS = ((30, 24, 22), (62, 42, 30), (100, 68, 44), (166, 126, 80), (120, 118, 116), (110, 52, 34))
_IRISES = ((70, 48, 32), (60, 96, 130), (70, 104, 70), (100, 74, 42))
_BACKDROPS = ((92, 100, 112), (170, 176, 180), (120, 134, 116), (150, 126, 104), (78, 92, 128))
_FOLD, _LASH, _PUPIL, _THROAT, _LIP = (70, 30, 24), (36, 24, 22), (12, 10, 10), (60, 16, 20), (170, 40, 50)
_EYEBALL, _TEETH = (244, 242, 238), (240, 236, 228)


@dataclass(frozen=True)
class _Expression:
    """Action units at the apex (0 to 1), and the course that all of them take together, as shares of the apex."""

    units: dict[str, float]
    rise_s: float = 0.5
    rest: float = 0.0  # before the rise
    end: float = 1.0  # at the clip's end; between apex and end it goes straight
    pulse: float = 0.0  # depth of a beat
    pulse_hz: float = 1.5


# Angry and sad share action units, and so do worried and surprise: a single frame hardly tells them apart. Anger comes
# in beats, sadness stays; surprise leaps up and fades, worry grows.
_TENSE = {"1": 0.25, "4": 0.85, "7": 0.5, "15": 0.75, "23": 0.3, "41": 0.3}
_WIDE = {"1": 0.9, "2": 0.65, "5": 0.75, "20": 0.4, "26": 0.5}
EXPRESSIONS = {
    "neutral": _Expression({}),
    "angry": _Expression(_TENSE | {"23": 0.4}, rise_s=0.25, rest=0.2, pulse=0.85),
    "happy": _Expression({"6": 0.9, "12": 0.9, "26": 0.25}, rise_s=0.6, rest=0.1),
    "sad": _Expression(_TENSE | {"1": 0.35, "4": 0.8}, rise_s=0.8, rest=0.2, end=0.9),
    "worried": _Expression(_WIDE | {"4": 0.1}, rise_s=1.7, rest=0.1),
    "surprise": _Expression(_WIDE | {"2": 0.7, "26": 0.55}, rise_s=0.17, rest=0.1, end=0.1),
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
    label: str, speaker: np.random.Generator, clip: np.random.Generator, duration_s: float, flaw: str | None = None
) -> np.ndarray:
    """uint8 frames_THWC of a face that shows `label`; `flaw` is one of FLAWS or None.

    Generators are given apart for what belongs to the speaker and to the clip; nothing else decides a pixel.
    """
    frames_THWC = draw(look(speaker), act(label, clip, np.arange(round(duration_s * RATE_FPS)) / RATE_FPS, duration_s))
    return spoilt(frames_THWC, flaw, clip) if flaw else frames_THWC


def act(label: str, clip: np.random.Generator, time_T: np.ndarray, duration_s: float) -> Act:
    """What a face that shows `label` does at these times (seconds) of a clip."""
    units_T = _units(label, clip, time_T, duration_s)
    pose_T3 = _drift(clip, time_T, 3) * (0.05, 0.05, 0.06) + clip.normal(0, 0.015, 3)
    return Act(tuple(units_T), pose_T3, clip.uniform(0.94, 1.04))


def draw(look: Look, act: Act) -> np.ndarray:
    """uint8 frames_THWC of a speaker's face in action."""
    still, frames_THWC = _still(look), []
    for units, pose in zip(act.units_T, act.pose_T3, strict=True):
        image = still.copy()
        canvas = ImageDraw.Draw(image)
        _draw_folds(canvas, look, units)
        _draw_mouth(canvas, look, units)
        for side in (-1, 1):
            _draw_eye(canvas, look, units, side)
            _draw_brow(canvas, look, units, side)
        frames_THWC.append(_seen(image, pose, act.zoom))
    return np.stack(frames_THWC)


def look(speaker: np.random.Generator) -> Look:
    """A speaker's face."""

    def colour(palette: tuple[Colour, ...], spread: int) -> Colour:
        base = palette[speaker.integers(len(palette))]
        return tuple(int(c) for c in np.clip(base + speaker.integers(-spread, spread + 1, 3), 0, 255))

    return Look(
        skin=colour(_SKINS, 8),
        hair=colour(_HAIRS, 10),
        iris=colour(_IRISES, 12),
        backdrop=colour(_BACKDROPS, 15),
        head=speaker.uniform(0.86, 0.98),
        fringe=speaker.uniform(-0.95, -0.8),
        eye_x=speaker.uniform(0.36, 0.43),
        eye_y=speaker.uniform(-0.24, -0.18),
        eye_size=speaker.uniform(0.9, 1.1),
        brow_gap=speaker.uniform(0.27, 0.33),
        brow_width=speaker.uniform(0.07, 0.11),
        mouth_y=speaker.uniform(0.5, 0.56),
        mouth_half=speaker.uniform(0.31, 0.37),
        lip=speaker.uniform(0.05, 0.08),
        light=speaker.uniform(-1, 1),
    )


def _units(label: str, clip: np.random.Generator, time_T: np.ndarray, duration_s: float) -> list[dict[str, float]]:
    """Every action unit in each frame: the expression's course, resting wobble; and blinks, talk, gaze."""
    expression, intensity = EXPRESSIONS[label], clip.uniform(0.65, 1.05)
    course_T = intensity * _course(expression, clip, time_T, duration_s)
    rest = dict(zip(UNITS, np.clip(clip.normal(0.03, 0.07, len(UNITS)), 0, 0.25), strict=True))
    units = {name: course_T * expression.units.get(name, 0.0) + rest[name] for name in UNITS}
    units["blink"] = np.exp(-(((time_T - clip.uniform(0, duration_s)) / 0.07) ** 2))
    units["talk"] = 0.5 + 0.5 * np.sin(2 * np.pi * (clip.uniform(2.5, 4.5) * time_T + clip.uniform()))
    units["gaze"] = 0.07 * _drift(clip, time_T, 1)[:, 0]
    return [{name: float(value_T[i]) for name, value_T in units.items()} for i in range(len(time_T))]


def _course(expression: _Expression, clip: np.random.Generator, time_T: np.ndarray, duration_s: float) -> np.ndarray:
    """Shares of the apex at these times: at rest, a smooth rise, a straight line to the end, and beats on top."""
    onset_s, rise_s = clip.uniform(0.0, 0.3), expression.rise_s * clip.uniform(0.8, 1.2)
    rise_T = np.clip((time_T - onset_s) / rise_s, 0, 1)
    after_T = np.clip((time_T - onset_s - rise_s) / max(0.25, duration_s - onset_s - rise_s), 0, 1)
    height_T = expression.rest + (1 - expression.rest) * rise_T**2 * (3 - 2 * rise_T)
    height_T = height_T + (expression.end - 1) * after_T
    hz, phase = expression.pulse_hz * clip.uniform(0.8, 1.2), clip.uniform()
    return height_T * (1 - expression.pulse * (0.5 + 0.5 * np.sin(2 * np.pi * (hz * time_T + phase))))


def _drift(clip: np.random.Generator, time_T: np.ndarray, tracks: int) -> np.ndarray:
    """(T, tracks) slow smooth movement between -1 and 1."""
    turns = clip.uniform(0.1, 0.6, tracks) * time_T[:, None] + clip.uniform(0, 1, tracks)
    return np.sin(2 * np.pi * turns)


def _still(look: Look) -> Image.Image:
    """What does not move on the face: backdrop, hair, head, nose, and the light on them."""
    image = Image.new("RGB", (_SIDE, _SIDE), look.backdrop)
    draw = ImageDraw.Draw(image)
    _ellipse(draw, (0, -0.2), (look.head + 0.14, 1.25), look.hair)
    _ellipse(draw, (0, 0), (look.head, 1.12), look.skin)
    _shape(draw, _lens((0, look.fringe + 0.3), look.head + 0.1, -1.0, -0.3), look.hair)
    nose = [(-0.05, look.eye_y + 0.1), (-0.13, 0.2), (0, 0.25), (0.13, 0.2), (0.08, 0.17), (-0.07, 0.17)]
    _shape(draw, nose, _mix(look.skin, _FOLD, 0.22))
    light_W = 1 + 0.16 * look.light * np.linspace(-1, 1, _SIDE)
    return Image.fromarray(np.clip(np.asarray(image) * light_W[None, :, None], 0, 255).astype(np.uint8))


def _draw_mouth(draw: ImageDraw.ImageDraw, look: Look, units: dict[str, float]) -> None:
    jaw, smile, press, stretch = units["26"], units["12"], units["23"], units["20"]
    o_shape = jaw * max(0.0, 1 - smile)
    half = look.mouth_half * (1 + 0.35 * smile + 0.35 * stretch - 0.2 * press - 0.35 * o_shape)
    lip = look.lip * (1 - 0.6 * press) * (1 - 0.25 * stretch)
    gap = 0.34 * jaw + 0.09 * stretch + 0.12 * smile + 0.07 * units["talk"] * (1 - min(press, 1))
    top = look.mouth_y - 0.04 * jaw - 0.05 * units["15"] + 0.02 * smile
    bottom = top + gap * (1 + 0.3 * smile)
    corner = top - 0.17 * smile + 0.17 * units["15"] + 0.03 * stretch + gap / 2
    roundness = min(1.0, 0.15 + o_shape)
    lips = _lens((0, corner), half, top - lip - corner, bottom + 1.2 * lip - corner, roundness)
    _shape(draw, lips, _mix(look.skin, _LIP, 0.5))
    _shape(draw, _lens((0, corner), 0.9 * half, top - corner, bottom - corner, roundness), _THROAT)
    if gap > 0.1:
        edge, teeth = 0.6 * corner + 0.4 * top, top + min(0.5 * gap, 0.11)
        _shape(draw, _lens((0, edge), 0.8 * half, top - edge, teeth - edge, roundness), _TEETH)
    for x in (-half, half):
        _ellipse(draw, (x, corner), (0.025, 0.025), _mix(look.skin, _THROAT, 0.6))


def _draw_eye(draw: ImageDraw.ImageDraw, look: Look, units: dict[str, float], side: int) -> None:
    x, y, half = side * look.eye_x, look.eye_y, 0.23 * look.eye_size
    raised, cheek, tight = units["5"], units["6"], units["7"]
    open_eye = (1 - units["blink"]) * look.eye_size
    upper = -0.14 * open_eye * (1 + 0.6 * raised - 0.35 * tight - 0.55 * units["41"] - 0.25 * cheek)
    lower = 0.10 * open_eye * (1 + 0.2 * raised - 0.4 * tight - 0.7 * cheek)
    _ellipse(draw, (x, y), (half + 0.03, 0.24 * look.eye_size), _mix(look.skin, _FOLD, 0.18))
    _shape(draw, _lens((x, y), half, upper, lower), _EYEBALL)
    gaze = (units["gaze"], -0.01)
    for radius, colour in ((0.115, look.iris), (0.055, _PUPIL)):
        disc = _disc_in_lens(gaze, radius * look.eye_size, half, upper, lower)
        _shape(draw, [(x + dx, y + dy) for dx, dy in disc], colour)
    _line(draw, _lens((x, y), half + 0.01, upper, upper)[: len(_SWEEP)], 0.035, _LASH)


def _draw_brow(draw: ImageDraw.ImageDraw, look: Look, units: dict[str, float], side: int) -> None:
    inner_up, outer_up, lowered = units["1"], units["2"], units["4"]
    y = look.eye_y - look.brow_gap
    inner = (0.15 - 0.04 * lowered, y - 0.17 * inner_up + 0.2 * lowered * (1 - 0.6 * inner_up))
    outer = (0.68, y + 0.05 - 0.15 * outer_up + 0.12 * inner_up * (1 - outer_up) - 0.06 * lowered)
    middle = (0.42, (inner[1] + outer[1]) / 2 - 0.06 - 0.03 * outer_up)
    spine, halves = (inner, middle, outer), (0.5, 0.5, 0.15)
    upper = [(side * px, py - look.brow_width * h) for (px, py), h in zip(spine, halves, strict=True)]
    under = [(side * px, py + look.brow_width * h) for (px, py), h in zip(spine, halves, strict=True)]
    _shape(draw, upper + under[::-1], _mix(look.hair, _PUPIL, 0.35))


def _draw_folds(draw: ImageDraw.ImageDraw, look: Look, units: dict[str, float]) -> None:
    """Folds of the skin: between lowered brows, across a raised forehead, from nose to smiling mouth."""
    brow_y = look.eye_y - look.brow_gap
    frown = _mix(look.skin, _FOLD, 0.6 * min(units["4"], 1))
    smile = _mix(look.skin, _FOLD, 0.5 * min(max(units["12"], units["6"]), 1))
    crease = _mix(look.skin, _FOLD, 0.4 * min(units["1"], 1))
    for side in (-1, 1):
        _line(draw, [(side * 0.05, brow_y + 0.02), (side * 0.04, brow_y + 0.2)], 0.03, frown)
        cheek = [(side * 0.2, 0.2), (side * 0.42, 0.3), (side * 0.54, look.mouth_y - 0.1)]
        _line(draw, cheek, 0.03, smile)
    for below, half in ((0.07, 0.3), (0.14, 0.4)):
        y = look.fringe + below
        _line(draw, [(-half, y + 0.01), (0, y), (half, y + 0.01)], 0.025, crease)


def _seen(image: Image.Image, pose: np.ndarray, zoom: float) -> np.ndarray:
    """The uint8 frame_HWC that a camera sees of the canvas."""
    x, y, roll = pose
    cos, sin, centre = np.cos(roll) / zoom, np.sin(roll) / zoom, SIZE / 2
    left = (_MARGIN - x) * centre - centre * (cos - sin)  # a face unit is half a frame
    top = (_MARGIN - y) * centre - centre * (sin + cos)
    matrix = (cos, -sin, left, sin, cos, top)
    view = image.reduce(_SUPERSAMPLED).transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(view)


def spoilt(frames_THWC: np.ndarray, flaw: str, clip: np.random.Generator) -> np.ndarray:
    """The frames with one of FLAWS."""
    return {"dark": _dark, "occluded": _occluded}[flaw](frames_THWC, clip)


def _dark(frames_THWC: np.ndarray, clip: np.random.Generator) -> np.ndarray:
    """A badly lit room, and the grain that a camera then adds."""
    grain_THWC = clip.normal(0, 5, frames_THWC.shape)
    return np.clip(frames_THWC * clip.uniform(0.1, 0.35) + grain_THWC, 0, 255).astype(np.uint8)


def _occluded(frames_THWC: np.ndarray, clip: np.random.Generator) -> np.ndarray:
    """Something in front of the mouth or the eyes, for about half of the clip."""
    count = len(frames_THWC)
    first, length = clip.integers(0, count // 2 + 1), clip.integers(count // 3, 2 * count // 3 + 1)
    colour, low = tuple(int(c) for c in clip.integers(40, 200, 3)), clip.uniform() < 0.5
    y, slope = (0.55 if low else -0.3) + clip.normal(0, 0.05), clip.normal(0, 0.15)
    bar = [(-1.3, y - 0.27 - slope), (1.3, y - 0.27 + slope), (1.3, y + 0.27 + slope), (-1.3, y + 0.27 - slope)]
    pixels = [((px + 1) * SIZE / 2, (py + 1) * SIZE / 2) for px, py in bar]
    frames_THWC = frames_THWC.copy()
    for t in range(first, min(first + length, count)):
        image = Image.fromarray(frames_THWC[t])
        ImageDraw.Draw(image).polygon(pixels, colour)
        frames_THWC[t] = np.asarray(image)
    return frames_THWC


def _lens(centre: tuple[float, float], half: float, upper: float, lower: float, roundness: float = 0.0) -> Points:
    """The area between two arcs whose ends meet `half` to the left and right of the centre.

    `upper` and `lower` are their heights above the centre (down is positive); parabolas at roundness 0, ellipses at 1.
    """
    x, y = centre
    arc = [(1 - u * u) ** (1 - roundness / 2) for u in _SWEEP]
    top = [(x + half * u, y + upper * a) for u, a in zip(_SWEEP, arc, strict=True)]
    bottom = [(x + half * u, y + lower * a) for u, a in zip(_SWEEP, arc, strict=True)]
    return top + bottom[::-1]


def _disc_in_lens(centre: tuple[float, float], radius: float, half: float, upper: float, lower: float) -> Points:
    """A disc as far as it lies within a lens around (0, 0)."""
    points = []
    for cos, sin in _CIRCLE:
        x, y = centre[0] + radius * cos, centre[1] + radius * sin
        arc = max(0.0, 1 - (x / half) ** 2)
        points.append((x, min(max(y, upper * arc), lower * arc)))
    return points


def _shape(draw: ImageDraw.ImageDraw, points: Points, colour: Colour) -> None:
    draw.polygon([((x + _MARGIN) * _SCALE, (y + _MARGIN) * _SCALE) for x, y in points], colour)


def _line(draw: ImageDraw.ImageDraw, points: Points, width: float, colour: Colour) -> None:
    pixels = [((x + _MARGIN) * _SCALE, (y + _MARGIN) * _SCALE) for x, y in points]
    draw.line(pixels, colour, max(1, round(width * _SCALE)))


def _ellipse(draw: ImageDraw.ImageDraw, centre: tuple[float, float], half: tuple[float, float], colour: Colour) -> None:
    (x, y), (width, height) = centre, half
    draw.ellipse([(v + _MARGIN) * _SCALE for v in (x - width, y - height, x + width, y + height)], colour)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    return tuple(round(a + share * (b - a)) for a, b in zip(colour, other, strict=True))
