"""Uploaded clips to answers, by a model in this process. What is uploaded is deleted when it is answered."""

import base64
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, Field

from emo_ray.data import decoder, media
from emo_ray.data.manifest import Clip
from emo_ray.inference.model import Model

MOST_STRETCHES = 40  # of a long clip; beyond, they are longer
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(frozen=True)
class Upload:
    """One clip as it was sent: the content of files, each with its name's suffix, and words."""

    video: tuple[str, bytes] | None = None
    audio: tuple[str, bytes] | None = None
    text: str | None = None
    stretch_s: float | None = None  # length of the stretches of sound that are answered too; None: the whole alone
    with_frames: bool = False


class Stretch(BaseModel):
    """What the model says of a part of a longer clip."""

    start_s: float
    end_s: float
    label: str | None
    probabilities: dict[str, float]


class Answer(BaseModel):
    """What the model says of a clip: the fields of `emo_ray.load(...).predict(...)`."""

    label: str | None = Field(description="The most likely class; null where nothing of the clip can be used.")
    confidence: float | None = Field(description="The label's probability.")
    probabilities: dict[str, float] = Field(description="Calibrated probability of each class.")
    parts: dict[str, dict[str, float]] = Field(description="What each modality that can be used gives alone.")
    without: dict[str, dict[str, float]] = Field(description="What the others give where a modality is left out.")
    statuses: dict[str, str] = Field(description="ok, missing or corrupt for each modality, with the reason.")
    text: str | None = Field(description="The words: those sent, or what the recogniser heard.")
    attention: list[float] | None = Field(description="The video model's attention over the frames; sums to 1.")
    unfamiliar: dict[str, float] = Field(
        description="Modalities unlike the training clips: their distance over the one that 99 % of those keep."
    )
    over_time: list[Stretch] = Field(default=[], description="Stretches of a longer clip, where they were asked for.")
    frames: list[str] = Field(default=[], description="The frames that the model saw, as base64 of JPEG, if asked for.")


def answer(model: Model, uploads: Sequence[Upload]) -> list[Answer]:
    """Answer clips that were sent, all in one batch."""
    with TemporaryDirectory(prefix="emo_ray-") as scratch:
        clips = [_clip(upload, i, Path(scratch)) for i, upload in enumerate(uploads)]
        table = model.decode(clips)
        predictions = model.classify(clips, table)
        answers = [Answer.model_validate(prediction, from_attributes=True) for prediction in predictions]
        for upload, each, clip, jpegs in zip(uploads, answers, clips, table["frames"].to_pylist(), strict=True):
            if upload.with_frames:
                seen = media.spread(len(jpegs), model.config.media.frames) if jpegs else ()
                each.frames = [base64.b64encode(jpegs[place]).decode() for place in seen]
            if upload.stretch_s is not None:
                each.over_time = _over_time(model, clip, upload.stretch_s)
    return answers


def _clip(upload: Upload, number: int, scratch: Path) -> Clip:
    paths: dict[str, str] = {}
    for part, sent in (("video", upload.video), ("audio", upload.audio)):
        if sent is not None:
            suffix = Path(sent[0]).suffix
            path = scratch / f"{number}-{part}{suffix if _SUFFIX.fullmatch(suffix) else ''}"
            path.write_bytes(sent[1])
            paths[part] = str(path)
    return Clip(str(number), paths.get("video"), paths.get("audio"), upload.text or None)


def _over_time(model: Model, clip: Clip, stretch_s: float) -> list[Stretch]:
    """Answers for stretches of equal length that cover the clip's sound; none where there is just one, or no sound."""
    settings = model.config.media
    extent, _ = decoder.decode(
        media.read_sound_extent,
        clip.audio or clip.video,
        max_s=settings.max_decode_s,
        max_memory_mb=settings.max_memory_mb,
    )
    length_s = 0.0 if extent is None else float(extent[1])
    count = min(MOST_STRETCHES, round(length_s / stretch_s))
    if count < 2:
        return []
    edges_s = [i * length_s / count for i in range(count + 1)]
    clips = [
        Clip(str(i), video=clip.video, audio=clip.audio, start_s=start_s, end_s=end_s)
        for i, (start_s, end_s) in enumerate(itertools.pairwise(edges_s))
    ]
    return [
        Stretch(start_s=part.start_s, end_s=part.end_s, label=said.label, probabilities=said.probabilities)
        for part, said in zip(clips, model.predict_clips(clips), strict=True)
        if part.start_s is not None and part.end_s is not None
    ]
