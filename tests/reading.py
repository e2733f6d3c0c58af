"""What a reader sees of a report: the words of a page, and its tables in a terminal."""

import io
import re
from html import unescape

from rich.console import Console


def visible(html):
    """The words of a page."""
    return unescape(re.sub("<[^>]*>", " ", html.split("</head>")[1]))


def terminal(tables, width):
    """The tables, so many columns wide."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in tables:
        console.print(table)
    return console.file.getvalue()
