"""One table, shown three ways: in a terminal (rich), on a page (HTML, `templates/table.html`), and in Markdown.

Text is plain everywhere; only the renderers here know what their format would read as markup, and escape it.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from emo_ray.reports.templating import TEMPLATES

Style = Literal["", "good", "warning", "bad"]
_RICH_STYLES: dict[Style, str] = {"": "", "good": "green", "warning": "bold dark_orange", "bad": "bold red"}
_WIDEST_TITLE = 78  # columns; a longer title is broken where its table is narrower


class Cell(NamedTuple):
    """Text with a style, such as a verdict in red; on a page it leads to the relative address `href`."""

    text: str
    style: Style = ""
    href: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the row.

    `emphasised` holds positions of rows, `words` those of columns with words in place of numbers. A terminal shows the
    first `visible_rows` (None: all), a page shows the others when asked.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""
    emphasised: Collection[int] = ()
    words: Collection[int] = (0,)
    visible_rows: int | None = None

    def cells(self) -> list[list[Cell]]:
        """All rows, each text as a cell."""
        return [[Cell(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows]

    def hidden_rows(self) -> int:
        """How many rows are not shown at first."""
        return 0 if self.visible_rows is None else max(len(self.rows) - self.visible_rows, 0)


def terminal(table: Table) -> RichTable:
    """The visible rows for `rich`. All cells are `Text`, because rich reads brackets in a plain string as markup."""
    hidden = f"{table.hidden_rows()} more on the page" if table.hidden_rows() else ""
    note = "\n".join(filter(None, (table.note, hidden)))
    grid = RichTable(
        title=Text(table.title), caption=Text(note) if note else None, box=box.SIMPLE_HEAD, collapse_padding=True,
        min_width=min(len(table.title), _WIDEST_TITLE),
    )  # fmt: skip
    grid.title_justify = grid.caption_justify = "left"
    for column, name in enumerate(table.header):
        justify: Literal["left", "right"] = "left" if column in table.words else "right"
        grid.add_column(Text(name), justify=justify, overflow="fold", vertical="bottom")
    for position, row in enumerate(table.cells()[: table.visible_rows]):
        style = "bold" if position in table.emphasised else None
        grid.add_row(*(Text(cell.text, style=_RICH_STYLES[cell.style]) for cell in row), style=style)
    return grid


def html(table: Table) -> str:
    """Heading, rows and note as a piece of a page, escaped."""
    return TEMPLATES.get_template("table.html").render(table=table)


def markdown(table: Table) -> str:
    """Heading, all rows and note. Emphasised rows and bad cells are bold."""
    lines = [[markdown_text(name) for name in table.header]]
    lines.append(["---" if column in table.words else "---:" for column in range(len(table.header))])
    for position, row in enumerate(table.cells()):
        emphasised = position in table.emphasised
        texts = [(markdown_text(cell.text), emphasised or cell.style == "bad") for cell in row]
        lines.append([f"**{text}**" if text and bold else text for text, bold in texts])
    grid = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(filter(None, (f"## {markdown_text(table.title)}", grid, markdown_text(table.note))))


def markdown_text(text: str) -> str:
    """Text on one line in which Markdown sees no commands."""
    return re.sub(r"([\\`*_\[\]<>&$|~])", r"\\\1", " ".join(text.split()))
