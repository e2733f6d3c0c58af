"""What became of unlabelled clips: which were accepted as pseudo-labels, and how far confidence can be trusted."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NotRequired, TypedDict

from matplotlib.figure import Figure

from emo_ray.reports import page
from emo_ray.reports.figures import (
    BLUE,
    CHANCE,
    INK,
    PALE_BLUE,
    empty_figure,
    label_point,
    name_rows,
    style_axes,
    title_axes,
)
from emo_ray.reports.page import Page, Picture
from emo_ray.reports.reliability import reliability_diagrams
from emo_ray.reports.scorecard import WHEN, CalibrationChange
from emo_ray.reports.table import Cell, Table
from emo_ray.reports.wording import DASH, percent, plural, shorten

PAGE = "report.html"
_COLOURS = {"labelled": "#999999", "predicted": PALE_BLUE, "accepted": BLUE}


class Calibration(CalibrationChange):
    """How well a teacher's confidence matches how often it is right, on n labelled validation clips."""

    checkpoint: str
    temperature: NotRequired[float]  # the mean of several teachers has none


class ConfidenceHistogram(TypedDict):
    """Clips by calibrated confidence."""

    edges: list[float]
    accepted: list[int]
    refused: list[int]


class PseudoLabelReport(TypedDict):
    """The content of report.json of pseudo-labels. Rates are in [0, 1]; None is what could not be measured."""

    round: int
    policy: str
    labels: list[str]
    clips: int
    accepted: int
    broken_media: int
    reasons: dict[str, int]  # why clips were refused
    thresholds: dict[str, float]  # by label
    classes: dict[str, dict[str, int]]  # "labelled" (those trained on), "predicted", "accepted": clips by label
    drift: dict[str, str | None]  # by label: "starved", "floods" or None
    calibration: list[Calibration]  # one for each teacher; of several also one for their mean, which comes last
    confidence: ConfidenceHistogram
    notes: list[str]


def tables(report: PseudoLabelReport) -> list[Table]:
    """Classes, what kept clips out, and calibration."""
    title = f"{report['accepted']} of {plural(report['clips'], 'unlabelled clip')} accepted (round {report['round']})"
    reasons = [[reason, str(clips)] for reason, clips in report["reasons"].items()]
    return [
        Table(title, _class_header(report), [_class_row(report, label) for label in report["labels"]]),
        *([Table("What kept the others out", ["reason", "clips"], reasons)] if reasons else []),
        _calibration_table(report),
    ]


def write(report: PseudoLabelReport, folder: Path) -> Path:
    """Write `report.html`, `classes.png`, `confidence.png` and `reliability.png`; the path of the page."""
    classes, *reasons, calibration = tables(report)
    last = report["calibration"][-1]
    shown = Page(
        title=f"Pseudo-labels, round {report['round']}",
        summary=_summary(report),
        blocks=[
            classes,
            Picture("classes", _class_bars(report), "Bars: shares of classes of labelled, predicted, accepted clips."),
            *reasons,
            Picture("confidence", _confidence(report), "Histogram of confidence: accepted and refused clips."),
            calibration,
            Picture(
                "reliability",
                reliability_diagrams(last, last["checkpoint"]),
                "Reliability diagrams before and after temperature scaling.",
            ),
        ],
        notes=report["notes"],
        footer="rates in percent · ECE: expected calibration error over 15 bins of confidence · NLL: mean negative "
        "log-likelihood in nats · share: of the clips in the column before",
    )
    return page.write(shown, folder / PAGE)


def _class_header(report: PseudoLabelReport) -> list[str]:
    groups = [name for group in report["classes"] for name in (group, "share")]
    return ["class", *groups, "threshold", "drift"]


def _class_row(report: PseudoLabelReport, label: str) -> list[str | Cell]:
    cells = [(str(counts[label]), percent(_share(counts, label))) for counts in report["classes"].values()]
    drift = report["drift"][label]
    return [
        label,
        *(text for pair in cells for text in pair),
        _decimal(report["thresholds"][label]),
        Cell(drift, "warning") if drift else "",
    ]


def _calibration_table(report: PseudoLabelReport) -> Table:
    rows = [
        [
            fit["checkpoint"],
            str(fit["n"]),
            f"{fit['temperature']:.2f}" if "temperature" in fit else "",
            *(percent(fit["ece"][when]) for when in WHEN),
            *(_decimal(fit["nll"][when]) for when in WHEN),
        ]
        for fit in report["calibration"]
    ]
    header = ["teacher", "clips", "temperature", "ECE before", "ECE after", "NLL before", "NLL after"]
    return Table("Calibration on validation clips", header, rows)


def _summary(report: PseudoLabelReport) -> str:
    share = percent(report["accepted"] / max(report["clips"], 1))
    error = report["calibration"][-1]["ece"]
    calibrated = "The teacher's confidence could not be calibrated."
    if error["after"] is not None:
        change = f"from {percent(error['before'])} to {percent(error['after'])} %"
        calibrated = f"Calibration took the expected error of confidence {change}."
    broken = f" Clips with broken media: {report['broken_media']}." if report["broken_media"] else ""
    return (
        f"{report['accepted']} of {plural(report['clips'], 'unlabelled clip')} ({share} %) have a label that may be "
        f"trained on, by the policy “{report['policy']}”. {calibrated}{broken}"
    )


def _class_bars(report: PseudoLabelReport) -> Figure:
    labels = report["labels"]
    figure = empty_figure(8, 1.6 + 0.62 * len(labels))
    axes = figure.add_subplot()
    longest = dict.fromkeys(labels, 0.0)
    for number, (group, counts) in enumerate(report["classes"].items()):
        shares = [100 * (_share(counts, label) or 0.0) for label in labels]
        places = [row + 0.26 * (number - 1) for row in range(len(labels))]
        name = f"{group} ({plural(sum(counts.values()), 'clip')})"
        axes.barh(places, shares, 0.24, color=_COLOURS[group], label=name)
        longest = {label: max(longest[label], share) for label, share in zip(labels, shares, strict=True)}
    for row, label in enumerate(labels):
        if drift := report["drift"][label]:
            label_point(axes, longest[label], row, drift, right_pt=6, color=CHANCE, weight="bold")
    name_rows(axes, [shorten(label) for label in labels])
    axes.set_xlabel("share, percent")
    axes.margins(x=0.1)
    style_axes(axes, "x")
    title_axes(axes, "Classes of labelled, predicted and accepted clips")
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _confidence(report: PseudoLabelReport) -> Figure:
    histogram = report["confidence"]
    edges = [100 * edge for edge in histogram["edges"]]
    middles = [(left + right) / 2 for left, right in pairwise(edges)]
    width = 0.94 * (edges[1] - edges[0])
    figure = empty_figure(8, 3.9)
    axes = figure.add_subplot()
    axes.bar(middles, histogram["accepted"], width, color=BLUE, label="accepted")
    axes.bar(middles, histogram["refused"], width, histogram["accepted"], color=PALE_BLUE, label="refused")
    axes.set_xlim(0, 100)
    axes.set_xlabel("calibrated confidence, percent")
    axes.set_ylabel("clips", color=INK)
    style_axes(axes, "y")
    axes.set_title("How sure the teacher is of unlabelled clips", loc="left", pad=12)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9.5)
    return figure


def _share(counts: Mapping[str, int], label: str) -> float | None:
    total = sum(counts.values())
    return counts[label] / total if total else None


def _decimal(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"
