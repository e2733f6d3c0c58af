"""What is asked of a video, and what comes of it: some frames, spread over its time, and which they are."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from av.video.frame import VideoFrame

from emo_ray.data.media.container import Limits
from emo_ray.data.media.span import Span

Channels = Literal["rgb", "bgr"]


@dataclass(frozen=True)
class Request:
    """How many frames to take of a clip, what to make of each, and from which stretch of the file.

    `render` gets a decoded frame and the width of its pixels divided by their height. `channels` is the order of
    colours in arrays of frames, which do not say it.
    """

    frames: int
    render: Callable[[VideoFrame, Fraction], Any]
    limits: Limits
    span: Span | None
    channels: Channels = "rgb"


class Sample(NamedTuple):
    """What was made of T frames spread over a clip, and which they are."""

    values: list[Any]
    numbers: list[int | None]  # of the frames, from 0 at the beginning of the file
    times_s: list[float | None]  # from the beginning of the file
