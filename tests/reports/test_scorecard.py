"""The sentences of verdict follow from the numbers, and each corpus has its custom."""

import copy

import pytest

from emo_ray.reports.scorecard import convention_of, verdict


def report(**changes):
    scores = {"waf": 0.6, "accuracy": 0.6, "uar": 0.6, "macro_f1": 0.6, "n": 90, "classes": 3}
    content = {
        "subsets": {"V": dict(scores), "A": dict(scores), "T": None, "VA": dict(scores)},
        "available": dict(scores),
        "intervals": {name: {"uar": [0.5, 0.7]} for name in ("V", "A", "VA", "available")},
        "drawn": "speakers",
        "speakers": {f"s{i}": {"waf": 0.6, "n": 9} for i in range(10)},
        "fusion": {"subset": "VA", "best": "A", "difference": 0.1, "interval": [0.02, 0.2], "n": 80},
        "per_class_n": {"happy": 30, "sad": 30, "angry": 30},
    }
    return content | changes


def joined(content):
    return " ".join(verdict(content))


@pytest.mark.parametrize(
    ("interval", "words"),
    [([0.3, 0.4], "Video alone is not seen to be above chance"), ([0.2, 0.3], "below chance"), ([0.34, 0.5], None)],
)
def test_a_modality_whose_interval_includes_guessing_is_not_above_chance(interval, words):
    content = report()
    content["intervals"]["V"]["uar"] = interval
    assert (words in joined(content)) if words else ("chance" not in joined(content))


@pytest.mark.parametrize(
    ("interval", "words"),
    [([0.01, 0.2], "is better than audio"), ([-0.01, 0.2], "is not seen to be better"), ([-0.2, -0.1], "is worse")],
)
def test_fusion_is_better_beyond_the_interval_or_it_is_not_said(interval, words):
    content = report()
    content["fusion"]["interval"] = interval
    assert f"Video + audio {words}" in joined(content)
    assert "80 clips" in joined(content)


def test_few_clips_and_few_people_are_said():
    content = report(per_class_n={"happy": 30, "sad": 19, "angry": 0})
    assert "sad (19)" in joined(content)
    assert "happy" not in joined(content)
    assert "angry" not in joined(content)
    assert "10 speakers" in joined(content)
    few = report(drawn="clips", speakers={"s1": {"waf": 0.6, "n": 9}})
    assert "Only 1 speaker is known" in joined(few)
    assert "No speakers are known" in joined(report(drawn="clips", speakers={}))


def test_a_better_floor_is_said_and_nothing_is_said_of_nothing():
    floor = {"best": "logistic regression", "interval": [-0.2, -0.1]}
    assert "logistic regression" in joined(report(floors={"A": floor}))
    assert verdict(report(available=None)) == []
    content = report()
    before = copy.deepcopy(content)
    verdict(content)
    assert content == before


@pytest.mark.parametrize(
    ("corpus", "manifest", "notes", "word"),
    [
        ("meld", "clips", [], "MELD"),
        ("auto", "clips", ["data.corpus=auto: the folder is taken for ravdess, which all of its media fit"], "RAVDESS"),
        ("auto", "lists/dfew-fold1.csv", [], "UAR and WAR"),
        ("mer2024", None, [], "WAF over its six"),
        ("auto", "camera.csv", ["data.corpus=auto: the folder is taken for plain media"], None),
        ("synthetic", None, [], None),
    ],
)
def test_the_custom_of_a_corpus_is_named(corpus, manifest, notes, word):
    custom = convention_of(corpus, manifest, notes)
    assert custom is None if word is None else word in custom
