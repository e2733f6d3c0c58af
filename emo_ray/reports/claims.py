"""What was measured of the paper's claims: tables, pictures, one page, and Markdown for the docs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from emo_ray import durable
from emo_ray.reports import page
from emo_ray.reports.claims_plots import ClaimTable, Mean, picture
from emo_ray.reports.page import Page, Picture
from emo_ray.reports.table import Cell, Style, Table, markdown, markdown_text
from emo_ray.reports.wording import DASH, percent, plural, points

PAGE, MARKDOWN = "claims.html", "claims.md"
HOLDS, FAILS, UNJUDGED = "holds", "FAILS", "not judged"
_STYLES: dict[str, Style] = {HOLDS: "good", FAILS: "bad"}


class Difference(TypedDict):
    """A paired difference over worlds, in shares, with the target it is held to."""

    claim: int
    what: str
    mean: float
    se: float | None  # None for one world
    low: float | None  # ends of the 95 % interval
    high: float | None
    target: str  # in words; empty: none was set
    holds: bool | None  # None: there is no target, or it could not be judged


class Unmeasured(TypedDict):
    """A claim for which nothing was measured."""

    claim: int
    why: str


class ClaimsReport(TypedDict):
    """The content of claims.json."""

    title: str
    metric: str  # in words
    worlds: int
    seeds: int
    setup: str  # sentences
    chance: float  # the share that an even guess gets right
    tables: list[ClaimTable]
    differences: list[Difference]
    empty: list[Unmeasured]


def tables(content: ClaimsReport) -> list[Table]:
    """For each claim its scores and its differences."""
    return [table for table, _ in _entries(content)]


def notes(content: ClaimsReport) -> list[str]:
    """What the tables do not say: the setup, what was not measured, and the summary."""
    reasons = [f"Claim {entry['claim']}, nothing was measured: {entry['why']}" for entry in content["empty"]]
    return [_setup(content), *reasons, summary(content)]


def write(content: ClaimsReport, folder: Path) -> Path:
    """Write `claims.html`, a picture for each table, and `claims.md`; the path of the page."""
    blocks: list[Table | Picture] = []
    drawn: Counter[int] = Counter()  # pictures by claim
    for table, measured in _entries(content):
        blocks.append(table)
        if measured is not None:
            drawn[measured["claim"]] += 1
            number = drawn[measured["claim"]]
            name = f"claim-{measured['claim']}" + (f"-{number}" if number > 1 else "")
            figure = picture(measured, table.title, content["metric"], content["chance"])
            blocks.append(Picture(name, figure, f"The same numbers drawn: {measured['title']}"))
    *paragraphs, verdict = notes(content)
    style = _STYLES.get(_overall(content), "")
    shown = Page(content["title"], verdict, blocks, _footer(content), paragraphs, verdict=style)
    path = page.write(shown, folder / PAGE)
    durable.write_text(folder / MARKDOWN, as_markdown(content))
    return path


def as_markdown(content: ClaimsReport) -> str:
    """The same words and tables for the docs, without the pictures."""
    *paragraphs, verdict = map(markdown_text, notes(content))
    parts = [f"# {markdown_text(content['title'])}", f"**{verdict}**", *paragraphs]
    return "\n\n".join([*parts, *map(markdown, tables(content)), markdown_text(_footer(content))]) + "\n"


def summary(content: ClaimsReport) -> str:
    """How many targets hold, and by name those that do not."""
    differences = content["differences"]
    judged = [d for d in differences if d["holds"] is not None]
    failing = [_named(d) for d in judged if not d["holds"]]
    unjudged = [_named(d) for d in differences if _verdict(d) == UNJUDGED]
    sentences = f"{len(judged) - len(failing)} of {len(judged)} targets hold" if judged else "No target was judged"
    sentences += f"; {FAILS}: {'; '.join(failing)}." if failing else "."
    if unjudged and judged:
        sentences += f" Not judged: {'; '.join(unjudged)}."
    if content["empty"]:
        sentences += f" Nothing was measured for claim {', '.join(str(e['claim']) for e in content['empty'])}."
    return sentences


def _entries(content: ClaimsReport) -> Iterator[tuple[Table, ClaimTable | None]]:
    """Claim by claim the tables of scores, each with what it was made from, then the differences."""
    for claim in sorted({entry["claim"] for entry in (*content["tables"], *content["differences"])}):
        for measured in content["tables"]:
            if measured["claim"] == claim:
                rows = [[row["name"], *map(_with_error, row["cells"])] for row in measured["rows"]]
                header = [measured["first"], *measured["columns"]]
                yield Table(f"Claim {claim}: {measured['title']}", header, rows, measured["note"]), measured
        if differences := [difference for difference in content["differences"] if difference["claim"] == claim]:
            yield _difference_table(claim, differences), None


def _difference_table(claim: int, differences: Sequence[Difference]) -> Table:
    rows: list[list[str | Cell]] = [
        [
            d["what"],
            points(d["mean"]),
            percent(d["se"]),
            DASH if d["low"] is None or d["high"] is None else f"{points(d['low'])} to {points(d['high'])}",
            d["target"] or DASH,
            Cell(_verdict(d), _STYLES.get(_verdict(d), "")),
        ]
        for d in differences
    ]
    header = ["difference", "points", "SE", "95 % interval", "target", "verdict"]
    return Table(f"Claim {claim}: differences", header, rows, words=(0, 4))


def _named(difference: Difference) -> str:
    return f"claim {difference['claim']}, {difference['what']} ({points(difference['mean'])} points)"


def _setup(content: ClaimsReport) -> str:
    several = content["worlds"] > 1
    worlds, seeds = plural(content["worlds"], "world"), plural(content["seeds"], "seed")
    return (
        f"{content['setup']} {content['metric']} in percent, {'mean ± standard error over' if several else 'mean of'} "
        f"{worlds} with {seeds}{' each' if several else ''}; guessing evenly gives {percent(content['chance'])}."
    )


def _footer(content: ClaimsReport) -> str:
    return (
        "rates in percent · differences in percentage points · ± and SE: one standard error · "
        f"chance: an even guess, {percent(content['chance'])}"
    )


def _overall(content: ClaimsReport) -> str:
    """The worst verdict; empty where there is none."""
    verdicts = {_verdict(d) for d in content["differences"]}
    return next((verdict for verdict in (FAILS, HOLDS) if verdict in verdicts), "")


def _verdict(difference: Difference) -> str:
    if difference["holds"] is None:
        return UNJUDGED if difference["target"] else DASH
    return HOLDS if difference["holds"] else FAILS


def _with_error(cell: Mean) -> str:
    """Mean ± standard error in percent."""
    return percent(cell["mean"]) + ("" if cell["se"] is None else f" ±{percent(cell['se'])}")
