"""What tables, picture and page of self-training show, from made-up rounds."""

import numpy as np
import pytest
from reading import embedded, texts, visible

from emo_ray.reports import rounds as report


def round_(number, waf=None, gain=None, kept=False, accepted=(30, 10), drift=()):
    scores = {} if waf is None else {"waf": waf, "accuracy": waf + 0.01, "uar": waf - 0.01, "n": 180}
    return {
        "number": number,
        "taught_by": None if number == 0 else 0,
        "checkpoint": None if waf is None else f"/store/model-{number}",
        "pseudo_labels": None if number == 0 else f"/store/round-{number}",
        "accepted": {} if number == 0 else dict(zip(("angry", "sad <b>"), accepted, strict=False)),
        "drift": list(drift),
        "scores": scores,
        "interval": None if waf is None else {"ends": [waf - 0.02, waf + 0.03], "drawn": "speakers"},
        "gain": gain,
        "kept": kept,
    }


ROUNDS = [
    round_(0, 0.61, kept=True),
    round_(1, 0.655, 0.045, kept=True, drift=["sad <b> starved"]),
    round_(2, 0.64, -0.015),
    round_(3, accepted=()),
]
CONTENT = {
    "rounds": ROUNDS,
    "labelled": {"angry": 12, "sad <b>": 11},
    "best": 1,
    "checkpoint": "/store/model-1",
    "ended": "no clip was accepted",
}


def test_a_row_says_what_every_round_did():
    scores, classes = report.tables(CONTENT)
    assert texts(scores) == [
        ["0", "–", "–", "61.0", "62.0", "60.0", "59.0 to 64.0", "–", "yes"],
        ["1", "round 0", "40", "65.5", "66.5", "64.5", "63.5 to 68.5", "+4.5", "yes"],
        ["2", "round 0", "40", "64.0", "65.0", "63.0", "62.0 to 67.0", "−1.5", "no"],
        ["3", "round 0", "0", "–", "–", "–", "–", "–", "no"],
    ]
    assert list(scores.emphasised) == [1]
    assert list(classes.header) == ["round", "angry", "sad <b>", "drift"]
    assert texts(classes) == [
        ["labelled", "12", "11", "–"],
        ["1", "30", "10", "sad <b> starved"],
        ["2", "30", "10", "–"],
        ["3", "0", "0", "–"],
    ]


def test_the_end_is_told_once_on_the_page_and_below_the_table(tmp_path):
    scores, _ = report.tables(CONTENT)
    assert "round 1 with 65.5 %" in scores.note
    assert "no clip was accepted" in scores.note
    html = report.write(CONTENT, tmp_path).read_text(encoding="utf-8")
    assert visible(html).count(scores.note) == 1
    assert "95 % interval (bootstrap over speakers)" in visible(html)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_picture_holds_every_round(count):
    content = CONTENT | {"rounds": ROUNDS[:count], "best": min(count - 1, 1)}
    above, below = report.picture(content).axes
    low, high = above.get_ylim()
    wafs = [100 * r["scores"]["waf"] for r in ROUNDS[:count] if r["scores"]]
    assert all(low < waf < high for waf in wafs)
    assert [bar.get_height() for bar in below.patches] == [40, 40, 0][: count - 1]
    filled = [line.get_markerfacecolor() != "white" for line in above.lines[1:]]
    bars = [path.vertices[:, 1] for bar in above.collections for path in bar.get_paths()]
    assert np.array(bars) == pytest.approx(np.array([[waf - 2, waf + 3] for waf in wafs]))
    assert filled == [r["kept"] for r in ROUNDS[:count] if r["scores"]]


def test_the_page_escapes_labels_and_holds_the_picture(tmp_path):
    html = report.write(CONTENT, tmp_path).read_text(encoding="utf-8")
    assert "<b>" not in html
    assert "sad <b> starved" in visible(html)
    assert embedded(html) == [(tmp_path / report.PICTURE).read_bytes()]
    assert (tmp_path / report.PAGE).is_file()
