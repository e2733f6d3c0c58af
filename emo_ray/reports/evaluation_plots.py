"""The pictures of an evaluation: scores with their intervals, confusion, epochs, classes, and people."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from emo_ray.reports.figures import (
    BLUE,
    CHANCE,
    FAINT,
    INK,
    LIGHT_BLUE,
    ORANGE,
    PALE_BLUE,
    empty_figure,
    name_rows,
    name_x_ticks,
    style_axes,
    title_axes,
)
from emo_ray.reports.scorecard import EvaluationReport
from emo_ray.reports.wording import NOTHING, SUBSET_NAMES, plural, shorten

_BLUES = (PALE_BLUE, LIGHT_BLUE, BLUE)  # bars of one, two, three modalities: told apart by lightness alone
_SPLITS = {"train": PALE_BLUE, "validation": ORANGE, "test": BLUE}
_PHASES = {"emovclip": "EmoVCLIP", "fusion": "fusion head"}
_NAMED_SPEAKERS = 30  # more are dots without names


def subset_bars(report: EvaluationReport) -> Figure:
    """Weighted F1 of each subset of the modalities, with its interval, beside chance."""
    figure = empty_figure(8, 4.8)
    axes = figure.add_subplot()
    even, majority = 100 * report["chance"]["uniform_accuracy"], 100 * report["chance"]["majority_waf"]
    names = []
    for position, (subset, name) in enumerate(SUBSET_NAMES.items()):
        scores = report["subsets"].get(subset)
        names.append(name if scores is None else f"{name}  (n = {scores['n']:.0f})")
        if scores is None:
            axes.text(max(even, majority) + 1.5, position, NOTHING, va="center", color=FAINT, style="italic")
            continue
        waf = 100 * scores["waf"]
        low, high = (100 * end for end in report["intervals"][subset]["waf"])
        axes.barh(position, waf, height=0.66, color=_BLUES[len(subset) - 1])
        # A percentile interval may lie beside the value itself, where few clips are drawn.
        reach = [[max(waf - low, 0)], [max(high - waf, 0)]]
        axes.errorbar(waf, position, xerr=reach, color=INK, capsize=3, linewidth=1.2)
        axes.text(max(waf, high) + 1.5, position, f"{waf:.1f}", va="center", color=INK)
    # Guessing evenly has about its accuracy as WAF; naming the most frequent class has far less.
    for rate, line, name in ((even, "--", "guessing evenly"), (majority, ":", "always the most frequent class")):
        axes.axvline(rate, linestyle=line, label=f"{name}: {rate:.1f}", color=CHANCE, linewidth=1.6)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9.5)
    name_rows(axes, names)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("weighted F1 (WAF), percent; whiskers: 95 % interval")
    style_axes(axes, "x")
    title_axes(axes, "What each subset of the modalities is worth")
    return figure


def confusion_matrix(report: EvaluationReport) -> Figure:
    """Clips by true and predicted class, with whatever each clip has."""
    labels = [shorten(label) for label in report["labels"]]
    side_in = max(2.6, 0.62 * len(labels))
    figure = empty_figure(side_in + 2.4, side_in + 1.6)
    axes = figure.add_subplot()
    image = _matrix(axes, report["confusion"], labels, 9.5)
    axes.set(xlabel="predicted", ylabel="true")
    title_axes(axes, "Clips by true and predicted class")
    _share_bar(figure, image, axes)
    return figure


def confusions_alone(report: EvaluationReport) -> Figure:
    """Clips by true and predicted class, for each modality alone."""
    labels = [shorten(label, 12) for label in report["labels"]]
    matrices = report["confusions"]
    side_in = min(max(2.1, 0.4 * len(labels)), 3.5)
    figure = empty_figure(len(matrices) * side_in + 2.6, side_in + 1.8)
    panels = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    for axes, (subset, counts) in zip(panels, matrices.items(), strict=True):
        image = _matrix(axes, counts, labels, 7.5)
        axes.set_xlabel("predicted")
        title_axes(axes, f"{SUBSET_NAMES[subset]} alone", pad_pt=8)
    panels[0].set_ylabel("true")
    _share_bar(figure, image, panels)
    return figure


def learning_curves(report: EvaluationReport) -> Figure:
    """Loss and scores of every epoch of each phase of training."""
    histories = {phase: rows for phase, rows in report.get("histories", {}).items() if rows}
    figure = empty_figure(8, 0.6 + 3.0 * len(histories))
    grid = figure.subplots(len(histories), 2, squeeze=False)
    for panels, (phase, rows) in zip(grid, histories.items(), strict=True):
        epochs = [1 + row["epoch"] for row in rows]
        for key, name, colour in (("train_loss", "training clips", LIGHT_BLUE), ("val_loss", "validation clips", BLUE)):
            if all(key in row for row in rows):
                panels[0].plot(epochs, [row[key] for row in rows], marker="o", markersize=3, color=colour, label=name)
        for key, name, colour in (("val_waf", "WAF", BLUE), ("val_uar", "UAR", ORANGE)):
            if all(key in row for row in rows):
                values = [100 * row[key] for row in rows]
                panels[1].plot(epochs, values, marker="o", markersize=3, color=colour, label=name)
        panels[0].set_title(f"{_PHASES[phase]}: loss", loc="left", pad=8)
        panels[1].set_title(f"{_PHASES[phase]}: validation, percent", loc="left", pad=8)
        for axes in panels:
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.margins(y=0.12)
            style_axes(axes, "y")
            if axes.get_lines():
                axes.legend(frameon=False, fontsize=9)
            else:
                axes.text(0.5, 0.5, "no validation clips", transform=axes.transAxes, ha="center", color=FAINT)
    return figure


def class_balance(report: EvaluationReport) -> Figure:
    """The share of each class in every split."""
    labels, balance = report["labels"], report["balance"]
    figure = empty_figure(8, 1.6 + 0.6 * len(labels))
    axes = figure.add_subplot()
    height = 0.8 / len(balance)
    for number, (split, counts) in enumerate(balance.items()):
        total = sum(counts.values())
        shares = [100 * counts[label] / total for label in labels]
        places = [row + height * (number - (len(balance) - 1) / 2) for row in range(len(labels))]
        axes.barh(places, shares, 0.9 * height, color=_SPLITS[split], label=f"{split} ({plural(total, 'clip')})")
        for place, share, label in zip(places, shares, labels, strict=True):
            axes.text(share + 0.3, place, str(counts[label]), va="center", size=8, color=FAINT)
    name_rows(axes, [shorten(label) for label in labels])
    axes.set_xlabel("share of the split's labelled clips, percent (beside bars: clips)")
    style_axes(axes, "x")
    title_axes(axes, "Classes in every split")
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=9.5)
    return figure


def speaker_dots(report: EvaluationReport) -> Figure:
    """Weighted F1 of each speaker's clips, sorted."""
    speakers = sorted(report["speakers"].items(), key=lambda item: item[1]["waf"])
    figure = empty_figure(8, 4.2)
    axes = figure.add_subplot()
    sizes = [12 + 4 * scores["n"] ** 0.8 for _, scores in speakers]
    wafs = [100 * scores["waf"] for _, scores in speakers]
    axes.scatter(range(len(speakers)), wafs, np.minimum(sizes, 200), color=BLUE, alpha=0.75, linewidths=0)
    scores = report["available"]
    assert scores is not None, "speakers have clips that are measured"
    overall = 100 * scores["waf"]
    axes.axhline(overall, color=CHANCE, linestyle="--", linewidth=1.4, label=f"all clips: {overall:.1f}")
    if len(speakers) <= _NAMED_SPEAKERS:
        names = _without_common_start([name for name, _ in speakers])
        name_x_ticks(axes, range(len(speakers)), [shorten(name, 14) for name in names], turned=True)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(speakers)} speakers, from the hardest to the easiest")
    axes.set_ylim(-3, 106)
    axes.set_ylabel("WAF, percent")
    style_axes(axes, "y")
    title_axes(axes, "How well the model does for each speaker (larger dots: more clips)")
    figure.legend(loc="outside lower right", frameon=False, fontsize=9.5)
    return figure


def _without_common_start(names: Sequence[str]) -> list[str]:
    """The names without the letters that all of them begin with, where these are many: "…07" of "speaker-07"."""
    differing = (place for place, letters in enumerate(zip(*names, strict=False)) if len(set(letters)) > 1)
    start = next(differing, 0)
    return [f"…{name[start:]}" if start > 4 else name for name in names]


def _matrix(axes: Axes, counts: Sequence[Sequence[int]], labels: list[str], size_pt: float) -> AxesImage:
    """Counts in cells whose colour is the share of their row."""
    counts_KK = np.asarray(counts, dtype=float)
    rows_K1 = counts_KK.sum(axis=1, keepdims=True)
    shares_KK = np.divide(counts_KK, rows_K1, out=np.zeros_like(counts_KK), where=rows_K1 > 0)
    image = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares_KK):
        ink = "white" if share > 0.55 else (INK if counts_KK[row, column] else FAINT)
        axes.text(column, row, f"{counts_KK[row, column]:.0f}", ha="center", va="center", color=ink, size=size_pt)
    for text in axes.texts:
        text.set_in_layout(False)  # they are inside the axes, and many
    name_x_ticks(axes, range(len(labels)), labels, turned=len(labels) > 4 or max(map(len, labels)) > 9)
    axes.set_yticks(range(len(labels)), labels)
    edges = [column + 0.5 for column in range(len(labels) - 1)]
    for lines in (axes.hlines, axes.vlines):  # a grid of minor ticks would be as many artists as lines, five times
        lines(edges, -0.5, len(labels) - 0.5, color="white", linewidth=1.5)
    axes.tick_params(length=0, bottom=False, left=False)
    axes.spines[:].set_visible(False)
    return image


def _share_bar(figure: Figure, image: AxesImage, panels: Axes | Sequence[Axes]) -> None:
    """The scale of the colours beside the panels."""
    bar = figure.colorbar(image, ax=panels, shrink=0.8, aspect=28, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
