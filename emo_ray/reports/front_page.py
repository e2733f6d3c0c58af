"""The front page of a store: what lies in it, newest first, with scores and relative links."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emo_ray.reports import page
from emo_ray.reports.page import Page
from emo_ray.reports.table import Cell, Table

PAGE = "index.html"
_TITLE = "What this store holds"
_VISIBLE = 12  # rows of a kind; a page shows the others when asked
_HEADER = ("name", "score", "what it is", "state", "made")  # a telephone shows the first two


@dataclass(frozen=True)
class Entry:
    """An artefact: `made_s` is a Unix time, `href` a relative address, `state` is empty where the artefact is whole."""

    name: str
    made_s: float
    href: str
    about: str = ""
    score: str = ""
    state: str = ""


@dataclass(frozen=True)
class Section:
    """The artefacts of a kind, newest first; `title` is the kind in the plural, `noun` in the singular."""

    title: str
    noun: str
    entries: Sequence[Entry]


def tables(sections: Sequence[Section]) -> list[Table]:
    """A table for each kind of which there is something; columns that hold nothing are left out."""
    return [_table(section) for section in sections if section.entries]


def write(sections: Sequence[Section], notes: Sequence[str], path: Path) -> Path:
    """Write the page of the store in which `path` lies; its path."""
    shown = Page(
        title=_TITLE,
        summary=summary(sections),
        blocks=tables(sections),
        notes=notes,
        footer=f"as of {_date(time.time())} · every job brings this page up to date · "
        "dates are those of the files · links are relative: a copy of the store has a front page too",
    )
    return page.write(shown, path)


def is_ours(path: Path) -> bool:
    """Whether a file is what `write` wrote, as far as nothing of somebody else's is lost with it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return not text.strip() or f"<title>{_TITLE}</title>" in text


def summary(sections: Sequence[Section]) -> str:
    """How many artefacts of each kind there are, and the newest score."""
    sizes = ((len(section.entries), section) for section in sections if section.entries)
    counts = [f"{size} {section.noun if size == 1 else section.title.lower()}" for size, section in sizes]
    if not counts:
        return "Nothing has been made in this store yet."
    scored = [(entry, section) for section in sections for entry in section.entries if entry.score]
    text = ", ".join(counts) + "."
    if scored:
        newest, section = max(scored, key=lambda pair: pair[0].made_s)
        text += f" The newest score is that of the {section.noun} {newest.name}: {newest.score}."
    return text


def _table(section: Section) -> Table:
    rows: list[list[str | Cell]] = [
        [Cell(entry.name, href=entry.href), entry.score, entry.about,
         Cell(entry.state, "warning" if entry.state else ""), _date(entry.made_s)]
        for entry in section.entries
    ]  # fmt: skip
    columns = zip(*rows, strict=True)
    filled = [
        position
        for position, column in enumerate(columns)
        if any(cell if isinstance(cell, str) else cell.text for cell in column)
    ]
    return Table(
        section.title,
        [_HEADER[position] for position in filled],
        [[row[position] for position in filled] for row in rows],
        words=[place for place, position in enumerate(filled) if _HEADER[position] != "made"],
        visible_rows=_VISIBLE,
    )


def _date(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s))
