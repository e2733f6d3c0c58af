"""The noise ladder: scores on clips of which one modality is made worse step by step, as a table and curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from emo_ray.reports import page
from emo_ray.reports.page import Link, Page, Picture
from emo_ray.reports.scorecard import Interval
from emo_ray.reports.table import Table
from emo_ray.reports.wording import percent, plural, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # it takes half a second, and most who import this draw nothing
    from matplotlib.figure import Figure

VERSION = 1  # of a noise ladder
PAGE = "noise.html"
CLEAN = "as it is"


class Shown(TypedDict):
    """A score of the model when it is shown some modalities."""

    waf: float
    interval: Interval


class Step(TypedDict):
    """What one degradation of one modality does, on the clips that have the modality."""

    modality: str  # "video", "audio" or "text"
    step: str  # CLEAN, or what was done
    alone: Shown  # when the model is shown this modality alone
    full: Shown  # with whatever else each clip has, which is not degraded
    n: int


class NoiseLadder(TypedDict):
    """The content of noise.json. Rates are in [0, 1]."""

    checkpoint: str
    split: str
    drawn: str  # what the intervals' bootstrap draws: "speakers" or "clips"
    guessing: float  # accuracy of guessing evenly, which WAF is about then
    steps: list[Step]  # modality by modality, each from clean on
    notes: list[str]


def table(content: NoiseLadder) -> Table:
    """A row for each step, with what is lost to the clean clips."""
    rows = []
    for steps in _by_modality(content).values():
        clean = steps[0]
        for step in steps:
            lost = points(step["full"]["waf"] - clean["full"]["waf"]) if step is not clean else ""
            cells = [_cell(step["alone"]), _cell(step["full"]), lost, str(step["n"])]
            rows.append([step["modality"], step["step"], *cells])
    return Table(
        "What noise does",
        ["modality", "degraded", "alone", "with the others", "change", "clips"],
        rows,
        "WAF with half of its 95 % interval, of the degraded modality alone and with the others, which stay clean.",
        words=(0, 1),
    )


def write(content: NoiseLadder, folder: Path, links: Sequence[Link] = ()) -> Path:
    """Write `noise.html`, with a link to the scorecard, and `noise.png`; the path of the page."""
    caption = (
        "WAF at each step of degradation, with its 95 % interval: of the modality alone, and with the others, which "
        "stay clean. Dashed: guessing evenly."
    )
    shown = Page(
        title=f"Noise ladder of {content['checkpoint']} on the {content['split']} split",
        summary=summary(content),
        blocks=[Picture("noise", _curves(content), caption), table(content)],
        notes=content["notes"],
        links=links,
        footer="rates in percent · WAF: F1 weighted by class size · sound: white noise and babble of other clips at "
        "equal power · picture: levels of a pyramid, each of half the size · every second frame shown twice",
    )
    return page.write(shown, folder / PAGE)


def summary(content: NoiseLadder) -> str:
    """The worst that a single modality's degradation does to the whole."""
    losses = [
        (step["full"]["waf"] - steps[0]["full"]["waf"], step)
        for steps in _by_modality(content).values()
        for step in steps[1:]
    ]
    if not losses:
        return "No modality could be degraded."
    loss, worst = min(losses, key=lambda pair: pair[0])
    return (
        f"With one modality degraded, the whole loses most ({points(loss)} points of WAF) by {worst['modality']}: "
        f"{worst['step']} (on {plural(worst['n'], 'clip')})."
    )


def _by_modality(content: NoiseLadder) -> dict[str, list[Step]]:
    names = dict.fromkeys(step["modality"] for step in content["steps"])
    return {name: [step for step in content["steps"] if step["modality"] == name] for name in names}


def _cell(shown: Shown) -> str:
    low, high = shown["interval"]
    return f"{percent(shown['waf'])} ±{50 * (high - low):.1f}"


def _curves(content: NoiseLadder) -> "Figure":
    from emo_ray.reports.figures import BLUE, CHANCE, ORANGE, empty_figure, name_x_ticks, style_axes, title_axes

    modalities = _by_modality(content)
    figure = empty_figure(max(4.5, 3.4 * len(modalities)), 4.2)
    panels = figure.subplots(1, max(1, len(modalities)), sharey=True, squeeze=False)[0]
    for axes, (name, steps) in zip(panels, modalities.items(), strict=False):
        _curve(axes, [step["full"] for step in steps], BLUE, "with the others")
        _curve(axes, [step["alone"] for step in steps], ORANGE, f"{name} alone" if len(modalities) == 1 else "alone")
        axes.axhline(100 * content["guessing"], color=CHANCE, linestyle="--", linewidth=1.2)
        name_x_ticks(axes, range(len(steps)), [step["step"] for step in steps], turned=True)
        axes.set_ylim(0, 104)
        title_axes(axes, name, pad_pt=8)
        style_axes(axes, "y")
    panels[0].set_ylabel("WAF, percent")
    if modalities:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False)
    return figure


def _curve(axes: "Axes", values: Sequence[Shown], colour: str, name: str) -> None:
    places = range(len(values))
    axes.plot(places, [100 * value["waf"] for value in values], marker="o", markersize=4, color=colour, label=name)
    low, high = ([100 * value["interval"][end] for value in values] for end in (0, 1))
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
