"""A self-contained page of tables and pictures (HTML, `templates/page.html`), and the pictures as files beside it."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from emo_ray import durable
from emo_ray.reports.table import Style, Table, html
from emo_ray.reports.templating import TEMPLATES

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # it takes half a second, and some pages have no figure

_CSS_PX_PER_IN = 96
_LINKS = re.compile("<nav>\n.*?</nav>", re.S)


@dataclass(frozen=True)
class Picture:
    """A figure, written as `name`.png; `alt` says in words what it shows, and is the caption where `note` is empty."""

    name: str
    figure: "Figure"
    alt: str
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Fragment:
    """A piece of a page that a template rendered, so that its strings are escaped, with its rules of CSS and script.

    The script is part of this project and holds no data: what it reads stands in attributes of the fragment.
    """

    html: Markup
    style: str = ""
    script: str = ""


@dataclass(frozen=True)
class Link:
    """A link to another page of the store, by its path relative to the folder of the page that it stands on."""

    text: str
    path: str


@dataclass(frozen=True)
class Page:
    """What a page says from top to bottom; `verdict` colours the summary."""

    title: str
    summary: str
    blocks: Sequence[Table | Picture | Fragment]
    footer: str
    paragraphs: Sequence[str] = ()
    notes: Sequence[str] = ()
    links: Sequence[Link] = ()
    verdict: Style = ""


def write(page: Page, path: Path) -> Path:
    """Write the page, and beside it each picture, of which the page embeds a copy."""
    images = {}
    for block in page.blocks:
        if isinstance(block, Picture):
            from emo_ray.reports.figures import png  # with matplotlib

            data = png(block.figure)
            durable.write_bytes(path.parent / f"{block.name}.png", data)
            width_px = round(block.figure.get_figwidth() * _CSS_PX_PER_IN)  # so letters keep the size they should have
            images[block.name] = {"data": base64.b64encode(data).decode(), "width_px": width_px}
    fragments = [block for block in page.blocks if isinstance(block, Fragment)]
    style, script = (
        "\n".join(dict.fromkeys(getattr(fragment, part) for fragment in fragments)).strip()
        for part in ("style", "script")
    )
    template = TEMPLATES.get_template("page.html")
    text = template.render(page=page, images=images, html=html, style=Markup(style), script=Markup(script))
    durable.write_text(path, text)
    return path


def relinked(text: str, links: Sequence[Link]) -> str:
    """The HTML of a page that `write` made with links, with these in their place and all else as it is.

    So nothing is drawn. Raises ValueError for a page without links.
    """
    shown = TEMPLATES.get_template("links.html").render(links=links)
    changed, count = _LINKS.subn(lambda match: shown, text, count=1)
    if not count:
        raise ValueError("found a page without <nav>, expected one with links")
    return changed
