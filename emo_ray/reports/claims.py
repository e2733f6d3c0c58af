"""What was measured of the paper's claims: tables for the terminal, pictures, a self-contained page, and Markdown.

`content` is a plain dict, as `claims.json` holds it:

    title, metric, setup   words; worlds, seeds: counts; chance: the share that an even guess gets right
    tables        [{"claim", "title", "note", "columns", "first" (header of the row names), "rows":
                    [{"name", "cells": [{"mean", "se"} or None, one for each column]}]}]
    differences   [{"claim", "what", "mean", "se", "low", "high" (95 % interval), "target", "holds"}]
    empty         [{"claim", "why"}]: claims (numbers) for which nothing was measured

Rates are shares in [0, 1] and shown in percent. `se`, `low` and `high` are None where one world says nothing about the
others; `holds` is None where no target was set or none could be judged.
"""

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from emo_ray.reports import page
from emo_ray.reports.claims_plots import picture

PAGE, MARKDOWN = "claims.html", "claims.md"
HOLDS, FAILS, UNJUDGED = "holds", "FAILS", "not judged"
_DASH = "–"
_COMPARED = ["difference", "points", "SE", "95 % interval", "target", "verdict"]
_STYLES = {HOLDS: "green", FAILS: "bold red"}

Row = list[str]
Section = tuple[int, list[dict], list[dict], list[str]]  # claim, its tables, its differences, why it is empty


def summary(content: dict[str, Any]) -> str:
    """How many targets hold, and by name those that do not."""
    differences = content["differences"]
    judged = [d for d in differences if d["holds"] is not None]
    failing = [_named(d) for d in judged if not d["holds"]]
    open_ = [_named(d) for d in differences if _verdict(d) == UNJUDGED]
    said = f"{len(judged) - len(failing)} of {len(judged)} targets hold" if judged else "No target was judged"
    said += f"; {FAILS}: {'; '.join(failing)}." if failing else "."
    if open_ and judged:
        said += f" Not judged: {'; '.join(open_)}."
    if content["empty"]:
        said += f" Nothing was measured for claim {', '.join(str(e['claim']) for e in content['empty'])}."
    return said


def tables(content: dict[str, Any]) -> list[Table]:
    """The summary, then for each claim its tables and differences, for the terminal."""
    head = Table.grid()
    head.add_column(overflow="fold")
    head.add_row(Text(content["title"], style="bold"))
    head.add_row(Text(summary(content), style=_STYLES[_overall(content)] if _overall(content) else ""))
    head.add_row(Text(f"{content['setup']} {_measured_sentence(content)}"))
    drawn = [head]
    for claim, measured, differences, reasons in _sections(content):
        for table in measured:
            drawn.append(_terminal(_heading(claim, table["title"]), *_measured(table, " ±"), table["note"]))
        if differences:
            drawn.append(_terminal(_heading(claim, "differences"), _COMPARED, _compared(differences), ""))
        for why in reasons:
            head.add_row(Text(f"{_heading(claim)}, nothing was measured: {why}"))
    return drawn


def write_html(content: dict[str, Any], folder: Path) -> Path:
    """Write `claims.html`, one picture for each table, which the page holds a copy of, and `claims.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    body = [
        f"<h1>{escape(content['title'])}</h1>",
        f"<p class='summary {_overall(content)}'>{escape(summary(content))}</p>",
        f"<p>{escape(content['setup'])} {escape(_measured_sentence(content))}</p>",
    ]
    for claim, measured, differences, reasons in _sections(content):
        for number, table in enumerate(measured, 1):
            png = page.png(picture(table, content, _heading(claim, table["title"])))
            (folder / (f"claim-{claim}-{number}.png" if number > 1 else f"claim-{claim}.png")).write_bytes(png)
            body += [f"<h2>{escape(_heading(claim, table['title']))}</h2>", page.html_table(*_measured(table))]
            body += [f"<p class='note'>{escape(table['note'])}</p>"] if table["note"] else []
            body += [page.picture(png, f"The same numbers drawn: {table['title']}")]
        if not measured:
            body += [f"<h2>{escape(_heading(claim))}</h2>"]
        if differences:
            classes = dict.fromkeys((d["target"] for d in differences), "words") | {HOLDS: "holds", FAILS: "fails"}
            body += [page.html_table(_COMPARED, _compared(differences), classes)]
        body += [f"<p class='note'>Nothing was measured: {escape(why)}</p>" for why in reasons]
    body += [f"<footer>{escape(_footer(content))}</footer>"]
    path = folder / PAGE
    path.write_text(page.document(content["title"], body, _CSS), encoding="utf-8")
    (folder / MARKDOWN).write_text(markdown(content), encoding="utf-8")
    return path


def markdown(content: dict[str, Any]) -> str:
    """The same words and tables for the docs, without the pictures."""
    parts = [f"# {_plain(content['title'])}", f"**{_plain(summary(content))}**"]
    parts += [_plain(f"{content['setup']} {_measured_sentence(content)}")]
    for claim, measured, differences, reasons in _sections(content):
        for table in measured:
            parts += [f"## {_plain(_heading(claim, table['title']))}", _markdown_table(*_measured(table))]
            parts += [_plain(table["note"])] if table["note"] else []
        if not measured:
            parts += [f"## {_plain(_heading(claim))}"]
        if differences:
            parts += [_markdown_table(_COMPARED, _compared(differences))]
        parts += [f"Nothing was measured: {_plain(why)}" for why in reasons]
    return "\n\n".join([*parts, _plain(_footer(content))]) + "\n"


def _sections(content: dict[str, Any]) -> Iterator[Section]:
    """Claim by claim, in the order of their numbers."""
    parts = [content[key] for key in ("tables", "differences", "empty")]
    for claim in sorted({entry["claim"] for part in parts for entry in part}):
        measured, differences, empty = ([e for e in part if e["claim"] == claim] for part in parts)
        yield claim, measured, differences, [e["why"] for e in empty]


def _heading(claim: int, title: str = "") -> str:
    return f"Claim {claim}: {title}" if title else f"Claim {claim}"


def _named(difference: dict[str, Any]) -> str:
    return f"claim {difference['claim']}, {difference['what']} ({page.points(difference['mean'])} points)"


def _measured_sentence(content: dict[str, Any]) -> str:
    worlds, seeds = (f"{content[k]} {k[:-1] if content[k] == 1 else k}" for k in ("worlds", "seeds"))
    error = "mean ± standard error over" if content["worlds"] > 1 else "mean of"
    each = " each" if content["worlds"] > 1 else ""
    return (
        f"{content['metric']} in percent, {error} {worlds} with {seeds}{each}; "
        f"guessing evenly gives {page.percent(content['chance'])}."
    )


def _footer(content: dict[str, Any]) -> str:
    return (
        "rates in percent · differences in percentage points · ± and SE: one standard error · "
        f"chance: an even guess, {page.percent(content['chance'])}"
    )


def _overall(content: dict[str, Any]) -> str:
    """The worst verdict; empty where there is none."""
    verdicts = {_verdict(d) for d in content["differences"]}
    return next((verdict for verdict in (FAILS, HOLDS) if verdict in verdicts), "")


def _verdict(difference: dict[str, Any]) -> str:
    if difference["holds"] is None:
        return UNJUDGED if difference["target"] else _DASH
    return HOLDS if difference["holds"] else FAILS


def _measured(table: dict[str, Any], sign: str = " ± ") -> tuple[Row, list[Row]]:
    """Header and rows as text."""
    rows = [[row["name"], *(_with_error(cell, sign) for cell in row["cells"])] for row in table["rows"]]
    return [table["first"], *table["columns"]], rows


def _compared(differences: Sequence[dict[str, Any]]) -> list[Row]:
    return [
        [
            d["what"],
            page.points(d["mean"]),
            page.percent(d["se"]),
            _DASH if d["low"] is None or d["high"] is None else f"{page.points(d['low'])} to {page.points(d['high'])}",
            d["target"] or _DASH,
            _verdict(d),
        ]
        for d in differences
    ]


def _with_error(cell: dict[str, float | None] | None, sign: str) -> str:
    if cell is None:
        return _DASH
    error = page.percent(cell["se"])
    return page.percent(cell["mean"]) + ("" if error == _DASH else f"{sign}{error}")


def _terminal(title: str, header: Row, rows: list[Row], note: str) -> Table:
    """All words are `Text`: rich would read brackets in a plain string as markup."""
    drawn = Table(title=Text(title), caption=Text(note) if note else None, box=box.SIMPLE_HEAD, collapse_padding=True)
    drawn.title_justify = drawn.caption_justify = "left"
    for position, name in enumerate(header):
        drawn.add_column(Text(name), justify="right" if position else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "") if i else "") for i, cell in enumerate(row)))
    return drawn


def _markdown_table(header: Row, rows: list[Row]) -> str:
    lines = [[_plain(cell) for cell in header], ["---", *["---:"] * (len(header) - 1)]]
    lines += [[f"**{FAILS}**" if cell == FAILS else _plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text on one line in which Markdown sees no commands."""
    return re.sub(r"([\\`*_\[\]<>&$|~])", r"\\\1", " ".join(text.split()))


_CSS = """
body { max-width: 58rem; }
table { font-size: .95rem; }
th, td { padding: .3rem .5rem; }
th[scope=row], td.words { white-space: normal; }
td.words { min-width: 9rem; }
.note { color: var(--faint); }
.summary.holds, .summary.FAILS { padding: .5rem .9rem; border-left: .3rem solid #1b7f4b; }
.summary.holds { background: #1b7f4b1a; }
.summary.FAILS { background: #c628281f; border-color: #c62828; font-weight: 600; }
td.holds { color: #1b7f4b; font-weight: 600; }
td.fails { color: #ffffff; background: #c62828; font-weight: 700; }
@media (prefers-color-scheme: dark) { td.holds { color: #5fce95; } }
"""
