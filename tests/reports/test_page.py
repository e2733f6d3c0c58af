import io
import math

import pytest
from PIL import Image

from emo_ray.reports import page


@pytest.mark.parametrize(("rate", "text"), [(0.1234, "12.3"), (1.0, "100.0"), (0, "0.0"), (None, "–"), (math.nan, "–")])
def test_percent_by_hand(rate, text):
    assert page.percent(rate) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0123, "+1.2"), (-0.004, "−0.4"), (-0.0001, "+0.0"), (None, "–"), (math.nan, "–")]
)
def test_points_always_have_a_sign(share, text):
    assert page.points(share) == text


def test_notes_are_escaped_and_may_be_none():
    assert "<li>a &lt;b&gt;</li>" in page.notes(["a <b>", "c"])
    assert page.notes([]) == []


def test_table_cells_are_escaped_and_may_have_a_class():
    html = page.html_table(["a<", "b"], [("x&y", "good"), ("good", "<b>")], {"good": "green"})
    assert "<th scope='col'>a&lt;</th>" in html
    assert "<tr><th scope='row'>x&amp;y</th><td class='green'>good</td></tr>" in html
    assert "<tr><th scope='row'>good</th><td>&lt;b&gt;</td></tr>" in html
    assert "class='green'" not in page.html_table(["a", "b"], [("x", "good")])


def test_a_picture_is_as_large_as_it_was_drawn_and_the_same_every_time():
    def drawn():
        figure = page.figure(4, 3)
        axes = figure.add_subplot()
        axes.set_title("$\\frac$ is no formula")
        page.ruled(axes, "x")
        return page.png(figure)

    assert drawn() == drawn()
    with Image.open(io.BytesIO(drawn())) as image:
        assert image.size == (600, 450)
    html = page.picture(drawn(), "it's <this>")
    assert "width='384'" in html  # 4 inches of 96 CSS pixels
    assert "alt='it&#x27;s &lt;this&gt;'" in html


def test_a_document_holds_its_parts_and_puts_its_own_rules_last():
    html = page.document("a < {b}", ["<p>{one}</p>", "<p>two</p>"], "p { color: red; }")
    assert "<title>a &lt; {b}</title>" in html
    assert "<p>{one}</p>\n<p>two</p>" in html
    assert html.index("font-variant-numeric") < html.index("p { color: red; }") < html.index("</style>")
