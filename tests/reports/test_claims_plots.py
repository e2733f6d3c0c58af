import numpy as np
import pytest

from emo_ray.reports import claims_plots
from emo_ray.reports.figures import png

SUBSETS = ["V", "A", "T", "VA", "VT", "AT", "VAT", "incomplete"]
CHANCE = 0.2


def table(columns, rows, seed=0):
    draw = np.random.default_rng(seed).uniform
    cells = [[{"mean": draw(0.05, 0.95), "se": draw(0, 0.05)} for _ in columns] for _ in range(rows)]
    named = [{"name": f"method {i}", "cells": row} for i, row in enumerate(cells)]
    return {"first": "method", "columns": columns, "rows": named}


def test_ascending_numbers_are_coloured_dark_to_bright_and_words_apart():
    brightness = [sum(colour[:3]) for colour in claims_plots._colours(["0", "0.5", "0.9"])]
    assert brightness == sorted(brightness)
    assert len(set(claims_plots._colours(["a", "b", "c", "d", "e", "f", "g"]))) == 7
    assert len(claims_plots._colours(["0.5"])) == 1


@pytest.mark.parametrize("columns", [["video"], SUBSETS])
@pytest.mark.parametrize("seed", range(3))
def test_axes_hold_every_value_and_the_chance_level(columns, seed):
    scores = table(columns, 4, seed)
    axes = claims_plots.picture(scores, "a title", "WAF", CHANCE).axes[0]
    low, high = axes.get_xlim() if len(columns) == 1 else axes.get_ylim()
    cells = [cell for row in scores["rows"] for cell in row["cells"]]
    assert low <= 100 * CHANCE <= high
    assert all(max(low, 0) <= 100 * cell["mean"] <= high for cell in cells)
    assert max(100 * (cell["mean"] + cell["se"]) for cell in cells) < high


def test_names_are_drawn_whole_where_they_fit():
    figure = claims_plots.picture(table(SUBSETS, 3), "a title", "WAF", CHANCE)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == SUBSETS
    assert png(figure).startswith(b"\x89PNG")
