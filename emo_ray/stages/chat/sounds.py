"""Sounds as questions to an endpoint's `/audio/transcriptions`, and what its answers say.

Sounds are read from shards when they are sent, a part at a time, so that no corpus is ever in memory.
"""

import io
import wave
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import parquet
from emo_ray.config.endpoint_settings import Transcribe
from emo_ray.data.media import RATE_HZ
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import SoundAnswer
from emo_ray.stages.chat.client import Attempt, Run

VERSION = 1
_CHARACTERS_PER_S, _MORE_CHARACTERS = 200, 1000  # more than anybody says: an answer that is longer is none


@dataclass(frozen=True)
class Sound:
    """A question: int16 samples at 16 kHz as bytes, and the language that is spoken, if anybody knows."""

    samples: bytes
    language: str | None

    @property
    def wav(self) -> bytes:
        """The sound as the content of a WAV file."""
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE_HZ)
            file.writeframes(self.samples)
        return buffer.getvalue()


@dataclass(frozen=True)
class Question:
    """Where a sound lies, and its language."""

    part: Path
    clip_id: str
    language: str | None


@dataclass(frozen=True)
class Sounds:
    """Sounds of shard parts, by the digests of the questions."""

    question_of: Mapping[str, Question]

    @property
    def run_class(self) -> "type[SpeechRun]":
        """What asks them."""
        return SpeechRun

    def digests(self) -> Collection[str]:
        """All digests."""
        return self.question_of.keys()

    def items(self, without: Collection[str]) -> Iterator[tuple[str, Sound]]:
        """Digests and sounds but for some digests, part by part."""
        questions_in: dict[Path, dict[str, Question]] = defaultdict(dict)
        for digest, question in self.question_of.items():
            if digest not in without:
                questions_in[question.part][digest] = question
        for part, here in sorted(questions_in.items()):
            clip_ids = pa.array([question.clip_id for question in here.values()], pa.string())
            table = parquet.read(part, columns=["clip_id", "audio"], filters=pc.field("clip_id").isin(clip_ids))
            sound_of = dict(zip(table["clip_id"].to_pylist(), table["audio"].to_pylist(), strict=True))
            for digest, question in here.items():
                yield digest, Sound(sound_of[question.clip_id], question.language)


def settings(config: Transcribe) -> dict[str, Any]:
    """The settings that decide an answer beside the sound and its language. The URL does not: a model may move."""
    return {
        "model": config.model,
        "request": config.request,
        "temperature": answer_log.TEMPERATURE,
        "version": VERSION,
    }


class SpeechRun(Run[Transcribe, Sound]):
    """A run that sends sounds to an endpoint that transcribes."""

    expected = "transcription"
    answer_class = SoundAnswer

    def most_tokens(self, question: Sound) -> int:
        """None are counted: endpoints charge seconds of sound."""
        return 0

    async def send(self, question: Sound) -> Attempt:
        """Ask for a transcription."""
        fields = {"response_format": "verbose_json", "temperature": answer_log.TEMPERATURE, **self.config.request}
        fields |= {"language": question.language}
        response = await self.client.audio.transcriptions.with_raw_response.create(
            model=str(self.config.model),
            file=("sound.wav", question.wav, "audio/wav"),
            extra_body={name: value for name, value in fields.items() if value is not None},
        )
        return self.read(response.http_response.json(), len(question.samples) / 2 / RATE_HZ)

    def read(self, answer: Any, sound_s: float) -> Attempt:
        """The outcome of an answer, which may hold anything."""
        if not isinstance(answer, dict) or not isinstance(answer.get("text"), str):
            return self.misunderstood(str(answer))
        longest = sound_s * _CHARACTERS_PER_S + _MORE_CHARACTERS
        if len(answer["text"]) > longest:
            return self.misunderstood(f"{len(answer['text'])} characters, expected at most {longest:.0f}")
        text, language = self.clean(answer["text"], None), answer.get("language")
        heard = {
            "language": self.clean(language) if isinstance(language, str) and language else None,
            "log_prob": _mean(answer, "avg_logprob"),
            "no_speech": _least(answer, "no_speech_prob"),
        }
        return Attempt("ok" if text else "empty", text or None, more=heard)


def _numbers(answer: Mapping[str, Any], name: str) -> list[float]:
    """A number of each segment of an answer that has segments with finite ones."""
    segments = answer.get("segments")
    dicts = [part for part in segments if isinstance(part, dict)] if isinstance(segments, list) else []
    values = [segment.get(name) for segment in dicts]
    return [float(value) for value in values if isinstance(value, int | float) and abs(value) < 1e9]


def _mean(answer: Mapping[str, Any], name: str) -> float | None:
    values = _numbers(answer, name)
    return sum(values) / len(values) if values else None


def _least(answer: Mapping[str, Any], name: str) -> float | None:
    return min(_numbers(answer, name), default=None)
