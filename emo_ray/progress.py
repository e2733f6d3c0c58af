"""What a user sees of a stage: progress, notes and tables, on standard error, so that standard output stays clean.

The same events, and figures that are measured on the way, go to listeners: a job's log and its gauges.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Lock, Thread
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.segment import Segment

from emo_ray.reports.table import Table, terminal

_WIDTH = None if sys.stderr.isatty() else 150  # 80 columns, which a file would get, break every table in a log
_LINE_EVERY_S = 30.0  # lines of a stage in a log
_TOLD_EVERY_S = 10.0  # how often listeners hear of a stage: Ray hands gauges on as often
_LOOK_S = 1.0  # how often is looked whether one is due
_REDRAW_S = 0.2
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
_display: list[Progress] = []  # the bars of the stages that run, while some do
_lock = Lock()  # of `_display`
Listener = Callable[[str, dict[str, Any]], None]  # gets the kind of an event, and its JSON-able fields
_listeners: list[Listener] = []
_unsaid: list[bool] = []  # an entry for each block of `nothing_said` that runs


class Advance(Protocol):
    """Counts what is done."""

    def __call__(self, done: float = 0, note: str = "", earlier: bool = False) -> None:
        """Add what was done since the last call, and show a note beside it; `earlier`: an earlier run did it."""


def say(message: str) -> None:
    """Print one line for the user."""
    if _unsaid:
        return
    console.print(message, markup=False, soft_wrap=True)
    _tell("said", text=message)


@contextmanager
def nothing_said() -> Iterator[None]:
    """Keep `say` quiet while the block runs, because it does again what has said the same before."""
    _unsaid.append(True)
    try:
        yield
    finally:
        _unsaid.pop()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener have every event while the block runs, in whichever thread it comes."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def measured(name: str, value: float, **tags: str) -> None:
    """Tell the listeners a figure by the name of its gauge (`emo_ray.gauges`); nobody is shown it."""
    _tell("measured", name=name, value=value, **tags)


def _tell(kind: str, **fields: Any) -> None:
    for listener in list(_listeners):
        listener(kind, fields)


def show(tables: Iterable[Table], lines: Iterable[str] = ()) -> None:
    """Print tables, but for those that only a page shows, and lines below them."""
    for table in tables:
        if table.visible_rows != 0:
            console.print(terminal(table))
    for line in lines:
        say(line)


@contextmanager
def progress(title: str, total: int, unit: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Show what is done, its share, rate and expected end; call what it yields with what was done since the last call.

    `unit` is a plural, such as "clips". On a terminal this is a bar, and bars of stages that run at once stand below
    each other; elsewhere it is a line every half minute. Both end with one line. `clock` gives seconds.
    """
    stage = Stage(title, total, unit, clock)

    with _telling(stage), _bar(stage) if console.is_terminal else _lines(stage):
        yield stage.advance
    say(stage.last_line())


@contextmanager
def _telling(stage: "Stage") -> Iterator[None]:
    """Tell the listeners how far a stage is: at its begin, every ten seconds, and at its end."""

    def tell(state: str) -> None:
        _tell("stage", state=state, **stage.fields)

    tell("begun")
    try:
        with repeated(lambda: tell("running"), _TOLD_EVERY_S):
            yield
    finally:
        tell("ended")


@contextmanager
def _bar(stage: "Stage") -> Iterator[None]:
    """Show a bar of a stage, in the display that all stages of this process share."""
    with _lock:
        if not _display:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[stage]}"))
            _display.append(Progress(*columns, console=console, transient=True))
            _display[0].start()
        display = _display[0]
        row = display.add_task(stage.title, total=max(stage.total, 1), stage=stage.state)
    with repeated(lambda: display.update(row, completed=stage.done, stage=stage.state), _REDRAW_S):
        try:
            yield
        finally:
            with _lock:
                display.remove_task(row)
                if not display.tasks:
                    _display.clear()
                    display.stop()


@contextmanager
def _lines(stage: "Stage") -> Iterator[None]:
    """Print a line of a stage every half minute."""
    with repeated(lambda: say(stage.line()) if stage.is_due() else None, _LOOK_S):
        yield


@contextmanager
def repeated(function: Callable[[], None], period_s: float) -> Iterator[None]:
    """Call a function again and again in a thread while the block runs."""
    stop = Event()

    def repeat() -> None:
        while not stop.wait(period_s):
            function()

    thread = Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
            is_first = advance is None and time.monotonic() - begun_s > quiet_s
            if is_first:
                advance = stack.enter_context(progress(title, total, unit))
            if advance is not None:
                advance(done - last, earlier=is_first)  # done before the stage's clock began
                last = done

        yield report


class Stage:
    """How far a piece of work is."""

    def __init__(self, title: str, total: int, unit: str, clock: Callable[[], float]):
        self.title, self.total, self.unit, self.clock = title, total, unit, clock
        self.done = self.done_before = 0.0
        self.note = ""
        self.begun_s = self.told_s = clock()

    def advance(self, done: float = 0, note: str = "", earlier: bool = False) -> None:
        """Count what was done; what an earlier run did is no work of this one, and no part of its rate."""
        self.done_before += done if earlier else 0
        self.done, self.note = self.done + done, note

    def is_due(self) -> bool:
        """Whether the last line is half a minute old; asking counts as telling."""
        is_due = self.clock() - self.told_s >= _LINE_EVERY_S
        if is_due:
            self.told_s = self.clock()
        return is_due

    def line(self) -> str:
        """Title and state, such as "decoding: 120 of 300 clips (40 %), 4.1 clips/s, 44 s left"."""
        return f"{self.title}: {self.state}"

    @property
    def state(self) -> str:
        """What is done, its share, the rate since the begin, the time left, and the note."""
        share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
        parts = [f"{self.done:.0f} of {self.total} {self._noun}{share}"]
        passed_s = self.clock() - self.begun_s
        if self.done > self.done_before:
            rate = (self.done - self.done_before) / passed_s
            parts.append(f"{rate:.1f} {self.unit}/s" if rate >= 0.1 else f"{60 * rate:.1f} {self.unit}/min")
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        else:
            parts.append(f"{duration(passed_s)} so far")
        return ", ".join([*parts, *([self.note] if self.note else [])])

    def last_line(self) -> str:
        """The line at the end; work that ended early, such as training, says how much of it was done."""
        part = f"{self.done:.0f} of " if 0 < self.done < self.total else ""
        return f"{self.title}: {part}{self.total} {self._noun} in {self.clock() - self.begun_s:.1f} s"

    @property
    def fields(self) -> dict[str, Any]:
        """The figures of the stage as JSON-able values; `rate` is in units a second, without what was done before."""
        passed_s = self.clock() - self.begun_s
        done_now = self.done - self.done_before
        return {
            "title": self.title,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "seconds": round(passed_s, 3),
            "rate": round(done_now / passed_s, 3) if passed_s else 0.0,
            "line": self.line(),
        }

    @property
    def _noun(self) -> str:
        return self.unit.removesuffix("s") if self.total == 1 else self.unit


def duration(seconds: float) -> str:
    """Seconds as people say them: "44 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
