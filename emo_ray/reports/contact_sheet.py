"""A picture of a corpus: for each label some clips at their middle, and one clip over time."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from emo_ray.data.faces import Face, in_squares

STILLS = 6  # clips per label
_ROWS, _FRAMES = 12, 8  # a picture of all labels of a large corpus, or all frames of a clip, could not be looked at
_SEEN, _NOT_SEEN = (60, 220, 90), (150, 150, 150)
_CELL_IN = 0.8  # side of a picture and the edge around it
_GAP, _EDGE = 0.3, 0.03  # between stills and the clip over time, and around each picture, in sides


def contact_sheet(rows: Mapping[str, tuple[Sequence[np.ndarray], np.ndarray]]) -> bytes:
    """PNG of `{label: (up to STILLS uint8 frames_HWC, frames_THWC of one clip)}`, for the first labels."""
    from emo_ray.reports.figures import FAINT, INK, empty_figure, pad, png  # cards draw boxes alone, without matplotlib

    rows = {
        label: (stills, clip[np.linspace(0, len(clip) - 1, min(len(clip), _FRAMES)).round().astype(int)])
        for label, (stills, clip) in list(rows.items())[:_ROWS]
    }
    width = STILLS + _GAP + max(len(clip) for _, clip in rows.values())
    sheet = empty_figure(1.6 + _CELL_IN * width, 0.7 + _CELL_IN * len(rows))
    pad(sheet, w_pad=0.02, h_pad=0.02)
    axes = sheet.add_subplot()  # one for all pictures: axes take longer to lay out and to draw than a picture
    for r, (stills, clip) in enumerate(rows.values()):
        places = [*range(len(stills)), *(STILLS + _GAP + t for t in range(len(clip)))]
        for x, frame_HWC in zip(places, [*stills, *clip], strict=True):
            extent = (x + _EDGE, x + 1 - _EDGE, r + 1 - _EDGE, r + _EDGE)
            axes.imshow(frame_HWC, interpolation="lanczos", extent=extent)
    axes.set(xlim=(0, width), ylim=(len(rows), 0), xticks=[])
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for x, title in ((0, "clips, at their middle"), (STILLS + _GAP, "one clip over time")):
        axes.text(x + _EDGE, -_EDGE, title, color=FAINT, fontsize=9, va="bottom")
    return png(sheet)


def with_boxes(frames: Sequence[np.ndarray], face: Face, margin: float) -> list[np.ndarray]:
    """Frames of a clip that were cut out around a face with this margin, with its box drawn in each."""
    boxes = zip(in_squares(face, margin), face.confidence_T > 0, strict=True)
    return [outlined(frame, box, bool(is_seen)) for frame, (box, is_seen) in zip(frames, boxes, strict=True)]


def outlined(image_HWC: np.ndarray, box_4: np.ndarray, is_seen: bool) -> np.ndarray:
    """A square picture with the outline of a box, in shares of its side: green where a face was seen, grey if not."""
    image = Image.fromarray(image_HWC)
    left, top, width, height = (box_4 * image.width).tolist()
    colour = _SEEN if is_seen else _NOT_SEEN
    ImageDraw.Draw(image).rectangle(
        (left, top, left + width, top + height), outline=colour, width=1 + image.width // 100
    )
    return np.asarray(image)
