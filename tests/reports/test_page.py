import pytest
from markupsafe import Markup
from pages import flaws
from PIL import Image
from reading import embedded, loaded, visible

from emo_ray.reports import page
from emo_ray.reports.figures import empty_figure
from emo_ray.reports.page import Fragment, Link, Page, Picture
from emo_ray.reports.table import Table

HOSTILE = '<script>it\'s & "this"</script>{{ x }}'


def written(tmp_path, **changes):
    figure = empty_figure(4, 3)
    figure.add_subplot().plot([0, 1])
    parts = {
        "title": "A title",
        "summary": "A summary.",
        "blocks": [Table("A table", ["a"], [["1"]]), Picture("plot", figure, "a line", "A heading", "A caption.")],
        "footer": "A footer",
        "paragraphs": ["A paragraph."],
        "notes": ["A note."],
    }
    return page.write(Page(**parts | changes), tmp_path / "deep" / "page.html").read_text(encoding="utf-8")


def test_a_page_says_everything_in_order(tmp_path):
    words = visible(written(tmp_path))
    parts = ["A title", "A summary.", "A paragraph.", "A table", "A heading", "A caption.", "Notes", "A note."]
    places = [words.index(part) for part in [*parts, "A footer"]]
    assert places == sorted(places)
    assert "Notes" not in visible(written(tmp_path, notes=[]))


def test_a_page_holds_the_picture_that_lies_beside_it_in_its_size(tmp_path):
    html = written(tmp_path)
    assert embedded(html) == [(tmp_path / "deep" / "plot.png").read_bytes()]
    assert 'width="384"' in html  # 4 inches of 96 CSS pixels
    assert 'alt="a line"' in html
    with Image.open(tmp_path / "deep" / "plot.png") as image:
        assert image.size == (600, 450)


def test_all_text_is_escaped(tmp_path):
    figure = empty_figure(4, 3)
    blocks = [Picture("plot", figure, HOSTILE, HOSTILE, HOSTILE)]
    texts = {"title": HOSTILE, "summary": HOSTILE, "footer": HOSTILE, "paragraphs": [HOSTILE], "notes": [HOSTILE]}
    html = written(tmp_path, blocks=blocks, **texts)
    assert "<script" not in html
    assert visible(html).count(HOSTILE) == 7
    assert 'alt="&lt;script&gt;it&#39;s &amp; &#34;this&#34;' in html


def test_a_page_loads_nothing(tmp_path):
    html = written(tmp_path)
    assert not loaded(html)
    assert not flaws(html)


def test_a_verdict_colours_the_summary(tmp_path):
    assert 'class="summary bad"' in written(tmp_path, verdict="bad")
    assert 'class="summary "' in written(tmp_path)


def test_a_picture_without_a_note_has_its_words_as_caption(tmp_path):
    html = written(tmp_path, blocks=[Picture("plot", empty_figure(4, 3), "a line")])
    assert "<figcaption>a line</figcaption>" in html


def test_a_page_runs_the_scripts_of_its_fragments_alone_each_once(tmp_path):
    pieces = [Fragment(Markup(f"<p>{i}</p>"), "p { margin: 0; }", "let x = 1 < 2 && 'ready';") for i in range(2)]
    html = written(tmp_path, blocks=pieces)
    assert not flaws(html)
    assert html.count("let x = 1 < 2 && 'ready';") == html.count("p { margin: 0; }") == html.count("script-src") == 1
    assert "script" not in written(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("default-src &#39;none&#39;", "default-src *"),
        ('alt="a line"', ""),
        ("<figcaption>", "<p>"),
        ('<div class="wide"><table>', "<div><table>"),
        ("</body>", "<script>let x</script></body>"),
        ("<h1>", '<h1 onclick="x()">'),
        ("</body>", '<a href="https://example.org">a</a></body>'),
        ("</body>", '<img alt="a" src="//example.org/a.png"></body>'),
        ("</style>", "@import 'a.css';</style>"),
        ("</style>", "p { background: url(a.png); }</style>"),
        ('<html lang="en">', "<html>"),
        ('name="viewport"', ""),
    ],
)
def test_a_flawed_page_is_told_from_a_good_one(tmp_path, old, new):
    html = written(tmp_path)
    assert not flaws(html)
    assert old in html
    assert flaws(html.replace(old, new))


def test_links_are_replaced_as_if_the_page_had_been_written_with_them(tmp_path):
    links, others = [Link("a page", "a b.html")], [Link(HOSTILE, "c.html"), Link("d", "../d\\1.html")]
    assert page.relinked(written(tmp_path, links=links), others) == written(tmp_path, links=others)
    with pytest.raises(ValueError, match="<nav>"):
        page.relinked(written(tmp_path), others)
