"""A multimodal chat model's label of each clip: words, frames and sound as parts of a question, one class as answer.

Frames and sound are read from shards when they are sent, a part at a time, so that no corpus is ever in memory.
"""

import base64
import io
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from emo_ray import parquet
from emo_ray.config.endpoint_settings import Annotate
from emo_ray.data.media import RATE_HZ
from emo_ray.stages.chat.answer_log import UNCLEAR
from emo_ray.stages.chat.client import FORM_REFUSED, TEMPLATE_TOKENS, Attempt, CompletionRun
from emo_ray.stages.chat.sounds import Sound

_PATCH_PX, _MORE_TOKENS = 14, 256  # no vision tower has smaller patches: the most tokens of a picture, and around it
_SOUND_TOKENS_PER_S = 50  # twice what models take
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class ClipQuestion:
    """What is sent about a clip, and the labels to choose from."""

    labels: tuple[str, ...]
    prompt: str
    text: str | None = None
    jpegs: tuple[bytes, ...] = ()
    samples: bytes | None = None  # of sound: int16 at 16 kHz

    def parts(self) -> list[dict[str, Any]]:
        """The content parts of a message as OpenAI's protocol has them."""
        parts: list[dict[str, Any]] = [{"type": "text", "text": self.prompt}]
        if self.text is not None:
            parts.append({"type": "text", "text": f'What is said: "{self.text}"'})
        for jpeg in self.jpegs:
            url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
            parts.append({"type": "image_url", "image_url": {"url": url}})
        if self.samples is not None:
            data = base64.b64encode(Sound(self.samples, None).wav).decode()
            parts.append({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
        return parts


@dataclass(frozen=True)
class Place:
    """Where a clip lies in the shards, and what of it is sent beside its words."""

    shard: Path
    clip_id: str
    text: str | None
    has_frames: bool
    has_sound: bool


@dataclass(frozen=True)
class ClipQuestions:
    """Clips by the digests of their questions."""

    place_of: Mapping[str, Place]
    config: Annotate
    labels: tuple[str, ...]

    @property
    def run_class(self) -> "type[LabelRun]":
        """What asks them."""
        return LabelRun

    def digests(self) -> Collection[str]:
        """All digests."""
        return self.place_of.keys()

    def items(self, without: Collection[str]) -> Iterator[tuple[str, ClipQuestion]]:
        """Digests and questions but for some digests, shard part by shard part."""
        places_in: dict[Path, dict[str, Place]] = defaultdict(dict)
        for digest, place in self.place_of.items():
            if digest not in without:
                places_in[place.shard][digest] = place
        prompt = self.config.label_prompt.replace("{labels}", ", ".join(self.labels))
        for shard, here in sorted(places_in.items()):
            row_of = _media(shard, list(here.values()))
            for digest, place in here.items():
                row = row_of.get(place.clip_id, {})
                jpegs = evenly(row["frames"], self.config.frames) if place.has_frames else []
                yield (
                    digest,
                    ClipQuestion(
                        self.labels,
                        prompt,
                        place.text,
                        tuple(smaller(jpeg, self.config.frame_px) for jpeg in jpegs),
                        row["audio"] if place.has_sound else None,
                    ),
                )


def _media(shard: Path, places: Sequence[Place]) -> dict[str, dict[str, Any]]:
    """The frames and sound of these clips of a shard part that are to be sent, by clip_id."""
    needed = {"frames": any(p.has_frames for p in places), "audio": any(p.has_sound for p in places)}
    columns = [name for name, is_sent in needed.items() if is_sent]
    if not columns:
        return {}
    clip_ids = pa.array([place.clip_id for place in places], pa.string())
    table = parquet.read(shard, columns=["clip_id", *columns], filters=pc.field("clip_id").isin(clip_ids))
    return {row["clip_id"]: row for row in table.to_pylist()}


def evenly(jpegs: Sequence[bytes], count: int) -> list[bytes]:
    """At most `count` frames, from the middles of as many stretches of a clip."""
    count = min(count, len(jpegs))
    return [jpegs[(2 * i + 1) * len(jpegs) // (2 * count)] for i in range(count)]


def smaller(jpeg: bytes, most_px: int) -> bytes:
    """The picture as it is, or made smaller so that no side is longer than `most_px`."""
    with Image.open(io.BytesIO(jpeg)) as image:
        if max(image.size) <= most_px:
            return jpeg
        image.thumbnail((most_px, most_px))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def label_in(answer: str, labels: Sequence[str]) -> str | None:
    """The one label that an answer names: as JSON {"label": ...}, or anywhere in its words; None for none or several.

    Case does not matter. A label within a longer one, such as `sad` in `very sad`, does not count.
    """
    spelling = {label.casefold(): label for label in labels}
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and isinstance(value.get("label"), str):
        return spelling.get(value["label"].strip().casefold())
    longest_first = sorted(spelling, key=len, reverse=True)
    words = "|".join(rf"(?<![a-z0-9]){re.escape(label)}(?![a-z0-9])" for label in longest_first)
    names = set(re.findall(words, answer.casefold()))
    return spelling[names.pop()] if len(names) == 1 else None


class LabelRun(CompletionRun[ClipQuestion]):
    """A run that sends clips to a chat endpoint, and demands one of the labels by a JSON schema.

    An endpoint that refuses the schema is asked without it: from then on, once such a question is answered.
    """

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.takes_schema = True
        self.without_schema: set[ClipQuestion] = set()

    def most_tokens(self, question: ClipQuestion) -> int:
        """An estimate of the tokens of one question: words, pictures, sound and the longest answer."""
        words = len(question.prompt.encode()) + len((question.text or "").encode())
        pictures = len(question.jpegs) * ((self.config.frame_px // _PATCH_PX + 1) ** 2 + _MORE_TOKENS)
        sound_s = len(question.samples or b"") / 2 / RATE_HZ
        return words + pictures + round(sound_s * _SOUND_TOKENS_PER_S) + TEMPLATE_TOKENS + self.config.max_answer_tokens

    async def send(self, question: ClipQuestion) -> Attempt:
        """Ask for a label."""
        is_demanded = self.takes_schema and question not in self.without_schema
        more = {"response_format": _schema(question.labels)} if is_demanded else {}
        try:
            attempt = await self.complete(question.parts(), more)
        except FORM_REFUSED as error:
            if not is_demanded or error.code == "content_filter":
                raise
            self.without_schema.add(question)
            return Attempt(f"error: {self.clean(error.message)}", again=True)
        self.takes_schema = self.takes_schema and question not in self.without_schema
        if attempt.status not in ("ok", "cut"):
            return attempt
        label = label_in(attempt.reading or "", question.labels)
        return replace(attempt, status="ok", reading=label) if label else replace(attempt, status=UNCLEAR)


def _schema(labels: Sequence[str]) -> dict[str, Any]:
    """The field `response_format` that allows {"label": one of them} alone."""
    label = {"type": "string", "enum": list(labels)}
    form = {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "emotion", "strict": True, "schema": form}}
