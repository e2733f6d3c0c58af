"""Models of several corpora, each tested on every corpus: tables of corpora by corpora, as a page and as Markdown."""

from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from emo_ray import durable
from emo_ray.reports import page
from emo_ray.reports.page import Page
from emo_ray.reports.table import Table, markdown
from emo_ray.reports.wording import DASH, SCORES, percent

PAGE, MARKDOWN = "report.html", "report.md"
_ABOUT = (
    "Rows: what a model was trained on; columns: what it was tested on. On another corpus all labelled clips count "
    "whose class the model knows, and it chooses among the classes that both corpora have; on its own its test clips."
)


class Pair(TypedDict):
    """A model on a corpus. Rates are in [0, 1] and empty where the corpora share fewer than two classes."""

    trained_on: str
    tested_on: str
    classes: list[str]  # that both have
    scores: dict[str, float]  # waf, accuracy, uar, macro_f1
    n: int  # clips
    report: str | None  # the folder of the full report over all classes of the model


class CrossCorpusReport(TypedDict):
    """The content of report.json."""

    corpora: list[str]
    labels: dict[str, list[str]]  # corpus -> classes
    pairs: list[Pair]


def tables(content: CrossCorpusReport) -> list[Table]:
    """WAF and UAR of every pair of corpora, then the number of clips and of classes that these are over."""
    return [
        _table(content, f"{SCORES['waf']} across corpora", lambda pair: percent(pair["scores"]["waf"])),
        _table(content, f"{SCORES['uar']} across corpora", lambda pair: percent(pair["scores"]["uar"])),
        _table(content, "Clips (classes)", lambda pair: f"{pair['n']} ({len(pair['classes'])})"),
    ]


def write(content: CrossCorpusReport, folder: Path) -> Path:
    """Write `report.html` and `report.md`; the path of the page."""
    blocks = tables(content)
    durable.write_text(folder / MARKDOWN, "\n\n".join([_ABOUT, *map(markdown, blocks)]) + "\n")
    classes = [f"{name}: {', '.join(labels)}" for name, labels in content["labels"].items()]
    shown = Page(
        title="Across corpora",
        summary=f"{len(content['corpora'])} corpora, a model of each.",
        blocks=blocks,
        footer="rates in percent",
        paragraphs=[_ABOUT],
        notes=classes,
    )
    return page.write(shown, folder / PAGE)


def _table(content: CrossCorpusReport, title: str, text_of: Callable[[Pair], str]) -> Table:
    cell_of = {
        (pair["trained_on"], pair["tested_on"]): text_of(pair) if pair["scores"] else DASH for pair in content["pairs"]
    }
    names = content["corpora"]
    rows = [[trained_on, *(cell_of[trained_on, tested_on] for tested_on in names)] for trained_on in names]
    return Table(title, ["trained on", *(f"on {name}" for name in names)], rows)
