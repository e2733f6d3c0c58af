"""What evaluation and cross-validation measured: tables, and one page of verdict, tables and pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emo_ray.reports import page
from emo_ray.reports.floors import table as floor_table
from emo_ray.reports.page import Link, Page, Picture
from emo_ray.reports.scorecard import EvaluationReport, Interval, Scores, SubsetScores, verdict
from emo_ray.reports.table import Cell, Table
from emo_ray.reports.wording import AVAILABLE, DASH, NOTHING, SCORES, SUBSET_NAMES, percent, plural

PAGE = "report.html"
FOLD_SCORES = ("waf", "accuracy", "uar")  # shown fold by fold


def tables(report: EvaluationReport) -> list[Table]:
    """Scores by modalities, floors, by class, the confusion counts on demand, for a cross-validation scores by fold."""
    floors = [floor_table(report["floors"])] if report.get("floors") else []
    return [_score_table(report), *floors, _class_table(report), _confusion_table(report), *_fold_tables(report)]


def write(report: EvaluationReport, folder: Path, links: Sequence[Link] = ()) -> Path:
    """Write `report.html`, with links to other pages, and the pictures on it; the path of the page."""
    from emo_ray.reports import evaluation_plots  # with matplotlib, as below: processes of folds draw nothing

    scores, *others = tables(report)
    floors = others[:1] if report.get("floors") else []
    classes, counts, *folds = others[len(floors) :]
    drawn = f"{len(report['speakers'])} speakers" if report["drawn"] == "speakers" else "clips"
    bars = f"Weighted F1 (WAF) of each subset of the modalities, with its 95 % interval (bootstrap over {drawn})."
    matrix = "With whatever each clip has: truth in rows, prediction in columns, colour by share of the row."
    shown = Page(
        title=f"Emotion recognition on {_where(report)}",
        summary=_summary(report),
        paragraphs=verdict(report),
        blocks=[
            scores,
            _interval_table(report),
            Picture("subsets", evaluation_plots.subset_bars(report), bars),
            *floors,
            classes,
            Picture("confusion", evaluation_plots.confusion_matrix(report), matrix),
            counts,
            *_detail_pictures(report),
            *folds,
        ],
        notes=report["notes"],
        links=links,
        footer=f"{_model(report)} · rates in percent · "
        "WAF: F1 weighted by class size · UAR: mean recall of the classes that occur · macro F1: mean F1 of these",
    )
    return page.write(shown, folder / PAGE)


def _detail_pictures(report: EvaluationReport) -> list[Picture]:
    """Modalities alone, confidence, people, classes and epochs, as far as the report has them."""
    from emo_ray.reports import evaluation_plots
    from emo_ray.reports.reliability import reliability_diagrams

    pictures = []
    if report["confusions"]:
        caption = "Each modality alone, on the clips that have it: truth in rows, prediction in columns."
        pictures.append(Picture("confusions", evaluation_plots.confusions_alone(report), caption))
    if (fit := report["calibration"])["n"]:
        shown = reliability_diagrams(fit, "the model", ("before", "after") if fit["temperature"] else ("before",))
        pictures.append(Picture("reliability", shown, _calibration_caption(report)))
    if report["speakers"]:
        caption = "WAF on the clips of each speaker: how much a score depends on who speaks."
        pictures.append(Picture("speakers", evaluation_plots.speaker_dots(report), caption))
    if report["balance"]:
        caption = "The share of each class in every split: where splits differ, accuracy on one says less of the other."
        pictures.append(Picture("balance", evaluation_plots.class_balance(report), caption))
    if any(report.get("histories", {}).values()):
        caption = "Every epoch of training: the loss on training and validation clips, and the scores on validation."
        pictures.append(Picture("learning", evaluation_plots.learning_curves(report), caption))
    return pictures


def _calibration_caption(report: EvaluationReport) -> str:
    """What the reliability diagrams show, and where the temperature comes from."""
    fit = report["calibration"]
    bars = "Bars: how often clips are right whose highest probability lies in a bin; on the line, confidence is true."
    if fit["temperature"] is None:
        return f"{bars} The model has no temperature that calibrates it."
    return (
        f"{bars} The expected calibration error is {percent(fit['ece']['before'])} %, and "
        f"{percent(fit['ece']['after'])} % after scaling by temperature {fit['temperature']:.2f}, which was fitted on "
        f"{fit['fitted_on']}."
    )


def _score_table(report: EvaluationReport) -> Table:
    rows = [(name, subset, report["subsets"].get(subset)) for subset, name in SUBSET_NAMES.items()]
    rows.append((AVAILABLE, "available", report["available"]))
    over = f"{len(report['speakers'])} speakers" if report["drawn"] == "speakers" else "clips"
    return Table(
        title=f"{plural(report['n_clips'], 'clip')} of {_where(report)}",
        header=["modalities", *SCORES.values(), "clips", "classes"],
        rows=[
            [name, *_score_cells(scores, report["intervals"].get(subset, {}), len(report["labels"]))]
            for name, subset, scores in rows
        ],
        note=f"±: half of the 95 % interval (bootstrap over {over}). {_chance_sentence(report)}",
        emphasised=(len(rows) - 1,),
    )


def _score_cells(scores: Scores | None, intervals: dict[str, Interval], classes: int) -> list[str]:
    if scores is None:
        return [NOTHING, *[""] * (len(SCORES) + 1)]
    rates = [f"{percent(scores[name])}{_half_width(intervals.get(name))}" for name in SCORES]
    return [*rates, f"{scores['n']:.0f}", _class_count(scores, classes)]


def _half_width(interval: Interval | None) -> str:
    """Half of an interval as ±2.3; empty where there is none."""
    return f" ±{50 * (interval[1] - interval[0]):.1f}" if interval else ""


def _interval_table(report: EvaluationReport) -> Table:
    """The ends of all intervals, on demand."""
    names = SUBSET_NAMES | {"available": AVAILABLE}
    rows = [
        [names[subset], *(f"{percent(low)} to {percent(high)}" for low, high in (of[score] for score in SCORES))]
        for subset, of in report["intervals"].items()
    ]
    return Table("95 % intervals", ["modalities", *SCORES.values()], rows, visible_rows=0)


def _class_count(scores: Scores, classes: int) -> str:
    """The number of classes that UAR and macro F1 are means over, and where they are not all, of how many."""
    count = f"{scores['classes']:.0f}"
    return count if scores["classes"] == classes else f"{count} of {classes}"


def _class_table(report: EvaluationReport) -> Table:
    clips = report["per_class_n"]
    rates = [report["per_class_precision"], report["per_class_recall"], report["per_class_f1"]]
    rows = [
        # Without clips there is nothing to recall.
        [label, *(percent(rate[label] if clips.get(label) else None) for rate in rates), str(clips.get(label, 0))]
        for label in report["labels"]
    ]
    return Table("Classes", ["class", "precision", "recall", "F1", "clips"], rows)


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
    low, high = report["intervals"]["available"]["waf"]
    custom = f" ({words[0].upper()}{words[1:]}.)" if (words := report.get("convention")) else ""
    return (
        f"With whatever each clip has, the model reaches {percent(scores['waf'])} % weighted F1 (95 % interval: "
        f"{percent(low)} to {percent(high)}) and {percent(scores['accuracy'])} % accuracy on {clips}.{custom}"
    )


def _chance_sentence(report: EvaluationReport) -> str:
    chance = report["chance"]
    return (
        f"Chance: guessing evenly is {percent(chance['uniform_accuracy'])} % accurate; always naming the most "
        f"frequent class gives {percent(chance['majority_accuracy'])} % accuracy and "
        f"{percent(chance['majority_waf'])} % WAF."
    )
