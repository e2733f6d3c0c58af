"""A self-contained page of tables and pictures (HTML, `templates/page.html`), and the pictures as files beside it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from emo_ray import store
from emo_ray.reports.figures import png
from emo_ray.reports.table import TEMPLATES, Style, Table, html

_CSS_PX_PER_IN = 96


@dataclass(frozen=True)
class Picture:
    """A figure that is written as `name`.png; `alt` says in words what it shows."""

    name: str
    figure: Figure
    alt: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Page:
    """What a page says from top to bottom; `verdict` colours the summary."""

    title: str
    summary: str
    blocks: Sequence[Table | Picture]
    footer: str
    paragraphs: Sequence[str] = ()
    notes: Sequence[str] = ()
    verdict: Style = ""


def write(page: Page, path: Path) -> Path:
    """Write the page, and beside it each picture, of which the page embeds a copy."""
    images = {}
    for block in page.blocks:
        if isinstance(block, Picture):
            data = png(block.figure)
            store.write_bytes(path.parent / f"{block.name}.png", data)
            width_px = round(
                block.figure.get_figwidth() * _CSS_PX_PER_IN
            )  # letters keep the size they are meant to have
            images[block.name] = {"data": base64.b64encode(data).decode(), "width_px": width_px}
    store.write_text(path, TEMPLATES.get_template("page.html").render(page=page, images=images, html=html))
    return path
