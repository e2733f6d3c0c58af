"""Opening a container, choosing a stream, and reading its packets and frames, whatever is wrong with them."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from typing import Any, BinaryIO, TypeVar

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream
from pyarrow import fs

from emo_ray import trouble
from emo_ray.data import lfs, status
from emo_ray.data.media import lengths
from emo_ray.data.media.demuxers import OPTIONS, TEXT_FORMATS

MP4, MATROSKA, AVI = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"
READABLE = 0.9  # share of the stated content, or of the packets, below which a file counts as corrupt
_STREAM_TIMED = {MP4, "flac", "wv", "tta", "mxf"}  # headers that say how long each stream is; AVI says it otherwise
_WHOLE_TIMED = {"flv"}  # headers that say how long the longest stream is; Matroska's may
_MOST_STREAMS = 64
_TRIED_BYTES = 2**29  # at either end of a file, to see whether its storage gives them
Content = TypeVar("Content")


class Missing(Exception):
    """The file, or the stream that is read, does not exist."""


class Corrupt(Exception):
    """The file exists and cannot be used."""


@dataclass(frozen=True)
class Limits:
    """The largest files and pictures, and the longest videos, that are decoded."""

    max_pixels: int = 8192 * 4320  # of a picture, as stored and as resized
    max_video_s: float = 3600.0
    max_file_gb: float = 16.0


LIMITS = Limits()


@dataclass(frozen=True)
class Media:
    """An open container, and what its header states."""

    container: InputContainer
    states_whole_duration: bool  # container.duration comes from the header
    stated_share: float  # bytes of content in the file divided by those that its header states
    end_notes: tuple[str, ...]  # on a file that lacks the mark with which its format ends

    @property
    def format(self) -> str:
        """FFmpeg's name of the container format."""
        return self.container.format.name

    def stated_stream_s(self, stream: AudioStream | VideoStream) -> float | None:
        """How long the header says that a stream is; None where it does not."""
        if stream.time_base is None:
            return None
        if self.format == AVI:  # the length counts repeated pictures; FFmpeg shortens the duration of a cut file
            return float(stream.frames * stream.time_base)
        if self.format in _STREAM_TIMED and stream.duration is not None:
            return float(stream.duration * stream.time_base)
        return None


@dataclass
class Tally:
    """What happened while packets were read and decoded."""

    packets: int = 0
    unreadable: int = 0
    stopped: str = ""  # why reading ended before the end of the file
    cut: bool = False  # the last packet is incomplete; those of plain samples have no length that says so
    _ends: dict[int, int] = field(default_factory=dict)  # stream index -> end of its last packet, in its time base

    def read(self, container: InputContainer, streams: Sequence[Stream]) -> Iterator[Packet]:
        """The packets of streams. As in FFmpeg's programs, an error in the content ends the file.

        Errors of storage are raised: they may pass, and what was read until then must not be taken for the file.
        """
        try:
            for packet in container.demux(*streams):
                if packet.size:
                    self.cut = packet.is_corrupt and not _is_plain(packet.stream)
                    time = packet.pts if packet.pts is not None else packet.dts
                    if time is not None:
                        end, place = time + (packet.duration or 0), packet.stream_index
                        self._ends[place] = max(self._ends.get(place, end), end)
                    yield packet
        except av.FFmpegError as error:
            if trouble.is_of_place(error):
                raise
            self.stopped = reason(error)

    def reached_s(self, container: InputContainer) -> float:
        """The end of the last packet of any stream that was read."""
        bases = {stream.index: stream.time_base or 0 for stream in container.streams}
        return max((float(end * bases[place]) for place, end in self._ends.items()), default=0.0)

    def decode(self, packets: Iterator[Packet], stream: AudioStream | VideoStream) -> Iterator[Any]:
        """Video or sound frames of one stream's packets; packets that do not decode are counted and left out."""
        for packet in packets:
            if packet.stream_index == stream.index and packet.size:
                self.packets += 1
                yield from self._decoded(stream, packet)
        yield from self._decoded(stream, None)

    def _decoded(self, stream: AudioStream | VideoStream, packet: Packet | None) -> list[Any]:
        try:
            return stream.codec_context.decode(packet)
        except av.FFmpegError as error:  # also at the end, where FFmpeg says so as an error
            if isinstance(error, MemoryError) and trouble.is_of_place(error):
                raise
            self.unreadable += packet is not None
            return []

    def check(self) -> None:
        """Raise Corrupt where too few of the packets were readable."""
        if self.packets - self.unreadable < READABLE * self.packets:
            raise Corrupt(f"{self.unreadable} of {self.packets} packets unreadable")

    def unreadable_notes(self, packets: int) -> list[str]:
        """A note on packets that did not decode; `packets` is how many the stream has."""
        return [f"{self.unreadable} of {packets} packets unreadable"] if self.unreadable else []

    def end_notes(self) -> list[str]:
        """Notes on how reading ended."""
        return [
            *([f"reading stopped: {self.stopped}"] if self.stopped else []),
            *(["the file ends in the middle of a packet"] if self.cut else []),
        ]


def _is_plain(stream: Stream) -> bool:
    """Whether a stream's packets are plain samples."""
    return stream.codec_context is not None and stream.codec_context.name.startswith("pcm_")


def with_status(decode: Callable[[str], tuple[Content, list[str]]], source: str | None) -> tuple[Content | None, str]:
    """The content that `decode` gives for a path or URI, and its status; None and the reason where that is at fault.

    Raises PlaceTrouble where the storage, the network or this machine is at fault, for that may pass.
    """
    if source is None:
        return None, status.MISSING
    try:
        content, notes = decode(source)
        return content, status.ok(notes)
    except Missing as error:
        return None, f"{status.MISSING}: {error}"
    except FileNotFoundError:
        return None, status.NO_FILE
    except Exception as error:  # no error of FFmpeg over one file may end a job
        _check_place(source, error)
        return None, f"{status.CORRUPT}: {error if isinstance(error, Corrupt) else reason(error)}"


def _check_place(source: str, error: Exception) -> None:
    """Raise PlaceTrouble where this error of decoding comes from the storage, the network or this machine.

    FFmpeg's demuxers also say "Input/output error" of files that are cut, and call a file damaged whose bytes the disk
    does not give: what counts for a local file is whether it can be read without FFmpeg. Errors of remote storage come
    through FFmpeg as they were raised.
    """
    if isinstance(error, MemoryError) or not isinstance(error, av.FFmpegError | Corrupt):
        trouble.raise_of_place(error, source)
    elif "://" not in source or source.startswith("file:"):
        _try_reading(source)


def _try_reading(source: str) -> None:
    """Read the head and tail of a local file. Raises PlaceTrouble where its storage or this machine does not let it."""
    path = fs.FileSystem.from_uri(source)[1] if "://" in source else source
    try:
        if not os.path.isfile(path):
            return
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for start in sorted({0, max(0, size - _TRIED_BYTES)}):
                file.seek(start)
                while file.tell() - start < _TRIED_BYTES and file.read(2**20):
                    pass
    except OSError as error:
        trouble.raise_of_place(error, source)


def reason(error: Exception) -> str:
    """An error of FFmpeg or storage in words, without the file's name."""
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


@contextmanager
def open_file(source: str, limits: Limits) -> Iterator[tuple[Any, int]]:
    """The open file of a local path or a URI (s3, gs, ...), at its beginning, and its size in bytes.

    Raises Corrupt for a file that cannot hold media or goes beyond a limit.
    """
    with ExitStack() as stack:
        file: Any
        filesystem, path = fs.FileSystem.from_uri(source) if "://" in source else (fs.LocalFileSystem(), source)
        if isinstance(filesystem, fs.LocalFileSystem):  # file:///a.mp4 too
            if not stat.S_ISREG(os.stat(path).st_mode):  # reading from a pipe or a device may never end
                raise Corrupt("not a regular file")
            file = stack.enter_context(open(path, "rb"))
            size = os.fstat(file.fileno()).st_size
        else:
            file = stack.enter_context(filesystem.open_input_file(path))
            size = file.size()
        _check_file(file, size, limits)
        file.seek(0)
        yield file, size


@contextmanager
def opened(source: str, limits: Limits) -> Iterator[Media]:
    """The open container of a local path or a URI, as by `open_file`."""
    with open_file(source, limits) as (file, size), ExitStack() as stack:
        stated_share = lengths.stated_share(file, size)
        matroska_states_duration = lengths.matroska_states_duration(file)
        ogg_states_duration = lengths.ogg_states_duration(file, size)
        lacks_end_mark = lengths.lacks_end_mark(file, size)
        file.seek(0)
        container = stack.enter_context(_container(file.name if isinstance(file, BufferedReader) else file))
        _check_streams(container)
        name = container.format.name
        yield Media(
            container,
            name in _WHOLE_TIMED
            or (name == MATROSKA and matroska_states_duration)
            or (name == "ogg" and ogg_states_duration),
            stated_share,
            ("the file ends without its end mark",) if lacks_end_mark else (),
        )


def _check_file(file: BinaryIO, size: int, limits: Limits) -> None:
    if size == 0:
        raise Corrupt("the file has 0 bytes")
    if size > limits.max_file_gb * 1e9:
        raise Corrupt(f"a file of {size / 1e9:.1f} GB is larger than media.max_file_gb={limits.max_file_gb:g}")
    if lfs.is_pointer_text(file.read(64)):
        raise Corrupt("a Git LFS pointer: run git lfs pull")


def _container(file: Any) -> InputContainer:
    """FFmpeg's container. Raises Corrupt where it is of a kind that reads other files, addresses or devices."""
    try:
        return av.open(file, metadata_errors="replace", options=OPTIONS)  # titles are in any encoding
    except av.error.ArgumentError as error:
        raise Corrupt("no format of media, or one that names other files: playlists are not read") from error


def _check_streams(container: InputContainer) -> None:
    if container.format.name in TEXT_FORMATS:
        raise Corrupt("the file holds text, not media")
    if not (container.streams.video or container.streams.audio):
        raise Corrupt("the file holds neither pictures nor sound")
    if len(container.streams) > _MOST_STREAMS:
        raise Corrupt(f"{len(container.streams)} streams are more than {_MOST_STREAMS}")


def choose_stream(streams: Sequence[Any], container: InputContainer, words: str) -> tuple[Any, list[str]]:
    """The stream that the container marks as default, or else FFmpeg's choice, and a note where there are several.

    `streams` are those of one type; `words` name what they are.
    """
    defaults = [stream for stream in streams if stream.disposition & Disposition.default]
    best = container.streams.best(streams[0].type)
    candidates = defaults or list(streams)
    stream: Any = best if best in candidates else candidates[0]
    if stream.codec_context is None:
        raise Corrupt("no decoder for its codec")
    note = f"{words} {list(streams).index(stream) + 1} of {len(streams)}"
    return stream, [note] if len(streams) > 1 else []


def shortfall(reached_s: float, stated_s: float, words: str) -> list[str]:
    """A note where less than the stated length was reached; raises Corrupt where much less was."""
    lacking = stated_s - reached_s
    text = f"{reached_s:.1f} of {stated_s:.1f} s of {words} are there"
    if lacking > (1 - READABLE) * stated_s + 0.1:
        raise Corrupt(f"truncated: {text}")
    return [text] if lacking > 0.01 * stated_s + 0.1 else []
