"""Decoding: a media file to T frames and 16 kHz mono sound. The only module that opens a container for reading.

Bad content never raises out of `read_video` and `read_audio`: it comes back as a status. PyAV carries FFmpeg.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from pyarrow import fs

RATE_HZ = 16_000
VERSION = 2  # part of every shard's digest: raise it when decoding gives other values
OK = "ok"
MISSING = "missing"
_TEXT_FORMATS = {"tty", "srt", "ass", "webvtt", "subviewer", "microdvd", "vplayer", "lrc"}  # FFmpeg's for plain text
_MP4, _MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
_INDEXED = {_MP4, _MATROSKA}  # exact timestamps, and seeking lands at or before its target; elsewhere neither is sure
_TIMED = {_MP4, "avi", "flac"}  # headers that say how long a stream is; elsewhere FFmpeg guesses, often wrongly
_READABLE = 0.9  # share of the announced content below which a file counts as truncated
_SEEK_GAIN = 0.8  # seek only when it decodes less than this share of what straight decoding does


class Missing(Exception):
    """The file, or the stream that is read, does not exist."""


class Corrupt(Exception):
    """The file exists and cannot be used."""


def read_video(source: str | None, frames: int, size: int) -> tuple[np.ndarray | None, str]:
    """`frames` frames spread over the clip, short side resized to `size` pixels and centre-cropped.

    Returns uint8 frames_THWC (RGB) and "ok", or None and "missing[: why]" or "corrupt: why".
    """
    return _with_status(lambda path: _decode_video(path, frames, size), source)


def read_audio(source: str | None, max_s: float) -> tuple[np.ndarray | None, str]:
    """The sound as int16 samples_S at 16 kHz, channels mixed to one, and a status, as from `read_video`."""
    return _with_status(lambda path: _decode_audio(path, max_s), source)


def _with_status(decode: Callable[[str], np.ndarray], source: str | None) -> tuple[np.ndarray | None, str]:
    if source is None:
        return None, MISSING
    try:
        return decode(source), OK
    except Missing as error:
        return None, f"{MISSING}: {error}"
    except FileNotFoundError:
        return None, f"{MISSING}: no such file"
    except Corrupt as error:
        return None, f"corrupt: {error}"
    except Exception as error:  # no error of FFmpeg or storage over one file may end a job
        return None, f"corrupt: {getattr(error, 'strerror', None) or f'{type(error).__name__}: {error}'}"


@contextmanager
def _open(source: str) -> Iterator[InputContainer]:
    """The open container of a local path or a URI (s3, gs, ...)."""
    with ExitStack() as stack:
        file: Any = source
        if "://" in source:
            filesystem, path = fs.FileSystem.from_uri(source)
            file = stack.enter_context(filesystem.open_input_file(path))
        if (Path(source).stat().st_size if file is source else file.size()) == 0:
            raise Corrupt("the file has 0 bytes")
        container = stack.enter_context(av.open(file, metadata_errors="replace"))  # titles are in any encoding
        if container.format.name in _TEXT_FORMATS:
            raise Corrupt("the file holds text, not media")
        if not (container.streams.video or container.streams.audio):
            raise Corrupt("the file holds neither pictures nor sound")
        yield container


def _decode_video(source: str, frames: int, size: int) -> np.ndarray:
    with _open(source) as container:
        # Cover art in sound files is a video stream of one attached picture.
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise Missing("no video stream")
        stream = streams[0]
        stream.thread_count = 1  # parallelism is over clips
        packets = _packets(container, stream)
        if not packets:
            raise Corrupt("the video stream has no frames")
        timed = [(pts, is_key) for pts, is_key in packets if pts is not None]
        if container.format.name not in _INDEXED or len(timed) < len(packets):
            return _every_frame(container, stream, len(packets), frames, size)
        shown = sorted(pts for pts, _ in timed)
        targets = [shown[i] for i in spread(len(shown), frames)]
        images: dict[int, np.ndarray] = {}
        for start, group in _segments(timed, targets):
            images |= _decode_segment(container, stream, start, group, size)
        return np.stack([images[pts] for pts in targets])


def spread(count: int, frames: int) -> list[int]:
    """Indices of the middles of `frames` equal stretches of `count` frames; short clips repeat frames."""
    return [int((i + 0.5) * count / frames) for i in range(frames)]


def _packets(container: InputContainer, stream: VideoStream) -> list[tuple[int | None, bool]]:
    """(pts, is key) of every frame to be shown, in decoding order, without decoding; leaves the container at its start.

    Raises Corrupt where the container announces many more frames than it holds.
    """
    # The index of an mp4 file, unlike its frame count, also lists what an edit list cuts away.
    announced = {_MP4: len(stream.index_entries), "avi": stream.frames}.get(container.format.name, 0)
    packets = [(p.pts, p.is_keyframe, p.is_discard) for p in container.demux(stream) if p.size]
    if len(packets) < _READABLE * announced:
        raise Corrupt(f"truncated: {len(packets)} of {announced} frames are there")
    container.seek(0)
    return [(pts, is_key) for pts, is_key, is_cut_away in packets if not is_cut_away]


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
    container: InputContainer, stream: VideoStream, start: int | None, targets: list[int], size: int
) -> dict[int, np.ndarray]:
    """An image for each of the target pts: the first frame at or after it, or else the last frame of the stream."""
    container.seek(0 if start is None else start, stream=None if start is None else stream)
    images: dict[int, np.ndarray] = {}
    remaining = list(targets)
    last = None
    for frame in container.decode(stream):
        last = frame
        while remaining and frame.pts is not None and frame.pts >= remaining[0]:
            images[remaining.pop(0)] = _image(frame, size)
        if not remaining:
            return images
    if last is None:
        raise Corrupt("no frame could be decoded")
    return images | {pts: _image(last, size) for pts in remaining}


def _every_frame(container: InputContainer, stream: VideoStream, count: int, frames: int, size: int) -> np.ndarray:
    """Decode from the start and choose by order: for containers whose timestamps cannot be trusted."""
    places = spread(count, frames)
    images: dict[int, np.ndarray] = {}
    for i, frame in enumerate(container.decode(stream)):
        if i in places:
            images[i] = _image(frame, size)
        if i >= places[-1]:
            break
    if not images:
        raise Corrupt("no frame could be decoded")
    return np.stack([images[max(i for i in images if i <= max(place, min(images)))] for place in places])


def _image(frame: VideoFrame, size: int) -> np.ndarray:
    """uint8 (size, size, 3): upright, short side resized, centre crop."""
    scale = size / min(frame.width, frame.height)
    width, height = max(size, round(frame.width * scale)), max(size, round(frame.height * scale))
    image = frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
    left, top = (width - size) // 2, (height - size) // 2
    image = image[top : top + size, left : left + size]
    if "DISPLAYMATRIX" in frame.side_data:
        matrix = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # PyAV's stub does not list it
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5] / 2**16
        mirrored = a * d < b * c  # frame.rotation follows from a and b alone and would show it upside down
        image = np.rot90(image[::-1] if mirrored else image, round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(image)


def _decode_audio(source: str, max_s: float) -> np.ndarray:
    with _open(source) as container:
        if not container.streams.audio:
            raise Missing("no sound track")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        chunks = []
        samples = 0
        for frame in _frames_then_none(container, stream):
            for out in resampler.resample(frame):
                chunks.append(out.to_ndarray()[0])
                samples += out.samples
            if samples > max_s * RATE_HZ:
                raise Corrupt(f"more than media.max_audio_s={max_s:g} s of sound: cut it into utterances")
        announced_s = 0.0
        if container.format.name in _TIMED and stream.duration is not None and stream.time_base is not None:
            announced_s = float(stream.duration * stream.time_base)
        if samples < _READABLE * announced_s * RATE_HZ - RATE_HZ / 10:
            raise Corrupt(f"truncated: {samples / RATE_HZ:.1f} of {announced_s:.1f} s of sound are there")
        if not samples:
            raise Missing("the sound track is empty")
        return np.concatenate(chunks)


def _frames_then_none(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame | None]:
    """Sound frames, then the None that flushes a resampler."""
    yield from container.decode(stream)
    yield None
