"""The pictures of a sweep."""

import math
import textwrap
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from emo_ray.reports.figures import (
    BLUE,
    CHANCE,
    FAINT,
    INK,
    LIGHT_BLUE,
    empty_figure,
    name_x_ticks,
    style_axes,
    title_axes,
)
from emo_ray.reports.page import Picture
from emo_ray.reports.sweep_trials import (
    COMPLETE,
    FAILED,
    PRUNED,
    SweepReport,
    Trial,
    as_text,
    best_so_far,
    choices_of,
    finished,
    identity,
    importances,
    lowest_ordinary,
    reached,
    stopped_in_first_phase,
    value,
)
from emo_ray.reports.wording import percent, shorten

RECIPE = "the recipe as it is"
Style = dict[str, Any]  # of a line, as matplotlib takes it
_DOT: Style = {"marker": "o", "color": BLUE, "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
_CROSS: Style = {"marker": "x", "color": FAINT, "markersize": 5, "markeredgewidth": 1.1}
_PLUS: Style = {"marker": "+", "color": FAINT, "markersize": 6.5, "markeredgewidth": 1.1}
_STAR: Style = {"marker": "*", "color": CHANCE, "markersize": 14, "markeredgecolor": "white", "zorder": 6}
_DIAMOND: Style = {"marker": "D", "color": "none", "markersize": 7.5, "markeredgecolor": INK, "zorder": 5}
_CURVES: dict[str, tuple[str, str, int, Style]] = {  # name, colour, order of drawing, and mark of the last epoch
    COMPLETE: ("trained to the end", LIGHT_BLUE, 3, {"marker": ".", "markersize": 6}),
    PRUNED: ("stopped early (×)", FAINT, 2, _CROSS),
    FAILED: ("failed (+)", FAINT, 1, _PLUS),
}
_COLUMNS = 4  # of panels in a row
_LETTERS = 100  # of choices in a row of panels that is not crowded
_LONGEST_CHOICE = 12  # letters on an axis; the page has the whole text
_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread evenly however many there are
_MARGIN = 0.035  # of the axes' height: where trials without an objective stand


def pictures(content: SweepReport, objective: str) -> list[Picture]:
    """The pictures that there is something to draw for; `objective` in words."""
    drawn = []
    if finished(content):
        about = "The objective of each trial in the order of their numbers, and the best so far."
        if interval := content.get("interval"):
            about += (
                " The band is the 95 % interval of the best trial, trained again in the ordinary way, on validation "
                f"clips (bootstrap over {interval['drawn']})."
            )
        drawn.append(Picture("trials", _progress(content, objective), about, "Trial by trial"))
    if any(_curve(trial) for trial in content["trials"]):
        title = "" if drawn else "Trial by trial"
        about = "The objective of every trial at each epoch; trials are judged by their best so far."
        drawn.append(Picture("curves", _curves(content, objective), about, title))
    if finished(content) and content["space"]:
        about = "The objective against the value of each searched key."
        drawn.append(Picture("settings", _panels(content, objective), about, "Settings and objectives"))
    if shares := importances(content):
        about = "Bars: how much of the objective's variance each key explains."
        note = (
            f"By fANOVA (a random forest, from optuna.importance) of {len(finished(content))} complete trials, of "
            "which those far below most count as the lowest of the others: a hint from a few trials, not a measurement."
        )
        drawn.append(Picture("importance", importance_bars(shares), about, "Importance", note))
    return drawn


def importance_bars(shares: dict[str, float]) -> Figure:
    """Key -> share in [0, 1], the largest on top."""
    figure = empty_figure(8, 1.3 + 0.38 * len(shares))
    axes = figure.add_subplot()
    bars = axes.barh(list(shares), [100 * share for share in shares.values()], height=0.66, color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=5)
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlabel("share of the explained variance, percent")
    title_axes(axes, "Which settings mattered")
    style_axes(axes, "x")
    return figure


def _progress(content: SweepReport, objective: str) -> Figure:
    figure = empty_figure(9.5, 4.8)
    axes = figure.add_subplot()
    trials, last = finished(content), max(trial["number"] for trial in content["trials"])
    best = [100 * rate for rate in best_so_far(trials)]
    low, _ = _span(_percents(trials))
    numbers = [trial["number"] for trial in trials]
    axes.step([*numbers, last], [*best, best[-1]], where="post", color=CHANCE, linewidth=1.5, label="best so far")
    _mark_trials(axes, content, lambda trial: trial["number"])
    if interval := content.get("interval"):
        name, (first, end) = "95 % interval of the best", (100 * rate for rate in interval["ends"])
        axes.axhspan(first, end, color=CHANCE, alpha=0.12, linewidth=0, zorder=0, label=name)
    for recipe in _numbered(trials, content["default"]):
        if 100 * value(recipe) >= low:
            axes.axhline(100 * value(recipe), color=INK, linestyle="--", linewidth=1.2, zorder=1)
    axes.set_xlim(-0.03 * max(last, 10), 1.03 * max(last, 1) + 0.3)
    _finish(axes, "What each trial reached", "trial", objective)
    return figure


def _curves(content: SweepReport, objective: str) -> Figure:
    figure = empty_figure(9.5, 5)
    axes = figure.add_subplot()
    curves = [(*_curve_style(trial, content), points) for trial in content["trials"] if (points := _curve(trial))]
    for name, line, end, points in sorted(curves, key=lambda curve: -curve[1]["zorder"]):
        axes.plot(*zip(*points, strict=True), label=name, **line)
        marked = max(points, key=itemgetter(1)) if end is _STAR else points[-1]
        axes.plot(*marked, **end | {"color": line["color"], "zorder": line["zorder"] + 0.5})
    low, high = _span([height for *_, points in curves for _, height in points])
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    hidden = {
        "below the axis": sum(max(height for _, height in points) < low for *_, points in curves),
        "stopped in EmoVCLIP's phase": sum(map(stopped_in_first_phase, content["trials"])),
    }
    counts = ", ".join(f"{count} {where}" for where, count in hidden.items() if count)
    _finish(axes, "Learning curves", f"epoch (not shown: {counts})" if counts else "epoch", objective)
    return figure


def _curve_style(trial: Trial, content: SweepReport) -> tuple[str, Style, Style]:
    """Name, line, and the mark of its last epoch, or of the best one of the best trial."""
    name, colour, zorder, end = _CURVES[trial["state"]]
    if trial["number"] == content["best"]:
        return "the best", {"color": CHANCE, "linewidth": 2.8, "zorder": 5}, _STAR
    if trial["number"] == content["default"]:
        return RECIPE, {"color": INK, "linewidth": 1.8, "linestyle": "--", "zorder": 4}, end
    return name, {"color": colour, "linewidth": 0.9, "alpha": 0.7, "zorder": zorder}, end


def _panels(content: SweepReport, objective: str) -> Figure:
    """The objective against each key, all panels with the same scale of the objective."""
    keys = list(content["space"])
    columns = min(len(keys), _COLUMNS)
    rows = math.ceil(len(keys) / columns)
    figure = empty_figure(max(7.5, 2.75 * columns + 0.6), 2.6 * rows + 1.2)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, key in zip(panels, keys, strict=False):
        _mark_trials(axes, content, _scaled(axes, content, key, columns))
        title_axes(axes, key.replace(".", ".\n"), pad_pt=6, size=10)
        style_axes(axes, "y")
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    figure.supylabel(textwrap.fill(f"{objective}, percent", 25 * rows), size=10)
    figure.suptitle("The objective against each setting", x=0.015, ha="left", size=12)
    _legend(panels[0])
    return figure


def _scaled(axes: Axes, content: SweepReport, key: str, columns: int) -> Callable[[Trial], float]:
    """Give a panel the scale of its key; where each trial stands on it.

    Trials with the same choice are moved a little, each by another distance, so that they can be told apart.
    """
    ((form, bounds),) = content["space"][key].items()
    if choices := choices_of(content, key):
        position_of = {identity(choice): position for position, choice in enumerate(choices)}
        names = [shorten(as_text(choice), _LONGEST_CHOICE) for choice in choices]
        name_x_ticks(axes, range(len(names)), names, len(names) * max(map(len, names)) * columns > _LETTERS)
        axes.set_xlim(-0.6, len(choices) - 0.4)
        return lambda trial: (
            position_of[identity(trial["params"][key])] + 0.5 * ((trial["number"] * _GOLDEN + 0.5) % 1 - 0.5)
        )
    ends = [*bounds, *(trial["params"][key] for trial in content["trials"])]
    low, high = min(ends), max(ends)
    if form == "loguniform":
        axes.set_xscale("log")
        decades, factor = math.log10(high / low), max(high / low, 10) ** 0.06
        axes.set_xlim(low / factor, high * factor)
        round_numbers = LogLocator(subs=(1, 3) if decades < 2.5 else (1,), numticks=5)
        axes.xaxis.set_major_locator(MaxNLocator(4) if decades < 1 else round_numbers)
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = 0.06 * (high - low) or 0.5
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=form == "randint"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: as_text(float(number))))
    return lambda trial: trial["params"][key]


def _mark_trials(axes: Axes, content: SweepReport, place: Callable[[Trial], float]) -> None:
    """Complete trials as dots (on the lower end where they lie below it), the others in the margin at the bottom."""
    trials = finished(content)
    low, high = _span(_percents(trials))
    axes.set_ylim(low - 0.16 * (high - low), high + 0.1 * (high - low))

    def mark(marked: Sequence[Trial], label: str, style: Style, height: float | None = None) -> None:
        heights = [max(share, low) for share in _percents(marked)] if height is None else [height] * len(marked)
        where: Style = {} if height is None else {"transform": axes.get_xaxis_transform()}
        if marked:
            axes.plot([place(trial) for trial in marked], heights, linestyle="none", label=label, **style, **where)

    for number, name, style in ((content["best"], "the best", _STAR), (content["default"], RECIPE, _DIAMOND)):
        for trial in _numbered(trials, number):
            mark([trial], f"{name} ({percent(value(trial))})", style)
    below = [trial for trial in trials if 100 * value(trial) < low]
    mark([trial for trial in trials if trial not in below], "complete", _DOT)
    mark(below, f"complete, below {low:.1f}", _DOT | {"marker": "v"})
    mark([trial for trial in content["trials"] if trial["state"] == PRUNED], "stopped early", _CROSS, _MARGIN)
    mark([trial for trial in content["trials"] if trial["state"] == FAILED], "failed", _PLUS, _MARGIN)


def _finish(axes: Axes, title: str, along: str, objective: str) -> None:
    """Whole numbers along x, the objective along y, a title, and the legend below."""
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.set_xlabel(along)
    axes.set_ylabel(f"{objective}, percent")
    title_axes(axes, title)
    style_axes(axes, "y")
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Each name once, below all axes of the figure."""
    handles, names = axes.get_legend_handles_labels()
    handle_of = dict(reversed([*zip(names, handles, strict=True)]))
    named = {name: handle_of[name] for name in dict.fromkeys(names)}
    figure = axes.get_figure(root=True)
    if named and figure is not None:
        rows = math.ceil(sum(len(name) + 6 for name in named) / (13 * figure.get_figwidth()))
        figure.legend(
            named.values(), named.keys(), ncols=math.ceil(len(named) / rows), loc="outside lower left", frameon=False,
            fontsize=9.5, handlelength=1.6, columnspacing=1.5,
        )  # fmt: skip


def _percents(trials: Sequence[Trial]) -> list[float]:
    return [100 * value(trial) for trial in trials]


def _span(percents: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: from the lowest that is not far below most to the highest."""
    low, high = lowest_ordinary(percents), max(percents)
    return (low, high) if high - low > 0.1 else (low - 0.5, high + 0.5)


def _numbered(trials: Sequence[Trial], number: int | None) -> list[Trial]:
    return [trial for trial in trials if trial["number"] == number]


def _curve(trial: Trial) -> list[tuple[int, float]]:
    """Epochs and percents, without those of EmoVCLIP's phase."""
    return [(epoch, 100 * objective) for epoch, objective in trial.get("curve", trial["history"]) if reached(objective)]
