import numpy as np
import pytest

from emo_ray.reports import claims_plots as drawn
from emo_ray.reports import page

SUBSETS = ["V", "A", "T", "VA", "VT", "AT", "VAT", "incomplete"]
CONTENT = {"metric": "WAF", "chance": 0.2}


def table(columns, rows, seed=0):
    draw = np.random.default_rng(seed).uniform
    cells = [[{"mean": draw(0.05, 0.95), "se": draw(0, 0.05)} for _ in columns] for _ in range(rows)]
    named = [{"name": f"method {i}", "cells": row} for i, row in enumerate(cells)]
    return {"first": "method", "columns": columns, "rows": named}


def test_numbers_are_coloured_in_their_order_and_words_apart():
    def colours(*names):
        return drawn._colours([{"name": name} for name in names])

    brightness = [sum(colour[:3]) for colour in colours("0.1", "0.9", "0.5")]
    assert brightness[0] < brightness[2] < brightness[1]
    assert colours("dropout 0", "dropout 0.5") == colours("0%", "50%")
    assert len(set(colours("a", "b", "c", "d", "e", "f", "g"))) == 7
    assert colours("a 1", "b 2") == colours("a", "b")
    assert len(colours("0.5")) == 1


@pytest.mark.parametrize("columns", [["video"], SUBSETS])
@pytest.mark.parametrize("seed", range(3))
def test_axes_hold_every_value_and_the_chance_level(columns, seed):
    made = table(columns, 4, seed)
    axes = drawn.picture(made, CONTENT, "a title").axes[0]
    low, high = axes.get_xlim() if len(columns) == 1 else axes.get_ylim()
    cells = [cell for row in made["rows"] for cell in row["cells"]]
    assert low <= 100 * CONTENT["chance"] <= high
    assert all(max(low, 0) <= 100 * cell["mean"] <= high for cell in cells)
    assert max(100 * (cell["mean"] + cell["se"]) for cell in cells) < high


def test_names_are_drawn_whole_where_they_fit():
    figure = drawn.picture(table(SUBSETS, 3), CONTENT, "a title")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == SUBSETS
    assert page.png(figure).startswith(b"\x89PNG")
