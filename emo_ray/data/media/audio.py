"""Sound: one stream of a container to 16 kHz mono samples that keep their place in time."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.packet import Packet

from emo_ray.config.media_settings import RATE_HZ
from emo_ray.data.media.arrays import is_array
from emo_ray.data.media.container import (
    LIMITS,
    MATROSKA,
    MP4,
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
from emo_ray.data.media.span import Span, Window, window_of

_SLOWEST_HZ, _FASTEST_HZ = 1000, 768_000  # rates outside are damaged headers, and would fill the memory
_TIMESTAMPED = {MP4, MATROSKA, "flv", "asf", "mpegts", "mpeg", "ogg"}  # elsewhere FFmpeg counts samples
_RESTARTING = {"mpegts", "mpeg", "ogg"}  # formats whose joined files start their clock anew
_MOST_PLANES = 8  # of a frame with more, one for each channel, PyAV reads planes that are not there
_GAP_S = 0.1  # time stamps and samples may disagree by this much: containers round, and clocks drift
_SEEKABLE = {MP4, MATROSKA, "wav", "flac"}  # elsewhere times after seeking may be guesses
_PRE_ROLL_S = 0.5  # that decoders need before what they give is whole, of which Opus takes most: 80 ms
_AROUND_S = 0.05  # of sound on both sides of a span, for the resampler
_MOST_AROUND_S = 20.0  # the longest frames, of 65,535 samples at a low rate, on both sides
_LONGEST_JUMP_S = 10.0  # in formats that may start anew; more is a new clock, as in FFmpeg's programs


def read_audio(
    source: str | None, max_s: float, limits: Limits = LIMITS, span: Span | None = None
) -> tuple[np.ndarray | None, str]:
    """The sound as int16 samples_S at 16 kHz, channels mixed to one, and a status.

    The status is "ok", "ok: note", or with None instead of samples "missing[: why]" or "corrupt: why". `max_s` limits
    the sound of the file, or of the span.
    """
    return with_status(lambda path: _decode(path, max_s, limits, span), source)


@contextmanager
def opened_sound(source: str, limits: Limits) -> Iterator[tuple[Media, AudioStream, list[str]]]:
    """A file, the sound track that players choose, and notes on the choice. Raises Missing where there is no sound."""
    if is_array(source):
        raise Missing("an array of frames has no sound")
    with opened(source, limits) as media:
        if not media.container.streams.audio:
            raise Missing("no sound track")
        stream, notes = choose_stream(media.container.streams.audio, media.container, "sound track")
        yield media, stream, notes


def _decode(source: str, max_s: float, limits: Limits, span: Span | None) -> tuple[np.ndarray, list[str]]:
    with opened_sound(source, limits) as (media, stream, notes):
        tally = Tally()
        if span is None:
            samples_S, sound_notes = _whole(media, stream, max_s, tally)
        else:
            samples_S, sound_notes = _part(media, stream, max_s, tally, span)
        return samples_S, [*notes, *sound_notes]


def _whole(media: Media, stream: AudioStream, max_s: float, tally: Tally) -> tuple[np.ndarray, list[str]]:
    sound = _Sound(stream, media.format, max_s)
    streams = list(media.container.streams) if media.states_whole_duration else [stream]
    for frame in tally.decode(tally.read(media.container, streams), stream):
        sound.add(frame)
    samples_S = sound.samples()
    tally.check()
    notes = length_notes(media, stream, tally, len(samples_S) / RATE_HZ)
    if not len(samples_S):
        raise Missing("the sound track is empty")
    return samples_S, [
        *notes,
        *tally.unreadable_notes(tally.packets),
        *tally.end_notes(),
        *media.end_notes,
        *sound.notes(),
    ]


def _part(
    media: Media, stream: AudioStream, max_s: float, tally: Tally, span: Span
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """The sound of a span: silence before a track that begins within it, and less where the track ends within it."""
    window = window_of(span, media.container, stream)
    if window.duration_s > max_s:
        raise Corrupt(_too_long(max_s))
    sound = _Sound(stream, media.format, window.duration_s + _MOST_AROUND_S)
    first_s, end_s = None, 0.0  # when the sound that is kept begins, and when all that was decoded ends
    for frame in tally.decode(_packets_before(media, stream, window, tally), stream):
        if frame.pts is None:
            raise Corrupt(f"{span}: the file does not say when its sound is heard")
        start_s = window.seconds(frame.pts)
        if start_s >= span.end_s + _AROUND_S:
            end_s = start_s
            break
        end_s = start_s + frame.samples / (frame.sample_rate or RATE_HZ)
        if end_s > span.start_s - _AROUND_S:
            first_s = start_s if first_s is None else first_s
            sound.add(frame)
    tally.check()
    if first_s is None or end_s <= span.start_s:
        raise Corrupt(f"{span}: the recording ends at {_end_s(media, window, tally, end_s):.1f} s")
    samples_S = _cut(sound.samples(), first_s, span)
    end_notes = window.notes(window.origin + round(end_s / window.unit_s), "sound")
    read_notes = [*tally.unreadable_notes(tally.packets), *(tally.end_notes() if end_notes else [])]
    return samples_S, [*end_notes, *read_notes, *sound.notes()]


def _end_s(media: Media, window: Window, tally: Tally, decoded_s: float) -> float:
    """When a recording ends that ends before a span: by what was read, or else by what its header states."""
    read_s = tally.reached_s(media.container) - float(window.origin * window.unit_s)
    return max(decoded_s, read_s) or (media.container.duration or 0) / av.time_base


def _packets_before(media: Media, stream: AudioStream, window: Window, tally: Tally) -> Iterator[Packet]:
    """Packets from a little before a window on, from which a decoder gives whole sound when the window begins."""
    start = window.start - round(_PRE_ROLL_S / window.unit_s)
    if media.format in _SEEKABLE and start > window.origin:
        media.container.seek(start, stream=stream)
    packets = tally.read(media.container, [stream])
    # Reading without decoding is quick, also where nothing can be sought.
    return dropwhile(lambda packet: packet.pts is None or packet.pts + (packet.duration or 0) < start, packets)


def _cut(samples_S: np.ndarray, first_s: float, span: Span) -> np.ndarray:
    """The samples of a span of sound that begins at `first_s`."""
    start, end = (round((time_s - first_s) * RATE_HZ) for time_s in span)
    silence_S = np.zeros(max(0, -start) if first_s - span.start_s > _GAP_S else 0, np.int16)
    return np.concatenate([silence_S, samples_S[max(0, start) : max(0, end)]])


def length_notes(media: Media, stream: AudioStream, tally: Tally, sound_s: float) -> list[str]:
    """Notes from comparing the sound with what the header states. Raises Corrupt where much is lacking."""
    stated_s = media.stated_stream_s(stream)
    if stated_s is not None:
        return shortfall(sound_s, stated_s, "sound")
    if media.states_whole_duration and media.container.duration is not None:
        return shortfall(tally.reached_s(media.container), media.container.duration / av.time_base, "the file")
    return shortfall(sound_s, sound_s / media.stated_share, "sound")


def _too_long(max_s: float) -> str:
    return f"more than media.max_audio_s={max_s:g} s of sound: cut it into utterances"


class _Sound:
    """Decoded frames as 16 kHz mono, whatever changes on the way.

    Where the time stamps leave a gap, silence fills it. Each stretch of sound of one kind has its own resampler.
    """

    def __init__(self, stream: AudioStream, format_name: str, max_s: float) -> None:
        time_base = stream.time_base if format_name in _TIMESTAMPED else None
        self._tick_s = None if time_base is None else float(time_base)  # unit of time stamps
        self._longest_gap_s = _LONGEST_JUMP_S if format_name in _RESTARTING else float("inf")
        self._max_s = max_s
        self._chunks: list[np.ndarray] = []  # int16, one dimension
        self._length = 0  # samples in the chunks
        self._kind: tuple[str, int, str] | None = None  # sample format, rate and layout of the present stretch
        self._resampler: av.AudioResampler | None = None
        self._next_s: float | None = None  # time at which the next frame is due
        self._silence_s = 0.0

    def add(self, frame: AudioFrame) -> None:
        """Append a frame. Raises Corrupt for a rate that no sound has, and where the sound becomes too long."""
        if not _SLOWEST_HZ <= frame.sample_rate <= _FASTEST_HZ:
            raise Corrupt(f"a sample rate of {frame.sample_rate} Hz")
        frame_s = frame.samples / frame.sample_rate
        self._check_length(frame_s - 1)  # before memory is taken; the resampler holds less than a second back
        kind = (frame.format.name, frame.sample_rate, frame.layout.name)
        if kind != self._kind:
            self._flush()
            self._kind = kind
        self._keep_time(frame, frame_s)
        if self._resampler is None:
            self._resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        self._append(self._resampler.resample(_mean(frame) if _has_unnamed_channels(frame) else frame))
        self._check_length(0)

    def samples(self) -> np.ndarray:
        """All samples; after this, nothing can be added."""
        self._flush()
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)

    def notes(self) -> list[str]:
        """A note on the silence that fills gaps."""
        return [f"{self._silence_s:.1f} s of gaps filled with silence"] if self._silence_s else []

    def _keep_time(self, frame: AudioFrame, frame_s: float) -> None:
        if self._tick_s is None or frame.pts is None:
            return
        start_s = frame.pts * self._tick_s
        gap_s = 0.0 if self._next_s is None else start_s - self._next_s
        if _GAP_S < gap_s <= self._longest_gap_s:
            self._flush()
            self._check_length(gap_s)
            self._chunks.append(np.zeros(round(gap_s * RATE_HZ), np.int16))
            self._length += len(self._chunks[-1])
            self._silence_s += gap_s
        if self._next_s is None or abs(gap_s) > _GAP_S:
            self._next_s = start_s
        self._next_s += frame_s

    def _flush(self) -> None:
        if self._resampler is not None:
            self._append(self._resampler.resample(None))
        self._resampler = None

    def _append(self, frames: list[Any]) -> None:
        for frame in frames:
            if frame is not None:  # a resampler with nothing to do also passes on the None that flushes it
                # A third of the time that to_ndarray takes, which has any number of planes to put together.
                self._chunks.append(np.frombuffer(frame.planes[0], np.int16)[: frame.samples].copy())
                self._length += frame.samples

    def _check_length(self, more_s: float) -> None:
        if self._length + more_s * RATE_HZ > self._max_s * RATE_HZ:
            raise Corrupt(_too_long(self._max_s))


def _has_unnamed_channels(frame: AudioFrame) -> bool:
    """Whether nothing says which channel is which speaker, as with microphone arrays.

    FFmpeg then guesses by number, takes a microphone for a subwoofer, and leaves it out of the mix.
    """
    return frame.layout.nb_channels > 2 and any(channel.name == "NONE" for channel in frame.layout.channels)


def _mean(frame: AudioFrame) -> AudioFrame:
    """The mean of all channels, as float samples."""
    packed = frame
    if frame.format.is_planar and frame.layout.nb_channels > _MOST_PLANES:
        (packed,) = av.AudioResampler(frame.format.packed.name, frame.layout, frame.sample_rate).resample(frame)
    samples = packed.to_ndarray()
    if not packed.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    samples_CS: np.ndarray = samples.astype(np.float32)
    if samples.dtype == np.uint8:
        samples_CS = samples_CS / np.float32(128) - np.float32(1)
    elif samples.dtype.kind == "i":
        samples_CS /= np.float32(2 ** (8 * samples.dtype.itemsize - 1))
    mono = AudioFrame.from_ndarray(samples_CS.mean(axis=0, keepdims=True), format="flt", layout="mono")
    mono.sample_rate = frame.sample_rate
    mono.pts, mono.time_base = frame.pts, frame.time_base
    return mono
