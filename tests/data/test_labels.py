"""Labels: their order, their spellings, and labels that do not fit the configuration."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.config.data_settings import Data
from emo_ray.data import labels

NAMES = st.lists(st.none() | st.text(min_size=1), max_size=20)


@given(clip_labels=NAMES)
def test_without_configured_labels_those_of_the_clips_are_sorted_whatever_the_clips_order(clip_labels):
    distinct = sorted({name for name in clip_labels if name is not None})
    if len(distinct) < 2:
        with pytest.raises(ValueError, match=re.escape(f"{len(distinct)} label(s) {distinct}")):
            labels.vocabulary(clip_labels, None)
    else:
        assert labels.vocabulary(clip_labels, None) == labels.vocabulary(clip_labels[::-1], None) == tuple(distinct)


def test_configured_labels_keep_their_order_and_need_not_occur():
    configured = ("surprise", "angry", "happy")
    assert labels.vocabulary(["happy", None, "angry", "happy"], configured) == configured
    assert labels.vocabulary([], configured) == configured


def test_labels_that_are_not_configured_are_counted():
    with pytest.raises(ValueError, match=r"'bored' \(2 .*'calm' \(1 .*data\.labels \(happy, sad\)"):
        labels.vocabulary(["calm", "bored", "happy", "bored", None], ("happy", "sad"))


def test_ravdess_codes_are_distinct():
    assert len(set(labels.RAVDESS_EMOTIONS.values())) == len(labels.RAVDESS_EMOTIONS) == 8
    assert list(labels.RAVDESS_STATEMENTS) == ["01", "02"]


def variants(word):
    """Spellings of a word that differ in case or white space alone."""
    spaced = st.sampled_from([word, f"{word[:2]} {word[2:]}", f"{word[:1]}\u00a0{word[1:]}", f"{word}\u200b"])
    return st.tuples(spaced, st.sampled_from([str.lower, str.upper, str.title])).map(lambda pair: pair[1](pair[0]))


WORDS = ("excited", "joy", "très bien")
SPELLINGS = st.lists(st.sampled_from(WORDS).flatmap(variants), min_size=1, max_size=12)


def plain(label):
    return "".join(character for character in label.lower() if character.isalpha())


@given(clip_labels=SPELLINGS)
def test_labels_that_differ_in_case_or_white_space_alone_are_an_error_or_one_class(clip_labels):
    counts = Counter(clip_labels)
    groups = {key: [label for label in counts if plain(label) == key] for key in map(plain, counts)}
    several = {key: group for key, group in groups.items() if len(group) > 1}
    if several:
        with pytest.raises(ValueError, match=r"data\.merge_labels=true.*data\.label_map") as error:
            labels.class_of_labels(counts, Data())
        assert all(f"{label!r} ({counts[label]} clips)" in str(error.value) for g in several.values() for label in g)
    else:
        assert labels.class_of_labels(counts, Data()) == ({label: label for label in counts}, [])
    class_of, notes = labels.class_of_labels(counts, Data(merge_labels=True))
    for group in groups.values():
        (name,) = {class_of[label] for label in group}
        most = max(counts[label] for label in group)
        assert name == min(label for label in group if counts[label] == most)
    assert bool(notes) == bool(several)
    assert labels.class_of_labels(Counter(reversed(clip_labels)), Data(merge_labels=True))[0] == class_of


def test_the_spelling_of_data_labels_wins_and_differs_from_the_corpus_as_labels_of_it_do():
    counts = {"JOY": 5, "Sad": 1, "sad": 1}
    config = Data(labels=["joy", "sad"])
    with pytest.raises(ValueError, match=r"'JOY' \(5 clips\) and 'joy' \(0 clips\)"):
        labels.class_of_labels(counts, config)
    class_of, _ = labels.class_of_labels(counts, Data(labels=["joy", "sad"], merge_labels=True))
    assert class_of == {"JOY": "joy", "Sad": "sad", "sad": "sad"}
    with pytest.raises(ValueError, match=r"data\.labels: found 'Joy' and 'joy'"):
        labels.class_of_labels(counts, Data(labels=["joy", "Joy"], merge_labels=True))


def test_a_map_renames_joins_and_drops_and_comes_before_the_spellings():
    counts = {"N": 3, "Happy": 2, "happy": 4, "exc": 1, "xxx": 9}
    label_map = {"N": "neutral", "Happy": "happy", "exc": "happy", "xxx": None}
    class_of, notes = labels.class_of_labels(counts, Data(label_map=label_map))
    assert class_of == {"N": "neutral", "Happy": "happy", "happy": "happy", "exc": "happy"}
    assert len(notes) == 1
    assert "'xxx' in 9 clips" in notes[0]
    with pytest.raises(ValueError, match=r"'Happy' \(3 clips\) and 'happy' \(4 clips\)"):
        labels.class_of_labels(counts, Data(label_map={"exc": "Happy"}))
    with pytest.raises(ValueError, match=r"'Neutral' \(1 clips\) and 'neutral' \(3 clips\)"):
        labels.class_of_labels({"N": 3, "Neutral": 1}, Data(label_map={"N": "neutral"}))
    assert "'typo'" in labels.class_of_labels({"joy": 1}, Data(label_map={"typo": "x"}))[1][0]


@pytest.mark.parametrize("word", ["nan", "NaN", "NA", "N/A", "<NA>", "#N/A", "null"])
def test_a_word_for_no_label_is_none_unless_the_settings_name_it(word):
    counts = {word: 2, "joy": 1}
    class_of, notes = labels.class_of_labels(counts, Data())
    assert class_of == {word: None, "joy": "joy"}
    assert f"{word!r} in 2 clips" in notes[0]
    assert labels.class_of_labels(counts, Data(labels=["joy", word]))[0][word] == word
    assert labels.class_of_labels(counts, Data(label_map={word: "other"}))[0][word] == "other"
    assert word not in labels.class_of_labels(counts, Data(label_map={word: None}))[0]


@pytest.mark.parametrize("word", ["None", "none", "Unknown"])
def test_a_word_that_may_be_a_class_is_one_and_the_notes_say_so(word):
    class_of, notes = labels.class_of_labels({word: 2, "joy": 1}, Data())
    assert class_of[word] == word
    assert f"taken for a class: {word!r} in 2 clips" in notes[0]
    assert labels.class_of_labels({word: 2, "joy": 1}, Data(labels=[word, "joy"]))[1] == []
