"""A picture of a corpus: for each label some clips at their middle, and one clip over time."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from emo_ray.data.faces import Face, in_squares

STILLS = 6  # clips per label
_ROWS, _FRAMES = 12, 8  # a picture of all labels of a large corpus, or all frames of a clip, could not be looked at
_SEEN, _NOT_SEEN = (60, 220, 90), (150, 150, 150)
_CELL_IN, _GAP = 0.8, 0.3  # side of a picture; between stills and the clip over time, in sides


def contact_sheet(rows: Mapping[str, tuple[Sequence[np.ndarray], np.ndarray]]) -> bytes:
    """PNG of `{label: (up to STILLS uint8 frames_HWC, frames_THWC of one clip)}`, for the first labels."""
    from emo_ray.reports.figures import FAINT, INK, empty_figure, pad, png  # cards draw boxes alone, without matplotlib

    rows = {
        label: (stills, clip[np.linspace(0, len(clip) - 1, min(len(clip), _FRAMES)).round().astype(int)])
        for label, (stills, clip) in list(rows.items())[:_ROWS]
    }
    frames = max(len(clip) for _, clip in rows.values())
    sheet = empty_figure(1.6 + _CELL_IN * (STILLS + frames + _GAP), 0.7 + _CELL_IN * len(rows))
    pad(sheet, w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    widths = [*[1] * STILLS, _GAP, *[1] * frames]
    grid = sheet.add_gridspec(len(rows), len(widths), width_ratios=widths)
    for r, (label, (stills, clip)) in enumerate(rows.items()):
        places = [*enumerate(stills), *enumerate(clip, STILLS + 1)]
        for column, frame_HWC in places:
            axes = sheet.add_subplot(grid[r, column])
            axes.imshow(frame_HWC, interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(label, rotation=0, ha="right", va="center", color=INK)
            if r == 0 and column in (0, STILLS + 1):
                title = "clips, at their middle" if column == 0 else "one clip over time"
                axes.set_title(title, loc="left", color=FAINT, fontsize=9)
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
