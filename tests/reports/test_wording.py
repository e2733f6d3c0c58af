import math

import pytest

from emo_ray.reports import wording


@pytest.mark.parametrize(("rate", "text"), [(0.1234, "12.3"), (1.0, "100.0"), (0, "0.0"), (None, "–"), (math.nan, "–")])
def test_percent_by_hand(rate, text):
    assert wording.percent(rate) == text


@pytest.mark.parametrize(
    ("share", "text"), [(0.0123, "+1.2"), (-0.004, "−0.4"), (-0.0001, "+0.0"), (None, "–"), (math.nan, "–")]
)
def test_points_always_have_a_sign(share, text):
    assert wording.points(share) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 clips"), (1, "1 clip"), (2, "2 clips"), (1234567, "1234567 clips")])
def test_one_of_a_thing_has_no_s(count, text):
    assert wording.plural(count, "clip") == text


def test_long_labels_are_cut_and_short_ones_are_not():
    assert wording.shorten("angry") == "angry"
    assert wording.shorten("a label of many letters", 10) == "a label o…"
    assert len(wording.shorten("x" * 99)) == 20


def test_subsets_are_named_in_the_order_of_the_modalities():
    assert wording.SUBSET_NAMES["VT"] == "video + text"
    assert list(wording.SUBSET_NAMES)[-1] == "VAT"
