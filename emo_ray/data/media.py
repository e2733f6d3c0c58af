"""Decoding: a media file to T frames and 16 kHz mono sound. The only place that opens a container.

Bad content never raises out of `read_video` and `read_audio`: it comes back as a status. PyAV carries FFmpeg.
"""

from collections.abc import Callable
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
from pyarrow import fs

RATE_HZ = 16_000
VERSION = 1  # part of every shard's digest: raise it when decoding gives other values
OK = "ok"
MISSING = "missing"
_TEXT_FORMATS = {"tty", "srt", "ass", "webvtt", "subviewer", "microdvd", "vplayer", "lrc"}  # probes of plain text
_READABLE = 0.9  # share of the announced content below which a file counts as truncated
_SEEK_GAIN = 0.8  # seek only when it decodes less than this share of what straight decoding does


class Missing(Exception):
    """The file, or the wanted stream in it, is not there."""


class Corrupt(Exception):
    """The file is there and cannot be used."""


def read_video(source: str | None, frames: int, size: int) -> tuple[np.ndarray | None, str]:
    """`frames` frames spread over the clip, short side resized to `size` pixels and centre-cropped.

    Returns uint8 frames_THWC (RGB) and "ok", or None and "missing[: why]" or "corrupt: why".
    """
    return _with_status(lambda: _decode_video(source, frames, size), source)


def read_audio(source: str | None, max_s: float) -> tuple[np.ndarray | None, str]:
    """The sound as int16 samples_S at 16 kHz, channels mixed to one, and a status as `read_video`'s."""
    return _with_status(lambda: _decode_audio(source, max_s), source)


def _with_status(decode: Callable[[], np.ndarray], source: str | None) -> tuple[np.ndarray | None, str]:
    if source is None:
        return None, MISSING
    try:
        return decode(), OK
    except Missing as error:
        return None, f"{MISSING}: {error}"
    except FileNotFoundError:
        return None, f"{MISSING}: no such file"
    except Corrupt as error:
        return None, f"corrupt: {error}"
    except Exception as error:  # whatever else FFmpeg or storage raise over one file must not end a job
        return None, f"corrupt: {getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}"


@contextmanager
def _opened(source: str) -> Any:
    """An open container of a local path or a URI (s3, gs, ...)."""
    if "://" in source:
        filesystem, path = fs.FileSystem.from_uri(source)
        with filesystem.open_input_file(path) as stream, av.open(stream) as container:
            yield container
        return
    if Path(source).stat().st_size == 0:
        raise Corrupt("the file has 0 bytes")
    with av.open(source) as container:
        if container.format.name in _TEXT_FORMATS:
            raise Corrupt("the file holds text, not media")
        yield container


def _decode_video(source: str, frames: int, size: int) -> np.ndarray:
    with _opened(source) as container:
        # Cover art in sound files is a video stream of one attached picture.
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise Missing("no video stream")
        stream = streams[0]
        stream.thread_count = 1  # parallelism is over clips
        packets = _packets(container, stream)
        if not packets:
            raise Corrupt("the video stream has no frames")
        if len(packets) < _READABLE * stream.frames:
            raise Corrupt(f"truncated: {len(packets)} of {stream.frames} frames are there")
        if any(pts is None for pts, _ in packets):
            return _every_frame(container, stream, len(packets), frames, size)
        shown = sorted(pts for pts, _ in packets)
        wanted = [shown[i] for i in spread(len(shown), frames)]
        images: dict[int, np.ndarray] = {}
        for start, group in _segments(packets, wanted):
            images |= _decode_segment(container, stream, start, group, size)
        return np.stack([images[pts] for pts in wanted])


def spread(count: int, frames: int) -> list[int]:
    """Indices of the middles of `frames` equal stretches of `count` frames; short clips repeat frames."""
    return [int((i + 0.5) * count / frames) for i in range(frames)]


def _packets(container: Any, stream: Any) -> list[tuple[int | None, bool]]:
    """(pts, is key) of every frame in decoding order, without decoding; leaves the container at its start."""
    packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size and not p.is_discard]
    container.seek(0)
    return packets


def _segments(packets: list[tuple[int, bool]], wanted: list[int]) -> list[tuple[int | None, list[int]]]:
    """The wanted pts grouped by where decoding must start; a start of None is the beginning of the file.

    Seeking to the key frame before each group skips the stretches between them; where that saves little (frequent
    targets, rare key frames) there is one group, decoded straight through.
    """
    position = {pts: i for i, (pts, _) in enumerate(packets)}
    keys = sorted((pts, i) for i, (pts, is_key) in enumerate(packets) if is_key)
    distinct = sorted(set(wanted))

    def key_before(pts: int) -> tuple[int, int]:
        return max((k for k in keys if k[0] <= pts), default=(packets[0][0], 0))

    groups = [(key, list(group)) for key, group in groupby(distinct, key_before)]
    straight = max(position[pts] for pts in distinct) + 1
    seeking = sum(max(position[pts] for pts in group) - key[1] + 1 for key, group in groups)
    if seeking < _SEEK_GAIN * straight:
        return [(key[0], group) for key, group in groups]
    return [(None, distinct)]


def _decode_segment(
    container: Any, stream: Any, start: int | None, wanted: list[int], size: int
) -> dict[int, np.ndarray]:
    """Images of the wanted pts; the first frame at or after each, or the last there is."""
    container.seek(0 if start is None else start, stream=None if start is None else stream)
    images: dict[int, np.ndarray] = {}
    remaining, last = list(wanted), None
    for frame in container.decode(stream):
        last = frame
        while remaining and frame.pts is not None and frame.pts >= remaining[0]:
            images[remaining.pop(0)] = _image(frame, size)
        if not remaining:
            return images
    if last is None:
        raise Corrupt("no frame could be decoded")
    return images | {pts: _image(last, size) for pts in remaining}


def _every_frame(container: Any, stream: Any, count: int, frames: int, size: int) -> np.ndarray:
    """For containers without timestamps: decode all, take by order."""
    places, images = spread(count, frames), {}
    for i, frame in enumerate(container.decode(stream)):
        if i in places:
            images[i] = _image(frame, size)
    if not images:
        raise Corrupt("no frame could be decoded")
    return np.stack([images[max(i for i in images if i <= max(place, min(images)))] for place in places])


def _image(frame: Any, size: int) -> np.ndarray:
    """uint8 (size, size, 3): upright, short side resized, centre crop."""
    scale = size / min(frame.width, frame.height)
    width, height = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
    image = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
    left, top = (width - size) // 2, (height - size) // 2
    image = image[top : top + size, left : left + size]
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))


def _decode_audio(source: str, max_s: float) -> np.ndarray:
    with _opened(source) as container:
        if not container.streams.audio:
            raise Missing("no sound track")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        chunks, samples = [], 0
        for frame in _frames_then_none(container, stream):
            for out in resampler.resample(frame):
                chunks.append(out.to_ndarray()[0])
                samples += out.samples
            if samples > max_s * RATE_HZ:
                raise Corrupt(f"more than media.max_audio_s={max_s:g} s of sound: cut it into utterances")
        announced_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
        if not samples:
            raise Missing("the sound track is empty")
        if samples < _READABLE * announced_s * RATE_HZ - RATE_HZ / 10:
            raise Corrupt(f"truncated: {samples / RATE_HZ:.1f} of {announced_s:.1f} s of sound are there")
        return np.concatenate(chunks)


def _frames_then_none(container: Any, stream: Any) -> Any:
    """Sound frames, then the None that flushes a resampler."""
    yield from container.decode(stream)
    yield None
