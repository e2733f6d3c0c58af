"""Which clips are in train, validation, test and unlabelled: the manifest's own splits, or cuts that keep groups whole.

Clips of one group stay on one side of every cut and in one fold. They are grouped by what the corpus knows:
- speakers and no dialogues: by speaker, and clips without one by recording;
- dialogues and no speakers: by dialogue, and clips without one by recording;
- both: clips that share a speaker or a dialogue are in one group, and so are the clips of groups that a third clip
  joins. Where a few people talk to everybody (the main characters of a series), nearly all clips would be one group:
  where it held more than half of them, groups are dialogues, and speakers cross, which a note says. For a dialogue that
  crosses shows a model the very scene that it is tested on, and a test set of a few odd dialogues measures nothing;
- neither: by recording, where clips are spans of one; and any other clip is a group by itself.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from emo_ray.config.data_settings import Data
from emo_ray.data import folding
from emo_ray.data.manifest import Clip

JOINED = "speaker-and-dialogue group"
HELD_OUT = ("validation", "test")
_LARGEST_SHARE = 0.5  # of the clips that may be one group of speakers and dialogues


@dataclass(frozen=True)
class Groups:
    """Clips that stay together: the name of each clip's group, and what a group is, in the singular."""

    names: list[str]
    kind: str

    @property
    def count(self) -> int:
        """How many groups the clips are of."""
        return len(set(self.names))


def assign(clips: Sequence[Clip], data: Data, seed: int) -> tuple[list[Clip], list[str]]:
    """Every clip with a split, and notes for the user.

    A manifest without splits is cut into train, validation and test; one without a validation split has it cut from
    train; labels stay balanced, and no group (see above) crosses a cut. Notes name the classes that a split lacks.
    Clips without a label that are not in a validation or test split are `unlabelled`.
    With `data.folds` all labelled clips are `train`, to be cut by `folds`; where the corpus brings folds along, those
    that are in none are `unlabelled`. Raises ValueError where a cut is impossible.
    """
    if data.folds is not None:
        return _train_for_folds(clips, data.folds)
    clips = [_unlabelled(clip) for clip in clips]
    without_split = [clip for clip in clips if clip.split is None]
    manifest_splits = {clip.split for clip in clips if clip.split is not None} - {"unlabelled"}
    if without_split and manifest_splits:
        raise ValueError(
            f"found {len(without_split)} labelled clips without a split (first: {without_split[0].clip_id!r}) beside "
            f"splits {sorted(manifest_splits)}, expected a split for all or for none"
        )
    notes = _crossing_notes(clips)
    if without_split:
        clips, note = _cut(clips, None, "test", data.test_fraction, seed)
        notes.append(note)
        clips = [replace(clip, split="train") if clip.split is None else clip for clip in clips]
    if "validation" not in manifest_splits and any(clip.split == "train" for clip in clips):
        clips, note = _cut(clips, "train", "validation", data.validation_fraction, seed)
        notes.append(note)
    return clips, notes + _lacking_notes(clips)


def grouped(clips: Sequence[Clip]) -> Groups:
    """The groups of these clips that no cut divides, by the rule at the head of this module."""
    recordings = [f"recording:{clip.recording}" if clip.recording else None for clip in clips]
    names = [clip.speaker or recordings[i] or f"clip:{clip.clip_id}" for i, clip in enumerate(clips)]
    has_speakers = any(clip.speaker is not None for clip in clips)
    if any(clip.dialogue is not None for clip in clips):
        dialogues = [f"dialogue:{clip.dialogue}" if clip.dialogue else names[i] for i, clip in enumerate(clips)]
        joined = _joined(clips)
        if has_speakers and max(Counter(joined).values()) <= _LARGEST_SHARE * len(clips):
            return Groups(joined, JOINED)
        return Groups(dialogues, "dialogue")
    if has_speakers:
        return Groups(names, "speaker")
    return Groups(names, "recording" if any(recordings) else "clip")


def published_folds(clips: Iterable[Clip]) -> tuple[str, ...]:
    """The names of the folds that the corpus brings along for labelled clips; numbers in their order."""
    names = {clip.fold for clip in clips if clip.fold is not None and clip.split == "train"}
    return tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))


def fold_note(clips: Sequence[Clip]) -> str:
    """What the folds of these clips keep apart, for the user."""
    if names := published_folds(clips):
        note = f"the {len(names)} folds are the corpus' own (data.columns.fold)"
        crossing = sorted(_divided((clip.speaker, clip.fold) for clip in clips))
        if crossing:
            return f"warning: {note}: {len(crossing)} speakers cross them ({_first_of(crossing)}): results may flatter"
        return note
    if all(clip.speaker is None for clip in clips):
        return "no speakers are known: the same person may be on both sides"
    apart_of = {
        "speaker": "folds keep speakers apart",
        JOINED: "folds keep speakers and dialogues apart",
        "dialogue": "warning: folds keep dialogues apart, which most speakers share, so that speakers cross",
    }
    return apart_of[grouped(clips).kind]


def folds(clips: Sequence[Clip], count: int, seed: int) -> np.ndarray:
    """The fold (0 to `count` - 1) of each labelled clip, int64 (n,): labels balanced, no group in two folds.

    Where groups differ in their labels, no fold lacks a class needlessly. Where every clip is a group by itself, labels
    alone are balanced. Raises ValueError where there are too few groups or clips.
    """
    groups = grouped(clips)
    labels = [clip.label for clip in clips]
    fold_B = np.full(len(clips), -1)
    if groups.count >= count:
        if groups.kind != "clip":
            fold_B = folding.best_folds(labels, groups.names, count, seed)
        else:
            fold_B = folding.stratified(folding.balanced_labels(labels, count), None, count, seed)
    if set(fold_B.tolist()) != set(range(count)):
        kind = "labelled clip" if groups.kind == "clip" else groups.kind
        raise ValueError(
            f"found {groups.count} {kind}s for data.folds={count}, expected enough to fill each fold: lower data.folds"
        )
    return fold_B


def crossing_speakers(clips: Sequence[Clip]) -> dict[str, set[str]]:
    """Speakers that occur in more than one of train, validation and test, with those splits."""
    return _crossing([(clip.speaker, clip.split) for clip in clips])


def _crossing(members: Iterable[tuple[str | None, str | None]]) -> dict[str, set[str]]:
    """The groups whose members are in more than one of train, validation and test, from pairs of group and split."""
    return _divided((group, split) for group, split in members if split in ("train", *HELD_OUT))


def _divided(members: Iterable[tuple[str | None, str | None]]) -> dict[str, set[str]]:
    """The groups whose members are in more than one part, with those parts, from pairs of group and part."""
    parts_of: dict[str, set[str]] = {}
    for group, part in members:
        if group is not None and part is not None:
            parts_of.setdefault(group, set()).add(part)
    return {group: parts for group, parts in parts_of.items() if len(parts) > 1}


def _train_for_folds(clips: Sequence[Clip], count: int) -> tuple[list[Clip], list[str]]:
    """Labelled clips as `train` whatever their split, the others as `unlabelled`, and notes for the user."""

    def split(clip: Clip) -> str:
        return "unlabelled" if clip.label is None or clip.split == "unlabelled" else "train"

    has_splits = any(clip.split not in (None, "unlabelled") for clip in clips)
    clips = [replace(clip, split=split(clip)) for clip in clips]
    notes = []
    if published := published_folds(clips):
        count, outside = len(published), sum(clip.split == "train" and clip.fold is None for clip in clips)
        clips = [clip if clip.fold is not None else replace(clip, split="unlabelled") for clip in clips]
        notes = [f"{outside} labelled clips are in no fold: neither trained nor tested on"] if outside else []
    return clips, [*([f"{count} folds take the place of the manifest's own splits"] if has_splits else []), *notes]


def _unlabelled(clip: Clip) -> Clip:
    """The clip, moved to split `unlabelled` if it has no label and is not held out."""
    stays = clip.label is not None or clip.split in HELD_OUT
    return clip if stays else replace(clip, split="unlabelled")


def _crossing_notes(clips: Sequence[Clip]) -> list[str]:
    recordings = [(clip.recording, clip.split) for clip in clips]
    dialogues = [(clip.dialogue, clip.split) for clip in clips]
    crossing_of = {
        "speakers": crossing_speakers(clips),
        "recordings": _crossing(recordings),
        "dialogues": _crossing(dialogues),
    }
    return [
        f"warning: {len(crossing)} {kind} cross the manifest's own splits ({_first_of(sorted(crossing))}): results may "
        "flatter"
        for kind, crossing in crossing_of.items()
        if crossing
    ]


def _cut(clips: list[Clip], source: str | None, target: str, fraction: float, seed: int) -> tuple[list[Clip], str]:
    """Move about `fraction` of the clips of split `source` to `target`: the best fold that keeps groups whole."""
    rows = [i for i, clip in enumerate(clips) if clip.split == source]
    candidates = [clips[i] for i in rows]
    groups = grouped(candidates)
    kind = groups.kind
    if groups.count < 2:
        advice = f", leave {kind}s unread with data.columns.{kind}=null" if kind in ("speaker", "dialogue") else ""
        raise ValueError(
            f"found {groups.count} {kind}(s) to cut a {target} split from, expected at least 2: give the manifest a "
            f"split column{advice}, or cross-validate (data.folds=N); of a folder make a manifest first"
        )
    count = int(np.clip(round(1 / fraction), 2, groups.count))
    kept_parts = 2 if target == "test" and groups.count > 2 else 1  # a validation split is cut from what stays
    moved_B = folding.best_cut([clip.label for clip in candidates], groups.names, count, seed, kept_parts)
    moved_groups = {group for group, is_moved in zip(groups.names, moved_B, strict=True) if is_moved}
    assert moved_groups.isdisjoint(g for g, is_moved in zip(groups.names, moved_B, strict=True) if not is_moved)
    moved_rows = {rows[i] for i in np.flatnonzero(moved_B)}
    cut = [replace(clip, split=target) if i in moved_rows else clip for i, clip in enumerate(clips)]
    how = "no speakers known" if kind == "clip" else f"{len(moved_groups)} of {groups.count} {kind}s"
    if kind == "dialogue" and any(clip.speaker is not None for clip in candidates):
        how += ", which most speakers share, so that speakers cross"
    return cut, f"cut {len(moved_rows)} of {len(rows)} clips from {source or 'all'} as {target} ({how}, seed {seed})"


def _lacking_notes(clips: Sequence[Clip]) -> list[str]:
    """A note for each split with labels that lacks a class which another split has."""
    labels_of: dict[str, set[str]] = {}
    for clip in clips:
        if clip.label is not None and clip.split in ("train", *HELD_OUT):
            labels_of.setdefault(clip.split, set()).add(clip.label)
    labels = set().union(*labels_of.values())
    notes = []
    for split in ("train", *HELD_OUT):
        lacking = sorted(labels - labels_of.get(split, labels))
        if lacking:
            so = "UAR and macro F1 there are over the others" if split in HELD_OUT else "no model can learn them"
            notes.append(f"warning: {split} lacks {len(lacking)} of {len(labels)} classes ({_first_of(lacking)}): {so}")
    return notes


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _joined(clips: Sequence[Clip]) -> list[str]:
    """For each clip a name that clips share which a speaker or a dialogue joins, through other clips too."""
    first_of: dict[str, int] = {}  # speaker or dialogue -> the first clip that has it
    joined_with = list(range(len(clips)))  # an earlier clip of the same group, or the clip itself

    def root(i: int) -> int:
        while joined_with[i] != i:
            joined_with[i] = joined_with[joined_with[i]]
            i = joined_with[i]
        return i

    for i, clip in enumerate(clips):
        for name in (clip.speaker and f"speaker:{clip.speaker}", clip.dialogue and f"dialogue:{clip.dialogue}"):
            if name:
                joined_with[root(i)] = root(first_of.setdefault(name, i))
    return [f"group:{root(i)}" for i in range(len(clips))]
