"""What self-training did, round by round: a table for the terminal, a picture, and one self-contained HTML page.

`content` is a plain dict, as `rounds.json` holds it:

    rounds    [{"number", "taught_by" (a round), "checkpoint", "pseudo_labels" (folders), "accepted" {label: clips},
                "drift" [sentences], "scores" of the student on validation {"waf", "accuracy", "uar", "n"}, "gain" (of
                WAF over the best round before), "kept"}]; round 0 is the first teacher, without pseudo-labels; where
                no clip was accepted there is no student: "checkpoint" and "gain" are None, "scores" is empty
    labelled  {label: clips} that are trained on beside the accepted ones
    best      the number of the best round;   checkpoint: its folder;   ended: why no further round was played

Folders in the store are given by their path in it, others by their whole path.
Rates are shares in [0, 1] and shown in percent.
"""

from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich import box
from rich.table import Table
from rich.text import Text

from emo_ray.reports import page
from emo_ray.reports.page import FAINT, INK

PAGE, PICTURE = "rounds.html", "rounds.png"
_SCORES = {"waf": "WAF", "accuracy": "accuracy", "uar": "UAR"}
_NUMBERS = ["round", "taught by", "accepted", *_SCORES.values(), "points", "kept"]
_HEADER = [*_NUMBERS, "accepted by class (labelled)", "drift"]
_BLUE, _ORANGE = "#0072B2", "#E69F00"
_DASH = "–"


def table(content: dict[str, Any]) -> Table:
    """A line for each round, for the terminal."""
    drawn = Table(title="Self-training, measured on validation", caption=Text(_ending(content)), box=box.SIMPLE_HEAD)
    for i, name in enumerate(_HEADER):
        drawn.add_column(name, justify="left" if i >= len(_NUMBERS) else "right", overflow="fold")
    for round_, row in zip(content["rounds"], _rows(content), strict=True):
        style = "bold" if round_["number"] == content["best"] else None
        drawn.add_row(*(Text(cell) for cell in row), style=style)
    return drawn


def write(content: dict[str, Any], folder: Path) -> None:
    """Write `rounds.png`, and `rounds.html`, which holds a copy of it."""
    png = page.png(picture(content))
    (folder / PICTURE).write_bytes(png)
    title = "Self-training, round by round"
    body = [
        f"<h1>{title}</h1>",
        f"<p class='summary'>{escape(_ending(content))}</p>",
        page.html_table(_NUMBERS, [row[: len(_NUMBERS)] for row in _rows(content)]),
        page.picture(png, "Weighted F1 on validation and accepted clips of each round."),
        "<h2>Accepted clips by class</h2>",
        page.html_table(["round", *content["labelled"], "drift"], _class_rows(content)),
        "<footer>rates in percent, on the validation split, on which the best round was chosen: it looks a little "
        "better there than it is · the test split is for jobs/evaluate.py</footer>",
    ]
    (folder / PAGE).write_text(page.document(title, body), encoding="utf-8")


def picture(content: dict[str, Any]) -> Figure:
    """WAF of each round above, the clips that it accepted below; rounds that were not kept are hollow."""
    rounds = content["rounds"]
    figure = page.figure(7.5, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    measured = [r for r in rounds if r["scores"]]
    above.plot([r["number"] for r in measured], [100 * r["scores"]["waf"] for r in measured], color=FAINT, zorder=1)
    for r in measured:
        face = _BLUE if r["kept"] else "white"
        above.plot(r["number"], 100 * r["scores"]["waf"], "o", markersize=8, color=_BLUE, markerfacecolor=face)
        beside = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "color": INK}
        weight = "bold" if r["number"] == content["best"] else "normal"
        above.annotate(
            page.percent(r["scores"]["waf"]), (r["number"], 100 * r["scores"]["waf"]), weight=weight, **beside
        )
    above.margins(y=0.25)
    above.set_ylabel("validation WAF, percent\n(hollow: not kept)")
    above.set_title("What each round of self-training brought", loc="left", pad=12)
    counts = [sum(r["accepted"].values()) for r in rounds]
    below.bar([r["number"] for r in rounds[1:]], counts[1:], width=0.6, color=_ORANGE)
    for r, count in list(zip(rounds, counts, strict=True))[1:]:
        below.annotate(str(count), (r["number"], count), ha="center", va="bottom", color=INK)
    below.margins(y=0.18)
    below.set_xlim(-0.5, max(len(rounds) - 0.5, 1.5))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("round (0: the first teacher)")
    below.set_ylabel("accepted clips")
    page.ruled(above, "y")
    page.ruled(below, "y")
    return figure


def _ending(content: dict[str, Any]) -> str:
    best = content["rounds"][content["best"]]
    return f"Best: round {content['best']} with {page.percent(best['scores']['waf'])} % WAF. Ended: {content['ended']}."


def _rows(content: dict[str, Any]) -> list[list[str]]:
    rows = []
    for r in content["rounds"]:
        first = r["number"] == 0
        classes = [f"{label} {count} ({content['labelled'].get(label, 0)})" for label, count in r["accepted"].items()]
        rows.append(
            [
                str(r["number"]),
                _DASH if first else f"round {r['taught_by']}",
                _DASH if first else str(sum(r["accepted"].values())),
                *(page.percent(r["scores"].get(key)) for key in _SCORES),
                page.points(r["gain"]),
                "yes" if r["kept"] else "no",
                ", ".join(classes) or _DASH,
                "; ".join(r["drift"]) or _DASH,
            ]
        )
    return rows


def _class_rows(content: dict[str, Any]) -> list[list[str]]:
    """The labelled clips of each class, then those that each round accepted."""
    rows = [["labelled", *map(str, content["labelled"].values()), _DASH]]
    for r in content["rounds"][1:]:
        counts = [str(r["accepted"].get(label, 0)) for label in content["labelled"]]
        rows.append([str(r["number"]), *counts, "; ".join(r["drift"]) or _DASH])
    return rows
