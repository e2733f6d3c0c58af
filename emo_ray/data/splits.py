"""Who is in train, validation, test and unlabelled: the manifest's own splits, or cuts grouped by speaker."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from emo_ray.config.data_settings import Data
from emo_ray.data.manifest import Clip


def assign(clips: Sequence[Clip], data: Data, seed: int) -> tuple[list[Clip], list[str]]:
    """Every clip with a split, and what to tell the user about it.

    A manifest without splits is cut into train, validation and test; one without a validation split has it cut from
    train; labels stay balanced and, where speakers are known, no speaker crosses a cut. Clips without a label that are
    not in a validation or test split are `unlabelled`. With `data.folds` all labelled clips are `train`, to be cut by
    `folds`. Raises ValueError where a cut is impossible.
    """
    if data.folds is not None:
        return _uncut(clips, data.folds)
    clips = [_unlabelled(clip) for clip in clips]
    open_rows = [i for i, clip in enumerate(clips) if clip.split is None]
    given = {clip.split for clip in clips} - {None, "unlabelled"}
    notes: list[str] = []
    if open_rows and given:
        raise ValueError(
            f"found {len(open_rows)} labelled clips without a split (first: {clips[open_rows[0]].clip_id!r}) beside "
            f"splits {sorted(given)}, expected a split for all or for none"
        )
    notes += _crossing(clips)
    if open_rows:
        clips, note = _cut(clips, None, "test", data.test_fraction, seed)
        notes.append(note)
        clips = [replace(clip, split="train") if clip.split is None else clip for clip in clips]
    if "validation" not in given and any(clip.split == "train" for clip in clips):
        clips, note = _cut(clips, "train", "validation", data.validation_fraction, seed)
        notes.append(note)
    return clips, notes


def folds(clips: Sequence[Clip], count: int, seed: int) -> np.ndarray:
    """The fold (0 to `count` - 1) of each labelled clip, int64 (n,): labels balanced, no speaker in two folds.

    Without any speaker labels alone are balanced; a clip without one among others that have is a speaker of its own.
    Raises ValueError where there are too few speakers or clips.
    """
    by_speaker = any(clip.speaker is not None for clip in clips)
    groups = [clip.speaker or f"clip:{clip.clip_id}" for clip in clips]
    splitter = StratifiedGroupKFold if by_speaker else StratifiedKFold
    labels, fold_B = np.array([clip.label for clip in clips]), np.full(len(clips), -1)
    if max(Counter(labels.tolist()).values(), default=0) < count:  # too few clips to balance labels: sizes alone
        labels = np.zeros(len(clips))
    if len(set(groups)) >= count:
        with warnings.catch_warnings():  # classes rarer than the folds; groups, where there are none
            warnings.simplefilter("ignore", UserWarning)
            cuts = splitter(count, shuffle=True, random_state=seed).split(labels, labels, groups)
            for fold, (_, rows) in enumerate(cuts):
                fold_B[rows] = fold
    if set(fold_B.tolist()) != set(range(count)):
        found = f"{len(set(groups))} {'speakers' if by_speaker else 'labelled clips'}"
        raise ValueError(f"found {found} for data.folds={count}, expected enough to fill each fold: lower data.folds")
    return fold_B


def crossing_speakers(clips: Sequence[Clip]) -> dict[str, set[str]]:
    """Speakers that occur in more than one of train, validation and test, with those splits."""
    splits_of: dict[str, set[str]] = {}
    for clip in clips:
        if clip.speaker is not None and clip.split in ("train", "validation", "test"):
            splits_of.setdefault(clip.speaker, set()).add(clip.split)
    return {speaker: splits for speaker, splits in splits_of.items() if len(splits) > 1}


def _uncut(clips: Sequence[Clip], count: int) -> tuple[list[Clip], list[str]]:
    def split(clip: Clip) -> str:
        return "unlabelled" if clip.label is None or clip.split == "unlabelled" else "train"

    has_splits = any(clip.split not in (None, "unlabelled") for clip in clips)
    notes = [f"{count} folds take the place of the manifest's own splits"] if has_splits else []
    return [replace(clip, split=split(clip)) for clip in clips], notes


def _unlabelled(clip: Clip) -> Clip:
    stays = clip.label is not None or clip.split in ("validation", "test")
    return clip if stays else replace(clip, split="unlabelled")


def _crossing(clips: Sequence[Clip]) -> list[str]:
    crossing = sorted(crossing_speakers(clips))
    if not crossing:
        return []
    shown = ", ".join(crossing[:5]) + (", ..." if len(crossing) > 5 else "")
    return [f"warning: {len(crossing)} speakers cross the manifest's own splits ({shown}): results may flatter"]


def _cut(clips: list[Clip], source: str | None, target: str, fraction: float, seed: int) -> tuple[list[Clip], str]:
    """Move about `fraction` of the clips of split `source` to `target`: one fold of a stratified, grouped k-fold."""
    rows = np.array([i for i, clip in enumerate(clips) if clip.split == source])
    labels = np.array([clips[i].label for i in rows])
    by_speaker = any(clips[i].speaker is not None for i in rows)
    groups = np.array([clips[i].speaker or f"clip:{clips[i].clip_id}" for i in rows])
    n_groups = len(set(groups))
    if n_groups < 2:
        raise ValueError(
            f"found {n_groups} {'speaker' if by_speaker else 'clip'}(s) to cut a {target} split from, expected at "
            "least 2: give the manifest a split column, or map no speaker column"
        )
    folds = int(np.clip(round(1 / fraction), 2, n_groups))
    if max(Counter(labels.tolist()).values()) < folds:  # too few clips to balance labels: balance sizes alone
        labels = np.zeros(len(rows))
    with warnings.catch_warnings():  # some classes rarer than the folds are fine here, and usual
        warnings.simplefilter("ignore", UserWarning)
        _, moved = next(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(rows, labels, groups))
    chosen = set(rows[moved].tolist())
    cut = [replace(clip, split=target) if i in chosen else clip for i, clip in enumerate(clips)]
    if not {groups[m] for m in moved}.isdisjoint(groups[np.setdiff1d(np.arange(len(rows)), moved)]):
        raise AssertionError("a speaker crosses our own cut")
    how = f"{len(set(groups[moved]))} of {n_groups} speakers" if by_speaker else "no speakers known"
    return cut, f"cut {len(chosen)} of {len(rows)} clips from {source or 'all'} as {target} ({how}, seed {seed})"
