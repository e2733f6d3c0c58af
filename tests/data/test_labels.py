"""Labels: their order, and labels that do not fit the configuration."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
