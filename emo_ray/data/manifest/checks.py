"""What clips of every importer go through: classes, speakers who are nobody, and rows that share a file or an id."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from emo_ray.config.data_settings import Data
from emo_ray.data.labels import class_of_labels
from emo_ray.data.manifest import Clip, first_of
from emo_ray.data.manifest.columns import NO_VALUE, NOBODY
from emo_ray.data.manifest.votes import Votes, sorted_votes

_NO_VALUES = {"speaker": NOBODY, "language": NO_VALUE, "dialogue": NO_VALUE, "fold": NO_VALUE}
_NO_TEXT = {"nan", "NaN", "<NA>", "#N/A"}  # exactly so: somebody may say "Nan" or "null"


def cleaned(clips: Sequence[Clip], data: Data, where: str) -> tuple[list[Clip], list[str]]:
    """The clips with the classes that their labels are, without values that stand for none, and notes for the user.

    Clips of classes that `data.label_map` drops are left out. Raises ValueError for labels in several spellings.
    """
    counts = Counter(clip.label for clip in clips if clip.label is not None)
    counts.update({label: 0 for clip in clips for label, _ in clip.votes or ()})
    try:
        class_of, notes = class_of_labels(counts, data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    kept = [
        replace(clip, label=clip.label and class_of[clip.label], votes=_votes_for_classes(clip, class_of))
        for clip in clips
        if clip.label is None or clip.label in class_of
    ]
    if clips and not kept:
        raise ValueError(f"{where}: data.label_map={data.label_map}: found no clip beside those that it leaves out")
    for field in ("speaker", "language", "dialogue", "fold", "text"):
        kept, field_notes = _without_placeholders(kept, field)
        notes += field_notes
    if voted := sum(clip.votes is not None for clip in kept):
        notes.append(f"{voted} clips have annotators' votes: train.targets=votes trains towards them")
    return kept, notes


def _votes_for_classes(clip: Clip, class_of: Mapping[str, str | None]) -> Votes | None:
    """A clip's votes by class: those for several labels of one class are added up, those for no class left out."""
    counts: dict[str, float] = {}
    for label, count in clip.votes or ():
        if name := class_of.get(label):
            counts[name] = counts.get(name, 0.0) + count
    return sorted_votes(counts)


def check_ids(clips: Sequence[Clip], where: str) -> None:
    """Raises ValueError where a clip_id is empty or occurs twice."""
    counts = Counter(clip.clip_id for clip in clips)
    problems = [
        f"column clip_id: found {name!r} in {count} rows, expected it once: give each clip its own clip_id"
        for name, count in counts.items()
        if count > 1
    ]
    problems += [f"row {i}, column clip_id: found nothing" for i, c in enumerate(clips, 1) if not c.clip_id]
    if problems:
        raise ValueError(f"{where}: " + first_of(problems))


def check_files(clips: Iterable[Clip], where: str) -> None:
    """Raises ValueError where several clips would be the same: the whole of one file, or one span of it."""
    clips_of: dict[str, list[Clip]] = {}
    for clip in clips:
        for path in {_normal(path) for path in (clip.video, clip.audio) if path is not None}:
            clips_of.setdefault(path, []).append(clip)
    shared = {path: sharers for path, sharers in clips_of.items() if not _are_apart(sharers)}
    if shared:
        path, sharers = next(iter(shared.items()))
        more = f", and {len(shared) - 1} more files in several rows each" if len(shared) > 1 else ""
        are_spans = all(clip.span_s is not None for clip in sharers)
        expected = "each span once" if are_spans else "each file in one row, or a span of it in each row"
        raise ValueError(
            f"{where}: found {path} in {len(sharers)} rows{more}, expected {expected}: give start_s and end_s in "
            "seconds (data.columns.start_s and end_s name other columns), and take out rows that are there twice"
        )


def _are_apart(clips: Sequence[Clip]) -> bool:
    """Whether the clips of a file are different spans of it, or it has one clip alone."""
    spans = {clip.span_s for clip in clips}
    return len(clips) == 1 or (len(spans) == len(clips) and None not in spans)


def _without_placeholders(clips: list[Clip], field: str) -> tuple[list[Clip], list[str]]:
    """The clips without values of this field that stand for none, and a note of how many there were."""

    def is_none(value: str | None) -> bool:
        if value is None:
            return False
        return value.strip() in _NO_TEXT if field == "text" else value.strip().lower() in _NO_VALUES[field]

    counts = Counter(getattr(clip, field) for clip in clips if is_none(getattr(clip, field)))
    if not counts:
        return clips, []
    nothing: dict[str, Any] = {field: None}
    clips = [replace(clip, **nothing) if is_none(getattr(clip, field)) else clip for clip in clips]
    counted = ", ".join(f"{value!r} in {count} clips" for value, count in sorted(counts.items()))
    meaning = "nobody, and not one person" if field == "speaker" else "no value"
    return clips, [f"{field}: {counted} is taken for {meaning}"]


def _normal(path: str) -> str:
    return path if "://" in path else os.path.normpath(path)
