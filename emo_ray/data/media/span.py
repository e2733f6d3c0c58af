"""A stretch of a recording: a clip may be a part of a long file, which is sought and not read from its beginning.

Times count from the beginning of the file, which is the earliest time of any of its streams, as players count.
"""

from fractions import Fraction
from typing import NamedTuple

import av
from av.container import InputContainer
from av.stream import Stream

from emo_ray.data.media.container import Corrupt

_TOLERANCE_S = 0.1  # sound and pictures seldom end together


class Span(NamedTuple):
    """From when to when, in seconds from the beginning of the file."""

    start_s: float
    end_s: float

    def __str__(self) -> str:
        return f"span {self.start_s:g} to {self.end_s:g} s"


class Window(NamedTuple):
    """A span on the clock of a stream, in units of its time base."""

    start: int
    end: int
    origin: int  # the time of the file's beginning
    unit_s: Fraction
    span: Span

    @property
    def duration_s(self) -> float:
        """How long the span is."""
        return self.span.end_s - self.span.start_s

    def check(self, stream_end: int) -> None:
        """Raise Corrupt for a span in which the stream has nothing."""
        if stream_end <= self.start:
            raise Corrupt(f"{self.span}: the recording ends at {self.seconds(stream_end):.1f} s")

    def notes(self, stream_end: int, words: str) -> list[str]:
        """A note where the stream ends within the span."""
        if (self.end - stream_end) * self.unit_s <= _TOLERANCE_S:
            return []
        return [f"{self.span}: {words} end at {self.seconds(stream_end):.1f} s"]

    def seconds(self, time: int) -> float:
        """A time of the stream in seconds from the beginning of the file."""
        return float((time - self.origin) * self.unit_s)


def window_of(span: Span, container: InputContainer, stream: Stream) -> Window:
    """A span on the clock of a stream. Raises Corrupt for a span of no time, and for a stream without a clock."""
    unit_s = stream.time_base
    if not 0 <= span.start_s < span.end_s < float("inf"):
        raise Corrupt(f"{span}: expected 0 <= start < end")
    if unit_s is None:
        raise Corrupt(f"{span}: the file has no clock")
    origin = round(beginning_s(container) / unit_s)
    start, end = (origin + round(Fraction(time_s) / unit_s) for time_s in span)
    return Window(start, end, origin, unit_s, span)


def beginning_s(container: InputContainer) -> Fraction:
    """When a file begins on the clock of its container, in seconds: from there times of clips and boxes count."""
    return Fraction(container.start_time or 0, av.time_base)
