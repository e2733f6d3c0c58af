"""The pictures of a sweep (`sweep_report` tells what `content` holds)."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, patheffects
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from emo_ray.reports import page
from emo_ray.reports.page import FAINT, INK
from emo_ray.reports.sweep_axes import (
    FAILED,
    PRUNED,
    Trial,
    axes_of,
    best_so_far,
    broken,
    finished,
    importances,
    lowest_ordinary,
    reached,
    stopped_in_first_phase,
    value,
)

_BLUE, _PALE, _BEST = "#0072B2", "#56A5D8", "#D55E00"
_COLOURS = ListedColormap(colormaps["viridis_r"](np.linspace(0.08, 1, 256)))  # the better, the darker on white
_DOT = {"marker": "o", "color": _BLUE, "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
_CROSS = {"marker": "x", "color": FAINT, "markersize": 5, "markeredgewidth": 1.1}
_PLUS = {"marker": "+", "color": FAINT, "markersize": 6.5, "markeredgewidth": 1.1}
_STAR = {"marker": "*", "color": _BEST, "markersize": 14, "markeredgecolor": "white", "zorder": 6}
_DIAMOND = {"marker": "D", "color": "none", "markersize": 7.5, "markeredgecolor": INK, "zorder": 5}
RECIPE = "the recipe as it is"
_COLUMNS, _LETTERS = 4, 100  # of panels in a row; of choices in a row that is not crowded
_MARGIN = 0.035  # of the axes' height: where trials without an objective stand
_LEGEND = {"loc": "outside lower left", "frameon": False, "fontsize": 9.5, "handlelength": 1.6, "columnspacing": 1.5}
_HALO = [patheffects.withStroke(linewidth=2.6, foreground="white")]  # numbers stay legible on lines


def pictures(content: dict[str, Any], objective: str) -> dict[str, tuple[Figure, str]]:
    """Name -> figure, and in words what it shows; only those that there is something to draw for."""
    drawn: dict[str, tuple[Figure, str]] = {}
    if finished(content):
        about = "The objective of each trial in the order of their numbers, and the best so far."
        drawn["trials"] = _progress(content, objective), about
    if any(_curve(trial) for trial in content["trials"]):
        drawn["curves"] = _curves(content, objective), "The objective of every trial over its epochs."
    if finished(content) and content["space"]:
        about = "Parallel coordinates: a line for each complete trial through its settings to its objective."
        drawn["parallel"] = _parallel(content, objective), about
        drawn["settings"] = _panels(content, objective), "The objective against the value of each searched key."
    if worth := importances(content):
        drawn["importance"] = importance_bars(worth), "Bars: how much of the objective's variance each key explains."
    return drawn


def importance_bars(worth: dict[str, float]) -> Figure:
    """Key -> share, the largest on top."""
    figure = page.figure(8, 1.3 + 0.38 * len(worth))
    axes = figure.add_subplot()
    for row, share in enumerate(worth.values()):
        axes.barh(row, 100 * share, height=0.66, color=_BLUE)
        axes.annotate(page.percent(share), (100 * share, row), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(worth)), list(worth))
    axes.set_ylim(len(worth) - 0.4, -0.6)
    axes.set_xlim(0, 112 * max(worth.values()))
    axes.set_xlabel("share of the explained variance, percent")
    axes.set_title("Which settings mattered", loc="left", pad=12)
    page.ruled(axes, "x")
    return figure


def _progress(content: dict[str, Any], objective: str) -> Figure:
    figure = page.figure(9.5, 4.8)
    axes = figure.add_subplot()
    trials, last = finished(content), max(trial["number"] for trial in content["trials"])
    best = [100 * rate for rate in best_so_far(trials)]
    low, _ = _span(_percents(trials))
    _hold_objectives(axes, trials)
    numbers = [trial["number"] for trial in trials]
    axes.step([*numbers, last], [*best, best[-1]], where="post", color=_BEST, linewidth=1.5, label="best so far")
    _mark_trials(axes, content, lambda trial: trial["number"])
    for recipe in _those(trials, content["default"]):
        if 100 * value(recipe) >= low:
            axes.axhline(100 * value(recipe), color=INK, linestyle="--", linewidth=1.2, zorder=1)
    axes.set_xlim(-0.03 * max(last, 10), 1.03 * max(last, 1) + 0.3)
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{objective}, percent")
    axes.set_title("What each trial reached", loc="left", pad=12)
    page.ruled(axes, "y")
    _legend(figure, axes)
    return figure


def _curves(content: dict[str, Any], objective: str) -> Figure:
    figure = page.figure(9.5, 5)
    axes = figure.add_subplot()
    curves = [(trial, points) for trial in content["trials"] if (points := _curve(trial))]
    for trial, points in sorted(curves, key=lambda drawn: _curve_style(drawn[0], content)[1]["zorder"], reverse=True):
        name, line, end = _curve_style(trial, content)
        axes.plot(*zip(*points, strict=True), label=name, **line)
        axes.plot(*points[-1], **end | {"color": line["color"], "zorder": line["zorder"] + 0.5})
    low, high = _span([percent for _, points in curves for _, percent in points])
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{objective}, percent")
    axes.set_title("Learning curves", loc="left", pad=12)
    page.ruled(axes, "y")
    missing = {
        "below the axis": sum(max(percent for _, percent in points) < low for _, points in curves),
        "stopped in EmoVCLIP's phase": sum(map(stopped_in_first_phase, content["trials"])),
    }
    if said := ", ".join(f"{count} {where}" for where, count in missing.items() if count):
        axes.set_xlabel(f"epoch (not shown: {said})")
    _legend(figure, axes)
    return figure


def _curve_style(trial: Trial, content: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, line, and the mark of its last epoch."""
    end = {PRUNED: _CROSS, FAILED: _PLUS}.get(trial["state"], {"marker": ".", "markersize": 6})
    if trial["number"] == content["best"]:
        return "the best", {"color": _BEST, "linewidth": 2.8, "zorder": 5}, _STAR
    if trial["number"] == content["default"]:
        return RECIPE, {"color": INK, "linewidth": 1.8, "linestyle": "--", "zorder": 4}, end
    thin = {"linewidth": 0.9, "alpha": 0.7}
    if trial["state"] == PRUNED:
        return "stopped early (×)", thin | {"color": FAINT, "zorder": 2}, end
    if trial["state"] == FAILED:
        return "failed (+)", thin | {"color": FAINT, "zorder": 1}, end
    return "trained to the end", thin | {"color": _PALE, "zorder": 3}, end


def _parallel(content: dict[str, Any], objective: str) -> Figure:
    scales, trials = axes_of(content), finished(content)
    low, high = _span(_percents(trials))
    figure = page.figure(max(7.5, 1.17 * (len(scales) + 1) + 0.4), 5.6)
    axes = figure.add_subplot()
    strip = len(scales), len(scales) + 0.02 * (len(scales) + 1)
    for trial in sorted(trials, key=value):  # the better, the further in front
        height = max((100 * value(trial) - low) / (high - low), 0)
        style = {"color": _COLOURS(height), "linewidth": 0.8 + 0.6 * height, "alpha": 0.4 + 0.5 * height}
        if trial["number"] == content["default"]:
            style = {"color": INK, "linewidth": 2, "linestyle": "--", "label": RECIPE, "zorder": 3}
        if trial["number"] == content["best"]:
            style = {"color": _BEST, "linewidth": 3, "label": "the best", "zorder": 4}
        axes.plot([*range(len(scales)), strip[0]], [*(scale.jittered(trial) for scale in scales), height], **style)
    for column, scale in enumerate(scales):
        axes.vlines(column, 0, 1, color=INK, linewidth=1.1, zorder=5)
        for place, text in scale.ticks():
            axes.plot(column, place, marker="_", color=INK, markersize=7, zorder=5)
            _beside(axes, column - 0.06, place, text, "right")
    _objective_strip(axes, strip, (low, high), min(_percents(trials)) < low)
    axes.set_xlim(-0.65, strip[1] + 0.6)
    axes.set_ylim(min(scale.ends()[0] for scale in scales), 1.06)
    axes.set_xticks(range(len(scales) + 1), [*(broken(scale.key, 14) for scale in scales), _in_lines(objective, 15)])
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title("Settings of complete trials: the darker, the better", loc="left", pad=14)
    _legend(figure, axes)
    return figure


def _objective_strip(axes: Any, edges: tuple[float, float], span: tuple[float, float], more_below: bool) -> None:
    """The last axis is its own legend of colours."""
    low, high = span
    strip = {"extent": (*edges, 0, 1), "origin": "lower", "aspect": "auto", "zorder": 5}
    axes.imshow(np.linspace(0, 1, 256)[:, None], cmap=_COLOURS, **strip)
    rounds = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    texts = {(percent - low) / (high - low): f"{percent:.4g}" for percent in rounds if low <= percent <= high}
    if more_below:
        texts = {place: text for place, text in texts.items() if place > 0.06} | {0.0: f"≤ {low:.1f}"}
    for place, text in texts.items():
        _beside(axes, edges[1] + 0.05, place, text, "left")


def _panels(content: dict[str, Any], objective: str) -> Figure:
    """One for each key, all with the same scale of the objective."""
    scales = axes_of(content)
    columns = min(len(scales), _COLUMNS)
    rows = math.ceil(len(scales) / columns)
    figure = page.figure(max(7.5, 2.75 * columns + 0.6), 2.6 * rows + 1.2)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
    for axes, scale in zip(panels, scales, strict=False):
        _hold_objectives(axes, finished(content))
        _mark_trials(axes, content, scale.jittered)
        places, texts = zip(*scale.ticks(), strict=True)
        crowded = len(scale.choices) * max(map(len, texts)) * columns > _LETTERS
        turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
        axes.set_xticks(places, texts, size=9, **turned)
        axes.set_xlim(*scale.ends())
        axes.set_title(broken(scale.key, 26), size=10, loc="left")
        page.ruled(axes, "y")
    for axes in panels[len(scales) :]:
        axes.set_axis_off()
    figure.supylabel(_in_lines(objective, 25 * rows), size=10)
    figure.suptitle("The objective against each setting", x=0.015, ha="left", size=12)
    _legend(figure, figure.axes[0])
    return figure


def _hold_objectives(axes: Any, trials: Sequence[Trial]) -> None:
    """Limits for the objectives of trials, with a margin below for those that have none."""
    low, high = _span(_percents(trials))
    axes.set_ylim(low - 0.16 * (high - low), high + 0.1 * (high - low))


def _mark_trials(axes: Any, content: dict[str, Any], place: Callable[[Trial], float]) -> None:
    """Complete trials as dots (on the lower end where they lie below it), the others in the margin at the bottom."""
    trials = finished(content)
    low, _ = _span(_percents(trials))

    def mark(some: Sequence[Trial], label: str, style: dict[str, Any], height: float | None = None) -> None:
        heights = [max(percent, low) for percent in _percents(some)] if height is None else [height] * len(some)
        where = {} if height is None else {"transform": axes.get_xaxis_transform()}
        if some:
            axes.plot([place(trial) for trial in some], heights, linestyle="none", label=label, **style, **where)

    for number, name, style in ((content["best"], "the best", _STAR), (content["default"], RECIPE, _DIAMOND)):
        some = _those(trials, number)
        mark(some, f"{name} ({page.percent(value(some[0]))})" if some else "", style)
    below = [trial for trial in trials if 100 * value(trial) < low]
    mark([trial for trial in trials if trial not in below], "complete", _DOT)
    mark(below, f"complete, below {low:.1f}", _DOT | {"marker": "v"})
    mark([trial for trial in content["trials"] if trial["state"] == PRUNED], "stopped early", _CROSS, _MARGIN)
    mark([trial for trial in content["trials"] if trial["state"] == FAILED], "failed", _PLUS, _MARGIN)


def _percents(trials: Sequence[Trial]) -> list[float]:
    return [100 * value(trial) for trial in trials]


def _span(percents: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: the highest, and the lowest that is not far below most."""
    low, high = lowest_ordinary(percents), max(percents)
    return (low, high) if high - low > 0.1 else (low - 0.5, high + 0.5)


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)


def _those(trials: Sequence[Trial], number: int | None) -> list[Trial]:
    return [trial for trial in trials if trial["number"] == number]


def _curve(trial: Trial) -> list[tuple[int, float]]:
    """Epochs and percents, without those of EmoVCLIP's phase."""
    return [(epoch, 100 * objective) for epoch, objective in trial["history"] if reached(objective)]


def _beside(axes: Any, x: float, y: float, text: str, side: str) -> None:
    axes.text(x, y, text, ha=side, va="center", size=9, color=INK, zorder=6, path_effects=_HALO)


def _in_lines(objective: str, letters: int) -> str:
    return textwrap.fill(f"{objective}, percent", letters)


def _legend(figure: Figure, axes: Any) -> None:
    """Each name once."""
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if named:
        rows = math.ceil(sum(len(name) + 6 for name in named) / (13 * figure.get_figwidth()))
        figure.legend(named.values(), named.keys(), ncols=math.ceil(len(named) / rows), **_LEGEND)
