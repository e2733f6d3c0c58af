"""Pictures: T frames of a clip, spread evenly over its time.

First the packets are read without decoding; their time stamps say which frames are needed, and from which key frames.
Where what is decoded then differs from what the packets promised, the frames that decode are counted, and decoded
again from the beginning.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile, groupby, pairwise
from statistics import median
from typing import NamedTuple

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emo_ray.data.media.container import (
    LIMITS,
    MATROSKA,
    MP4,
    READABLE,
    Corrupt,
    Limits,
    Media,
    Missing,
    Tally,
    choose_stream,
    opened,
    shortfall,
    with_status,
)
from emo_ray.data.media.picture import Resizer, check_pixels

_SEEKABLE = {MP4, MATROSKA}  # seeking lands at or before its target; elsewhere that is not sure
_SEEK_GAIN = 0.8  # seek only when it decodes less than this share of what straight decoding does

Images = dict[int, np.ndarray]  # time stamp, or place in the order of decoding -> uint8 (size, size, 3)


@dataclass(frozen=True)
class Request:
    """How many frames to take of a clip, and how to make pictures of them."""

    frames: int
    resizer: Resizer
    limits: Limits


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

    @property
    def times(self) -> list[int] | None:
        """The times at which frames are shown, in that order; decoding times stand in where there are no others."""
        return sorted(self.pts or self.dts or ()) or None


def read_video(source: str | None, frames: int, size: int, limits: Limits = LIMITS) -> tuple[np.ndarray | None, str]:
    """`frames` frames spread over the time of the clip, short side resized to `size` pixels and centre-cropped.

    Frame i is on screen at the middle of the i-th of `frames` equal stretches between the first frame's start and the
    last frame's end. Returns uint8 frames_THWC (RGB) and "ok" or "ok: note", or None and "missing[: why]" or
    "corrupt: why".
    """
    return with_status(lambda path: _decode(path, Request(frames, Resizer(size, limits), limits)), source)


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
    duration = times[-1] - times[0] + (last_duration or round(median(b - a for a, b in pairwise(times))))
    return [bisect_right(times, times[0] + (2 * i + 1) * duration // (2 * frames)) - 1 for i in range(frames)]


def _decode(source: str, request: Request) -> tuple[np.ndarray, list[str]]:
    with opened(source, request.limits) as media:
        stream, notes = _video_stream(media, request.limits)
        index, index_notes = _packet_index(media, stream, request.limits)
        tally = Tally()
        images = _by_time(media, stream, index, request, tally) if index.pts else None
        stream_index = stream.index  # a closed container's streams are gone
    if images is None:
        images, tally = _by_order(source, stream_index, index, request)
    tally.check()
    return np.stack(images), [*notes, *index_notes, *tally.unreadable_notes(len(index.keys))]


def _video_stream(media: Media, limits: Limits) -> tuple[VideoStream, list[str]]:
    """The stream to decode, ready for it, and a note where there are several."""
    container = media.container
    # Cover art in sound files is a video stream of one attached picture.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise Missing("no video stream")
    stream, notes = choose_stream(streams, container, "video stream")
    _prepare(stream, limits)
    return stream, notes


def _prepare(stream: VideoStream, limits: Limits) -> None:
    check_pixels(stream.width, stream.height, limits)
    stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}  # pictures may grow on the way
    stream.codec_context.flags |= Flags.output_corrupt  # as FFmpeg's programs: pictures after a lost one are shown
    stream.thread_count = 1  # parallelism is over clips


def _packet_index(media: Media, stream: VideoStream, limits: Limits) -> tuple[PacketIndex, list[str]]:
    """The packets of a stream, without decoding, and notes on what is missing.

    Raises Corrupt where the container states much more than it holds.
    """
    tally = Tally()
    streams = list(media.container.streams) if media.states_whole_duration else [stream]
    packets = [  # without their content, which may be larger than the memory
        _PacketHead(p.pts, p.dts, p.duration or 0, p.is_keyframe, p.is_discard)
        for p in tally.read(media.container, streams)
        if p.stream_index == stream.index
    ]
    notes = [*_length_notes(media, stream, len(packets), tally), *tally.end_notes(), *media.end_notes]
    shown = [p for p in packets if not p.is_discard]  # an edit list cuts others away
    if not shown:
        raise Corrupt("the video stream has no frames")
    index = PacketIndex(
        [p.is_key for p in shown],
        _distinct([p.pts for p in shown]),
        _distinct([p.dts for p in shown]),
        min((t for p in packets for t in (p.pts, p.dts) if t is not None), default=None),
        max(shown, key=lambda p: (p.pts if p.pts is not None else p.dts) or 0).duration,
    )
    if index.times is not None and stream.time_base is not None:
        duration_s = float((index.times[-1] - index.times[0]) * stream.time_base)
        if duration_s > limits.max_video_s:
            raise Corrupt(f"{duration_s:.0f} s of pictures are more than media.max_video_s={limits.max_video_s:g}")
    return index, notes


def _distinct(times: list[int | None]) -> list[int] | None:
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


def _by_time(
    media: Media, stream: VideoStream, index: PacketIndex, request: Request, tally: Tally
) -> list[np.ndarray] | None:
    """An image for each place, found by time stamps; None where decoding does not give the frames promised."""
    assert index.pts is not None
    assert index.start is not None
    shown = sorted(index.pts)
    targets = [shown[i] for i in places_in_time(shown, index.last_duration, request.frames)]
    packets = list(zip(index.pts, index.keys, strict=True))
    segments = _segments(packets, targets) if media.format in _SEEKABLE else [(None, sorted(set(targets)))]
    images: Images = {}
    for start, group in segments:
        try:
            media.container.seek(index.start if start is None else start, stream=stream)
        except av.FFmpegError:  # raw streams cannot seek
            return None
        first = shown[0] if start is None else None
        images |= _decode_segment(media.container, stream, (first, group), request, tally)
    return [images[pts] for pts in targets] if images.keys() >= set(targets) else None


def _segments(packets: list[tuple[int, bool]], targets: list[int]) -> list[tuple[int | None, list[int]]]:
    """The target pts grouped by where decoding must start; a start of None is the beginning of the file.

    Seeking to the key frame before each group skips the stretches between them. Where that saves little (close
    targets, rare key frames) all targets are one group, decoded straight through.
    """
    position = {pts: i for i, (pts, _) in enumerate(packets)}
    keys = sorted((pts, i) for i, (pts, is_key) in enumerate(packets) if is_key)
    distinct = sorted(set(targets))

    def key_before(pts: int) -> tuple[int, int]:
        return max((key for key in keys if key[0] <= pts), default=(packets[0][0], 0))

    groups = [(key, list(group)) for key, group in groupby(distinct, key_before)]
    straight = max(position[pts] for pts in distinct) + 1
    seeking = sum(max(position[pts] for pts in group) - key[1] + 1 for key, group in groups)
    if seeking < _SEEK_GAIN * straight:
        return [(key[0], group) for key, group in groups]
    return [(None, distinct)]


def _decode_segment(
    container: InputContainer,
    stream: VideoStream,
    expected: tuple[int | None, list[int]],
    request: Request,
    tally: Tally,
) -> Images:
    """Images of frames by pts, decoded from where the container stands.

    `expected` is the pts of the first frame (None: any) and those to keep. Decoding ends early where a frame does not
    come when it should.
    """
    first, targets = expected
    images: Images = {}
    for frame in _intact_first(tally.decode(tally.read(container, [stream]), stream)):
        if frame.pts is None or frame.pts > targets[len(images)] or first not in (None, frame.pts):
            break
        first = None
        if frame.pts == targets[len(images)]:
            images[frame.pts] = request.resizer.picture(frame, _pixel_aspect(stream))
        if len(images) == len(targets):
            break
    return images


def _intact_first(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames from the first intact one on: those before it, as where a recording begins, are grey guesses."""
    return dropwhile(lambda frame: frame.is_corrupt, frames)


def _pixel_aspect(stream: VideoStream) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def _by_order(source: str, stream_index: int, index: PacketIndex, request: Request) -> tuple[list[np.ndarray], Tally]:
    """An image for each place, found by counting the frames that decode from the beginning of the file.

    A first pass takes as many frames for granted as there are packets. If that is wrong, a second one does it over
    with the number and times of frames that the first one gave.
    """
    count = len(index.keys)
    places = (
        places_in_time(index.times, index.last_duration, request.frames)
        if index.times
        else spread(count, request.frames)
    )
    images, times, tally = _decode_places(source, stream_index, places, request)
    if len(times) != count:
        tally.check()
        if not times:
            raise Corrupt("no frame could be decoded")
        distinct = _distinct(times)
        places = (
            places_in_time(distinct, index.last_duration, request.frames)
            if distinct and distinct == sorted(distinct)
            else spread(len(times), request.frames)
        )
        images, _, _ = _decode_places(source, stream_index, places, request)
    return [images[place] for place in places], tally


def _decode_places(
    source: str, stream_index: int, places: list[int], request: Request
) -> tuple[Images, list[int | None], Tally]:
    """Images of the frames at these places in the order of decoding, and the pts of all frames."""
    tally = Tally()
    images: Images = {}
    times = []
    with opened(source, request.limits) as media:
        stream = next(s for s in media.container.streams.video if s.index == stream_index)
        _prepare(stream, request.limits)
        for i, frame in enumerate(_intact_first(tally.decode(tally.read(media.container, [stream]), stream))):
            times.append(frame.pts)
            if i in places:
                images[i] = request.resizer.picture(frame, _pixel_aspect(stream))
    return images, times, tally
