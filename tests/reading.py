"""What a reader sees of a report: the words of a page, its pictures, and its tables in a terminal."""

import base64
import io
import re
from html import unescape

from rich.console import Console

from emo_ray.reports import table as tables_


def visible(html):
    """The words of a page."""
    return unescape(re.sub("<[^>]*>", " ", html.split("</head>")[1]))


def embedded(html):
    """The PNG files that a page holds."""
    return [base64.b64decode(data) for data in re.findall('data:image/png;base64,([^"]*)', html)]


def jpegs(html):
    """The JPEG files that a page holds."""
    return [base64.b64decode(data) for data in re.findall('data:image/jpeg;base64,([^"]*)', html)]


def loaded(html):
    """What a page would load from elsewhere."""
    return re.findall(r"https?:|//|@import|url\(|<link|<script", re.sub(r'base64,[^"]*', "", html))


def terminal(tables, width):
    """The tables, printed so many columns wide."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in tables:
        console.print(tables_.terminal(table))
    return console.file.getvalue()


def texts(table):
    """The rows of a table as text."""
    return [[cell.text for cell in row] for row in table.cells()]
