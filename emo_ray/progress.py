"""What a user sees while a stage runs: rich bars and notes on standard error, so that standard output stays clean."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

# A file has no width, and 80 columns would break every table in a log.
console = Console(stderr=True, highlight=False, width=None if sys.stderr.isatty() else 150)


def say(message: str) -> None:
    """One line for the user."""
    console.print(message, markup=False, soft_wrap=True)


def show(tables: Iterable[Table], notes: Iterable[str], page: Path) -> None:
    """A report for people: its tables, its notes, and where the rest of it lies."""
    for table in tables:
        console.print(table)
    for note in notes:
        say(note)
    say(f"pictures and details: {page}")


@contextmanager
def progress(title: str, total: float, unit: str) -> Iterator[Callable[[float], None]]:
    """A bar with rate and expected end; the value is called with what was done since the last call.

    Where standard error is no terminal, one line at the end is printed instead.
    """
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
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
        say(f"{title}: {total:g} {unit} in {seconds:.1f} s")
