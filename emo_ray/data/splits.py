"""Which clips are in train, validation, test and unlabelled: the manifest's own splits, or cuts grouped by speaker."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from emo_ray.config.data_settings import Data
from emo_ray.data import folding
from emo_ray.data.manifest import Clip

HELD_OUT = ("validation", "test")


def assign(clips: Sequence[Clip], data: Data, seed: int) -> tuple[list[Clip], list[str]]:
    """Every clip with a split, and notes for the user.

    A manifest without splits is cut into train, validation and test; one without a validation split has it cut from
    train; labels stay balanced, and no speaker crosses a cut, or where no speaker is known, no recording. Notes name
    the classes that a split lacks. Clips without a label that are not in a validation or test split are `unlabelled`.
    With `data.folds` all labelled clips are `train`, to be cut by `folds`. Raises ValueError where a cut is impossible.
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


def folds(clips: Sequence[Clip], count: int, seed: int) -> np.ndarray:
    """The fold (0 to `count` - 1) of each labelled clip, int64 (n,): labels balanced, no speaker in two folds.

    Where speakers differ in their labels, no fold lacks a class needlessly.
    If no clip has a speaker, the clips of a recording stay together in the place of a speaker's, and labels alone are
    balanced where every clip is the whole of its file. If only some have, each of the others counts as a speaker.
    Raises ValueError where there are too few speakers or clips.
    """
    kind = _kind_of_groups(clips)
    groups, labels = _groups(clips), [clip.label for clip in clips]
    fold_B = np.full(len(clips), -1)
    if len(set(groups)) >= count:
        if kind != "clip":
            fold_B = folding.best_folds(labels, groups, count, seed)
        else:
            fold_B = folding.stratified(folding.balanced_labels(labels, count), None, count, seed)
    if set(fold_B.tolist()) != set(range(count)):
        found = f"{len(set(groups))} {'labelled clip' if kind == 'clip' else kind}s"
        raise ValueError(f"found {found} for data.folds={count}, expected enough to fill each fold: lower data.folds")
    return fold_B


def crossing_speakers(clips: Sequence[Clip]) -> dict[str, set[str]]:
    """Speakers that occur in more than one of train, validation and test, with those splits."""
    return _crossing([(clip.speaker, clip.split) for clip in clips])


def _crossing(members: Iterable[tuple[str | None, str | None]]) -> dict[str, set[str]]:
    """The groups whose members are in more than one of train, validation and test, from pairs of group and split."""
    splits_of: dict[str, set[str]] = {}
    for group, split in members:
        if group is not None and split in ("train", *HELD_OUT):
            splits_of.setdefault(group, set()).add(split)
    return {group: splits for group, splits in splits_of.items() if len(splits) > 1}


def _train_for_folds(clips: Sequence[Clip], count: int) -> tuple[list[Clip], list[str]]:
    """Labelled clips as `train` whatever their split, the others as `unlabelled`, and notes for the user."""

    def split(clip: Clip) -> str:
        return "unlabelled" if clip.label is None or clip.split == "unlabelled" else "train"

    has_splits = any(clip.split not in (None, "unlabelled") for clip in clips)
    notes = [f"{count} folds take the place of the manifest's own splits"] if has_splits else []
    return [replace(clip, split=split(clip)) for clip in clips], notes


def _unlabelled(clip: Clip) -> Clip:
    """The clip, moved to split `unlabelled` if it has no label and is not held out."""
    stays = clip.label is not None or clip.split in HELD_OUT
    return clip if stays else replace(clip, split="unlabelled")


def _crossing_notes(clips: Sequence[Clip]) -> list[str]:
    recordings = [((clip.video or clip.audio) if clip.span_s else None, clip.split) for clip in clips]
    crossing_of = {"speakers": crossing_speakers(clips), "recordings": _crossing(recordings)}
    return [
        f"warning: {len(crossing)} {kind} cross the manifest's own splits ({_first_of(sorted(crossing))}): results may "
        "flatter"
        for kind, crossing in crossing_of.items()
        if crossing
    ]


def _cut(clips: list[Clip], source: str | None, target: str, fraction: float, seed: int) -> tuple[list[Clip], str]:
    """Move about `fraction` of the clips of split `source` to `target`: the best fold that keeps speakers apart."""
    rows = [i for i, clip in enumerate(clips) if clip.split == source]
    candidates = [clips[i] for i in rows]
    kind = _kind_of_groups(candidates)
    groups = _groups(candidates)
    group_count = len(set(groups))
    if group_count < 2:
        advice = ", or leave speakers unread with data.columns.speaker=null" if kind == "speaker" else ""
        raise ValueError(
            f"found {group_count} {kind}(s) to cut a {target} split from, expected at least 2: give the manifest a "
            f"split column{advice}"
        )
    count = int(np.clip(round(1 / fraction), 2, group_count))
    kept_parts = 2 if target == "test" and group_count > 2 else 1  # a validation split is cut from what stays
    moved_B = folding.best_cut([clip.label for clip in candidates], groups, count, seed, kept_parts)
    moved_groups = {group for group, is_moved in zip(groups, moved_B, strict=True) if is_moved}
    assert moved_groups.isdisjoint(g for g, is_moved in zip(groups, moved_B, strict=True) if not is_moved)
    moved_rows = {rows[i] for i in np.flatnonzero(moved_B)}
    cut = [replace(clip, split=target) if i in moved_rows else clip for i, clip in enumerate(clips)]
    how = "no speakers known" if kind == "clip" else f"{len(moved_groups)} of {group_count} {kind}s"
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


def _groups(clips: Sequence[Clip]) -> list[str]:
    """Clips of one group stay together: those of a speaker, or where it is not known who speaks, of a recording.

    Any other clip is a group of its own.
    """
    recordings = [f"recording:{clip.video or clip.audio}" if clip.span_s else None for clip in clips]
    return [clip.speaker or recordings[i] or f"clip:{clip.clip_id}" for i, clip in enumerate(clips)]


def _kind_of_groups(clips: Sequence[Clip]) -> str:
    """What keeps clips together, in the singular: the speaker where any is known, else the recording, else nothing."""
    if any(clip.speaker is not None for clip in clips):
        return "speaker"
    return "recording" if any(clip.span_s for clip in clips) else "clip"
