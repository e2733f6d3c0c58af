"""What a table, a picture and a page of rounds show, from rounds that are made up."""

import io
import re

import pytest
from rich.console import Console

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


def shown(content):
    stream = io.StringIO()
    Console(file=stream, width=200).print(report.table(content))
    return stream.getvalue()


def test_the_table_says_what_every_round_did():
    lines = {line.split()[0]: line for line in shown(CONTENT).splitlines() if line.strip()[:1].isdigit()}
    assert "61.0" in lines["0"]
    for words in ("round 0", "40", "65.5", "66.5", "64.5", "+4.5", "yes", "angry 30 (12), sad <b> 10 (11)", "starved"):
        assert words in lines["1"]
    assert "−1.5" in lines["2"]
    assert "no" in lines["2"].split()
    assert lines["3"].split()[:4] == ["3", "round", "0", "0"]
    assert "Best: round 1 with 65.5 % WAF. Ended: no clip was accepted." in shown(CONTENT)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_picture_holds_every_round(count):
    content = CONTENT | {"rounds": ROUNDS[:count], "best": min(count - 1, 1)}
    above, below = report.picture(content).axes
    low, high = above.get_ylim()
    wafs = [100 * r["scores"]["waf"] for r in ROUNDS[:count] if r["scores"]]
    assert all(low < waf < high for waf in wafs)
    assert [bar.get_height() for bar in below.patches] == [40, 40, 0][: count - 1]
    filled = [line.get_markerfacecolor() != "white" for line in above.lines[1:]]
    assert filled == [r["kept"] for r in ROUNDS[:count] if r["scores"]]


def test_the_page_escapes_labels_and_holds_the_picture(tmp_path):
    report.write(CONTENT, tmp_path)
    html = (tmp_path / report.PAGE).read_text()
    lines = [re.findall("<t[hd].*?</t[hd]>", line) for line in html.split("<tr>")]
    rows = [[re.sub("<.*?>", "", cell) for cell in line] for line in lines]
    assert ["round", "angry", "sad &lt;b&gt;", "drift"] in rows
    assert ["labelled", "12", "11", "–"] in rows
    assert ["1", "30", "10", "sad &lt;b&gt; starved"] in rows
    assert ["3", "0", "0", "–"] in rows
    assert "<b>" not in html
    assert "data:image/png" in html
    assert (tmp_path / report.PICTURE).read_bytes().startswith(b"\x89PNG")
