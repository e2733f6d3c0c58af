"""Cards of clips: predictions and shards to the pages on which a person looks at clips and corrects their labels."""

import io
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from emo_ray import parquet, store
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import face_columns, media, shards
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.faces import Face
from emo_ray.data.manifest import Clip
from emo_ray.data.prepared import Prepared
from emo_ray.inference.classifier import ALONE, TOGETHER, WITHOUT
from emo_ray.models.familiarity import unfamiliar
from emo_ray.progress import late_progress
from emo_ray.reports import cards_page
from emo_ray.reports.cards import NO_MEDIA, Answer, Card, ClipMedia, unfamiliar_words
from emo_ray.reports.cards_page import CARDS_PER_PAGE, COLUMNS, CardSet
from emo_ray.reports.contact_sheet import with_boxes
from emo_ray.reports.drawings import loudness, strip
from emo_ray.reports.scorecard import MISTAKES
from emo_ray.reports.wording import clock, person_words
from emo_ray.stages.decoding.shard_plan import Decoded
from emo_ray.stages.prediction_rows import ATTENTION, DISTANCE, matrix
from emo_ray.training.calibration import calibrated
from emo_ray.training.scoring import EVERYTHING, Probabilities

_MOST_MISTAKES = 20
_PICTURES = 8  # of a clip
_COLUMNS = ("frames", "audio", "text", *(f"{name}_status" for name in MODALITIES), *face_columns.NAMES)
HOW_TO_READ = (
    "A bar is the probability of a class by all that a clip has. The columns beside it say what each modality gives "
    "alone, its first class in bold, and by how many points the probability changes when a modality is left out."
)


@dataclass(frozen=True)
class CardSource:
    """Where the media of clips lie decoded, and the clips of a manifest by clip_id, with their transcripts."""

    shards: Path
    part_of: Mapping[str, str]  # clip_id -> file name
    clip_of: Mapping[str, Clip]
    margin: float  # of media.face
    has_people: bool = False  # rows are of people, of whom no label is known

    @classmethod
    def of(cls, decoded: Decoded, clips: Collection[Clip], margin: float) -> "CardSource":
        """The source of these clips of a corpus."""
        ledger = decoded.ledger
        part_of = dict(zip(ledger["clip_id"].to_pylist(), ledger["part"].to_pylist(), strict=True))
        return cls(decoded.shards, part_of, {clip.clip_id: clip for clip in clips}, margin)


def answers(
    rows: pa.Table, labels: Sequence[str], clip_of: Mapping[str, Clip], temperature: float | None = None,
    bound_of: Mapping[str, float] | None = None,
) -> list[Answer]:  # fmt: skip
    """Rows of predictions as answers, with all their probabilities at a temperature (None: as they are).

    `bound_of` says by modality how far training clips are from their mean.
    """

    def listed(column: str) -> list[list[float] | None]:
        return as_rows(matrix(rows[column], len(labels)), temperature)

    together = listed(TOGETHER)
    alone = {name: listed(column) for name, column in ALONE.items()}
    without = {name: listed(column) for name, column in WITHOUT.items()}
    columns = ["clip_id", *(f"{name}_status" for name in MODALITIES), *DISTANCE.values(), ATTENTION]
    shown = []
    for i, row in enumerate(rows.select(columns).to_pylist()):
        clip = clip_of[row["clip_id"]]
        excess = unfamiliar({name: row[column] for name, column in DISTANCE.items()}, bound_of or {})
        shown.append(
            Answer(
                clip_id=clip.clip_id,
                file=clip.file or "",
                labels=labels,
                together=together[i],
                alone={name: values[i] for name, values in alone.items()},
                without={name: values[i] for name, values in without.items()},
                statuses={name: row[f"{name}_status"] for name in MODALITIES},
                truth=clip.label,
                notes=[unfamiliar_words(excess)] if excess else [],
                is_unfamiliar=bool(excess),
                attention=row[ATTENTION],
                is_part=clip.span_s is not None,
            )
        )
    return shown


def with_note(answer: Answer, note: str) -> Answer:
    """The answer with one more note."""
    return replace(answer, notes=[*answer.notes, note])


def as_rows(values_BK: np.ndarray, temperature: float | None) -> list[list[float] | None]:
    """Probabilities (B, K) at a temperature, where None leaves them as they are; a row of NaN is None."""
    known_B = ~np.isnan(values_BK).any(axis=1)
    values_BK = values_BK if temperature is None else calibrated(values_BK, temperature)
    return [values if known else None for values, known in zip(values_BK.tolist(), known_B, strict=True)]


def write(folder: Path, about: CardSet, shown: Sequence[Answer], source: CardSource) -> list[Path]:
    """The pages of these answers in their order, as far as they fit; those beyond are left out."""
    pages = cards_page.page_count(len(shown))
    shown = shown[: pages * CARDS_PER_PAGE]
    paths = []
    with late_progress("drawing cards", "clips") as report:
        for number in range(1, pages + 1):
            start = (number - 1) * CARDS_PER_PAGE
            batch = shown[start : start + CARDS_PER_PAGE]
            seen = _seen(source, [answer.clip_id for answer in batch])
            cards = [_card(answer, source, seen) for answer in batch]
            paths.append(cards_page.write(cards, about, folder, number, pages))
            report(start + len(batch), len(shown))
    return paths


def calibration_words(temperature: float | None) -> str:
    """Whether the probabilities on a page are calibrated, as one sentence."""
    if temperature is None:
        return "The model has no temperature: its probabilities are not calibrated."
    return f"All probabilities are at the temperature {temperature:.2f}, which calibrates those of whole clips."


def write_mistakes(
    folder: Path, prepared: Prepared, batch: FeatureBatch, probabilities: Probabilities, margin: float,
    about_probabilities: str,
) -> Path:  # fmt: skip
    """A page of the clips that a model is most confident about and wrong, against the labels of a batch.

    `probabilities` are those of every subset of the modalities, as they are shown, and `about_probabilities` says to
    readers whether they are calibrated; `margin` is that of media.face.
    """
    labels = prepared.labels
    clip_of = {clip.clip_id: clip for clip in prepared.clips}
    present_BM, label_B = batch.present_BM.numpy(), batch.label_B.numpy()
    together_BK = probabilities[EVERYTHING]
    wrong_B = present_BM.any(axis=1) & (together_BK.argmax(axis=1) != label_B)
    confidence_B = np.where(wrong_B, together_BK.max(axis=1), -1.0)
    chosen = [i for i in np.argsort(-confidence_B, kind="stable")[:_MOST_MISTAKES].tolist() if wrong_B[i]]
    shown = []
    for i in chosen:
        present = dict(zip(MODALITIES, present_BM[i].tolist(), strict=True))
        rows = {f"p_{subset}": values_BK[i].tolist() for subset, values_BK in probabilities.items()}
        others = {name: any(present[other] for other in MODALITIES if other != name) for name in MODALITIES}
        clip = clip_of[batch.clip_ids[i]]
        shown.append(
            Answer(
                clip_id=clip.clip_id,
                file=clip.file or "",
                labels=labels,
                together=together_BK[i].tolist(),
                alone={name: rows[column] if present[name] else None for name, column in ALONE.items()},
                without={name: rows[column] if others[name] else None for name, column in WITHOUT.items()},
                statuses={},
                truth=labels[label_B[i]],
            )
        )
    mistakes, clips = int(wrong_B.sum()), int(present_BM.any(axis=1).sum())
    most = f"; the {len(shown)} of which the model is most confident are shown" if len(shown) < mistakes else ""
    about = CardSet(
        MISTAKES,
        "The most confident mistakes",
        f"{mistakes} of {clips} clips are taken for another class than their label{most}. Some of them may have the "
        "wrong label.",
        labels,
        [f"{HOW_TO_READ} {about_probabilities}"],
        "labels are what annotators perceived; a mistake may be theirs",
        "most confident first",
    )
    source = CardSource.of(prepared, [clip_of[answer.clip_id] for answer in shown], margin)
    return write(folder, about, shown, source)[0]


def _card(answer: Answer, source: CardSource, seen: "Mapping[str, _Seen]") -> Card:
    clip = source.clip_of[answer.clip_id]
    of_shard = seen.get(answer.clip_id, _Seen())
    statuses = answer.statuses or of_shard.statuses
    words = clip.text or of_shard.media.words
    columns = () if source.has_people else [_text(getattr(clip, name)) for name in COLUMNS]
    answer = replace(answer, statuses=statuses)
    clip_media = replace(of_shard.media, words=words)
    return Card(answer, _place(clip, source), clip_media, columns)


def _text(value: str | float | None) -> str:
    """A value of a manifest as the text of a CSV file, which is read back as the same value."""
    return "" if value is None else str(value)


def _place(clip: Clip, source: CardSource) -> str:
    """What a reader calls a clip: its file, and which stretch of it and whose face."""
    file = clip.file
    parts = [file.partition("?")[0].rsplit("/", 1)[-1] if file else clip.clip_id]
    if clip.span_s is not None:
        parts.append(f"{clock(clip.span_s[0])} – {clock(clip.span_s[1])}")
    if source.has_people and (person := shards.clip_and_person(clip.clip_id)[1]):
        parts.append(person_words(person))
    return ", ".join(parts)


@dataclass(frozen=True)
class _Seen:
    """What a shard holds of a clip."""

    media: ClipMedia = NO_MEDIA
    statuses: Mapping[str, str] = field(default_factory=dict)


def _seen(source: CardSource, clip_ids: Collection[str]) -> dict[str, _Seen]:
    """What shards hold of these clips; each part is read once. Clips of parts that are gone are left out."""
    ids_of: dict[str, list[str]] = defaultdict(list)
    for clip_id in clip_ids:
        ids_of[source.part_of[clip_id]].append(clip_id)
    seen = {}
    for name, ids in ids_of.items():
        if not store.exists(source.shards / name):
            continue
        rows = parquet.read(source.shards / name, columns=["clip_id", *_COLUMNS], filters=[("clip_id", "in", ids)])
        for row in rows.to_pylist():
            statuses = {modality: row[f"{modality}_status"] for modality in MODALITIES}
            seen[row["clip_id"]] = _Seen(_media(row, source.margin), statuses)
    return seen


def _media(row: Mapping[str, Any], margin: float) -> ClipMedia:
    """A row of a shard as small pictures, with the box of the face where one was looked for, and sound."""
    frames = _frames(row["frames"], face_columns.face_of(dict(row)), margin) if row["frames"] else []
    samples_S = np.frombuffer(row["audio"] or b"", "<i2")
    return ClipMedia(
        strip=strip(frames) if frames else b"",
        pictures=len(frames),
        loudness=loudness(samples_S).tolist(),
        sound_s=len(samples_S) / media.RATE_HZ,
        words=row["text"] or "",
    )


def _frames(jpegs: Sequence[bytes], face: Face | None, margin: float) -> list[np.ndarray]:
    """At most _PICTURES frames, evenly spread, uint8 (H, W, 3)."""
    places = np.linspace(0, len(jpegs) - 1, min(len(jpegs), _PICTURES)).round().astype(int)
    frames = [np.asarray(Image.open(io.BytesIO(jpegs[place])).convert("RGB")) for place in places]
    if face is None:
        return frames
    return with_boxes(frames, replace(face, box_T4=face.box_T4[places], confidence_T=face.confidence_T[places]), margin)
