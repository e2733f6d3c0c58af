"""What a user sees of a stage: bars, notes and tables, on standard error, so that standard output stays clean."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment

from emo_ray.reports.table import Table, terminal

_WIDTH = None if sys.stderr.isatty() else 150  # 80 columns, which a file would get, break every table in a log
# Characters that a terminal obeys, or that change the order of others, and no tab or newline.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class PlainConsole(Console):
    """A console on which labels, file names and messages from elsewhere cannot give the terminal orders."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The segments of a renderable; rich's own orders, such as those that move a bar, are no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


def harmless(text: str) -> str:
    """The text with control characters spelt out, such as an escape as \\x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


console = PlainConsole(stderr=True, highlight=False, emoji=False, width=_WIDTH)  # :smile: in a path stays as it is


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: float = 0, note: str = "") -> None:
        """Add what was done since the last call, and show a note in place of the rate."""


def say(message: str) -> None:
    """Print one line for the user."""
    console.print(message, markup=False, soft_wrap=True)


def show(tables: Iterable[Table], lines: Iterable[str] = ()) -> None:
    """Print tables, but for those that only a page shows, and lines below them."""
    for table in tables:
        if table.visible_rows != 0:
            console.print(terminal(table))
    for line in lines:
        say(line)


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Advance]:
    """Show a bar with rate and expected end; call what it yields with the number of units done since the last call.

    `unit` is a plural, such as "clips". Where standard error is no terminal, one line at the end is printed instead.
    """
    noun = unit.removesuffix("s") if total == 1 else unit
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(noun),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(done: float = 0, note: str = "") -> None:
            rate = bar.tasks[0].speed
            bar.update(task, advance=done, note=note or (f"{rate:.1f} {unit}/s" if rate else ""))

        yield advance
        seconds = bar.tasks[0].elapsed or 0.0
    if not console.is_terminal:
        say(f"{title}: {total} {noun} in {seconds:.1f} s")


@contextmanager
def late_progress(title: str, unit: str, quiet_s: float = 2.0) -> Iterator[Callable[[int, int], None]]:
    """Show progress as `progress` does, but only once the work has taken `quiet_s`.

    Call what it yields with the number of units that are done, and that of all.
    """
    begun_s, last = time.monotonic(), 0
    with ExitStack() as stack:
        advance: Advance | None = None

        def report(done: int, total: int) -> None:
            nonlocal advance, last
            if advance is None and time.monotonic() - begun_s > quiet_s:
                advance = stack.enter_context(progress(title, total, unit))
            if advance is not None:
                advance(done - last)
                last = done

        yield report
