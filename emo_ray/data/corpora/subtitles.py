"""Subtitles beside a recording: cues with their times and words, as FFmpeg reads SubRip and WebVTT."""

import html
import io
import re
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.subtitles.subtitle import AssSubtitle

from emo_ray.data.corpora import csv_files

FORMAT_OF = {".srt": "srt", ".vtt": "webvtt"}  # by suffix; the names are FFmpeg's
_LARGEST_BYTES = 16 * 2**20  # ten hours of speech are one
_STYLE = re.compile(r"\{\\[^}]*\}")  # of ASS, which FFmpeg makes of all subtitles
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")  # of SubRip, whose unknown tags FFmpeg leaves
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Cue(NamedTuple):
    """What is said from when to when, in seconds from the beginning of the recording."""

    start_s: float
    end_s: float
    text: str


def read_cues(path: Path) -> list[Cue]:
    """The cues of a file that have words and a duration, in order of time; those of one time are one cue.

    Raises ValueError for a file that is too large, is not UTF-8 (or UTF-16 that says so), or is no subtitles.
    """
    kind = FORMAT_OF[path.suffix.lower()]
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError(f"{path}: found {path.stat().st_size} bytes, expected subtitles of {_LARGEST_BYTES} at most")
    with path.open("rb") as stream:
        encoding = "utf-16" if stream.read(2) in _BYTE_ORDER_MARKS else "utf-8-sig"
    text = csv_files.decode(path, (encoding,))
    try:
        with av.open(io.BytesIO(text.encode()), format=kind) as container:
            assert isinstance(container, InputContainer)
            cues = [cue for packet in container.demux(subtitles=0) if (cue := _cue(packet, kind)) is not None]
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path}: found no {kind} that FFmpeg reads ({error}), expected subtitles") from error
    texts_of: dict[tuple[float, float], list[str]] = {}
    for cue in sorted(cues, key=lambda cue: cue[:2]):
        texts_of.setdefault((cue.start_s, cue.end_s), []).append(cue.text)
    return [Cue(*times_s, " ".join(texts)) for times_s, texts in texts_of.items()]


def _cue(packet: av.Packet, kind: str) -> Cue | None:
    unit_s, start, duration = packet.time_base, packet.pts, packet.duration or 0
    if unit_s is None or start is None or start < 0 or duration <= 0:
        return None
    lines = [subtitle.dialogue.decode() for subtitle in packet.decode() if isinstance(subtitle, AssSubtitle)]
    text = _STYLE.sub("", " ".join(lines))
    if kind == "srt":
        text = html.unescape(_TAG.sub("", text))
    text = " ".join(text.split())
    return Cue(float(start * unit_s), float((start + duration) * unit_s), text) if text else None
