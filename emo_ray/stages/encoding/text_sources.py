"""What an encoder of text is given beside shards: transcripts of clips without any, and a stronger model's readings."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emo_ray import store
from emo_ray.data import transcripts
from emo_ray.data.manifest import Clip
from emo_ray.stages.chat.answer_log import Usage
from emo_ray.stages.chat.readings import Readings


@dataclass(frozen=True)
class Transcripts:
    """A table of transcripts (data.transcripts.SCHEMA), a row for each clip that had none."""

    path: Path
    settings: Mapping[str, Any]  # of `transcribe` that decide a transcript beside the sound
    recogniser: str  # a digest of what decides a transcript beside the sound; or of the endpoint's answers, their name
    clip_ids: frozenset[str]  # of the clips that have a row, or a transcript of their own
    unanswered: Mapping[str, str]  # clip_id -> digest of its question, of clips that an endpoint owes an answer
    statuses: Mapping[str, int]  # clips by kind of status
    usage: Usage  # what the job has sent up to here

    @property
    def digest(self) -> str:
        """The digest of what decides the transcripts beside the clips."""
        return store.digest(self.recogniser, sorted(set(self.unanswered.values())))

    def covers(self, clips: Iterable[Clip]) -> bool:
        """Whether a transcript of every one of these clips has been asked for."""
        return all(clip.clip_id in self.clip_ids for clip in clips)

    def only(self, clip_ids: Collection[str]) -> "Transcripts":
        """The transcripts as these clips see them: questions of others that are still open do not count."""
        return replace(self, unanswered={i: digest for i, digest in self.unanswered.items() if i in clip_ids})

    def in_clips(self, clips: Iterable[Clip]) -> list[Clip]:
        """The clips, in which those without words have their believed transcripts."""
        text_of = transcripts.believed(self.path)
        return [
            clip if clip.has_words or clip.clip_id not in text_of else replace(clip, text=text_of[clip.clip_id])
            for clip in clips
        ]


@dataclass(frozen=True)
class TextSources:
    """Transcripts and readings; None where there are none."""

    transcripts: Transcripts | None = None
    readings: Readings | None = None

    def only(self, clip_ids: Collection[str]) -> "TextSources":
        """Transcripts and readings as these clips see them."""
        return TextSources(
            self.transcripts and self.transcripts.only(clip_ids), self.readings and self.readings.only(clip_ids)
        )

    def in_clips(self, clips: Iterable[Clip]) -> list[Clip]:
        """The clips, in which those without words have their believed transcripts, where there are any."""
        return self.transcripts.in_clips(clips) if self.transcripts else list(clips)


NO_TEXTS = TextSources()
