import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.data import labels

NAMES = st.lists(st.none() | st.text(min_size=1), max_size=20)


@given(found=NAMES)
def test_labels_found_are_in_alphabetical_order_whatever_the_clips_order(found):
    distinct = sorted({name for name in found if name is not None})
    if len(distinct) < 2:
        with pytest.raises(ValueError, match=re.escape(f"found {len(distinct)} label(s) {distinct}")):
            labels.vocabulary(found, None)
    else:
        assert labels.vocabulary(found, None) == labels.vocabulary(found[::-1], None) == tuple(distinct)


def test_wanted_labels_keep_their_order_and_need_not_occur():
    wanted = ("surprise", "angry", "happy")
    assert labels.vocabulary(["happy", None, "angry", "happy"], wanted) == wanted
    assert labels.vocabulary([], wanted) == wanted


def test_labels_that_are_not_wanted_are_counted():
    with pytest.raises(
        ValueError, match=r"found labels 'bored' \(2 clips\), 'calm' \(1 clips\), expected only"
    ) as error:
        labels.vocabulary(["calm", "bored", "happy", "bored", None], ("happy", "sad"))
    assert "data.labels (happy, sad)" in str(error.value)


def test_names_of_corpora_are_distinct():
    assert len(set(labels.RAVDESS_EMOTIONS.values())) == len(labels.RAVDESS_EMOTIONS) == 8
    assert list(labels.RAVDESS_STATEMENTS) == ["01", "02"]
