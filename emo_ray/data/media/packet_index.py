"""What a file's packets say of its pictures, read without decoding: which are to be shown, when, and for how long.

Of a span of a long recording only the packets around it are read, where seeking is safe.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import av
from av.packet import Packet
from av.video.stream import VideoStream

from emo_ray.data.media.container import MATROSKA, MP4, READABLE, Corrupt, Limits, Media, Tally, shortfall
from emo_ray.data.media.span import Window

SEEKABLE = {MP4, MATROSKA}  # seeking lands at or before its target; elsewhere that is not sure
_PRE_ROLLS_S = (0.0, 2.0, 20.0)  # how much earlier to seek; an index that lists decoding times lands a little late
_LONGEST_REORDERING = 16  # frames that any codec decodes before one that is shown earlier


class _PacketHead(NamedTuple):
    """What a packet says of itself; times are in units of the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int
    is_key: bool
    is_discard: bool


@dataclass(frozen=True)
class PacketIndex:
    """The packets of a video stream that are to be shown, in decoding order."""

    keys: list[bool]  # whether decoding can start there
    pts: list[int] | None  # presentation times in units of the stream's time base; None where any packet has none
    dts: list[int] | None  # decoding times, likewise
    start: int | None  # the earliest time in the stream, also of packets that are not shown
    last_duration: int  # how long the frame shown last stays, in the same unit; 0 where unknown
    window: Window | None  # of which frames are wanted; None: of all
    is_part: bool = False  # whether the packets in and around the window alone were read

    @property
    def times(self) -> list[int] | None:
        """The times at which frames are shown, in that order; decoding times stand in where there are no others."""
        return sorted(self.pts or self.dts or ()) or None

    def places(self, times: Sequence[int] | None, count: int, frames: int) -> list[int]:
        """Indices of the frames to take of `count` frames that appear at these times, None where times are unknown.

        None are taken where a window cannot be found for lack of times.
        """
        if times:
            return places_in_window(times, self.last_duration, frames, self.window)
        return [] if self.window else spread(count, frames)

    def window_notes(self, times: Sequence[int] | None) -> list[str]:
        """A note where frames that appear at these times end within the window."""
        return self.window.notes(times[-1] + self.last_duration, "pictures") if self.window and times else []


def spread(count: int, frames: int) -> list[int]:
    """Indices of the middles of `frames` equal stretches of `count` frames; short clips repeat frames."""
    return [int((i + 0.5) * count / frames) for i in range(frames)]


def places_in_time(times: Sequence[int], last_duration: int, frames: int) -> list[int]:
    """Indices of the frames on screen at the middles of `frames` equal stretches of time.

    `times` rise. A frame stays until the next; the last stays for `last_duration`, or where that is 0 for as long as
    half of the frames do at most. At a constant rate these are the indices of `spread`, however times were rounded.
    """
    count = len(times)
    if count == 1:
        return [0] * frames
    step = (times[-1] - times[0]) / (count - 1)
    rounding = min(1.0, step / 8)
    is_regular = all(abs(time - times[0] - i * step) <= rounding for i, time in enumerate(times))
    if is_regular and last_duration <= 1.5 * step:
        return spread(count, frames)
    duration = times[-1] - times[0] + (last_duration or _usual_step(times))
    return [bisect_right(times, times[0] + (2 * i + 1) * duration // (2 * frames)) - 1 for i in range(frames)]


def _usual_step(times: Sequence[int]) -> int:
    return round(median(b - a for a, b in pairwise(times))) if len(times) > 1 else 0


def places_in_window(times: Sequence[int], last_duration: int, frames: int, window: Window | None) -> list[int]:
    """Indices of `frames` frames as `places_in_time` gives them for those that appear in a window of time alone.

    A window in which no frame appears shows the one before it. Raises Corrupt for a window behind the last frame.
    """
    if window is None:
        return places_in_time(times, last_duration, frames)
    end = times[-1] + (last_duration or _usual_step(times))
    window.check(end)
    first, beyond = bisect_left(times, window.start), bisect_left(times, window.end)
    if first == beyond:
        first, beyond = max(0, first - 1), max(1, beyond)
    next_time = times[beyond] if beyond < len(times) else end
    visible = times[first:beyond]
    return [first + place for place in places_in_time(visible, min(next_time, window.end) - visible[-1], frames)]


def index_of_packets(
    media: Media, stream: VideoStream, limits: Limits, window: Window | None, by_seeking: bool
) -> tuple[PacketIndex, list[str]]:
    """The packets of a stream, without decoding, and notes on what is missing.

    `by_seeking` allows to read those of the window alone. Raises Corrupt where the container states much more than it
    holds, and for a video or a span that is too long.
    """
    part = _part_index(media, stream, window) if window and by_seeking and media.format in SEEKABLE else None
    index, notes = (part, []) if part else _whole_index(media, stream, window)
    times = index.times
    if times is not None and stream.time_base is not None:
        duration_s = float((times[-1] - times[0]) * stream.time_base) if window is None else window.duration_s
        if duration_s > limits.max_video_s:
            raise Corrupt(f"{duration_s:.0f} s of pictures are more than media.max_video_s={limits.max_video_s:g}")
    return index, notes


def _whole_index(media: Media, stream: VideoStream, window: Window | None) -> tuple[PacketIndex, list[str]]:
    tally = Tally()
    streams = list(media.container.streams) if media.states_whole_duration else [stream]
    packets = list(_heads(p for p in tally.read(media.container, streams) if p.stream_index == stream.index))
    notes = [*_length_notes(media, stream, len(packets), tally), *tally.end_notes(), *media.end_notes]
    return _index(packets, window), notes


def _part_index(media: Media, stream: VideoStream, window: Window) -> PacketIndex | None:
    """The packets from the key frame at or before a window until its end; None where seeking does not get there."""
    assert stream.time_base is not None
    for pre_roll_s in _PRE_ROLLS_S:
        try:
            media.container.seek(window.start - round(pre_roll_s / stream.time_base), stream=stream)
        except av.FFmpegError:
            return None
        packets = list(_until(window.end, _heads(Tally().read(media.container, [stream]))))
        starts = [i for i, p in enumerate(packets) if _can_start(p, window.start)]
        if starts:
            return _index(packets[starts[-1] :], window, is_part=True)
    return None


def _can_start(packet: _PacketHead, time: int) -> bool:
    """Whether decoding from this packet on shows what is on screen at a time."""
    return packet.is_key and not packet.is_discard and packet.pts is not None and packet.pts <= time


def _until(end: int, packets: Iterable[_PacketHead]) -> Iterator[_PacketHead]:
    """The packets until so many in a row are shown after `end` that none can follow that is shown before it."""
    later = 0
    for packet in packets:
        later = later + 1 if packet.pts is None or packet.pts >= end else 0
        yield packet
        if later > _LONGEST_REORDERING:
            return


def _heads(packets: Iterable[Packet]) -> Iterator[_PacketHead]:
    """The packets without their content, which may be larger than the memory."""
    return (_PacketHead(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard) for p in packets)


def _index(packets: Sequence[_PacketHead], window: Window | None, is_part: bool = False) -> PacketIndex:
    shown = [p for p in packets if not p.is_discard]  # an edit list cuts others away
    if not shown:
        raise Corrupt("the video stream has no frames")
    return PacketIndex(
        [p.is_key for p in shown],
        distinct([p.pts for p in shown]),
        distinct([p.dts for p in shown]),
        min((t for p in packets for t in (p.pts, p.dts) if t is not None), default=None),
        max(shown, key=lambda p: (p.pts if p.pts is not None else p.dts) or 0).duration,
        window,
        is_part,
    )


def distinct(times: list[int | None]) -> list[int] | None:
    """The times where every packet has one of its own; else None."""
    numbers = [time for time in times if time is not None]
    return numbers if len(set(numbers)) == len(times) else None


def _length_notes(media: Media, stream: VideoStream, packets: int, tally: Tally) -> list[str]:
    """Notes from comparing the packets with what the container states. Raises Corrupt where many are missing."""
    if media.format == MP4:
        # The index, unlike the frame count, also lists what an edit list cuts away.
        stated = len(stream.index_entries)
        text = f"{packets} of {stated} frames are there"
        if packets < READABLE * stated:
            raise Corrupt(f"truncated: {text}")
        if packets < stated or stream.frames:  # a fragmented file has no frame count, and an index of what was read
            return [text] if packets < stated else []
    reached_s = tally.reached_s(media.container)
    stated_s = media.stated_stream_s(stream)
    if stated_s is not None:
        return shortfall(reached_s, stated_s, "pictures")
    if media.states_whole_duration and media.container.duration is not None:
        return shortfall(reached_s, media.container.duration / av.time_base, "the file")
    return shortfall(reached_s, reached_s / media.stated_share, "the file")
