"""Dialogues: who is whose neighbour, in which order, and who must not be seen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.data.dialogues import SPEAKERS, windows_of, with_neighbours
from emo_ray.data.manifest import Clip

AROUND = (-2, -1, 1)


def talk(people, split="train", dialogue="d"):
    """The clips d0, d1, ... of a dialogue, by who speaks: one letter for each turn, "?" for nobody that is known."""
    speakers = [None if who == "?" else who for who in people]
    return [
        Clip(f"{dialogue}{i}", split=split, speaker=who, dialogue=dialogue, turn=i) for i, who in enumerate(speakers)
    ]


def seen(windows):
    """clip_id -> the clip_ids at its places, those of no neighbour as ''."""
    return {
        clip_id: [neighbour.clip_id if neighbour else "" for neighbour in window]
        for clip_id, window in windows.neighbours.items()
    }


def test_neighbours_are_those_before_and_after_in_the_order_of_turns():
    clips = [*talk("ABCA"), *talk("AB", dialogue="e"), Clip("alone")]
    expected = {
        "d0": ["", "", "d1"],
        "d1": ["", "d0", "d2"],
        "d2": ["d0", "d1", "d3"],
        "d3": ["d1", "d2", ""],
        "e0": ["", "", "e1"],
        "e1": ["", "e0", ""],
    }
    assert seen(windows_of(clips, AROUND)) == expected
    shuffled = [clips[i] for i in np.random.default_rng(0).permutation(len(clips))]
    assert seen(windows_of(shuffled, AROUND)) == expected
    assert with_neighbours(["d3", "alone"], windows_of(clips, AROUND)) == {"d1", "d2", "d3", "alone"}
    assert windows_of(clips, ()) is None
    assert with_neighbours(["d3"], None) == {"d3"}


def test_it_is_known_whether_the_same_person_speaks():
    (window,) = (windows_of(talk("AB?A"), (-3, -2, -1)).neighbours[name] for name in ["d3"])
    assert [SPEAKERS[neighbour.speaker] for neighbour in window] == ["same", "other", "unknown"]


def test_spans_of_a_recording_are_a_dialogue_in_the_order_of_time():
    clips = [Clip(str(t), audio="/a.wav", start_s=t, end_s=t + 1) for t in (7, 0, 3)]
    clips.append(Clip("other", audio="/b.wav", start_s=1, end_s=2))
    assert seen(windows_of(clips, (-1,))) == {"3": ["0"], "7": ["3"]}
    named = [replace(clip, dialogue="d") for clip in clips]  # times count where there are no turns
    assert seen(windows_of(named, (-1,))) == {"other": ["0"], "3": ["other"], "7": ["3"]}


def test_a_dialogue_without_an_order_is_an_error_that_says_what_to_do():
    clips = [Clip("a", dialogue="d", turn=1), Clip("b", dialogue="d")]
    with pytest.raises(ValueError, match=r"clip 'b': .*dialogue 'd'.*data\.columns\.turn"):
        windows_of(clips, (-1,))


@given(splits=st.lists(st.sampled_from(["train", "validation", "test", "unlabelled", None]), min_size=1, max_size=12))
def test_no_clip_sees_one_of_another_split_but_for_those_without_a_label(splits):
    clips = [replace(clip, split=split) for clip, split in zip(talk("A" * len(splits)), splits, strict=True)]
    split_of = {clip.clip_id: clip.split for clip in clips}
    allowed = {"train": {"train", "unlabelled", None}, "test": {"test", "unlabelled", None}}
    allowed |= {"validation": {"validation", "unlabelled", None}}
    for clip_id, window in seen(windows_of(clips, AROUND)).items():
        may_see = allowed.get(split_of[clip_id], allowed["train"])
        assert {split_of[name] for name in window if name} <= may_see
    without_test = [clip for clip in clips if clip.split != "test"]
    windows = windows_of(clips, AROUND)
    assert seen(windows_of(without_test, AROUND)) == seen(windows.only(clip.clip_id for clip in without_test))


@given(folds=st.lists(st.none() | st.integers(0, 2), min_size=1, max_size=12))
def test_no_clip_sees_one_of_another_fold(folds):
    clips = talk("A" * len(folds))
    clips = [replace(c, split="unlabelled") if fold is None else c for c, fold in zip(clips, folds, strict=True)]
    fold_of = {clip.clip_id: fold for clip, fold in zip(clips, folds, strict=True) if fold is not None}
    for clip_id, window in seen(windows_of(clips, AROUND, fold_of)).items():
        if clip_id in fold_of:
            assert {fold_of.get(name) for name in window if name} <= {fold_of[clip_id], None}
