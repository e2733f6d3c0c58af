"""What every report shares: figures and their PNG bytes, HTML tables, and a self-contained page.

Rates are shares in [0, 1] and shown in percent. Text is escaped here; only `document` takes pieces of HTML.
"""

import base64
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as Letters

INK, FAINT, CHANCE = "#222222", "#8A8A8A", "#D55E00"
_DPI = 150
# Labels need not be Latin, and matplotlib's own font has no Chinese, Japanese or Korean.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "SimHei")


def percent(rate: float | None) -> str:
    """With one decimal; a dash where there is none."""
    return "–" if rate is None or math.isnan(rate) else f"{100 * rate:.1f}"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, always with its sign."""
    return "–" if share is None or math.isnan(share) else f"{100 * share:+z.1f}".replace("-", "−")


def figure(width_in: float, height_in: float) -> Figure:
    """An empty figure, whose layout leaves nothing cut off and nothing overlapping."""
    drawn = Figure(figsize=(width_in, height_in), layout="constrained")
    drawn.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return drawn


def ruled(axes: Any, along: str) -> None:
    """No frame and no ticks; faint lines to read values by along the axis ("x" or "y") that holds them."""
    axes.grid(axis=along, color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom" if along == "x" else "left"]].set_visible(False)


def png(figure: Figure) -> bytes:
    """The same bytes for the same figure; dollar signs are dollars, and no letter is left to chance."""
    there = set(font_manager.fontManager.get_font_names())
    fonts = [font for font in _FONTS if font in there]
    for text in figure.findobj(Letters):
        text.set_parse_math(False)  # a label may hold dollar signs
        text.set_fontfamily(fonts)
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box; the page has the label
        figure.savefig(stream, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], classes: Mapping[str, str] | None = None) -> str:
    """The first column names the row; the others hold numbers. `classes`: the CSS class of cells with this text."""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
    lines = [
        f"<tr><th scope='row'>{escape(name)}</th>" + "".join(_cell(c, classes or {}) for c in cells) + "</tr>"
        for name, *cells in rows
    ]
    body = "\n".join(lines)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _cell(text: str, classes: Mapping[str, str]) -> str:
    start = f"<td class='{classes[text]}'>" if text in classes else "<td>"
    return f"{start}{escape(text)}</td>"


def picture(png: bytes, alt: str) -> str:
    """The image itself, inside the page."""
    width_px = int.from_bytes(png[16:20], "big") * 96 // _DPI  # as large as its letters are meant to be
    data = base64.b64encode(png).decode()
    return f"<img src='data:image/png;base64,{data}' width='{width_px}' alt='{escape(alt)}'>"


def notes(sentences: Sequence[str]) -> list[str]:
    """A section of its own; nothing where there are none."""
    if not sentences:
        return []
    return ["<h2>Notes</h2>", "<ul>", *(f"<li>{escape(str(sentence))}</li>" for sentence in sentences), "</ul>"]


def document(title: str, body: Sequence[str], css: str = "") -> str:
    """A whole page around pieces of HTML, with rules of its own after the common ones."""
    return _PAGE.format(title=escape(title), css=_CSS + css, body="\n".join(body))


# Nothing may be loaded from elsewhere; pictures keep their white ground on a dark page.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""
_CSS = """
:root { color-scheme: light dark; --ink: #1d2329; --faint: #5c6670; --line: #d9dee3; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --faint: #9aa5b0; --line: #3a424a; --page: #15191d; }
}
body { max-width: 52rem; margin: 2.5rem auto; padding: 0 1.2rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin-bottom: .6rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.summary { font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
thead th { color: var(--faint); font-weight: 600; font-size: .88rem; white-space: normal; vertical-align: bottom; }
img { display: block; max-width: 100%; height: auto; margin: 1.2rem 0; background: #ffffff; border-radius: 8px; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--faint); }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line);
  color: var(--faint); font-size: .85rem; }
code { font-size: .95em; }
"""
