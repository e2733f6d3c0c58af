"""What became of unlabelled clips, drawn: tables for the terminal, pictures, and one self-contained page.

A `report` is a plain dict, as `report.json` of pseudo-labels holds it:

    round, policy, labels, notes
    clips, accepted, broken_media    numbers of clips
    reasons       {why not: clips}
    thresholds    {label: that of its class}
    classes       {"labelled", "predicted", "accepted": {label: clips}}; labelled ones are those trained on
    drift         {label: "starved", "floods" or None}
    calibration   for each teacher, and where there are several for their mean: {"checkpoint", "temperature" (not of the
                  mean), "n", "ece", "nll", "reliability"}, these three {"before", "after"}, and reliability of each
                  {"edges", "count", "confidence", "accuracy"}; the last of the list is drawn
    confidence    {"edges", "accepted", "refused"}: clips by calibrated confidence

Rates are in [0, 1] there and shown in percent; None is what could not be measured.
"""

from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from emo_ray.reports import page
from emo_ray.reports.page import CHANCE, FAINT, INK

_COLOURS = {"labelled": "#999999", "predicted": "#A3D0EC", "accepted": "#0072B2"}
_SHADES = {"starved": "starved", "floods": "floods"}  # CSS classes of cells
_CLASS_HEADER = ("class", "labelled", "share", "predicted", "share", "accepted", "share", "threshold", "drift")
_FIT_HEADER = ("teacher", "clips", "temperature", "ECE before", "ECE after", "NLL before", "NLL after")
_LONGEST_LABEL = 20  # characters on an axis; the page has the whole
_CSS = "td.starved, td.floods { color: #D55E00; font-weight: 600; }\n"


def tables(report: dict[str, Any]) -> list[Table]:
    """Classes, what kept clips out, and calibration, for the terminal."""
    title = f"{report['accepted']} of {report['clips']} unlabelled clips accepted (round {report['round']})"
    drawn = [
        _table(title, _CLASS_HEADER, _class_rows(report)),
        _table("Calibration on validation clips", _FIT_HEADER, _fit_rows(report)),
    ]
    if report["reasons"]:
        drawn.insert(1, _table("What kept the others out", ("reason", "clips"), _reason_rows(report)))
    return drawn


def write_pictures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `reliability.png`, `classes.png` and `confidence.png` into a folder, and return their paths."""
    figures = {"reliability": _reliability(report), "classes": _classes(report), "confidence": _confidence(report)}
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(page.png(figure))
    return paths


def write_html(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.html`, and the pictures that it holds a copy of."""
    reliability, classes, confidence = (path.read_bytes() for path in write_pictures(report, folder))
    body = [
        f"<h1>Pseudo-labels, round {report['round']}</h1>",
        f"<p class='summary'>{escape(_summary(report))}</p>",
        "<h2>Classes</h2>",
        page.html_table(_CLASS_HEADER, _class_rows(report), _SHADES),
        page.picture(classes, "Bars: the share of each class among labelled, predicted and accepted clips."),
        "<h2>What kept the others out</h2>",
        page.html_table(("reason", "clips"), _reason_rows(report)),
        page.picture(confidence, "Histogram of calibrated confidence: accepted and refused clips."),
        "<h2>Calibration</h2>",
        page.html_table(_FIT_HEADER, _fit_rows(report)),
        page.picture(reliability, "Reliability diagrams before and after temperature scaling."),
        *page.notes(report["notes"]),
        "<footer>rates in percent · ECE: expected calibration error over 15 bins of confidence · NLL: mean negative "
        "log-likelihood in nats · share: of the clips in the column before</footer>",
    ]
    path = folder / "report.html"
    path.write_text(page.document("Pseudo-labels", body, _CSS), encoding="utf-8")
    return path


def _table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    drawn = Table(title=Text(title), box=box.SIMPLE_HEAD)
    for name in header:
        drawn.add_column(name, justify="left" if name == header[0] else "right")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row), style="bold red" if row[-1] in _SHADES else None)  # no markup
    return drawn


def _class_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for label in report["labels"]:
        cells = [(str(own[label]), page.percent(_share(own, label))) for own in report["classes"].values()]
        verdict = report["drift"][label] or ""
        rows.append((label, *(text for pair in cells for text in pair), _rate(report["thresholds"][label]), verdict))
    return rows


def _reason_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(reason, str(clips)) for reason, clips in report["reasons"].items()]


def _fit_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for own in report["calibration"]:
        temperature = f"{own['temperature']:.2f}" if "temperature" in own else ""
        ece = [page.percent(own["ece"][when]) for when in ("before", "after")]
        nll = [_rate(own["nll"][when]) for when in ("before", "after")]
        rows.append((own["checkpoint"], str(own["n"]), temperature, *ece, *nll))
    return rows


def _summary(report: dict[str, Any]) -> str:
    share = page.percent(report["accepted"] / max(report["clips"], 1))
    error = report["calibration"][-1]["ece"]
    sure = "The teacher's confidence could not be calibrated."
    if error["after"] is not None:
        change = f"from {page.percent(error['before'])} to {page.percent(error['after'])} %"
        sure = f"Calibration took the expected error of confidence {change}."
    broken = f" {report['broken_media']} clips have broken media." if report["broken_media"] else ""
    return (
        f"{report['accepted']} of {report['clips']} unlabelled clips ({share} %) have a label that may be trained on, "
        f"by the policy “{report['policy']}”. {sure}{broken}"
    )


def _reliability(report: dict[str, Any]) -> Figure:
    """Two diagrams: how often clips of a confidence are right, before and after."""
    shown = report["calibration"][-1]
    figure = page.figure(8, 4.3)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, when in zip(panels, ("before", "after"), strict=True):
        bins, error = shown["reliability"][when], shown["ece"][when]
        width = bins["edges"][1] - bins["edges"][0]
        for left, count, accuracy in zip(bins["edges"], bins["count"], bins["accuracy"], strict=False):
            if count:
                axes.bar(100 * (left + width / 2), 100 * accuracy, 94 * width, color=_COLOURS["accepted"])
                axes.annotate(
                    str(count), (100 * (left + width / 2), 100 * accuracy), xytext=(0, 3),
                    textcoords="offset points", ha="center", size=8, color=FAINT, zorder=5,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # over the diagonal
                )  # fmt: skip
        axes.plot([0, 100], [0, 100], color=CHANCE, linestyle="--", linewidth=1.6)
        axes.set_title(f"{when}: ECE {page.percent(error)} %" if error is not None else f"{when}: no clips", loc="left")
        axes.set_xlabel("confidence, percent")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 108)
        page.ruled(axes, "y")
    panels[0].set_ylabel("right, percent\n(over bars: clips)")
    figure.suptitle(f"How often {shown['checkpoint']} is right", x=0.015, ha="left", size=12)
    return figure


def _classes(report: dict[str, Any]) -> Figure:
    labels, counts = report["labels"], report["classes"]
    figure = page.figure(8, 1.6 + 0.62 * len(labels))
    axes = figure.add_subplot()
    for i, (name, own) in enumerate(counts.items()):
        shares = [100 * (_share(own, label) or 0.0) for label in labels]
        places = [row + 0.26 * (i - 1) for row in range(len(labels))]
        text = f"{name} ({sum(own.values())} clips)"
        axes.barh(places, shares, 0.24, color=_COLOURS[name], label=text)
    for row, label in enumerate(labels):
        if what := report["drift"][label]:
            end = 100 * max(_share(own, label) or 0.0 for own in counts.values())
            axes.annotate(
                what, (end, row), xytext=(6, 0), textcoords="offset points", va="center", color=CHANCE, weight="bold"
            )
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first on top
    axes.set_xlabel("share, percent")
    axes.margins(x=0.1)
    page.ruled(axes, "x")
    axes.set_title("Classes of labelled, predicted and accepted clips", loc="left", pad=12)
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=9.5)
    return figure


def _confidence(report: dict[str, Any]) -> Figure:
    own = report["confidence"]
    edges = [100 * edge for edge in own["edges"]]
    middles = [(left + right) / 2 for left, right in pairwise(edges)]
    width = 0.94 * (edges[1] - edges[0])
    figure = page.figure(8, 3.9)
    axes = figure.add_subplot()
    axes.bar(middles, own["accepted"], width, color=_COLOURS["accepted"], label="accepted")
    axes.bar(middles, own["refused"], width, own["accepted"], color=_COLOURS["predicted"], label="refused")
    axes.set_xlim(0, 100)
    axes.set_xlabel("calibrated confidence, percent")
    axes.set_ylabel("clips", color=INK)
    page.ruled(axes, "y")
    axes.set_title("How sure the teacher is of unlabelled clips", loc="left", pad=12)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9.5)
    return figure


def _share(counts: dict[str, int], label: str) -> float | None:
    total = sum(counts.values())
    return counts[label] / total if total else None


def _rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
