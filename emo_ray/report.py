"""What evaluation measured, drawn: a table for the terminal, pictures, and one self-contained HTML page.

A `report` is a plain dict, as `report.json` holds it:

    subsets     {"V", "A", "T", "VA", "VT", "AT", "VAT": scores, or None where no clip has these modalities}
    available   scores with whatever modalities each clip has
    per_class_f1, per_class_n    {label: F1}, {label: clips}
    confusion   K rows (truth) of K counts (prediction), in the order of `labels`
    chance      {"uniform_accuracy": 1/K, "majority_accuracy", "majority_waf"}
    split, labels, checkpoint (digest), n_clips, notes (sentences)

where scores are `{"waf", "accuracy", "uar", "macro_f1", "n"}`. All rates are in [0, 1] there and shown in percent.
"""

import base64
import io
import math
import warnings
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text as Letters
from rich import box
from rich.table import Table
from rich.text import Text

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
_NOTHING = "no clips"
_DPI = 150
_BLUES = ("#A3D0EC", "#56A5D8", "#0072B2")  # one, two, three modalities: told apart by lightness alone
_INK, _FAINT = "#222222", "#8A8A8A"
_LONGEST_LABEL = 20  # characters on an axis; the page has the whole
# Labels need not be Latin, and matplotlib's own font has no Chinese, Japanese or Korean.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "PingFang SC", "SimHei")


def table(report: dict[str, Any]) -> Table:
    """The seven subsets and what each clip has, for the terminal."""
    drawn = Table(
        title=Text(f"{report['n_clips']} clips of the {report['split']} split"),  # no markup
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
        paths[-1].write_bytes(_png(figure))
    return paths


def write_html(report: dict[str, Any], folder: Path) -> Path:
    """Write `report.html`, and the pictures that it holds a copy of."""
    confusion, subsets = (path.read_bytes() for path in write_pictures(report, folder))
    title = f"Emotion recognition on the {report['split']} split"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='summary'>{escape(_summary(report))}</p>",
        f"<p>{escape(_chance_sentence(report))}</p>",
        "<h2>With some of the modalities</h2>",
        _html_table(["modalities", *SCORES.values()], [(n, *_cells(s)) for n, s in _score_rows(report)]),
        _picture(subsets, "Bars: weighted F1 for each subset of the modalities, with one standard error."),
        "<h2>For each class</h2>",
        _html_table(["class", "F1", "clips"], _class_rows(report)),
        _picture(confusion, "Confusion matrix: truth in rows, prediction in columns, colour by share of the row."),
        "<details><summary>The same counts as a table</summary>",
        _html_table(["truth \\ prediction", *report["labels"]], _confusion_rows(report)),
        "</details>",
        *_notes(report),
        f"<footer>checkpoint <code>{escape(str(report['checkpoint']))}</code> · rates in percent · "
        "WAF: F1 weighted by class size · UAR: mean recall of the classes</footer>",
    ]
    path = folder / "report.html"
    path.write_text(_PAGE.format(title=escape(title), css=_CSS, body="\n".join(body)), encoding="utf-8")
    return path


def _score_rows(report: dict[str, Any]) -> list[tuple[str, dict[str, Any] | None]]:
    rows = [(name, report["subsets"].get(key)) for key, name in SUBSETS.items()]
    return [*rows, (AVAILABLE, report["available"])]


def _cells(scores: dict[str, Any] | None) -> list[str]:
    if scores is None:
        return [_NOTHING, *[""] * (len(SCORES) - 1)]
    return [str(scores[key]) if key == "n" else _percent(scores[key]) for key in SCORES]


def _percent(rate: float | None) -> str:
    return "–" if rate is None or math.isnan(rate) else f"{100 * rate:.1f}"


def _class_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    f1, n = report["per_class_f1"], report["per_class_n"]
    return [(label, _percent(f1.get(label)), str(n.get(label, 0))) for label in report["labels"]]


def _confusion_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    pairs = zip(report["labels"], report["confusion"], strict=True)
    return [(label, *(str(int(count)) for count in row)) for label, row in pairs]


def _summary(report: dict[str, Any]) -> str:
    where = f"{report['n_clips']} clips of the {report['split']} split, {len(report['labels'])} classes"
    scores = report["available"]
    if scores is not None and scores["n"] != report["n_clips"]:
        where = f"{scores['n']} of the {where}"
    if scores is None:
        return f"Nothing was measured on {where}."
    return (
        f"With whatever each clip has, the model reaches {_percent(scores['waf'])} % weighted F1 and "
        f"{_percent(scores['accuracy'])} % accuracy on {where}."
    )


def _chance_sentence(report: dict[str, Any]) -> str:
    chance = report["chance"]
    return (
        f"Chance: guessing evenly is {_percent(chance['uniform_accuracy'])} % accurate; always naming the most "
        f"frequent class gives {_percent(chance['majority_accuracy'])} % accuracy and "
        f"{_percent(chance['majority_waf'])} % WAF."
    )


def _figure(width_in: float, height_in: float) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure


def _confusion(report: dict[str, Any]) -> Figure:
    counts_KK = np.asarray(report["confusion"], dtype=float)
    labels = [_short(label) for label in report["labels"]]
    rows_K1 = counts_KK.sum(axis=1, keepdims=True)
    shares_KK = np.divide(counts_KK, rows_K1, out=np.zeros_like(counts_KK), where=rows_K1 > 0)
    side = max(2.6, 0.62 * len(labels))
    figure = _figure(side + 2.4, side + 1.6)
    axes = figure.add_subplot()
    image = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares_KK):
        ink = "white" if share > 0.55 else (_INK if counts_KK[row, column] else _FAINT)
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
    figure = _figure(8, 4.8)
    axes = figure.add_subplot()
    for position, key in enumerate(SUBSETS):
        scores = report["subsets"].get(key)
        if scores is None:
            beside_lines = 100 * max(report["chance"]["uniform_accuracy"], report["chance"]["majority_waf"]) + 1.5
            axes.text(beside_lines, position, _NOTHING, va="center", color=_FAINT, style="italic")
            continue
        waf, error = 100 * scores["waf"], 100 * _standard_error(scores["waf"], scores["n"])
        axes.barh(position, waf, height=0.66, color=_BLUES[len(key) - 1])
        axes.errorbar(waf, position, xerr=error, color=_INK, capsize=3, linewidth=1.2)
        axes.text(min(waf + error, 100) + 1.5, position, f"{waf:.1f}", va="center", color=_INK)
    _chance_lines(axes, report["chance"])
    axes.set_yticks(range(len(SUBSETS)), [_with_clips(key, report) for key in SUBSETS])
    axes.set_ylim(len(SUBSETS) - 0.4, -0.6)  # the first on top
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("weighted F1 (WAF), percent; whiskers: ±1 standard error")
    axes.grid(axis="x", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title("What each subset of the modalities is worth", loc="left", pad=12)
    return figure


def _chance_lines(axes: Any, chance: dict[str, float]) -> None:
    """Guessing evenly has about its accuracy as WAF; the most frequent class has far less."""
    even, majority = 100 * chance["uniform_accuracy"], 100 * chance["majority_waf"]
    style = {"color": "#D55E00", "linewidth": 1.6}
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


def _png(figure: Figure) -> bytes:
    there = set(font_manager.fontManager.get_font_names())
    fonts = [font for font in _FONTS if font in there]
    for text in figure.findobj(Letters):
        text.set_parse_math(False)  # a label may hold dollar signs
        text.set_fontfamily(fonts)
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box; the page has the label
        figure.savefig(stream, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def _html_table(header: list[str], rows: list[tuple[str, ...]]) -> str:
    """The first column names the row; the others hold numbers."""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
    lines = [
        f"<tr><th scope='row'>{escape(name)}</th>" + "".join(f"<td>{escape(c)}</td>" for c in cells) + "</tr>"
        for name, *cells in rows
    ]
    body = "\n".join(lines)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _picture(png: bytes, alt: str) -> str:
    width_px = int.from_bytes(png[16:20], "big") * 96 // _DPI  # as large as its letters are meant to be
    data = base64.b64encode(png).decode()
    return f"<img src='data:image/png;base64,{data}' width='{width_px}' alt='{escape(alt)}'>"


def _notes(report: dict[str, Any]) -> list[str]:
    if not report["notes"]:
        return []
    return ["<h2>Notes</h2>", "<ul>", *(f"<li>{escape(str(note))}</li>" for note in report["notes"]), "</ul>"]


# Nothing may be loaded from elsewhere; pictures keep their white ground on a dark page.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""
_CSS = """
:root { color-scheme: light dark; --ink: #1d2329; --faint: #5c6670; --line: #d9dee3; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --faint: #9aa5b0; --line: #3a424a; --page: #15191d; }
}
body { max-width: 52rem; margin: 2.5rem auto; padding: 0 1.2rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin-bottom: .6rem; }
h2 { font-size: 1.2rem; margin-top: 2.4rem; }
.summary { font-size: 1.1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; padding-left: 0; font-weight: 500; }
thead th { color: var(--faint); font-weight: 600; font-size: .88rem; }
img { display: block; max-width: 100%; height: auto; margin: 1.2rem 0; background: #ffffff; border-radius: 8px; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--faint); }
footer { margin-top: 3rem; padding-top: .8rem; border-top: 1px solid var(--line);
  color: var(--faint); font-size: .85rem; }
code { font-size: .95em; }
"""
