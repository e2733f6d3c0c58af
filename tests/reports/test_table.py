"""One table in a terminal, on a page and in Markdown: every text in all three, and none of it read as markup."""

import re

import pytest
from markdown_it import MarkdownIt
from reading import terminal

from emo_ray.reports import table as renderers
from emo_ray.reports.table import Cell, Table

HOSTILE = "<b>[red]`*c*`|$x_1$ &amp; \\"
TABLE = Table(
    title="A title",
    header=["class", "clips", "drift"],
    rows=[["angry", "30", Cell("starved", "warning")], ["sad", "10", Cell("FAILS", "bad")], ["calm", "7", "–"]],
    note="A note.",
    emphasised=(0,),
    words=(0, 2),
)


def cells(html):
    """Rows of (tag, attributes, text)."""
    rows = re.findall("<tr[^>]*>(.*?)</tr>", html, re.DOTALL)
    return [re.findall("<(t[hd])([^>]*)>(.*?)</t[hd]>", row) for row in rows]


def test_every_text_is_in_all_three_forms():
    for text in (terminal([TABLE], 80), renderers.html(TABLE), renderers.markdown(TABLE)):
        for word in ("A title", "class", "clips", "drift", "angry", "30", "starved", "FAILS", "calm", "–", "A note."):
            assert word in text


def test_nothing_is_read_as_markup():
    hostile = Table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)
    assert terminal([hostile], 400).count(HOSTILE) == 6
    assert "<b>" not in renderers.html(hostile)
    assert renderers.html(hostile).count("&lt;b&gt;[red]`*c*`|$x_1$ &amp;amp; \\") == 6
    page = MarkdownIt("commonmark").enable("table").render(renderers.markdown(hostile))
    assert "<b>" not in page
    assert "<code>" not in page
    assert "<em>" not in page
    assert len(re.findall("<t[hd][ >]", page)) == 4
    assert page.count("&lt;b&gt;[red]`*c*`|$x_1$ &amp;amp; \\") == 6


def test_styles_and_emphasis_in_a_terminal():
    grid = renderers.terminal(TABLE)
    assert [row.style for row in grid.rows] == ["bold", None, None]
    assert [str(cell.style) for cell in grid.columns[2].cells] == ["bold dark_orange", "bold red", ""]
    assert [column.justify for column in grid.columns] == ["left", "right", "left"]


def test_styles_and_emphasis_on_a_page():
    html = renderers.html(TABLE)
    header, *rows = cells(html)
    assert [text for *_, text in header] == ["class", "clips", "drift"]
    assert rows[0][0] == ("th", ' scope="row" class="words"', "angry")
    assert rows[0][1:] == [("td", "", "30"), ("td", ' class="words warning"', "starved")]
    assert rows[1][2] == ("td", ' class="words bad"', "FAILS")
    assert html.count('<tr class="emphasised"') == 1


def test_styles_and_emphasis_in_markdown():
    assert renderers.markdown(TABLE).splitlines() == [
        *("## A title", ""),
        *("| class | clips | drift |", "| --- | ---: | --- |", "| **angry** | **30** | **starved** |"),
        *("| sad | 10 | **FAILS** |", "| calm | 7 | – |", "", "A note."),
    ]


@pytest.mark.parametrize(("visible_rows", "hidden"), [(None, 0), (3, 0), (2, 1), (0, 3)])
def test_hidden_rows_are_counted_in_a_terminal_and_folded_on_a_page(visible_rows, hidden):
    table = Table("A title", TABLE.header, TABLE.rows, visible_rows=visible_rows)
    assert table.hidden_rows() == hidden
    assert ("more on the page" in terminal([table], 80)) == bool(hidden)
    assert renderers.terminal(table).row_count == 3 - hidden
    html = renderers.html(table)
    assert html.partition("<details>")[2].count('<th scope="row"') == hidden
    assert html.count('<th scope="row"') == 3
    assert html.count("A title") == 1
    assert renderers.markdown(table).count("\n| ") == 5  # header, rule and rows


def test_a_table_without_rows_keeps_its_title_and_header():
    empty = Table("A title", ["class"], [])
    for text in (terminal([empty], 80), renderers.html(empty), renderers.markdown(empty)):
        assert "A title" in text
        assert "class" in text
