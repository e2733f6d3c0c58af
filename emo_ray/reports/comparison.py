"""Two models on the same clips: a table, a picture, and a sentence that says what can be concluded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from emo_ray.reports import page
from emo_ray.reports.page import Link, Page, Picture
from emo_ray.reports.scorecard import Interval
from emo_ray.reports.table import Table
from emo_ray.reports.wording import SCORES, percent, plural, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # it takes half a second, and most who import this draw nothing

PAGE = "report.html"
_RIGHT = {
    "both": "both right",
    "only_first": "the first alone right",
    "only_second": "the second alone right",
    "neither": "neither right",
}


class Lead(TypedDict):
    """A score of both models, and the lead of the second with its 95 % interval."""

    first: float
    second: float
    difference: float
    interval: Interval


class ModelComparison(TypedDict):
    """The content of comparison.json. Rates are in [0, 1]."""

    names: list[str]  # of the two models
    scores: dict[str, Lead]  # "waf", "accuracy", "uar", "macro_f1"
    right: dict[str, int]  # clips by who is right: "both", "only_first", "only_second", "neither"
    mcnemar_p: float  # how likely so uneven a share of them is between models that are equally good
    drawn: str  # what the bootstrap draws: "speakers" or "clips"
    n: int  # clips that both have judged, with whatever each has
    n_speakers: int
    left_out: int  # clips that one of them alone has judged


def tables(content: ModelComparison) -> list[Table]:
    """Scores of both with the lead of the second, and clips by who is right."""
    first, second = content["names"]
    over = f"{content['n_speakers']} speakers" if content["drawn"] == "speakers" else "clips"
    rows = [
        [
            name,
            percent(lead["first"]),
            percent(lead["second"]),
            points(lead["difference"]),
            " to ".join(map(points, lead["interval"])),
        ]
        for name, lead in ((SCORES[key], lead) for key, lead in content["scores"].items())
    ]
    header = ["score", first, second, "lead of the second", "95 % interval"]
    note = f"Paired bootstrap over {over}: both models are measured on the same resamples."
    mcnemar = f"McNemar's exact test of the clips that one of them alone gets right: p = {content['mcnemar_p']:.3g}."
    right = [[words, str(content["right"][key])] for key, words in _RIGHT.items()]
    return [
        Table(f"Two models on {plural(content['n'], 'clip')}", header, rows, note),
        Table("Clips by who is right", ["clips", "number"], right, mcnemar),
    ]


def conclusion(content: ModelComparison) -> str:
    """What can be concluded, in one sentence or two."""
    first, second = content["names"]
    lead = content["scores"]["waf"]
    low, high = lead["interval"]
    size = f"{points(lead['difference'])} points of WAF (95 % interval {points(low)} to {points(high)})"
    p = f"McNemar p = {content['mcnemar_p']:.3g}"
    if low > 0 or high < 0:
        better, worse = (second, first) if low > 0 else (first, second)
        beside = "" if content["mcnemar_p"] < 0.05 else "; accuracy alone does not show it"
        return f"{better} is better than {worse} on these clips: {size}, {p}{beside}."
    beside = "; clip by clip they do differ" if content["mcnemar_p"] < 0.05 else ""
    visible = percent((high - low) / 2)
    return (
        f"Neither is seen to be better: {second} to {first} {size}, {p}{beside}. "
        f"These clips show differences from about {visible} points on."
    )


def write(content: ModelComparison, folder: Path, links: Sequence[Link] = ()) -> Path:
    """Write `report.html`, with links to both scorecards, and `differences.png`; the path of the page."""
    scores, right = tables(content)
    first, second = content["names"]
    caption = f"How far {second} is ahead of {first} in each score; chance may do it where the 95 % interval crosses 0."
    left_out = content["left_out"]
    shown = Page(
        title="Two models on the same clips",
        summary=conclusion(content),
        blocks=[scores, Picture("differences", _differences(content), caption), right],
        notes=[f"{plural(left_out, 'clip')} that one of them alone has judged are left out"] if left_out else [],
        links=links,
        footer=f"{first} and {second} · rates in percent · with whatever modalities each clip has",
    )
    return page.write(shown, folder / PAGE)


def _differences(content: ModelComparison) -> "Figure":
    from emo_ray.reports import figures
    from emo_ray.reports.figures import BLUE, CHANCE, FAINT, INK, PALE_BLUE

    figure = figures.empty_figure(8, 3.4)
    axes = figure.add_subplot()
    for place, lead in enumerate(content["scores"].values()):
        middle = 100 * lead["difference"]
        low, high = (100 * end for end in lead["interval"])
        colour = BLUE if low > 0 or high < 0 else FAINT
        axes.plot([low, high], [place, place], color=PALE_BLUE if colour == BLUE else "#D0D0D0", linewidth=6)
        axes.plot(middle, place, "o", color=colour, markersize=8)
        axes.text(middle, place - 0.22, points(lead["difference"]), color=INK, size=9, ha="center")
    axes.axvline(0, color=CHANCE, linestyle="--", linewidth=1.4)
    figures.name_rows(axes, [SCORES[key] for key in content["scores"]])
    axes.set_xlabel("lead of the second model, points; bands: 95 % interval")
    axes.margins(x=0.08)
    figures.style_axes(axes, "x")
    figures.title_axes(axes, "How far the second model is ahead")
    return figure
