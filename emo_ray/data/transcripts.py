"""Transcripts that a speech recogniser wrote: their form, which of them are believed, and how clips take them.

A recogniser writes words for any sound: Whisper writes "you" for silence. So a transcript has a status, and clips take
those alone whose status is `ok`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import parquet
from emo_ray.data import status

OK, NO_SPEECH, HALLUCINATION, ERROR = "ok", "no speech", "hallucination", "error"
NOT_ASKED, SPOKEN = "not asked", "speech"  # statuses of rows that have no transcript yet
SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # as it was written, whatever the status says of it
        pa.field("language", pa.string()),
        pa.field("log_prob", pa.float32()),  # mean over the tokens
        pa.field("no_speech", pa.float32()),  # the recogniser's probability that nobody speaks
        pa.field("status", pa.string(), nullable=False),
    ]
)
TRANSCRIBED = status.ok(["transcribed"])  # the text_status of a clip that has taken a transcript
_MOST_NO_SPEECH = 0.5
_MOST_REPEATS = 4  # of the same words in a row; people say "no no no no"
_LONGEST_PHRASE = 8  # words
_MOST_CHARACTERS_PER_S = 30.0  # fast speech has 20 to 25 in alphabets
_MOST_IDEOGRAPHS_PER_S = 12.0  # fast Mandarin has 8 syllables, a character each
_LEAST_S = 1.0  # shorter sound counts as this much: its rates say nothing
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+(?:'\w+)*")  # an ideograph or kana is a word
_IDEOGRAPH = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")


@dataclass(frozen=True)
class Transcription:
    """What a recogniser says of one clip's sound; None where it does not tell. `error` says why there are no words."""

    text: str = ""
    language: str | None = None
    log_prob: float | None = None
    no_speech: float | None = None
    error: str | None = None


def judged(clip_id: str, transcription: Transcription, sound_s: float) -> dict[str, Any]:
    """A row of SCHEMA for sound in which a voice was heard: by `no_speech` first, then by the words themselves."""
    text = transcription.text.strip()
    if transcription.error is not None:
        outcome = f"{ERROR}: {transcription.error}"
    elif not text or (transcription.no_speech is not None and transcription.no_speech > _MOST_NO_SPEECH):
        outcome = NO_SPEECH
    elif why := hallucination(text, sound_s):
        outcome = f"{HALLUCINATION}: {why}"
    else:
        outcome = OK
    return {
        "clip_id": clip_id,
        "text": text or None,
        "language": transcription.language,
        "log_prob": transcription.log_prob,
        "no_speech": transcription.no_speech,
        "status": outcome,
    }


def joined(parts: Sequence[Transcription]) -> Transcription:
    """The transcription of a sound that was heard in pieces, without those in which nobody speaks."""
    if len(parts) == 1:
        return parts[0]
    errors = [part for part in parts if part.error is not None]
    spoken = [part for part in parts if part.no_speech is None or part.no_speech <= _MOST_NO_SPEECH]
    if errors or not spoken:
        return (errors or list(parts))[0]
    chances = [part.no_speech for part in spoken if part.no_speech is not None]
    log_probs = [part.log_prob for part in spoken if part.log_prob is not None]
    return Transcription(
        " ".join(part.text.strip() for part in spoken),
        spoken[0].language,
        sum(log_probs) / len(log_probs) if log_probs else None,
        min(chances, default=None),
    )


def unjudged(clip_id: str, outcome: str) -> dict[str, Any]:
    """A row of SCHEMA without words."""
    return dict.fromkeys(SCHEMA.names) | {"clip_id": clip_id, "status": outcome}


def spoken_language(language: str | None, default: str | None) -> str | None:
    """The language to ask for: a clip's own or a default, without its region (en of en-US)."""
    language = language or default
    return language and re.split("[-_]", language)[0]


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation; an ideograph or kana is a word of its own."""
    return _WORD.findall(text.lower())


def hallucination(text: str, sound_s: float) -> str | None:
    """Why nobody can have said this in so many seconds; None where somebody can."""
    seconds = max(sound_s, _LEAST_S)
    ideographs = len(_IDEOGRAPH.findall(text))
    others = sum(character.isalnum() for character in text) - ideographs
    share = ideographs / seconds / _MOST_IDEOGRAPHS_PER_S + others / seconds / _MOST_CHARACTERS_PER_S
    if share > 1:
        return f"{ideographs + others} letters in {sound_s:.1f} s"
    spoken = words(text)
    for length in range(1, min(_LONGEST_PHRASE, len(spoken)) + 1):
        for start in range(length):
            phrases = [tuple(spoken[i : i + length]) for i in range(start, len(spoken) - length + 1, length)]
            for phrase, repeats in groupby(phrases):
                count = len(list(repeats))
                if count > _MOST_REPEATS:
                    return f"{' '.join(phrase)!r} {count} times in a row"
    return None


def filled(table: pa.Table, path: Path | None) -> pa.Table:
    """Rows of shards or of a ledger, in which clips without text take the believed transcripts of a table.

    A text that a clip has is never replaced. `path` is a table of SCHEMA; with None the rows stay as they are.
    """
    return table if path is None else filled_from(table, believed(path))


def filled_from(table: pa.Table, text_of: Mapping[str, str]) -> pa.Table:
    """Rows of shards or of a ledger, in which clips without text take these transcripts by clip_id."""
    statuses = table["text_status"].to_pylist()
    written = [
        None if status.is_ok(state) else text_of.get(clip_id)
        for clip_id, state in zip(table["clip_id"].to_pylist(), statuses, strict=True)
    ]
    new_statuses = [state if text is None else TRANSCRIBED for state, text in zip(statuses, written, strict=True)]
    columns = {"text_status": pa.chunked_array([pa.array(new_statuses, pa.string())])}
    if "text" in table.column_names:
        columns["text"] = pc.coalesce(pa.chunked_array([pa.array(written, pa.string())]), table["text"])
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    return table


@lru_cache(maxsize=2)
def believed(path: Path) -> Mapping[str, str]:
    """The transcripts with status `ok` by clip_id; a table's name tells its content, so a process reads it once."""
    return believed_in(parquet.read(path, columns=["clip_id", "text", "status"]))


def believed_in(table: pa.Table) -> dict[str, str]:
    """The transcripts with status `ok` by clip_id in rows of SCHEMA."""
    table = table.filter(pc.equal(table["status"], OK))
    return dict(zip(table["clip_id"].to_pylist(), table["text"].to_pylist(), strict=True))
