"""A recording of any length to its utterances: its sound is decoded and listened to stretch by stretch.

Each stretch is a request of its own to the process that decodes, so that a long recording takes no more memory than a
short one, and what FFmpeg does not survive costs a status.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from emo_ray import parquet
from emo_ray.config.media_settings import Media, Segment
from emo_ray.data import decoder, media, shards, status
from emo_ray.data.media import RATE_HZ, Limits, Span
from emo_ray.data.shards import IdentifiedClip

VERSION = 2  # 2: rows of manifests hold votes
NO_SPEECH = "no speech"
STRETCH_S = 600.0  # 19 MB of sound
_REST_S = 0.1  # a shorter rest belongs to the stretch before it: codecs state a length beyond what they hold
_READABLE = 0.9  # share of its stretches below which a recording counts as corrupt
PART_SCHEMA = pa.schema(
    [
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
    ]
)


def write_part(path: Path, recording: IdentifiedClip, segment: Segment, config: Media) -> None:
    """Write the utterances of one recording, a row each; where it has none, a row without times says why.

    A part that exists already is left alone. Raises PlaceTrouble where the recording is another than when the job was
    planned.
    """
    if not path.exists():
        spans, text = utterances(recording.clip.audio or recording.clip.video, segment, config)
        shards.check_unchanged([recording])
        rows = [{"start_s": span.start_s, "end_s": span.end_s, "status": text} for span in spans]
        rows = rows or [{"start_s": None, "end_s": None, "status": text}]
        parquet.write(path, pa.Table.from_pylist(rows, PART_SCHEMA), parquet.NAME_ROWS)


def utterances(source: str | None, segment: Segment, config: Media) -> tuple[list[Span], str]:
    """The utterances of a recording in its own time, and a status.

    The status is "ok" or "ok: note" where there are any, and otherwise "no speech[: note]", "missing[: why]" or
    "corrupt: why".
    """
    limits, process = _decoding(config)
    extent, text = decoder.decode(media.read_sound_extent, source, limits, **process)
    if extent is None or source is None:
        return [], text
    from emo_ray.data.speech import speech_spans  # torch takes seconds to import

    end_s = float(extent[1])
    starts_s = np.arange(0, end_s, STRETCH_S).tolist()
    if len(starts_s) > 1 and end_s - starts_s[-1] <= _REST_S:
        starts_s.pop()
    most_failures = int((1 - _READABLE) * len(starts_s))
    failures: list[str] = []

    def stretches() -> Iterator[np.ndarray]:
        for start_s, next_s in pairwise([*starts_s, end_s]):
            stretch_S, failure = _stretch(source, Span(start_s, next_s), config)
            failures.extend(failure)
            if len(failures) > most_failures:
                return
            yield stretch_S

    spans = speech_spans(stretches(), segment)
    if len(failures) > most_failures:
        return [], failures[0]
    if failures:
        note = f"{len(failures)} of {len(starts_s)} stretches count as silence: {failures[0]}"
        return spans, status.with_note(text, note) if spans else f"{NO_SPEECH}: {note}"
    return spans, text if spans else NO_SPEECH


def sound_s(source: str | None, config: Media) -> float:
    """How long the sound of a file is, in seconds; 0 where it has none, or none that can be used."""
    limits, process = _decoding(config)
    extent, _ = decoder.decode(media.read_sound_extent, source, limits, **process)
    return 0.0 if extent is None else float(extent[1] - extent[0])


def _stretch(source: str, span: Span, config: Media) -> tuple[np.ndarray, list[str]]:
    """The sound of a stretch, as long as its span, and why it could not be decoded, where silence takes its place."""
    limits, process = _decoding(config)
    length_s = span.end_s - span.start_s
    samples_S, text = decoder.decode(media.read_audio, source, length_s, limits, span, **process)
    stretch_S = np.zeros(round(length_s * RATE_HZ), np.int16)
    if samples_S is not None:
        length = min(len(samples_S), len(stretch_S))
        stretch_S[:length] = samples_S[:length]
    return stretch_S, [text] if status.kind(text) == status.CORRUPT else []  # missing: a gap as long as a stretch


def _decoding(config: Media) -> tuple[Limits, dict[str, Any]]:
    """The limits of what is decoded, and of the process that decodes."""
    return Limits(max_file_gb=config.max_file_gb), {"max_s": config.max_decode_s, "max_memory_mb": config.max_memory_mb}
