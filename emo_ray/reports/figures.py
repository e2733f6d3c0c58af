"""What all pictures share: colours, an empty figure, the look of its axes, and its bytes as PNG."""

import io
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

INK, FAINT, CHANCE = "#222222", "#8A8A8A", "#D55E00"
BLUE, LIGHT_BLUE, PALE_BLUE, ORANGE = "#0072B2", "#56A5D8", "#A3D0EC", "#E69F00"
DPI = 150
_ZLIB_LEVEL = 2  # half the time of the usual 6 for a tenth more bytes; no alpha saves that tenth
# Labels need not be Latin, and matplotlib's default font has no Chinese, Japanese or Korean.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "SimHei")


def empty_figure(width_in: float, height_in: float) -> Figure:
    """A figure whose layout leaves nothing cut off and nothing overlapping."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    pad(figure, w_pad=0.12, h_pad=0.12)
    return figure


def pad(figure: Figure, **inches_or_shares: float) -> None:
    """Set the margins of the constrained layout, as `ConstrainedLayoutEngine.set` takes them."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(**inches_or_shares)


def style_axes(axes: Axes, grid_along: Literal["x", "y"]) -> None:
    """No frame and no ticks; faint grid lines along the axis that holds the values."""
    axes.grid(axis=grid_along, color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, bottom=False, left=False)  # without marks of no length, which would be drawn
    axes.spines[["top", "right", "bottom" if grid_along == "x" else "left"]].set_visible(False)


def title_axes(axes: Axes, text: str, pad_pt: float = 12, **style: Any) -> None:
    """A title over the left end of axes that have no ticks above them, nor a common factor of their ticks ("1e6").

    matplotlib would keep clear of these, for which it measures all ticks anew at every step of a layout.
    """
    axes.set_title(text, loc="left", pad=pad_pt, y=1, **style)


def name_x_ticks(axes: Axes, places: Sequence[float], names: Sequence[str], turned: bool) -> None:
    """Names at places along x, upright or turned so that long ones do not overlap."""
    slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(places, names, **slant)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names along y, one a row; the first is on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)


def label_point(axes: Axes, x: float, y: float, text: str, right_pt: float = 0, up_pt: float = 0, **style: Any) -> None:
    """Text beside a point (x, y) of the data, as many typographic points to its right or above it."""
    side = {"ha": "left", "va": "center"} if right_pt else {"ha": "center", "va": "bottom"}
    axes.annotate(text, (x, y), xytext=(right_pt, up_pt), textcoords="offset points", **{"color": INK} | side | style)


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure. Dollar signs are printed as they are, not read as formulas."""
    installed = set(font_manager.fontManager.get_font_names())
    fonts = [font for font in _FONTS if font in installed]
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        text.set_fontfamily(fonts)
    figure.set_dpi(DPI)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if not axis.get_label_text():
                axis.set_label_coords(0.5, 0.5)  # no place is searched for a label without text
    canvas, stream = FigureCanvasAgg(figure), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box; the page has the label
        canvas.draw()  # with its layout: `savefig` would draw everything twice
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image.save(stream, "png", compress_level=_ZLIB_LEVEL, dpi=(DPI, DPI))
    return stream.getvalue()
