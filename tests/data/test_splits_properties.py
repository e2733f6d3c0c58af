"""Our own cuts of any corpus: speakers apart, every labelled clip in one split, and classes in every split or named."""

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import strategies as st
from properties import holds_for, result_or_message

from emo_ray.config.data_settings import Data
from emo_ray.data import labels, splits
from emo_ray.data.manifest import Clip

LABELS = ("angry", "calm", "happy", "sad")
CUTS = ("train", "validation", "test")
# How many clips of each class a speaker has; some have none of a class.
SPEAKERS = st.lists(st.tuples(*[st.sampled_from([0, 0, 1, 2, 5, 9])] * len(LABELS)), min_size=1, max_size=9)
ANYBODY = st.lists(st.tuples(st.none() | st.sampled_from("ABCDEFGH"), st.none() | st.sampled_from(LABELS)), max_size=50)


def corpus(speakers):
    """The clips of speakers by their number of clips of each class."""
    people = [
        (f"s{who}", label)
        for who, counts in enumerate(speakers)
        for label, count in zip(LABELS, counts, strict=True)
        for _ in range(count)
    ]
    return [Clip(f"c{i}", text="x", label=label, speaker=who) for i, (who, label) in enumerate(people)]


def assign(clips, seed, **settings):
    """The clips with splits and the notes, or None and the error's message."""
    assigned, message = result_or_message(lambda: splits.assign(clips, Data(**settings), seed))
    return assigned or (None, message)


def classes_of(clips):
    classes = defaultdict(set)
    for clip in clips:
        if clip.label is not None:
            classes[clip.split].add(clip.label)
    return classes


@holds_for(40, 1_000, people=ANYBODY, seed=st.integers(0, 3), fraction=st.sampled_from([0.1, 0.2, 0.5]))
def test_speakers_stay_together_and_every_labelled_clip_is_in_a_split(folder, people, seed, fraction):
    clips = [Clip(f"c{i}", text="x", label=label, speaker=who) for i, (who, label) in enumerate(people)]
    cut, notes = assign(clips, seed, test_fraction=fraction)
    if cut is None:
        groups = {clip.speaker or clip.clip_id for clip in clips if clip.label is not None}
        assert len(groups) < 3, notes
        return
    assert [replace(clip, split=None) for clip in cut] == clips
    assert all(clip.split in (CUTS if clip.label is not None else ("unlabelled",)) for clip in cut)
    splits_of = defaultdict(set)
    for clip in cut:
        if clip.label is not None and clip.speaker is not None:
            splits_of[clip.speaker].add(clip.split)
    assert all(len(names) == 1 for names in splits_of.values())
    assert assign(clips, seed, test_fraction=fraction) == (cut, notes)


@holds_for(30, 1_000, speakers=SPEAKERS, seed=st.integers(0, 3))
def test_a_class_that_a_split_lacks_is_named(folder, speakers, seed):
    clips = corpus(speakers)
    cut, notes = assign(clips, seed)
    classes = classes_of(cut or [])
    for split in classes:
        for label in {clip.label for clip in clips} - classes[split]:
            assert any(split in note and label in note for note in notes), (split, label, notes)


@pytest.mark.parametrize("corpora", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_classes_are_in_as_many_splits_as_they_can_be(corpora):
    """The cut of test is chosen without looking for that of validation: one corpus in a hundred may be cut better."""
    draw = np.random.default_rng(0)
    possible = reached = 0
    for _ in range(corpora):
        clips = corpus(draw.choice([0, 0, 3, 4, 6], size=(draw.integers(4, 8), len(LABELS))).tolist())
        size_of = Counter(clip.speaker for clip in clips)
        speakers_of = defaultdict(set)
        for clip in clips:
            speakers_of[clip.label].add(clip.speaker)

        def is_full(split_of, speakers_of=speakers_of):
            """Whether each class is in all three splits, or in as many as it has speakers."""
            return all(len({split_of[who] for who in names}) == min(3, len(names)) for names in speakers_of.values())

        if any(is_full(split_of) for split_of in small_cuts(size_of)):
            possible += 1
            reached += is_full({clip.speaker: clip.split for clip in assign(clips, 0)[0]})
    assert possible > corpora / 2
    assert reached >= 0.98 * possible


def small_cuts(size_of):
    """Every way to put speakers into splits in which neither test nor validation has more than a third of the clips."""
    for chosen in product(CUTS, repeat=len(size_of)):
        split_of = dict(zip(size_of, chosen, strict=True))
        sizes = Counter()
        for who, split in split_of.items():
            sizes[split] += size_of[who]
        if max(sizes["test"], sizes["validation"]) <= sum(sizes.values()) / 3:
            yield split_of


@holds_for(40, 1_000, people=ANYBODY, seed=st.integers(0, 3), count=st.integers(2, 6))
def test_folds_hold_every_clip_once_and_every_speaker_in_one(folder, people, seed, count):
    clips = [Clip(f"c{i}", text="x", label=label, speaker=who) for i, (who, label) in enumerate(people) if label]
    groups = {clip.speaker or clip.clip_id for clip in clips}
    fold_B, message = result_or_message(lambda: splits.folds(clips, count, seed).tolist())
    if fold_B is None:
        assert len(groups) < count
        assert f"data.folds={count}" in message
        return
    assert len(fold_B) == len(clips)
    assert set(fold_B) == set(range(count))
    folds_of = defaultdict(set)
    for clip, fold in zip(clips, fold_B, strict=True):
        folds_of[clip.speaker or clip.clip_id].add(fold)
    assert all(len(numbers) == 1 for numbers in folds_of.values())
    assert splits.folds(clips, count, seed).tolist() == fold_B


@holds_for(100, names=st.lists(st.none() | st.text(min_size=1, max_size=4), max_size=12))
def test_a_vocabulary_holds_every_label_once_or_is_an_error(folder, names):
    vocabulary, _ = result_or_message(lambda: labels.vocabulary(names, None))
    backwards, _ = result_or_message(lambda: labels.vocabulary(names[::-1], None))
    expected = sorted({name for name in names if name is not None})
    assert vocabulary == backwards == (tuple(expected) if len(expected) > 1 else None)
