"""Splits: those of the manifest are kept, cuts are balanced, and no speaker is in two of them."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from emo_ray.config.data_settings import Data
from emo_ray.data import splits
from emo_ray.data.manifest import Clip

LABELS = ("angry", "happy", "sad")
CUTS = ("train", "validation", "test")
PEOPLE = st.lists(
    st.tuples(st.none() | st.sampled_from("ABCDEFGH"), st.none() | st.sampled_from(LABELS)), min_size=1, max_size=60
)


def corpus(people, split=None):
    return [Clip(f"c{i}", text="x", label=label, split=split, speaker=who) for i, (who, label) in enumerate(people)]


def balanced(speakers, clips_each, seed=0):
    """Clips of many speakers, whose labels are drawn with shares of 0.5, 0.3 and 0.2."""
    draw = np.random.default_rng(seed)
    people = [
        (f"s{speaker}", draw.choice(LABELS, p=[0.5, 0.3, 0.2]))
        for speaker in range(speakers)
        for _ in range(clips_each)
    ]
    return corpus([people[i] for i in draw.permutation(len(people))])


def assign_or_error(clips, seed):
    """The clips and the notes, or None and the error's message."""
    try:
        return splits.assign(clips, Data(), seed)
    except ValueError as error:
        return None, str(error)


def shares(clips):
    counts = Counter(clip.label for clip in clips)
    return np.array([counts[label] / len(clips) for label in LABELS])


@settings(max_examples=60)
@given(people=PEOPLE, seed=st.integers(0, 5), split=st.none() | st.just("train"))
@example(people=[("A", "sad"), ("B", "sad")], seed=0, split="train")
@example(people=[(None, label) for label in LABELS * 4], seed=0, split=None)
def test_no_speaker_crosses_a_cut_and_no_clip_without_a_label_is_in_one(people, seed, split):
    clips = corpus(people, split)
    cut, notes = assign_or_error(clips, seed)
    if cut is None:
        assert notes.startswith("found 1 ")
        assert "split column" in notes
        return
    assert [replace(clip, split=split) for clip in cut] == clips  # nothing but splits changed, order included
    assert not splits.crossing_speakers(cut)
    assert {clip.split for clip in cut if clip.label is None} <= {"unlabelled"}
    labelled = Counter(clip.split for clip in cut if clip.label is not None)
    expected = () if not labelled else CUTS if split is None else ("train", "validation")
    assert set(labelled) == set(expected)  # none of them empty
    assert sum(note.startswith("cut ") for note in notes) == max(0, len(expected) - 1)


@given(people=PEOPLE, manifest_splits=st.lists(st.sampled_from([*CUTS, "unlabelled"]), min_size=60, max_size=60))
def test_splits_of_the_manifest_are_kept(people, manifest_splits):
    clips = [replace(clip, split=split) for clip, split in zip(corpus(people), manifest_splits, strict=False)]
    assume({"validation"} <= {clip.split for clip in clips})
    cut, notes = splits.assign(clips, Data(), 0)
    for before, after in zip(clips, cut, strict=True):
        held_out = before.split in ("validation", "test")
        assert after == (before if before.label or held_out else replace(before, split="unlabelled"))
    crossing = splits.crossing_speakers(cut)
    assert [note for note in notes if "speakers" in note] == [
        note for note in notes if f" {len(crossing)} spea" in note
    ]
    assert any("speakers" in note for note in notes) == bool(crossing)


def test_speakers_that_cross_the_manifest_s_splits_are_named():
    clips = [
        Clip(f"c{i}", label="x", split=split, speaker=who)
        for i, (who, split) in enumerate([("Ann", "train"), ("Ann", "test"), ("Bob", "validation"), ("Cat", "train")])
    ]
    clips.append(Clip("u", split="unlabelled", speaker="Bob"))
    assert splits.crossing_speakers(clips) == {"Ann": {"train", "test"}}
    (note,) = splits.assign(clips, Data(), 0)[1]
    assert note.startswith("warning: 1 speakers")
    assert "(Ann)" in note


def test_cuts_are_of_the_configured_size_and_keep_the_balance_of_labels():
    clips = balanced(speakers=40, clips_each=25)
    cut, notes = splits.assign(clips, Data(), 0)
    sizes = Counter(clip.split for clip in cut)
    assert sizes["test"] == pytest.approx(0.2 * len(clips), rel=0.15)
    assert sizes["validation"] == pytest.approx(0.15 * (len(clips) - sizes["test"]), rel=0.2)
    for split in CUTS:
        np.testing.assert_allclose(shares([c for c in cut if c.split == split]), shares(clips), atol=0.05)
    assert re.search(rf"{sizes['test']} of 1000 .* test .*seed 0", notes[0])
    assert re.search(rf"{sizes['validation']} of {1000 - sizes['test']} .* train .*validation .*seed 0", notes[1])


def test_without_speakers_the_balance_is_exact():
    clips = corpus([(None, label) for label in LABELS for _ in range(100)])
    cut, notes = splits.assign(clips, Data(), 0)
    assert Counter((clip.split, clip.label) for clip in cut if clip.split == "test") == {
        ("test", label): 20 for label in LABELS
    }
    assert all("no speakers known" in note for note in notes)


def test_recordings_that_cross_the_manifest_s_splits_are_named():
    places = [("a", "train"), ("a", "test"), ("b", "train"), ("c", "test")]
    clips = [
        Clip(str(i), f"/{name}.mp4", label=LABELS[i % 2], split=split, start_s=i, end_s=i + 1)
        for i, (name, split) in enumerate(places)
    ]
    _, notes = splits.assign([*clips, Clip("d", "/d.mp4", label=LABELS[0], split="validation")], Data(), 0)
    assert any(note.startswith("warning: 1 recordings cross") and "/a.mp4" in note for note in notes)


def test_without_speakers_no_recording_crosses_a_cut_or_a_fold():
    clips = [
        Clip(f"{i}-{j}", f"/{i}.mp4", label=LABELS[(i + j) % len(LABELS)], start_s=j, end_s=j + 1)
        for i in range(20)
        for j in range(6)
    ]
    cut, notes = splits.assign(clips, Data(), 0)
    assert len({(clip.video, clip.split) for clip in cut}) == 20
    assert any("of 20 recordings" in note for note in notes)
    folds = splits.folds(clips, 4, 0)
    assert len({(clip.video, fold) for clip, fold in zip(clips, folds.tolist(), strict=True)}) == 20


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_validation_fraction_is_respected(fraction):
    clips = [replace(clip, split="train") for clip in balanced(speakers=100, clips_each=5)]
    cut, _ = splits.assign(clips, Data(validation_fraction=fraction), 0)
    assert Counter(clip.split for clip in cut)["validation"] == pytest.approx(fraction * len(clips), rel=0.1)


def test_a_seed_decides_the_cut():
    clips = balanced(speakers=40, clips_each=5)
    assert splits.assign(clips, Data(), 3) == splits.assign(clips, Data(), 3)
    tests = [{c.clip_id for c in splits.assign(clips, Data(), seed)[0] if c.split == "test"} for seed in range(4)]
    assert len(set(map(frozenset, tests))) == 4


def one_sided(clips_of):
    """Clips of speakers who differ in their labels: {speaker: {label: number of clips}}."""
    return corpus([(who, label) for who, counts in clips_of.items() for label, n in counts.items() for _ in range(n)])


# Speakers of one label each, few of them angry, as in interviews cut from broadcasts; four actors, one of whom lacks a
# label, as in studio recordings; and speakers of very different size.
ONE_SIDED = {
    "broadcasts": {
        **{f"a{i}": {"angry": n} for i, n in enumerate((28, 24, 26, 22))},
        **{f"h{i}": {"happy": 3 + i % 5} for i in range(14)},
        **{f"s{i}": {"sad": 6 + 2 * i} for i in range(7)},
    },
    "actors": {**{f"full{i}": {"angry": 40, "happy": 30 + 9 * i, "sad": 60} for i in range(3)}, "part": {"sad": 70}},
    "sizes": {f"s{i}": {LABELS[i % 3]: 2**i, LABELS[(i + 1) % 3]: 3} for i in range(8)},
}


@pytest.mark.parametrize("name", ONE_SIDED)
@pytest.mark.parametrize("seed", range(5))
def test_every_class_of_three_speakers_is_in_every_split(name, seed):
    clips = one_sided(ONE_SIDED[name])
    cut, notes = splits.assign(clips, Data(), seed)
    assert {(clip.split, clip.label) for clip in cut} == {(split, label) for split in CUTS for label in LABELS}
    assert not splits.crossing_speakers(cut)
    sizes = Counter(clip.split for clip in cut)
    assert sizes["train"] > max(sizes["test"], sizes["validation"])
    assert not any("lacks" in note for note in notes)
    assert splits.assign(clips, Data(), seed) == (cut, notes)


def test_of_all_folds_the_one_nearest_to_the_corpus_is_cut():
    """Five speakers of equal size: one has the shares of all, the others lean to one side."""
    clips = one_sided(
        {"A": {"angry": 9, "sad": 1}, "B": {"angry": 1, "sad": 9}, "C": {"angry": 5, "sad": 5}}
        | {"D": {"angry": 8, "sad": 2}, "E": {"angry": 2, "sad": 8}}
    )
    for seed in range(5):
        cut, _ = splits.assign(clips, Data(test_fraction=0.2), seed)
        assert {clip.speaker for clip in cut if clip.split == "test"} == {"C"}


def test_a_class_that_a_split_lacks_is_named():
    """One speaker has all the anger, so no cut can share it; and a manifest's own splits may lack a class as well."""
    clips = one_sided({**{f"s{i}": {"happy": 5, "sad": 5} for i in range(6)}, "angry one": {"angry": 12}})
    cut, notes = splits.assign(clips, Data(), 0)
    assert {clip.split for clip in cut if clip.label == "angry"} == {"train"}  # where it can be learnt
    assert [note.partition(" lacks")[0] for note in notes if "1 of 3 classes (angry)" in note] == [
        "warning: validation",
        "warning: test",
    ]
    manifest_cut = [replace(clip, split="test" if clip.label == "angry" else clip.split) for clip in cut]
    assert any("train lacks 1 of 3 classes (angry)" in note for note in splits.assign(manifest_cut, Data(), 0)[1])


@pytest.mark.parametrize("seed", range(3))
def test_folds_lack_no_class_that_as_many_speakers_have(seed):
    clips = one_sided(ONE_SIDED["broadcasts"])
    fold_B = splits.folds(clips, 4, seed)
    held = {(fold, clip.label) for fold, clip in zip(fold_B.tolist(), clips, strict=True)}
    assert held == {(fold, label) for fold in range(4) for label in LABELS}


def test_only_missing_splits_are_cut():
    clips = balanced(speakers=20, clips_each=5)
    with_test = [replace(clip, split="test" if clip.speaker in ("s0", "s1") else "train") for clip in clips]
    cut, notes = splits.assign(with_test, Data(), 0)
    assert [clip.split == "test" for clip in cut] == [clip.split == "test" for clip in with_test]
    assert {clip.split for clip in cut} == set(CUTS)
    assert len(notes) == 1
    only_test = [replace(clip, split="test") for clip in clips]
    assert splits.assign(only_test, Data(), 0) == (only_test, [])


def test_clips_without_labels_need_no_cut():
    clips = corpus([("A", None)] * 3 + [(None, None)])
    cut, notes = splits.assign(clips, Data(), 0)
    assert {clip.split for clip in cut} == {"unlabelled"}
    assert not notes
    assert splits.assign([], Data(), 0) == ([], [])


def test_splits_for_some_labelled_clips_are_an_error():
    clips = [Clip("a", label="x", split="train"), Clip("b", label="x"), Clip("u"), Clip("c", label="y")]
    with pytest.raises(ValueError, match=r"2 labelled clips .*'b'.*\['train'\]"):
        splits.assign(clips, Data(), 0)
    only_unlabelled = [Clip("u", split="unlabelled"), *(Clip(f"c{i}", label="xy"[i % 2]) for i in range(20))]
    assert {clip.split for clip in splits.assign(only_unlabelled, Data(), 0)[0]} == {"unlabelled", *CUTS}


@pytest.mark.parametrize(
    ("people", "message"),
    [
        ([("A", "x"), ("A", "y"), ("A", "x")], "1 speaker.* test .*at least 2.*split column"),
        ([("A", "x"), ("B", "y"), ("A", "y")], "1 speaker.* validation .*split column"),
        ([(None, "x")], "1 clip.* test .*split column"),
    ],
)
def test_an_impossible_cut_says_what_to_do(people, message):
    with pytest.raises(ValueError, match=message):
        splits.assign(corpus(people), Data(), 0)


def test_a_cut_for_test_leaves_two_speakers_for_validation():
    cut, _ = splits.assign(corpus([(None, "sad"), (None, "happy"), *[("A", "sad")] * 3]), Data(), 0)
    assert {clip.split for clip in cut} == set(CUTS)
    cut, _ = splits.assign(corpus([(None, "sad")] * 3), Data(test_fraction=0.5), 0)
    assert {clip.split for clip in cut} == set(CUTS)


def test_few_clips_of_many_labels_can_be_cut():
    for clip_count, label_count in ((32, 8), (24, 16), (25, 25), (3, 3)):  # fewer clips of each label than folds
        cut, _ = splits.assign(corpus([(None, f"label {i % label_count}") for i in range(clip_count)]), Data(), 0)
        sizes = Counter(clip.split for clip in cut)
        assert set(sizes) == set(CUTS)
        assert sizes["test"] == pytest.approx(0.2 * clip_count, abs=2)


@settings(max_examples=100)
@given(people=PEOPLE, seed=st.integers(0, 5), count=st.integers(2, 6))
def test_folds_hold_every_clip_once_and_no_speaker_twice(people, seed, count):
    clips = [clip for clip in corpus(people) if clip.label is not None]
    names = [clip.speaker or clip.clip_id for clip in clips]
    if len(set(names)) < count:
        with pytest.raises(ValueError, match=rf"data\.folds={count}"):
            splits.folds(clips, count, seed)
        return
    fold_B = splits.folds(clips, count, seed)
    assert set(fold_B.tolist()) == set(range(count))
    assert fold_B.tolist() == splits.folds(clips, count, seed).tolist()
    folds_of = {}
    for clip, fold in zip(clips, fold_B, strict=True):
        folds_of.setdefault(clip.speaker, set()).add(fold)
    assert all(len(folds) == 1 for speaker, folds in folds_of.items() if speaker is not None)


@pytest.mark.parametrize("clips", [balanced(30, 10), corpus([(None, LABELS[i % 3]) for i in range(300)])])
def test_folds_are_balanced_in_size_and_labels(clips):
    fold_B = splits.folds(clips, 6, 0)
    for fold in range(6):
        members = [clip for clip, fold_of_clip in zip(clips, fold_B, strict=True) if fold_of_clip == fold]
        assert 40 <= len(members) <= 60
        assert np.abs(shares(members) - shares(clips)).max() < 0.12


def test_too_few_speakers_for_the_folds_are_an_error():
    with pytest.raises(ValueError, match=r"3 speakers .*data\.folds=4"):
        splits.folds(balanced(3, 10), 4, 0)


def test_folds_take_the_place_of_splits():
    clips = [*corpus([("A", "sad"), ("B", "happy")], "test"), *corpus([("C", None)], "train")]
    assigned, notes = splits.assign(clips, Data(folds=2), 0)
    assert [clip.split for clip in assigned] == ["train", "train", "unlabelled"]
    assert len(notes) == 1
    assert notes[0].startswith("2 folds ")


def test_folds_of_the_corpus_are_taken_as_they_are_and_clips_in_none_are_left_out():
    clips = corpus([("A", "sad"), ("B", "happy"), ("A", "happy"), ("C", "sad"), ("C", None)], None)
    clips = [replace(clip, fold=fold) for clip, fold in zip(clips, ["10", "9", "9", None, "11"], strict=True)]
    assigned, notes = splits.assign(clips, Data(folds=5), 0)
    assert [clip.split for clip in assigned] == ["train", "train", "train", "unlabelled", "unlabelled"]
    assert splits.published_folds(assigned) == ("9", "10")
    assert [note.startswith("1 labelled clips are in no fold") for note in notes] == [True]
    note = splits.fold_note([clip for clip in assigned if clip.split == "train"])
    assert note.startswith("warning: the 2 folds are the corpus' own")
    assert "1 speakers cross them (A)" in note


def talks(dialogues):
    """Labelled clips of dialogues, each given by who speaks: {dialogue: "ABAB"}."""
    turns = [(name, turn, who) for name, people in dialogues.items() for turn, who in enumerate(people)]
    return [
        Clip(f"{name}-{turn}", text="x", label=LABELS[i % 3], speaker=who, dialogue=name, turn=turn)
        for i, (name, turn, who) in enumerate(turns)
    ]


def sides(clips, parts, field):
    """The parts (splits or folds) in which each value of a clip's field occurs."""
    parts_of = {}
    for clip, part in zip(clips, parts, strict=True):
        parts_of.setdefault(getattr(clip, field), set()).add(part)
    return parts_of.values()


def test_neither_a_dialogue_nor_a_speaker_is_on_both_sides_of_a_cut():
    """Sessions of two people each, as in IEMOCAP: two dialogues of a session belong together through their speakers."""
    clips = talks({f"{pair}{i}": pair * 6 for pair in ("AB", "CD", "EF", "GH", "IJ") for i in range(3)})
    fold_B = splits.folds(clips, 5, 0)
    cut, notes = splits.assign(clips, Data(), 0)
    for parts in (fold_B, [clip.split for clip in cut]):
        assert {len(on) for on in (*sides(clips, parts, "speaker"), *sides(clips, parts, "dialogue"))} == {1}
    assert "of 5 speaker-and-dialogue groups" in notes[0]
    assert "speakers and dialogues" in splits.fold_note(clips)
    with pytest.raises(ValueError, match=r"5 speaker-and-dialogue groups .*data\.folds=6"):
        splits.folds(clips, 6, 0)


def test_where_everybody_talks_to_everybody_dialogues_stay_whole_and_speakers_do_not():
    """The main characters of a series, and a few dialogues of two strangers."""
    clips = talks({**{f"d{i}": "ABCDAB" for i in range(20)}, "e0": "XY", "e1": "ZW"})
    fold_B = splits.folds(clips, 4, 0)
    cut, notes = splits.assign(clips, Data(), 0)
    for parts in (fold_B, [clip.split for clip in cut]):
        assert {len(on) for on in sides(clips, parts, "dialogue")} == {1}
    assert {clip.split for clip in cut if clip.speaker == "A"} == set(CUTS)
    assert "dialogues, which most speakers share, so that speakers cross" in notes[0]
    assert splits.fold_note(clips).startswith("warning: ")


def test_dialogues_are_groups_where_no_speaker_is_known_and_those_that_cross_are_named():
    clips = [replace(clip, speaker=None) for clip in talks({f"d{i}": "ABAB" for i in range(12)})]
    cut, notes = splits.assign(clips, Data(), 0)
    assert {len(on) for on in sides(clips, [clip.split for clip in cut], "dialogue")} == {1}
    assert re.search("of 12 dialogues", notes[0])
    halved = [replace(clip, split="test" if clip.turn else "train") for clip in clips]
    assert any(note.startswith("warning: 12 dialogues cross") for note in splits.assign(halved, Data(), 0)[1])
