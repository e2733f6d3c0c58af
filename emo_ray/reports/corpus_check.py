"""What checks say of a corpus: a table, and a page with pictures of the clips that are worst."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from emo_ray.reports import page
from emo_ray.reports.figures import BLUE, LIGHT_BLUE, ORANGE, PALE_BLUE, empty_figure, name_x_ticks, style_axes
from emo_ray.reports.page import Fragment, Page, Picture
from emo_ray.reports.table import Cell, Style, Table
from emo_ray.reports.templating import TEMPLATES
from emo_ray.reports.wording import DASH, percent, plural, shorten

PAGE = "report.html"
_STYLES: dict[str, Style] = {"fine": "good", "note": "", "warning": "warning", "error": "bad"}
_COLOURS = (BLUE, ORANGE, LIGHT_BLUE, PALE_BLUE)


class Outcome(TypedDict):
    """A check; `clips` of the corpus are in question, and clips.csv names them all."""

    check: str
    severity: str  # "fine", "note", "warning" or "error"
    text: str
    clips: int


class CheckReport(TypedDict):
    """The content of check.json."""

    clips: int
    labels: list[str]
    outcomes: list[Outcome]
    balance: dict[str, dict[str, int]]  # split -> label -> clips
    durations_s: list[float]  # quantiles 0, 0.01, ..., 1 of the sounds' durations; empty without sound


@dataclass(frozen=True)
class Exhibit:
    """A clip or a pair that is shown: what is wrong, and for each clip its name, words and JPEG, if it has pictures."""

    title: str
    clips: Sequence[tuple[str, str, bytes | None]]


def summary(content: CheckReport) -> str:
    """The verdict in a sentence."""
    counts = {severity: [o["check"] for o in content["outcomes"] if o["severity"] == severity] for severity in _STYLES}
    if counts["error"]:
        verdict = f"Scores on this corpus would look better than they are: {' and '.join(counts['error'])}."
    elif counts["warning"]:
        verdict = f"Nothing leaks; look at {', '.join(dict.fromkeys(counts['warning']))}."
    else:
        verdict = "Nothing leaks, and no clip stands out."
    return f"{plural(content['clips'], 'clip')}. {verdict}"


def tables(content: CheckReport) -> list[Table]:
    """The checks, then classes by split."""
    rows: list[list[str | Cell]] = [
        [outcome["check"], Cell(outcome["severity"], _STYLES[outcome["severity"]]), outcome["text"]]
        for outcome in content["outcomes"]
    ]
    checks = Table("Checks", ["check", "outcome", "what there is"], rows, words=(0, 1, 2))
    return [checks, *([_balance_table(content)] if content["balance"] else [])]


def write(content: CheckReport, exhibits: Sequence[Exhibit], folder: Path) -> Path:
    """Write `report.html`, `classes.png` and `durations.png`; the path of the page."""
    checks, *classes = tables(content)
    blocks: list[Table | Picture | Fragment] = [checks, *classes]
    if content["balance"]:
        about = "Bars: the share of each class among the labelled clips of a split. Equal bars mean no drift."
        blocks.append(Picture("classes", _class_bars(content["balance"], content["labels"]), about))
    if content["durations_s"]:
        about = "Line: the share of sounds that are at most so long."
        blocks.append(Picture("durations", _duration_curve(content["durations_s"]), about))
    if exhibits:
        blocks.append(_exhibits(exhibits))
    is_bad = any(outcome["severity"] == "error" for outcome in content["outcomes"])
    shown = Page(
        title="Know your data",
        summary=summary(content),
        blocks=blocks,
        verdict="bad" if is_bad else "",
        footer="clips.csv names every clip in question, pairs.csv every pair of equal or nearly equal ones · shown are "
        "the middle frames, small as the model sees them",
    )
    return page.write(shown, folder / PAGE)


def _balance_table(content: CheckReport) -> Table:
    names = list(content["balance"])
    totals = {name: sum(counts.values()) for name, counts in content["balance"].items()}

    def cell(name: str, label: str) -> str:
        count = content["balance"][name].get(label, 0)
        return f"{count} ({percent(count / totals[name])} %)" if totals[name] else DASH

    rows = [[label, *(cell(name, label) for name in names)] for label in content["labels"]]
    return Table("Labelled clips by class and split", ["class", *names], rows)


def _class_bars(balance: Mapping[str, Mapping[str, int]], labels: Sequence[str]) -> Figure:
    figure = empty_figure(max(6.0, 1.5 + 0.8 * len(labels)), 3.4)
    axes = figure.add_subplot()
    width = 0.8 / len(balance)
    places = np.arange(len(labels))
    for number, (name, counts) in enumerate(balance.items()):
        shares = [100 * counts.get(label, 0) / max(sum(counts.values()), 1) for label in labels]
        axes.bar(places + (number - (len(balance) - 1) / 2) * width, shares, width, label=name,
                 color=_COLOURS[number % len(_COLOURS)])  # fmt: skip
    name_x_ticks(axes, places.tolist(), [shorten(label) for label in labels], turned=len(labels) > 8)
    axes.set_ylabel("percent of the split")
    axes.legend(frameon=False, ncols=len(balance), loc="lower left", bbox_to_anchor=(0, 1))
    style_axes(axes, "y")
    return figure


def _duration_curve(durations_s: Sequence[float]) -> Figure:
    figure = empty_figure(6.0, 3.0)
    axes = figure.add_subplot()
    axes.plot(durations_s, np.linspace(0, 100, len(durations_s)), color=BLUE)
    axes.set_xlabel("seconds")
    axes.set_ylabel("percent of the sounds")
    style_axes(axes, "y")
    return figure


def _exhibits(exhibits: Sequence[Exhibit]) -> Fragment:
    def encoded(jpeg: bytes | None) -> str:
        return base64.b64encode(jpeg).decode() if jpeg else ""

    html = TEMPLATES.get_template("exhibits.html").render(exhibits=exhibits, encoded=encoded)
    return Fragment(Markup(html), TEMPLATES.get_template("exhibits.css").render())
