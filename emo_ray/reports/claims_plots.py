"""The pictures of the claims' tables."""

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypedDict

from matplotlib import colormaps
from matplotlib.figure import Figure

from emo_ray.reports.figures import BLUE, CHANCE, INK, empty_figure, label_point, name_rows, name_x_ticks, style_axes
from emo_ray.reports.wording import percent

_COLOURS = (BLUE, "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito: told apart by all
_MARKERS = "osD^vPX*"
_LONGEST_LINE = 40  # characters of a row's name beside a picture; two lines, the page has the whole


class Mean(TypedDict):
    """A mean over worlds, in [0, 1]."""

    mean: float
    se: float | None  # standard error; None for one world, which says nothing about the others


class ClaimRow(TypedDict):
    """One method."""

    name: str
    cells: list[Mean]  # one for each column


class ClaimTable(TypedDict):
    """The scores of several methods that bear on one claim."""

    claim: int
    title: str
    note: str
    columns: list[str]
    first: str  # header of the names of the rows
    rows: list[ClaimRow]


def picture(table: ClaimTable, title: str, metric: str, chance: float) -> Figure:
    """Dots with whiskers for a table of one column, lines for one of several; `chance` in [0, 1]."""
    draw = _dots if len(table["columns"]) == 1 else _lines
    figure = draw(table, metric, chance)
    figure.suptitle(textwrap.fill(title, 80), x=0.015, ha="left", size=12)  # over the row names, not only over the axes
    return figure


def _dots(table: ClaimTable, metric: str, chance: float) -> Figure:
    """One row for each method; the first is on top."""
    rows = table["rows"]
    figure = empty_figure(8, 1.7 + 0.4 * max(len(rows), 1))
    axes = figure.add_subplot()
    for position, row in enumerate(rows):
        rate, error = _in_percent(row["cells"][0])
        whisker: dict[str, Any] = {"xerr": error, "ecolor": INK, "elinewidth": 1.2, "capsize": 4 if error else 0}
        axes.errorbar(rate, position, fmt="o", markersize=5, color=BLUE, **whisker)
        label_point(axes, rate + error, position, f"{rate:.1f}", right_pt=7)
    style = _chance_line(chance)
    axes.axvline(100 * chance, **style)
    label_point(axes, 100 * chance, -0.6, style["label"], up_pt=4, color=CHANCE, size=9.5)
    name_rows(axes, [_folded(row["name"], _LONGEST_LINE) for row in rows])
    axes.set_xlim(*_span(table, chance))
    axes.set_xlabel(_axis_label(table, metric))
    style_axes(axes, "x")
    return figure


def _lines(table: ClaimTable, metric: str, chance: float) -> Figure:
    """The columns along x, one line for each row; lines are moved apart a little so that whiskers can be told apart."""
    rows, columns = table["rows"], table["columns"]
    names = [_folded(row["name"], 24) for row in rows]
    figure = empty_figure(9, max(4.4, 2.0 + 0.3 * sum(name.count("\n") + 1 for name in names)))
    axes = figure.add_subplot()
    step = min(0.09, 0.6 / max(len(rows), 1))
    lines: list[Any] = []
    for position, (row, colour) in enumerate(zip(rows, _colours([row["name"] for row in rows]), strict=True)):
        rates, errors = zip(*(_in_percent(cell) for cell in row["cells"]), strict=True)
        places = [x + step * (position - (len(rows) - 1) / 2) for x in range(len(columns))]
        style: dict[str, Any] = {
            "marker": _MARKERS[position % len(_MARKERS)],
            "markersize": 5,
            "color": colour,
            "capsize": 2,
        }
        lines.append(axes.errorbar(places, rates, yerr=errors, linewidth=1.3, elinewidth=1, **style))
    even = _chance_line(chance)
    guessing = axes.axhline(100 * chance, **even)
    words = [textwrap.fill(column, 10, break_long_words=False) for column in columns]
    widths = [max(map(len, word.splitlines()), default=0) for word in words]
    crowded = any(left + right > 136 / len(columns) for left, right in pairwise(widths))
    name_x_ticks(axes, range(len(columns)), words, turned=crowded)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(*_span(table, chance))
    axes.set_ylabel(_axis_label(table, metric).replace("; ", "\n"))
    style_axes(axes, "y")
    axes.legend(
        [*lines, guessing], [*names, even["label"]], title=_folded(table["first"], 24), frameon=False, fontsize=9.5,
        loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, alignment="left",
    )  # fmt: skip
    return figure


def _in_percent(cell: Mean) -> tuple[float, float]:
    """Mean and standard error; 0 without an error."""
    return 100 * cell["mean"], 100 * (cell["se"] or 0.0)


def _span(table: ClaimTable, chance: float) -> tuple[float, float]:
    """All values with their whiskers and the chance level; room at the end for a number."""
    pairs = [_in_percent(cell) for row in table["rows"] for cell in row["cells"]]
    ends = [100 * chance, *(v + sign * e for v, e in pairs for sign in (-1, 1))]
    width = max(max(ends) - min(ends), 10)
    return max(min(ends) - 0.08 * width, 0), max(ends) + 0.12 * width


def _chance_line(chance: float) -> dict[str, Any]:
    label = f"guessing evenly: {percent(chance)}"
    return {"color": CHANCE, "linewidth": 1.6, "linestyle": "--", "label": label, "zorder": 1}


def _axis_label(table: ClaimTable, metric: str) -> str:
    whiskers = any(_in_percent(cell)[1] for row in table["rows"] for cell in row["cells"])
    return f"{metric}, percent" + ("; whiskers: ±1 standard error" if whiskers else "")


def _folded(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…"))


def _colours(names: Sequence[str]) -> list[Any]:
    """Dark to bright where the names are ascending numbers, such as dropout rates; otherwise far from each other."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        return [_COLOURS[position % len(_COLOURS)] for position in range(len(names))]
    return [colormaps["viridis"](0.88 * numbers.index(number) / max(len(numbers) - 1, 1)) for number in numbers]
