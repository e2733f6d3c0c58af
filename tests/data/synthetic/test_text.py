"""Sentences of the synthetic corpus: plain, varied, and telling of their class more often than not."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic.text import sentence

EACH = 200


@pytest.fixture(scope="module")
def sentences():
    """Sentences of each class."""
    rng = np.random.default_rng(7)
    return {label: [sentence(label, rng) for _ in range(EACH)] for label in LABELS}


def test_the_same_generator_gives_the_same_sentence():
    assert sentence("sad", np.random.default_rng(1)) == sentence("sad", np.random.default_rng(1))
    assert len({sentence("sad", np.random.default_rng(seed)) for seed in range(10)}) > 7


def test_sentences_are_plain_and_seldom_repeat(sentences):
    for label, texts in sentences.items():
        assert len(set(texts)) > 0.75 * EACH, label
        for text in texts:
            assert text[0].isupper()
            assert text.endswith(".")
            assert text.count(".") == 1
            assert 3 < len(text.split()) < 30
            assert "  " not in text


def test_words_tell_the_class_of_new_sentences_but_not_always(sentences):
    train, test = (
        [(text, label) for label in LABELS for text in sentences[label][part]]
        for part in (slice(0, 150), slice(150, None))
    )
    model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    model.fit(*zip(*train, strict=True))
    accuracy = model.score(*zip(*test, strict=True))
    assert 0.75 < accuracy < 0.99


def test_who_did_what_tells_nothing_of_the_class():
    rng = np.random.default_rng(6)
    shares_K2 = []
    for label in LABELS:
        texts = [sentence(label, rng) for _ in range(2000)]
        shares_K2.append([np.mean([word in text for text in texts]) for word in ("letter", "boss")])
    assert np.min(shares_K2) > 0.03
    assert np.ptp(shares_K2, axis=0).max() < 0.03
