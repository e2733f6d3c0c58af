"""Pictures of how often a model of a confidence is right, before and after temperature scaling."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emo_ray.reports.figures import BLUE, CHANCE, FAINT, empty_figure, label_point, style_axes, title_axes
from emo_ray.reports.scorecard import WHEN, Bins, CalibrationChange, When
from emo_ray.reports.wording import percent


def reliability_diagrams(fit: CalibrationChange, name: str, shown: tuple[When, ...] = WHEN) -> Figure:
    """A diagram for each of `shown`: how often clips of a confidence are right."""
    figure = empty_figure(4 * len(shown) if len(shown) > 1 else 5, 4.3)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, when in zip(panels, shown, strict=True):
        _reliability_bars(axes, fit["reliability"][when])
        axes.plot([0, 100], [0, 100], color=CHANCE, linestyle="--", linewidth=1.6)
        error = fit["ece"][when]
        title_axes(axes, f"{when}: no clips" if error is None else f"{when}: ECE {percent(error)} %", pad_pt=6)
        axes.set_xlabel("confidence, percent")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 108)
        style_axes(axes, "y")
    panels[0].set_ylabel("right, percent\n(over bars: clips)")
    figure.suptitle(f"How often {name} is right", x=0.015, ha="left", size=12)
    return figure


def _reliability_bars(axes: Axes, bins: Bins) -> None:
    width = 100 * (bins["edges"][1] - bins["edges"][0])
    for left, clips, accuracy in zip(bins["edges"], bins["count"], bins["accuracy"], strict=False):
        if accuracy is None:
            continue
        x, top = 100 * left + width / 2, 100 * accuracy
        axes.bar(x, top, 0.94 * width, color=BLUE)
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # over the diagonal
        label_point(axes, x, top, str(clips), up_pt=3, size=8, color=FAINT, zorder=5, bbox=ground)
