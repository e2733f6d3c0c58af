"""Pictures: T frames of a clip, spread evenly over its time.

First the packets are read without decoding; their time stamps say which frames are needed, and from which key frames.
Where what is decoded then differs from what the packets promised, the frames that decode are counted, and decoded
again from the beginning.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import dropwhile, groupby
from typing import Any, NamedTuple

import av
import numpy as np
from av.codec.context import Flags
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from emo_ray.data.media.arrays import is_array, sample_array
from emo_ray.data.media.container import (
    LIMITS,
    Corrupt,
    Limits,
    Media,
    Missing,
    Tally,
    choose_stream,
    opened,
    with_status,
)
from emo_ray.data.media.packet_index import (
    SEEKABLE,
    PacketIndex,
    distinct,
    index_of_packets,
)
from emo_ray.data.media.picture import Resizer, check_pixels
from emo_ray.data.media.sample import Channels, Request, Sample
from emo_ray.data.media.span import Span, beginning_s, window_of

_SEEK_GAIN = 0.8  # seek only when it decodes less than this share of what straight decoding does

Values = dict[int, Any]  # time stamp, or place in the order of decoding -> what is made of the frame


class _Clock(NamedTuple):
    """What tells the time of a stream's frames."""

    unit_s: Fraction | None
    beginning_s: Fraction
    rate_hz: Fraction | None

    def seconds(self, time: int) -> float | None:
        """A time of the stream in seconds from the beginning of the file."""
        return None if self.unit_s is None else float(time * self.unit_s - self.beginning_s)

    def number(self, time_s: float | None) -> int | None:
        """Which frame is shown at a time, where those before it were not read: right at a constant rate alone."""
        return None if time_s is None or self.rate_hz is None else round(time_s * self.rate_hz)


def read_video(
    source: str | None,
    frames: int,
    size: int,
    limits: Limits = LIMITS,
    span: Span | None = None,
    channels: Channels = "rgb",
) -> tuple[np.ndarray | None, str]:
    """`frames` frames spread over the time of the clip, short side resized to `size` pixels and centre-cropped.

    Frame i is on screen at the middle of the i-th of `frames` equal stretches between the first frame's start and the
    last frame's end; of a span count the frames that appear in it. Returns uint8 frames_THWC (RGB) and "ok" or
    "ok: note", or None and "missing[: why]" or "corrupt: why".
    """
    request = Request(frames, Resizer(size, limits).picture, limits, span, channels)

    def decode(path: str) -> tuple[np.ndarray, list[str]]:
        sample, notes = sample_frames(path, request)
        return np.stack(sample.values), notes

    return with_status(decode, source)


def sample_frames(source: str, request: Request) -> tuple[Sample, list[str]]:
    """Frames spread over the time of a clip as `read_video` spreads them, and notes.

    An `.npy` file is an array of frames. Raises Missing and Corrupt.
    """
    return sample_array(source, request) if is_array(source) else _decode(source, request)


def _decode(source: str, request: Request, by_seeking: bool = True) -> tuple[Sample, list[str]]:
    with opened(source, request.limits) as media:
        stream, notes = _video_stream(media, request.limits)
        window = window_of(request.span, media.container, stream) if request.span else None
        index, index_notes = index_of_packets(media, stream, request.limits, window, by_seeking)
        clock = _Clock(stream.time_base, beginning_s(media.container), stream.average_rate)
        tally = Tally()
        times = index.times
        sampled = _by_time(media, stream, index, request, tally) if index.pts else None
        stream_index = stream.index  # a closed container's streams are gone
    if sampled is None and index.is_part:
        return _decode(source, request, by_seeking=False)
    if sampled is None:
        sampled, times, tally = _by_order(source, stream_index, index, request)
    tally.check()
    values, places = sampled
    times_s = [None if times is None else clock.seconds(times[place]) for place in places]
    numbers: list[int | None] = [clock.number(time_s) for time_s in times_s] if index.is_part else [*places]
    notes += [*index_notes, *index.window_notes(times), *tally.unreadable_notes(len(index.keys))]
    return Sample(values, numbers, times_s), notes


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


def _by_time(
    media: Media, stream: VideoStream, index: PacketIndex, request: Request, tally: Tally
) -> tuple[list[Any], list[int]] | None:
    """What is made of the frames to take, found by time stamps, and their places in time.

    None where decoding does not give the frames promised.
    """
    assert index.pts is not None
    shown = sorted(index.pts)
    places = index.places(shown, len(shown), request.frames)
    targets = [shown[i] for i in places]
    values: Values = {}
    for start, group in _starts(media, index, targets):
        try:
            packets = _packets_from(media, stream, index, start, tally)
        except av.FFmpegError:  # raw streams cannot seek
            return None
        first = shown[0] if start is None else None
        values |= _decode_segment(packets, stream, (first, group), request, tally)
    return ([values[pts] for pts in targets], places) if values.keys() >= set(targets) else None


def _starts(media: Media, index: PacketIndex, targets: list[int]) -> list[tuple[int | None, list[int]]]:
    """The target pts grouped by the pts of the key frame where decoding starts; None is the beginning of the file."""
    assert index.pts is not None
    packets = list(zip(index.pts, index.keys, strict=True))
    if media.format in SEEKABLE:
        straight = index.pts[0] if index.is_part else None
        return _segments(packets, targets, straight)
    keys = [pts for pts, is_key in packets if is_key and pts <= min(targets)] if index.window else []
    return [(max(keys, default=None), sorted(set(targets)))]


def _packets_from(
    media: Media, stream: VideoStream, index: PacketIndex, start: int | None, tally: Tally
) -> Iterator[Packet]:
    """The packets from the key frame at a time on; where seeking is not sure, all before it are read and left out."""
    assert index.start is not None
    is_sought = media.format in SEEKABLE
    media.container.seek(index.start if start is None or not is_sought else start, stream=stream)
    packets = tally.read(media.container, [stream])
    return packets if start is None or is_sought else dropwhile(lambda packet: packet.pts != start, packets)


def _segments(
    packets: list[tuple[int, bool]], targets: list[int], straight_start: int | None
) -> list[tuple[int | None, list[int]]]:
    """The target pts grouped by where decoding must start.

    Seeking to the key frame before each group skips the stretches between them. Where that saves little (close
    targets, rare key frames) all targets are one group, decoded straight through from `straight_start`.
    """
    position = {pts: i for i, (pts, _) in enumerate(packets)}
    keys = sorted((pts, i) for i, (pts, is_key) in enumerate(packets) if is_key)
    distinct_targets = sorted(set(targets))

    def key_before(pts: int) -> tuple[int, int]:
        return max((key for key in keys if key[0] <= pts), default=(packets[0][0], 0))

    groups = [(key, list(group)) for key, group in groupby(distinct_targets, key_before)]
    straight = max(position[pts] for pts in distinct_targets) + 1
    seeking = sum(max(position[pts] for pts in group) - key[1] + 1 for key, group in groups)
    if seeking < _SEEK_GAIN * straight:
        return [(key[0], group) for key, group in groups]
    return [(straight_start, distinct_targets)]


def _decode_segment(
    packets: Iterator[Packet],
    stream: VideoStream,
    expected: tuple[int | None, list[int]],
    request: Request,
    tally: Tally,
) -> Values:
    """What is made of frames, by pts, decoded from packets on.

    `expected` is the pts of the first frame (None: any) and those to keep. Decoding ends early where a frame does not
    come when it should.
    """
    first, targets = expected
    values: Values = {}
    for frame in _intact_first(tally.decode(packets, stream)):
        if frame.pts is None or frame.pts > targets[len(values)] or first not in (None, frame.pts):
            break
        first = None
        if frame.pts == targets[len(values)]:
            values[frame.pts] = request.render(frame, _pixel_aspect(stream))
        if len(values) == len(targets):
            break
    return values


def _intact_first(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """The frames from the first intact one on: those before it, as where a recording begins, are grey guesses."""
    return dropwhile(lambda frame: frame.is_corrupt, frames)


def _pixel_aspect(stream: VideoStream) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def _by_order(
    source: str, stream_index: int, index: PacketIndex, request: Request
) -> tuple[tuple[list[Any], list[int]], list[int] | None, Tally]:
    """What is made of the frames to take, found by counting the frames that decode from the beginning of the file.

    Beside it come their places, and the times of all frames.

    A first pass takes as many frames for granted as there are packets. If that is wrong, or if the packets do not say
    when frames appear and that must be known, a second one does it over with the number and times of frames that the
    first one gave.
    """
    count, times = len(index.keys), index.times
    places = index.places(times, count, request.frames)
    values, frame_times, tally = _decode_places(source, stream_index, places, request)
    if len(frame_times) != count or not places:
        tally.check()
        if not frame_times:
            raise Corrupt("no frame could be decoded")
        times = distinct(frame_times)
        if times is None or times != sorted(times):
            times = _rising(frame_times) if request.span else None
        places = index.places(times, len(frame_times), request.frames)
        if not places:
            raise Corrupt(f"{request.span}: the file does not say when its frames appear")
        values, _, _ = _decode_places(source, stream_index, places, request)
    return ([values[place] for place in places], places), times, tally


def _rising(times: list[int | None]) -> list[int] | None:
    """The times, each that is unknown or falls replaced by the one before; None where none is known."""
    stated = [time for time in times if time is not None]
    if not stated:
        return None
    filled = [stated[0] if time is None else time for time in times[:1]]
    for time in times[1:]:
        filled.append(filled[-1] if time is None else max(filled[-1], time))
    return filled


def _decode_places(
    source: str, stream_index: int, places: list[int], request: Request
) -> tuple[Values, list[int | None], Tally]:
    """What is made of the frames at these places in the order of decoding, and the pts of all frames."""
    tally = Tally()
    values: Values = {}
    times = []
    with opened(source, request.limits) as media:
        stream = next(s for s in media.container.streams.video if s.index == stream_index)
        _prepare(stream, request.limits)
        for i, frame in enumerate(_intact_first(tally.decode(tally.read(media.container, [stream]), stream))):
            times.append(frame.pts)
            if i in places:
                values[i] = request.render(frame, _pixel_aspect(stream))
    return values, times, tally
