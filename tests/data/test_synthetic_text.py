import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic_text import sentence

EACH = 200


@pytest.fixture(scope="module")
def spoken():
    """Sentences of each class."""
    draw = np.random.default_rng(7)
    return {label: [sentence(label, draw) for _ in range(EACH)] for label in LABELS}


def test_the_same_draws_say_the_same():
    assert sentence("sad", np.random.default_rng(1)) == sentence("sad", np.random.default_rng(1))
    assert len({sentence("sad", np.random.default_rng(seed)) for seed in range(10)}) > 7


def test_sentences_are_plain_and_seldom_repeat(spoken):
    for label, said in spoken.items():
        assert len(set(said)) > 0.75 * EACH, label
        for words in said:
            assert words[0].isupper()
            assert words.endswith(".")
            assert words.count(".") == 1
            assert 3 < len(words.split()) < 30
            assert "  " not in words


def test_words_tell_the_class_of_new_sentences_but_not_always(spoken):
    known, new = (
        [(words, label) for label in LABELS for words in spoken[label][part]]
        for part in (slice(0, 150), slice(150, None))
    )
    model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(*zip(*known, strict=True))
    accuracy = model.score(*zip(*new, strict=True))
    print("text of the class itself:", round(accuracy, 3))
    assert 0.75 < accuracy < 0.99


def test_who_did_what_tells_nothing_of_the_class():
    draw, told = np.random.default_rng(6), {}
    for label in LABELS:
        said = [sentence(label, draw) for _ in range(2000)]
        told[label] = [np.mean([word in words for words in said]) for word in ("letter", "boss")]
    letter, boss = np.array(list(told.values())).T
    assert min(letter.min(), boss.min()) > 0.03
    assert max(np.ptp(letter), np.ptp(boss)) < 0.03
