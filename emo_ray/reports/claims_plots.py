"""The pictures of the claims' tables (`claims_report` says what `table` and `content` hold)."""

import itertools
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from emo_ray.reports import page
from emo_ray.reports.page import CHANCE, FAINT, INK

_BLUE = "#0072B2"
_COLOURS = (_BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito: all can tell them
_MARKERS = "osD^vPX*"
_LONGEST_LINE = 40  # characters of a row's name beside a picture; two lines, the page has the whole


def picture(table: dict[str, Any], content: dict[str, Any], title: str) -> Figure:
    """Dots with whiskers for a table of one column, lines for one of several."""
    draw = _dots if len(table["columns"]) == 1 else _lines
    figure = draw(table, content)
    figure.suptitle(textwrap.fill(title, 80), x=0.015, ha="left", size=12)  # over the row names, not only over the axes
    return figure


def _dots(table: dict[str, Any], content: dict[str, Any]) -> Figure:
    """One row for each method; the first is on top."""
    rows = table["rows"]
    figure = page.figure(8, 1.7 + 0.4 * max(len(rows), 1))
    axes = figure.add_subplot()
    for position, row in enumerate(rows):
        value, error = _in_percent(row["cells"][0])
        beside = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "color": INK}
        if math.isnan(value):
            beside |= {"color": FAINT, "style": "italic"}
            axes.annotate("not measured", (100 * content["chance"], position), **beside)
            continue
        whisker = {"xerr": error, "ecolor": INK, "elinewidth": 1.2, "capsize": 4 if error else 0}
        axes.errorbar(value, position, fmt="o", markersize=5, color=_BLUE, **whisker)
        axes.annotate(f"{value:.1f}", (value + error, position), **beside)
    style = _chance_line(content)
    axes.axvline(100 * content["chance"], **style)
    above = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center", "va": "bottom", "size": 9.5}
    axes.annotate(style["label"], (100 * content["chance"], -0.6), color=CHANCE, **above)
    axes.set_yticks(range(len(rows)), [_folded(row["name"], _LONGEST_LINE) for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
    axes.set_xlim(*_span(table, content))
    axes.set_xlabel(_axis_label(table, content))
    page.ruled(axes, "x")
    return figure


def _lines(table: dict[str, Any], content: dict[str, Any]) -> Figure:
    """The columns along x, one line for each row; lines are moved apart a little so that whiskers can be told."""
    rows, columns = table["rows"], table["columns"]
    names = [_folded(row["name"], 24) for row in rows]
    figure = page.figure(9, max(4.4, 2.0 + 0.3 * sum(name.count("\n") + 1 for name in names)))
    axes = figure.add_subplot()
    step = min(0.09, 0.6 / max(len(rows), 1))
    for position, (row, name, colour) in enumerate(zip(rows, names, _colours(rows), strict=True)):
        values, errors = zip(*(_in_percent(cell) for cell in row["cells"]), strict=True)
        places = [x + step * (position - (len(rows) - 1) / 2) for x in range(len(columns))]
        style = {"marker": _MARKERS[position % len(_MARKERS)], "markersize": 5, "color": colour, "capsize": 2}
        axes.errorbar(places, values, yerr=errors, label=name, linewidth=1.3, elinewidth=1, **style)
    axes.axhline(100 * content["chance"], **_chance_line(content))
    _name_columns(axes, columns)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(*_span(table, content))
    axes.set_ylabel(_axis_label(table, content).replace("; ", "\n"))
    page.ruled(axes, "y")
    handles, labels = axes.get_legend_handles_labels()
    last = labels.index(_chance_line(content)["label"])  # matplotlib puts lines before whiskers
    handles, labels = (all_[:last] + all_[last + 1 :] + [all_[last]] for all_ in (handles, labels))
    where = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0, "alignment": "left"}
    axes.legend(handles, labels, title=_folded(table["first"], 24), frameon=False, fontsize=9.5, **where)
    return figure


def _name_columns(axes: Any, columns: Sequence[str]) -> None:
    """Upright where neighbours leave each other room, otherwise turned."""
    room = 68 // len(columns)  # letters
    names = [textwrap.fill(column, max(room, 10), break_long_words=False) for column in columns]
    widths = [max((len(line) for line in name.splitlines()), default=0) for name in names]
    crowded = any(a + b > 2 * room for a, b in itertools.pairwise(widths))
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(columns)), names, **turned if crowded else {})


def _in_percent(cell: dict[str, float | None] | None) -> tuple[float, float]:
    """Mean and standard error; no error is none to draw, and no cell is a gap."""
    if cell is None or cell["mean"] is None:
        return math.nan, 0.0
    error = cell["se"]
    return 100 * cell["mean"], 0.0 if error is None or math.isnan(error) else 100 * error


def _span(table: dict[str, Any], content: dict[str, Any]) -> tuple[float, float]:
    """All values with their whiskers and the chance level; room at the end for a number."""
    pairs = [_in_percent(cell) for row in table["rows"] for cell in row["cells"]]
    ends = [100 * content["chance"], *(v + sign * e for v, e in pairs for sign in (-1, 1) if not math.isnan(v))]
    width = max(max(ends) - min(ends), 10)
    return max(min(ends) - 0.08 * width, 0), max(ends) + 0.12 * width


def _chance_line(content: dict[str, Any]) -> dict[str, Any]:
    label = f"guessing evenly: {page.percent(content['chance'])}"
    return {"color": CHANCE, "linewidth": 1.6, "linestyle": "--", "label": label, "zorder": 1}


def _axis_label(table: dict[str, Any], content: dict[str, Any]) -> str:
    whiskers = any(_in_percent(cell)[1] for row in table["rows"] for cell in row["cells"])
    return f"{content['metric']}, percent" + ("; whiskers: ±1 standard error" if whiskers else "")


def _folded(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…"))


def _colours(rows: Sequence[dict[str, Any]]) -> list[Any]:
    """Dark to bright where the names are numbers, such as dropout rates; otherwise told apart as well as may be."""
    numbers = _numbers([row["name"] for row in rows])
    if numbers is None:
        return [_COLOURS[position % len(_COLOURS)] for position in range(len(rows))]
    order = sorted(numbers)
    return [colormaps["viridis"](0.88 * order.index(number) / max(len(order) - 1, 1)) for number in numbers]


def _numbers(names: Sequence[str]) -> list[float] | None:
    """The numbers that the names end in, if that is all they differ in."""
    parts = [name.rpartition(" ") for name in names]
    try:
        numbers = [float(last.removesuffix("%")) for *_, last in parts]
    except ValueError:
        return None
    return numbers if len({first for first, *_ in parts}) == 1 else None
