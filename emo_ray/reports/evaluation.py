"""What evaluation measured, drawn: a table for the terminal, pictures, and one self-contained HTML page.

A `report` is a plain dict, as `report.json` holds it:

    subsets     {"V", "A", "T", "VA", "VT", "AT", "VAT": scores, or None where no clip has these modalities}
    available   scores with whatever modalities each clip has
    per_class_f1, per_class_n    {label: F1}, {label: clips}
    confusion   K rows (truth) of K counts (prediction), in the order of `labels`
    chance      {"uniform_accuracy": 1/K, "majority_accuracy", "majority_waf"}
    split, labels, checkpoint (digest), n_clips, notes (sentences)
    folds       instead of `checkpoint` in a cross-validation: for each {"n_clips", "speakers", "subsets", "available"}
                (the scores above are then those of all folds' clips together)

where scores are `{"waf", "accuracy", "uar", "macro_f1", "n"}`. All rates are in [0, 1] there and shown in percent.
"""

import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from emo_ray.reports import page
from emo_ray.reports.page import CHANCE, FAINT, INK

SUBSETS = {
    "V": "video",
    "A": "audio",
    "T": "text",
    "VA": "video + audio",
    "VT": "video + text",
    "AT": "audio + text",
    "VAT": "video + audio + text",
}
AVAILABLE = "whatever each clip has"
SCORES = {"waf": "WAF", "accuracy": "accuracy", "uar": "UAR", "macro_f1": "macro F1", "n": "clips"}
FOLD_SCORES = ("waf", "accuracy", "uar")  # shown fold by fold
_NOTHING = "no clips"
_BLUES = ("#A3D0EC", "#56A5D8", "#0072B2")  # one, two, three modalities: told apart by lightness alone
_LONGEST_LABEL = 20  # characters on an axis; the page has the whole


def tables(report: dict[str, Any]) -> list[Table]:
    """All of it for the terminal: `table`, and of a cross-validation a table over its folds for each rate."""
    drawn = [table(report)]
    for key in FOLD_SCORES if "folds" in report else ():
        drawn.append(Table(title=f"{SCORES[key]} fold by fold", box=box.SIMPLE_HEAD))
        for name in _fold_header(report):
            drawn[-1].add_column(name, justify="left" if name == "modalities" else "right")
        for row in _fold_rows(report, key):
            drawn[-1].add_row(*row)
    return drawn


def table(report: dict[str, Any]) -> Table:
    """The seven subsets and what each clip has, for the terminal."""
    drawn = Table(
        title=Text(f"{report['n_clips']} clips of {_where(report)}"),  # no markup
        caption=_chance_sentence(report),
        box=box.SIMPLE_HEAD,
    )
    drawn.add_column("modalities")
    for name in SCORES.values():
        drawn.add_column(name, justify="right")
    for name, scores in _score_rows(report):
        drawn.add_row(name, *_cells(scores), style="bold" if name == AVAILABLE else None)
    return drawn


def write_pictures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `confusion.png` and `subsets.png` into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in (("confusion", _confusion(report)), ("subsets", _subset_bars(report))):
        paths.append(folder / f"{name}.png")
        paths[-1].write_bytes(page.png(figure))
    return paths


def write_html(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.html`, and the pictures that it holds a copy of."""
    confusion, subsets = (path.read_bytes() for path in write_pictures(report, folder))
    title = f"Emotion recognition on {_where(report)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='summary'>{escape(_summary(report))}</p>",
        f"<p>{escape(_chance_sentence(report))}</p>",
        "<h2>With some of the modalities</h2>",
        page.html_table(["modalities", *SCORES.values()], [(n, *_cells(s)) for n, s in _score_rows(report)]),
        page.picture(subsets, "Bars: weighted F1 for each subset of the modalities, with one standard error."),
        "<h2>For each class</h2>",
        page.html_table(["class", "F1", "clips"], _class_rows(report)),
        page.picture(confusion, "Confusion matrix: truth in rows, prediction in columns, colour by share of the row."),
        "<details><summary>The same counts as a table</summary>",
        page.html_table(["truth \\ prediction", *report["labels"]], _confusion_rows(report)),
        "</details>",
        *_fold_tables(report),
        *page.notes(report["notes"]),
        f"<footer>{_model(report)} · rates in percent · "
        "WAF: F1 weighted by class size · UAR: mean recall of the classes</footer>",
    ]
    path = folder / "report.html"
    path.write_text(page.document(title, body), encoding="utf-8")
    return path


def _where(report: dict[str, Any]) -> str:
    return f"{len(report['folds'])} folds" if "folds" in report else f"the {report['split']} split"


def _model(report: dict[str, Any]) -> str:
    """In HTML."""
    if "folds" in report:
        return "cross-validation: each clip by heads that were trained on the other folds"
    return f"checkpoint <code>{escape(str(report['checkpoint']))}</code>"


def _fold_header(report: dict[str, Any]) -> list[str]:
    folds = [f"{i} ({fold['n_clips']} clips)" for i, fold in enumerate(report["folds"], start=1)]
    return ["modalities", *folds, "mean ± deviation", "all clips"]


def _fold_rows(report: dict[str, Any], key: str) -> list[list[str]]:
    """One rate of every subset that any clip has: in each fold, over folds, and on all their clips together."""
    names, rows = {**SUBSETS, "available": AVAILABLE}, []
    pooled = {**report["subsets"], "available": report["available"]}
    for subset, name in names.items():
        if pooled.get(subset) is None:
            continue
        each = [{**fold["subsets"], "available": fold["available"]}[subset] for fold in report["folds"]]
        rates = [scores[key] for scores in each if scores is not None]
        spread = f"{page.percent(np.mean(rates))} ± {page.percent(np.std(rates))}"
        cells = [page.percent(scores and scores[key]) for scores in each]
        rows.append([name, *cells, spread, page.percent(pooled[subset][key])])
    return rows


def _fold_tables(report: dict[str, Any]) -> list[str]:
    """In HTML; nothing without folds."""
    if "folds" not in report:
        return []
    body = ["<h2>Fold by fold</h2>"]
    for key in FOLD_SCORES:
        body += [f"<h3>{SCORES[key]}</h3>", page.html_table(_fold_header(report), _fold_rows(report, key))]
    return body


def _score_rows(report: dict[str, Any]) -> list[tuple[str, dict[str, Any] | None]]:
    rows = [(name, report["subsets"].get(key)) for key, name in SUBSETS.items()]
    return [*rows, (AVAILABLE, report["available"])]


def _cells(scores: dict[str, Any] | None) -> list[str]:
    if scores is None:
        return [_NOTHING, *[""] * (len(SCORES) - 1)]
    return [str(scores[key]) if key == "n" else page.percent(scores[key]) for key in SCORES]


def _class_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    f1, n = report["per_class_f1"], report["per_class_n"]
    return [(label, page.percent(f1.get(label)), str(n.get(label, 0))) for label in report["labels"]]


def _confusion_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    pairs = zip(report["labels"], report["confusion"], strict=True)
    return [(label, *(str(int(count)) for count in row)) for label, row in pairs]


def _summary(report: dict[str, Any]) -> str:
    where = f"{report['n_clips']} clips of {_where(report)}, {len(report['labels'])} classes"
    scores = report["available"]
    if scores is not None and scores["n"] != report["n_clips"]:
        where = f"{scores['n']} of the {where}"
    if scores is None:
        return f"Nothing was measured on {where}."
    return (
        f"With whatever each clip has, the model reaches {page.percent(scores['waf'])} % weighted F1 and "
        f"{page.percent(scores['accuracy'])} % accuracy on {where}."
    )


def _chance_sentence(report: dict[str, Any]) -> str:
    chance = report["chance"]
    return (
        f"Chance: guessing evenly is {page.percent(chance['uniform_accuracy'])} % accurate; always naming the most "
        f"frequent class gives {page.percent(chance['majority_accuracy'])} % accuracy and "
        f"{page.percent(chance['majority_waf'])} % WAF."
    )


def _confusion(report: dict[str, Any]) -> Figure:
    counts_KK = np.asarray(report["confusion"], dtype=float)
    labels = [_short(label) for label in report["labels"]]
    rows_K1 = counts_KK.sum(axis=1, keepdims=True)
    shares_KK = np.divide(counts_KK, rows_K1, out=np.zeros_like(counts_KK), where=rows_K1 > 0)
    side = max(2.6, 0.62 * len(labels))
    figure = page.figure(side + 2.4, side + 1.6)
    axes = figure.add_subplot()
    image = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares_KK):
        ink = "white" if share > 0.55 else (INK if counts_KK[row, column] else FAINT)
        axes.text(column, row, f"{counts_KK[row, column]:.0f}", ha="center", va="center", color=ink, size=9.5)
    ticks = range(len(labels))
    upright = len(labels) <= 4 and max(map(len, labels)) <= 9
    turned = {} if upright else {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(ticks, labels, **turned)
    axes.set_yticks(ticks, labels)
    axes.set_xticks([tick + 0.5 for tick in ticks][:-1], minor=True)
    axes.set_yticks([tick + 0.5 for tick in ticks][:-1], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title("Clips by true and predicted class", loc="left", pad=12)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=28, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _subset_bars(report: dict[str, Any]) -> Figure:
    figure = page.figure(8, 4.8)
    axes = figure.add_subplot()
    for position, key in enumerate(SUBSETS):
        scores = report["subsets"].get(key)
        if scores is None:
            beside_lines = 100 * max(report["chance"]["uniform_accuracy"], report["chance"]["majority_waf"]) + 1.5
            axes.text(beside_lines, position, _NOTHING, va="center", color=FAINT, style="italic")
            continue
        waf, error = 100 * scores["waf"], 100 * _standard_error(scores["waf"], scores["n"])
        axes.barh(position, waf, height=0.66, color=_BLUES[len(key) - 1])
        axes.errorbar(waf, position, xerr=error, color=INK, capsize=3, linewidth=1.2)
        axes.text(min(waf + error, 100) + 1.5, position, f"{waf:.1f}", va="center", color=INK)
    _chance_lines(axes, report["chance"])
    axes.set_yticks(range(len(SUBSETS)), [_with_clips(key, report) for key in SUBSETS])
    axes.set_ylim(len(SUBSETS) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("weighted F1 (WAF), percent; whiskers: ±1 standard error")
    page.ruled(axes, "x")
    axes.set_title("What each subset of the modalities is worth", loc="left", pad=12)
    return figure


def _chance_lines(axes: Any, chance: dict[str, float]) -> None:
    """Guessing evenly has about its accuracy as WAF; the most frequent class has far less."""
    even, majority = 100 * chance["uniform_accuracy"], 100 * chance["majority_waf"]
    style = {"color": CHANCE, "linewidth": 1.6}
    axes.axvline(even, linestyle="--", label=f"guessing evenly: {even:.1f}", **style)
    axes.axvline(majority, linestyle=":", label=f"always the most frequent class: {majority:.1f}", **style)
    axes.figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9.5)


def _standard_error(rate: float, n: int) -> float:
    """As of a share of n independent clips; F1 is not one, so this is a guide to the size of luck."""
    return math.sqrt(max(rate * (1 - rate), 0) / max(n, 1))


def _with_clips(key: str, report: dict[str, Any]) -> str:
    scores = report["subsets"].get(key)
    return SUBSETS[key] if scores is None else f"{SUBSETS[key]}  (n = {scores['n']})"


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"
