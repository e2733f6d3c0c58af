"""The page of cards: filters, order, and corrections that download as a manifest (`templates/cards.html`).

Thousands of clips are several pages of the same form, so that none is too large for a browser.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from emo_ray.config.model_settings import CLIP_FIELDS
from emo_ray.reports import page
from emo_ray.reports.cards import NOTHING, Card, ranked, status_words
from emo_ray.reports.drawings import bar, wave
from emo_ray.reports.page import Fragment, Page
from emo_ray.reports.templating import TEMPLATES
from emo_ray.reports.wording import clock, plural, shorten, whole_percent

CARDS_PER_PAGE, MOST_PAGES = 250, 20  # a page of full cards has about 6 MB
# Of a manifest: what tells a clip and its media, without what a person is asked for, and without its place in a corpus.
COLUMNS = tuple(name for name in CLIP_FIELDS if name not in ("label", "split", "fold", "votes"))
_MOST_CLASSES = 8  # rows of a card
_LONGEST_WORDS = 400  # characters
_LESS_THAN = (0.9, 0.7, 0.5)  # confidences to filter by


@dataclass(frozen=True)
class CardSet:
    """What all pages of a set of cards say; `name` is the stem of their files: name.html, name-2.html, ...

    `labels` are the classes that a person may choose from; without any, nothing can be corrected.
    """

    name: str
    title: str
    summary: str
    labels: Sequence[str]
    paragraphs: Sequence[str]
    footer: str
    order: str = "what to look at first"  # the order of the cards, for the menu that changes it


def file_name(name: str, number: int) -> str:
    """The file of a page, the first being number 1."""
    return f"{name}.html" if number == 1 else f"{name}-{number}.html"


def page_count(cards: int) -> int:
    """How many pages so many cards take: at least one, at most MOST_PAGES, which may not hold all of them."""
    return max(1, min(-(-cards // CARDS_PER_PAGE), MOST_PAGES))


def write(cards: Sequence[Card], about: CardSet, folder: Path, number: int = 1, pages: int = 1) -> Path:
    """Write one page of cards in their order; the path of the page."""
    fragment = TEMPLATES.get_template("cards.html").render(
        cards=[_view(card) for card in cards],
        labels=about.labels,
        order=about.order,
        classes=sorted({card.answer.prediction for card in cards if card.answer.prediction is not None}),
        has_truth=any(card.answer.truth is not None and not card.answer.is_wrong for card in cards),
        has_unfamiliar=any(card.answer.is_unfamiliar for card in cards),
        less_than=[(share, whole_percent(share)) for share in _LESS_THAN],
        columns=json.dumps(COLUMNS),
        corrections="corrections.csv" if number == 1 else f"corrections-{number}.csv",
        pages=[(n, file_name(about.name, n)) for n in range(1, pages + 1)],
        number=number,
    )
    # The last line break would stand between the script and its digest.
    style, script = (TEMPLATES.get_template(f"cards.{kind}").render().strip() for kind in ("css", "js"))
    block = Fragment(Markup(fragment), style, script)
    title = about.title if number == 1 else f"{about.title}, page {number}"
    shown = Page(title, about.summary, [block], about.footer, about.paragraphs)
    return page.write(shown, folder / file_name(about.name, number))


def _view(card: Card) -> dict[str, Any]:
    """What the template shows of a card, as text and numbers."""
    answer, media = card.answer, card.media
    words = " ".join(media.words.split())
    return {
        "place": card.place,
        "clip_id": "" if card.place.startswith(answer.clip_id) else answer.clip_id,
        "file": answer.file,
        "prediction": answer.prediction or NOTHING,
        "label": answer.prediction or "",
        "confidence": f"{answer.confidence:.4f}",
        "percent": whole_percent(answer.confidence) if answer.ranked else "",
        "next": " ".join([shorten(answer.ranked[1][0]), whole_percent(answer.ranked[1][1])])
        if answer.ranked[1:]
        else "",
        "truth": answer.truth or "",
        "is_wrong": answer.is_wrong,
        "disagrees": bool(answer.dissenting),
        "is_broken": answer.is_broken,
        "is_unfamiliar": answer.is_unfamiliar,
        "columns": json.dumps(list(card.columns), ensure_ascii=False) if card.columns else "",
        "strip": base64.b64encode(media.strip).decode(),
        "pictures": media.pictures,
        "pictures_alt": f"{plural(media.pictures, 'frame')} of the video, evenly spread",
        "attention": _attention_path(answer.attention),
        "attention_width": len(answer.attention or ()),
        "attention_alt": _attention_words(answer.attention),
        "wave": wave(media.loudness),
        "wave_width": len(media.loudness),
        "wave_alt": _wave_words(media.loudness, media.sound_s),
        "sound": f"{media.sound_s:.1f} s of sound" if len(media.loudness) else "",
        "words": shorten(words, _LONGEST_WORDS),
        "notes": [*status_words(answer), *answer.notes],
        "header": _header(card),
        "rows": _class_rows(card),
    }


def _parts(card: Card) -> tuple[list[str], list[str]]:
    """The modalities that say something alone, and those that something is left without; none of a single one."""
    alone = [name for name, row in card.answer.alone.items() if row is not None]
    without = [name for name in alone if card.answer.without.get(name) is not None]
    return (alone, without) if len(alone) > 1 else ([], [])


def _header(card: Card) -> list[str]:
    alone, without = _parts(card)
    return [*(f"{name} alone" for name in alone), *(f"no {name}" for name in without)]


def _class_rows(card: Card) -> list[dict[str, Any]]:
    """A row for each of the likeliest classes, and for the manifest's label: shares, and changes without a modality."""
    answer = card.answer
    alone, without = _parts(card)
    place_of = {label: k for k, label in enumerate(answer.labels)}
    shown = [label for label, _ in answer.ranked[:_MOST_CLASSES]]
    shown += [answer.truth] if answer.truth in place_of and answer.ranked and answer.truth not in shown else []
    top_of = {name: ranked(answer.labels, answer.alone[name])[0][0] for name in alone}
    rows = []
    for label in shown:
        k = place_of[label]
        share = answer.together[k] if answer.together is not None else 0.0
        cells = []
        for name in alone:
            row = answer.alone[name]
            assert row is not None
            cells.append((whole_percent(row[k]), top_of[name] == label))
        for name in without:
            row = answer.without[name]
            assert row is not None
            cells.append(
                (f"{100 * (row[k] - share):+.0f}".replace("-", "−").replace("+0", "0").replace("−0", "0"), False)
            )
        rows.append(
            {"label": shorten(label), "bar": f"{100 * share:.0f}", "percent": whole_percent(share), "cells": cells}
        )
    return rows


def _attention_path(attention: Sequence[float] | None) -> str:
    """Bars over the frames, the highest as high as the picture, which is T wide for T frames."""
    if not attention:
        return ""
    return "".join(bar(i + 0.1, i + 0.9, share / max(attention)) for i, share in enumerate(attention))


def _attention_words(attention: Sequence[float] | None) -> str:
    if not attention:
        return ""
    top = max(range(len(attention)), key=attention.__getitem__)
    return f"attention over {len(attention)} frames: most on frame {top + 1}, {whole_percent(attention[top])}"


def _wave_words(loudness: Sequence[float], sound_s: float) -> str:
    if not len(loudness):
        return ""
    top = max(range(len(loudness)), key=loudness.__getitem__)
    return f"sound of {sound_s:.1f} s, loudest at {clock(sound_s * top / len(loudness))}"
