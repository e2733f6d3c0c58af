"""Shard rows to transcripts: where somebody speaks, a recogniser writes it down."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from emo_ray.data import transcripts
from emo_ray.data.media import RATE_HZ, Span
from emo_ray.data.speech import speech_spans
from emo_ray.data.transcripts import Transcription
from emo_ray.inference.encoders import SPEECH, RecogniserSpec

_LONGEST_S = 30.0  # of a sound that is transcribed at once: all that Whisper takes


def transcribe_rows(encoder: RecogniserSpec, module: Any, table: pa.Table) -> pa.Table:
    """Shard rows to rows of data.transcripts.SCHEMA, in the same order.

    `module` is a models.transcriber.Transcriber, or None: then sound in which somebody speaks has the status `speech`.
    Rows that the encoder is not for have the status `not asked`.
    """
    rows: dict[int, dict[str, Any]] = {}
    pieces: list[tuple[int, str | None, np.ndarray]] = []
    concerned = encoder.concerns(table)
    clip_ids = table["clip_id"].to_pylist()
    for i, clip_id in enumerate(clip_ids):
        rows[i] = transcripts.unjudged(clip_id, transcripts.NOT_ASKED)
        if not concerned[i]:
            continue
        samples_S = np.frombuffer(table["audio"][i].as_py(), "<i2")
        spans = speech_spans([samples_S], SPEECH)
        rows[i] = transcripts.unjudged(clip_id, transcripts.SPOKEN if spans else transcripts.NO_SPEECH)
        if spans and module is not None:
            language = transcripts.spoken_language(table["language"][i].as_py(), encoder.language)
            pieces += [(i, language, piece_S) for piece_S in _pieces(samples_S, spans)]
    parts_of: dict[int, list[Transcription]] = {}
    for i, transcription in _transcribed(module, pieces, encoder.batch_size):
        parts_of.setdefault(i, []).append(transcription)
    for i, parts in parts_of.items():
        sound_s = table["audio_samples"][i].as_py() / RATE_HZ
        rows[i] = transcripts.judged(clip_ids[i], transcripts.joined(parts), sound_s)
    return pa.Table.from_pylist([rows[i] for i in range(len(table))], transcripts.SCHEMA)


def _transcribed(
    module: Any, pieces: Sequence[tuple[int, str | None, np.ndarray]], batch_size: int
) -> Iterator[tuple[int, Transcription]]:
    """Pieces (row, language, int16 samples) with what is said in them, in their order.

    Those of one language and of similar lengths are heard together, which needs less padding; of equal lengths alone,
    where the module may not pad.
    """
    order = sorted(range(len(pieces)), key=lambda p: (pieces[p][1] or "", len(pieces[p][2])))
    heard: dict[int, Transcription] = {}

    def together(place: int) -> tuple[str | None, int]:
        _, language, samples_S = pieces[place]
        return language, 0 if module.may_pad else len(samples_S)

    for (language, _), group in groupby(order, key=together):
        places = list(group)
        for start in range(0, len(places), batch_size):
            batch = places[start : start + batch_size]
            waves = [pieces[p][2].astype(np.float32) / 32768 for p in batch]
            heard |= dict(zip(batch, module(waves, language), strict=True))
    return ((pieces[p][0], heard[p]) for p in range(len(pieces)))


def _pieces(samples_S: np.ndarray, spans: Sequence[Span]) -> list[np.ndarray]:
    """A sound as it is, or, where a recogniser cannot hear it at once, its speech in pieces."""
    if len(samples_S) <= _LONGEST_S * RATE_HZ:
        return [samples_S]
    joined = [spans[0]]
    for start, end in spans[1:]:
        if end - joined[-1].start_s <= _LONGEST_S:
            joined[-1] = Span(joined[-1].start_s, end)
        else:
            joined.append(Span(start, end))
    return [samples_S[round(start * RATE_HZ) : round(end * RATE_HZ)] for start, end in joined]
