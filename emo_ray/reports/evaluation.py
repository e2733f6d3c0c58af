"""What evaluation and cross-validation measured: tables, pictures, and one page."""

import math
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emo_ray.reports import page
from emo_ray.reports.figures import (
    BLUE,
    CHANCE,
    FAINT,
    INK,
    LIGHT_BLUE,
    PALE_BLUE,
    empty_figure,
    name_x_ticks,
    style_axes,
)
from emo_ray.reports.floors import FloorScores
from emo_ray.reports.floors import table as floor_table
from emo_ray.reports.page import Page, Picture
from emo_ray.reports.table import Cell, Table
from emo_ray.reports.wording import AVAILABLE, DASH, SCORES, SUBSET_NAMES, percent, plural, shorten

PAGE = "report.html"
FOLD_SCORES = ("waf", "accuracy", "uar")  # shown fold by fold
_NOTHING = "no clips"
_BLUES = (PALE_BLUE, LIGHT_BLUE, BLUE)  # bars of one, two, three modalities: told apart by lightness alone

# "waf", "accuracy", "uar", "macro_f1" in [0, 1]; "n": clips; "classes": that occur, and UAR and macro F1 are means over
Scores = dict[str, float]


class SubsetScores(TypedDict):
    """Scores by what is shown to the model."""

    subsets: dict[str, Scores | None]  # of "V", "A", "T", "VA", ...; None: no clip has these modalities
    available: Scores | None  # with whatever modalities each clip has


class FoldScores(SubsetScores):
    """Scores of the clips of one fold."""

    n_clips: int
    speakers: list[str]
    name: NotRequired[str]  # of a fold that the corpus brings along; others have numbers alone


class EvaluationReport(SubsetScores):
    """The content of report.json. Rates are in [0, 1]; those of a cross-validation are of all folds' clips together."""

    per_class_f1: dict[str, float]
    per_class_n: dict[str, int]
    confusion: list[list[int]]  # rows: truth, columns: prediction, both in the order of `labels`
    split: str
    labels: list[str]
    chance: dict[str, float]  # what guessing reaches: "uniform_accuracy", "majority_accuracy", "majority_waf"
    n_clips: int
    notes: list[str]
    checkpoint: NotRequired[str]  # the name of the evaluated checkpoint
    folds: NotRequired[list[FoldScores]]  # in place of `checkpoint`
    floors: NotRequired[dict[str, FloorScores]]  # of subsets


def tables(report: EvaluationReport) -> list[Table]:
    """Scores by modalities, floors, by class, the confusion counts on demand, for a cross-validation scores by fold."""
    floors = [floor_table(report["floors"])] if report.get("floors") else []
    return [_score_table(report), *floors, _class_table(report), _confusion_table(report), *_fold_tables(report)]


def write(report: EvaluationReport, folder: Path) -> Path:
    """Write `report.html`, `subsets.png` and `confusion.png`; the path of the page."""
    scores, *others = tables(report)
    floors = others[:1] if report.get("floors") else []
    classes, counts, *folds = others[len(floors) :]
    about_bars = "Bars: weighted F1 for each subset of the modalities, with one standard error."
    about_matrix = "Confusion matrix: truth in rows, prediction in columns, colour by share of the row."
    shown = Page(
        title=f"Emotion recognition on {_where(report)}",
        summary=_summary(report),
        blocks=[
            scores,
            Picture("subsets", _subset_bars(report), about_bars),
            *floors,
            classes,
            Picture("confusion", _confusion_matrix(report), about_matrix),
            counts,
            *folds,
        ],
        notes=report["notes"],
        footer=f"{_model(report)} · rates in percent · "
        "WAF: F1 weighted by class size · UAR: mean recall of the classes that occur · macro F1: mean F1 of these",
    )
    return page.write(shown, folder / PAGE)


def _score_table(report: EvaluationReport) -> Table:
    rows = [(name, report["subsets"].get(subset)) for subset, name in SUBSET_NAMES.items()]
    rows.append((AVAILABLE, report["available"]))
    return Table(
        title=f"{plural(report['n_clips'], 'clip')} of {_where(report)}",
        header=["modalities", *SCORES.values(), "clips", "classes"],
        rows=[[name, *_score_cells(scores, len(report["labels"]))] for name, scores in rows],
        note=_chance_sentence(report),
        emphasised=(len(rows) - 1,),
    )


def _score_cells(scores: Scores | None, classes: int) -> list[str]:
    if scores is None:
        return [_NOTHING, *[""] * (len(SCORES) + 1)]
    return [*(percent(scores[name]) for name in SCORES), f"{scores['n']:.0f}", _class_count(scores, classes)]


def _class_count(scores: Scores, classes: int) -> str:
    """The number of classes that UAR and macro F1 are means over, and where they are not all, of how many."""
    count = f"{scores['classes']:.0f}"
    return count if scores["classes"] == classes else f"{count} of {classes}"


def _class_table(report: EvaluationReport) -> Table:
    f1, clips = report["per_class_f1"], report["per_class_n"]
    shown = {label: rate for label, rate in f1.items() if clips.get(label)}  # without clips there is nothing to recall
    rows = [[label, percent(shown.get(label)), str(clips.get(label, 0))] for label in report["labels"]]
    return Table("Classes", ["class", "F1", "clips"], rows)


def _confusion_table(report: EvaluationReport) -> Table:
    pairs = zip(report["labels"], report["confusion"], strict=True)
    rows = [[label, *map(str, counts)] for label, counts in pairs]
    title = "Clips by true and predicted class"
    return Table(title, ["truth \\ prediction", *report["labels"]], rows, visible_rows=0)


def _fold_tables(report: EvaluationReport) -> list[Table]:
    """A table for each rate, of the subsets that any clip has: in each fold, over folds, on all clips together."""
    if "folds" not in report:
        return []
    folds = [_by_name(fold) for fold in report["folds"]]
    names = [
        f"{fold.get('name', number)} ({plural(fold['n_clips'], 'clip')})"
        for number, fold in enumerate(report["folds"], start=1)
    ]
    fold_tables = []
    for score in FOLD_SCORES:
        rows: list[list[str | Cell]] = []
        for name, pooled in _by_name(report).items():
            if pooled is None:
                continue
            rates = [None if (scores := fold[name]) is None else scores[score] for fold in folds]
            measured = [rate for rate in rates if rate is not None]
            spread = f"{percent(float(np.mean(measured)))} ± {percent(float(np.std(measured)))}" if measured else DASH
            rows.append([name, *map(percent, rates), spread, percent(pooled[score])])
        header = ["modalities", *names, "mean ± deviation", "all clips"]
        note = _fold_classes(report) if score == "uar" else ""
        fold_tables.append(Table(f"{SCORES[score]} fold by fold", header, rows, note))
    return fold_tables


def _fold_classes(report: EvaluationReport) -> str:
    """A sentence on the classes that UAR is a mean over."""
    classes = len(report["labels"])
    counts = {number: fold["available"] for number, fold in enumerate(report["folds"], start=1)}
    fewer = [f"{_class_count(n, classes)} in fold {i}" for i, n in counts.items() if n and n["classes"] != classes]
    return f"UAR is the mean over the classes that a fold tests: {', '.join(fewer) or f'all {classes} in each'}."


def _by_name(measured: SubsetScores) -> dict[str, Scores | None]:
    """Scores by the words for what was shown."""
    subsets = {name: measured["subsets"].get(subset) for subset, name in SUBSET_NAMES.items()}
    return subsets | {AVAILABLE: measured["available"]}


def _where(report: EvaluationReport) -> str:
    if "folds" in report:
        return f"{len(report['folds'])} folds"
    return "all splits" if report["split"] == "all" else f"the {report['split']} split"


def _model(report: EvaluationReport) -> str:
    if "folds" in report:
        return "cross-validation: each clip by heads that were trained on the other folds"
    return f"checkpoint {report['checkpoint']}"


def _summary(report: EvaluationReport) -> str:
    clips = f"{plural(report['n_clips'], 'clip')} of {_where(report)}, {len(report['labels'])} classes"
    scores = report["available"]
    if scores is None:
        return f"Nothing was measured on {clips}."
    if scores["n"] != report["n_clips"]:
        clips = f"{scores['n']:.0f} of the {clips}"
    return (
        f"With whatever each clip has, the model reaches {percent(scores['waf'])} % weighted F1 and "
        f"{percent(scores['accuracy'])} % accuracy on {clips}."
    )


def _chance_sentence(report: EvaluationReport) -> str:
    chance = report["chance"]
    return (
        f"Chance: guessing evenly is {percent(chance['uniform_accuracy'])} % accurate; always naming the most "
        f"frequent class gives {percent(chance['majority_accuracy'])} % accuracy and "
        f"{percent(chance['majority_waf'])} % WAF."
    )


def _confusion_matrix(report: EvaluationReport) -> Figure:
    counts_KK = np.asarray(report["confusion"], dtype=float)
    labels = [shorten(label) for label in report["labels"]]
    rows_K1 = counts_KK.sum(axis=1, keepdims=True)
    shares_KK = np.divide(counts_KK, rows_K1, out=np.zeros_like(counts_KK), where=rows_K1 > 0)
    side_in = max(2.6, 0.62 * len(labels))
    figure = empty_figure(side_in + 2.4, side_in + 1.6)
    axes = figure.add_subplot()
    image = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares_KK):
        ink = "white" if share > 0.55 else (INK if counts_KK[row, column] else FAINT)
        axes.text(column, row, f"{counts_KK[row, column]:.0f}", ha="center", va="center", color=ink, size=9.5)
    _class_ticks(axes, labels)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title("Clips by true and predicted class", loc="left", pad=12)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=28, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _class_ticks(axes: Axes, labels: list[str]) -> None:
    """A label for each row and column, and white lines between the cells."""
    name_x_ticks(axes, range(len(labels)), labels, turned=len(labels) > 4 or max(map(len, labels)) > 9)
    axes.set_yticks(range(len(labels)), labels)
    edges = [column + 0.5 for column in range(len(labels) - 1)]
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _subset_bars(report: EvaluationReport) -> Figure:
    figure = empty_figure(8, 4.8)
    axes = figure.add_subplot()
    even, majority = 100 * report["chance"]["uniform_accuracy"], 100 * report["chance"]["majority_waf"]
    names = []
    for position, (subset, name) in enumerate(SUBSET_NAMES.items()):
        scores = report["subsets"].get(subset)
        names.append(name if scores is None else f"{name}  (n = {scores['n']:.0f})")
        if scores is None:
            axes.text(max(even, majority) + 1.5, position, _NOTHING, va="center", color=FAINT, style="italic")
            continue
        waf, error = 100 * scores["waf"], 100 * _standard_error(scores["waf"], scores["n"])
        axes.barh(position, waf, height=0.66, color=_BLUES[len(subset) - 1])
        axes.errorbar(waf, position, xerr=error, color=INK, capsize=3, linewidth=1.2)
        axes.text(min(waf + error, 100) + 1.5, position, f"{waf:.1f}", va="center", color=INK)
    # Guessing evenly has about its accuracy as WAF; naming the most frequent class has far less.
    for rate, line, name in ((even, "--", "guessing evenly"), (majority, ":", "always the most frequent class")):
        axes.axvline(rate, linestyle=line, label=f"{name}: {rate:.1f}", color=CHANCE, linewidth=1.6)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9.5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("weighted F1 (WAF), percent; whiskers: ±1 standard error")
    style_axes(axes, "x")
    axes.set_title("What each subset of the modalities is worth", loc="left", pad=12)
    return figure


def _standard_error(rate: float, clips: float) -> float:
    """Standard error of a share of independent clips. F1 is not such a share, so this only guides the eye."""
    return math.sqrt(max(rate * (1 - rate), 0) / max(clips, 1))
