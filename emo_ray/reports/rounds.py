"""What self-training did, round by round: tables, a picture, and one page."""

from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emo_ray.reports import page
from emo_ray.reports.figures import BLUE, FAINT, ORANGE, empty_figure, label_point, style_axes
from emo_ray.reports.page import Page, Picture
from emo_ray.reports.table import Table
from emo_ray.reports.wording import DASH, SCORES, percent, points
from emo_ray.training.bootstrap import DrawnInterval

PAGE, PICTURE = "rounds.html", "rounds.png"
_SCORES = ("waf", "accuracy", "uar")


class Round(TypedDict):
    """One round. Round 0 is the first teacher, without pseudo-labels. A round that accepted no clip has no student.

    Folders in the store are given by their path in it, others by their whole path.
    """

    number: int
    taught_by: int | None  # number of the teacher's round; None in round 0
    checkpoint: str | None  # folder of the student; None without one
    pseudo_labels: str | None  # folder; None in round 0
    accepted: dict[str, int]  # clips by label
    drift: list[str]  # classes that accepted clips have far less or more often than labelled ones
    scores: dict[str, float]  # of the student on validation: "waf", "accuracy", "uar" in [0, 1], "n"; empty without one
    interval: DrawnInterval | None  # of WAF; None without a student
    gain: float | None  # of WAF over the best round before
    kept: bool


class RoundsReport(TypedDict):
    """The content of rounds.json."""

    rounds: list[Round]
    labelled: dict[str, int]  # clips by label that are trained on beside the accepted ones
    best: int  # number of the best round
    checkpoint: str  # folder of the best round's model
    ended: str  # why no further round was played


def tables(content: RoundsReport) -> list[Table]:
    """Scores of every round, and the clips that each accepted by class."""
    return [_round_table(content), _class_table(content)]


def write(content: RoundsReport, folder: Path) -> Path:
    """Write `rounds.html` and `rounds.png`; the path of the page."""
    scores, classes = tables(content)
    drawn = next(round_["interval"]["drawn"] for round_ in content["rounds"] if round_["interval"])
    about = (
        f"Weighted F1 on validation, with its 95 % interval (bootstrap over {drawn}), and accepted clips of each "
        "round. Rounds are judged on the same clips, so a smaller difference than the bars can be real."
    )
    shown = Page(
        title="Self-training, round by round",
        summary=scores.note,
        blocks=[replace(scores, note=""), Picture(Path(PICTURE).stem, picture(content), about), classes],
        footer="rates in percent, on the validation split, on which the best round was chosen: it looks a little "
        "better there than it is · the test split is for jobs/evaluate.py",
    )
    return page.write(shown, folder / PAGE)


def picture(content: RoundsReport) -> Figure:
    """WAF of each round above, the clips that it accepted below; rounds that were not kept are hollow."""
    rounds = content["rounds"]
    figure = empty_figure(7.5, 5.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    measured = [(round_, 100 * round_["scores"]["waf"]) for round_ in rounds if round_["scores"]]
    above.plot([round_["number"] for round_, _ in measured], [waf for _, waf in measured], color=FAINT, zorder=1)
    for round_, waf in measured:
        face = BLUE if round_["kept"] else "white"
        above.plot(round_["number"], waf, "o", markersize=8, color=BLUE, markerfacecolor=face)
        weight = "bold" if round_["number"] == content["best"] else "normal"
        if round_["interval"] is not None:
            low, high = (100 * end for end in round_["interval"]["ends"])
            above.vlines(round_["number"], low, high, color=BLUE, alpha=0.5, linewidth=2, zorder=1)
        label_point(above, round_["number"], waf, f"{waf:.1f}", right_pt=8, up_pt=9, weight=weight)
    above.margins(y=0.25)
    above.set_ylabel("validation WAF, percent\n(bars: 95 % interval; hollow: not kept)")
    above.set_title("What each round of self-training brought", loc="left", pad=12)
    numbers = [round_["number"] for round_ in rounds[1:]]
    bars = below.bar(numbers, [sum(round_["accepted"].values()) for round_ in rounds[1:]], width=0.6, color=ORANGE)
    below.bar_label(bars)
    below.margins(y=0.18)
    below.set_xlim(-0.5, max(len(rounds) - 0.5, 1.5))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.set_xlabel("round (0: the first teacher)")
    below.set_ylabel("accepted clips")
    style_axes(above, "y")
    style_axes(below, "y")
    return figure


def _round_table(content: RoundsReport) -> Table:
    best = content["rounds"][content["best"]]
    rows = [
        [
            str(round_["number"]),
            DASH if round_["taught_by"] is None else f"round {round_['taught_by']}",
            DASH if round_["taught_by"] is None else str(sum(round_["accepted"].values())),
            *(percent(round_["scores"].get(name)) for name in _SCORES),
            " to ".join(map(percent, round_["interval"]["ends"])) if round_["interval"] else DASH,
            points(round_["gain"]),
            "yes" if round_["kept"] else "no",
        ]
        for round_ in content["rounds"]
    ]
    return Table(
        title="Self-training, measured on validation",
        header=["round", "taught by", "accepted", *(SCORES[n] for n in _SCORES), "WAF, 95 %", "points", "kept"],
        rows=rows,
        note=f"Best: round {content['best']} with {percent(best['scores']['waf'])} % WAF. Ended: {content['ended']}.",
        emphasised=(content["best"],),
    )


def _class_table(content: RoundsReport) -> Table:
    """The labelled clips of each class, then those that each round accepted."""
    rows = [["labelled", *map(str, content["labelled"].values()), DASH]]
    for round_ in content["rounds"][1:]:
        counts = [str(round_["accepted"].get(label, 0)) for label in content["labelled"]]
        rows.append([str(round_["number"]), *counts, "; ".join(round_["drift"]) or DASH])
    header = ["round", *content["labelled"], "drift"]
    return Table("Accepted clips by class", header, rows, words=(0, len(header) - 1))
