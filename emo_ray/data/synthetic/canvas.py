"""The canvas on which the synthetic corpus' faces are drawn, in face units, and the camera that looks at it.

Face units: x to the right, y down, (0, 0) the middle of the frame, which reaches from -1 to 1. The canvas has a quarter
more on every side, in which the head can move. It is drawn at twice the frame's resolution.
"""

import numpy as np
from PIL import Image, ImageDraw

SIZE = 96  # pixels of a frame, both sides
_SUPERSAMPLED = 2  # canvas pixels per frame pixel
_SCALE = _SUPERSAMPLED * SIZE / 2  # canvas pixels per face unit
_MARGIN = 1.25  # face units from the middle to each edge of the canvas
_SIDE = round(2 * _MARGIN * _SCALE)  # canvas pixels
_ARC_X = tuple(float(x) for x in np.linspace(-1, 1, 13))  # where a lens has its points, as shares of its half width
_CIRCLE = tuple((float(np.cos(a)), float(np.sin(a))) for a in np.linspace(0, 2 * np.pi, 17))

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


def blank(colour: Colour) -> Image.Image:
    """A canvas of a single colour."""
    return Image.new("RGB", (_SIDE, _SIDE), colour)


def blank_mask() -> Image.Image:
    """A canvas that hides everything; what is drawn on it in white is shown."""
    return Image.new("L", (_SIDE, _SIDE), 0)


def light_from_side(image: Image.Image, strength: float) -> Image.Image:
    """The canvas brightened towards the right (strength 0 to 1) or the left (to -1), and darkened on the other side."""
    light_W = 1 + strength * np.linspace(-1, 1, _SIDE)
    lit_HWC = np.asarray(image) * light_W[:, None].repeat(3, axis=1)  # no axis of three is repeated in the product
    return Image.fromarray(np.minimum(lit_HWC, 255, out=lit_HWC).astype(np.uint8))


def photograph(image: Image.Image, pose: np.ndarray, zoom: float, side: int = SIZE) -> np.ndarray:
    """The uint8 frame_HWC that a camera sees of the canvas, `side` pixels wide and high; of a mask frame_HW.

    `pose` is the head's x and y in face units and its roll in radians.
    """
    x, y, roll = pose
    unit, half = SIZE / 2, side / 2  # a face unit is half a frame of the usual size
    cos, sin = np.cos(roll) / zoom, np.sin(roll) / zoom
    left = (_MARGIN - x) * unit - half * (cos - sin)
    top = (_MARGIN - y) * unit - half * (sin + cos)
    matrix = (cos, -sin, left, sin, cos, top)
    view = image.reduce(_SUPERSAMPLED).transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(view)


def whole_side(zoom: float) -> int:
    """Pixels of a view that holds the whole canvas."""
    return 2 * round(_MARGIN * SIZE / 2 * zoom)


def arc(centre: tuple[float, float], half: float, height: float, roundness: float = 0.0) -> Points:
    """An arc from left to right, `half` a width to each side, whose apex is `height` below the centre (above: < 0).

    A parabola at roundness 0, half an ellipse at 1.
    """
    x, y = centre
    return [(x + half * u, y + height * (1 - u * u) ** (1 - roundness / 2)) for u in _ARC_X]


def lens(centre: tuple[float, float], half: float, upper: float, lower: float, roundness: float = 0.0) -> Points:
    """The area between two arcs that share their ends; `upper` and `lower` are their heights."""
    return arc(centre, half, upper, roundness) + arc(centre, half, lower, roundness)[::-1]


def disc_in_lens(centre: tuple[float, float], radius: float, half: float, upper: float, lower: float) -> Points:
    """The part of a disc that lies within a lens around (0, 0)."""
    points = []
    for cos, sin in _CIRCLE:
        x, y = centre[0] + radius * cos, centre[1] + radius * sin
        height = max(0.0, 1 - (x / half) ** 2)
        points.append((x, min(max(y, upper * height), lower * height)))
    return points


def fill(brush: ImageDraw.ImageDraw, points: Points, colour: Colour | int) -> None:
    """Draw a filled polygon."""
    brush.polygon(_pixels(points), colour)


def line(brush: ImageDraw.ImageDraw, points: Points, width: float, colour: Colour | int) -> None:
    """Draw a line through points, at least a canvas pixel wide."""
    brush.line(_pixels(points), colour, max(1, round(width * _SCALE)))


def ellipse(
    brush: ImageDraw.ImageDraw, centre: tuple[float, float], half: tuple[float, float], colour: Colour | int
) -> None:
    """Draw a filled ellipse; `half` is half its width and half its height."""
    (x, y), (width, height) = centre, half
    brush.ellipse(_pixels([(x - width, y - height), (x + width, y + height)]), colour)


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """A colour with a share (0 to 1) of another."""
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _pixels(points: Points) -> Points:
    return [((x + _MARGIN) * _SCALE, (y + _MARGIN) * _SCALE) for x, y in points]
