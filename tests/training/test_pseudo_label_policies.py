"""Policies against hand computation, and properties that all of them have."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo_ray.config.job_settings import Pseudo
from emo_ray.training import pseudo_label_policies as policies
from emo_ray.training.pseudo_label_policies import BELOW, OVER_CAP, OVER_QUOTA

LABELS = ("angry", "happy", "sad")
POLICIES = ("quantile", "fixed", "per_class", "quota", "adaptive")
# angry 0.9 0.8 0.6 0.4, happy 0.95 0.7, sad 0.5
CONFIDENCE_N = np.array([0.9, 0.95, 0.5, 0.8, 0.6, 0.7, 0.4], np.float32)
PREDICTION_N = np.array([0, 1, 2, 0, 0, 1, 0])
NOTHING_N = np.full(7, None, object)


def policy(name, **settings):
    return Pseudo(policy=name, **settings)


@st.composite
def clips(draw, ties=True):
    """Confidences (few distinct ones, so that many tie), predictions, and vetoes against some clips."""
    count = draw(st.integers(0, 40))
    values = st.sampled_from([0.4, 0.5, 0.6, 0.9, 1.0]) if ties else st.floats(0.34, 1, width=32)
    confidence_N = np.array(draw(st.lists(values, min_size=count, max_size=count)), np.float32)
    prediction_N = np.array(draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), int)
    veto = draw(st.lists(st.sampled_from([None, None, "why"]), min_size=count, max_size=count))
    return confidence_N, prediction_N, np.array([*veto, None], object)[:-1]


def kept(reason_N):
    return np.array([reason is None for reason in reason_N], bool)


def test_fixed_and_per_class_by_hand():
    assert policies.fixed(0.7, 3).tolist() == [0.7] * 3
    assert policies.per_class({"sad": 0.2}, 0.9, LABELS).tolist() == [0.9, 0.9, 0.2]
    with pytest.raises(ValueError, match=r"pseudo\.thresholds: found joy, .*angry, happy, sad"):
        policies.per_class({"sad": 0.2, "joy": 0.1}, 0.9, LABELS)


def test_quota_by_hand():
    threshold_K = policies.quota(CONFIDENCE_N, PREDICTION_N, 3, 2)
    np.testing.assert_allclose(threshold_K, [0.8, 0.7, 0.0])


def test_quantile_by_hand_with_a_floor():
    np.testing.assert_allclose(policies.quantile(CONFIDENCE_N, PREDICTION_N, 3, 0.5, 0.0), [0.7, 0.825, 0.5], rtol=1e-6)
    np.testing.assert_allclose(
        policies.quantile(CONFIDENCE_N, PREDICTION_N, 4, 0.0, 0.65), [0.65, 0.7, 0.65, 0.65], rtol=1e-6
    )


def test_adaptive_by_hand():
    """Two of angry, one of happy and none of sad pass 0.75; four of seven do not, so beta is 2/4, 1/4 and 0."""
    actual = policies.adaptive(CONFIDENCE_N, PREDICTION_N, 3, 0.75, 0.0)
    np.testing.assert_allclose(actual, [0.75 * 0.5 / 1.5, 0.75 * 0.25 / 1.75, 0.0])
    assert policies.adaptive(CONFIDENCE_N, PREDICTION_N, 3, 0.75, 0.2).tolist()[1:] == [0.2, 0.2]
    # Once most pass, the best learnt class has the whole threshold: 3 of angry, 2 of happy, 1 of sad of 0.45.
    np.testing.assert_allclose(
        policies.adaptive(CONFIDENCE_N, PREDICTION_N, 3, 0.45, 0.0),
        [0.45, 0.45 * (2 / 3) / (2 - 2 / 3), 0.45 * (1 / 3) / (2 - 1 / 3)],
    )


@given(clips(), st.floats(0.05, 1))
def test_adaptive_thresholds_rise_with_what_is_learnt_and_never_pass_the_fixed_one(drawn, threshold):
    confidence_N, prediction_N, _ = drawn
    threshold_K = policies.adaptive(confidence_N, prediction_N, 3, threshold, 0.0)
    passed_K = np.bincount(prediction_N[confidence_N >= np.float32(threshold)], minlength=3)
    assert (threshold_K <= threshold + 1e-12).all()
    order = np.argsort(passed_K, kind="stable")
    assert (np.diff(threshold_K[order]) >= -1e-12).all()


def test_the_most_confident_by_hand():
    among_N = np.array([True, True, True, False, True, True, True])
    actual = policies.most_confident(CONFIDENCE_N, PREDICTION_N, among_N, np.array([2, 1, 0]))
    assert np.flatnonzero(actual).tolist() == [0, 1, 4]
    tied = policies.most_confident(np.full(4, 0.5, np.float32), np.zeros(4, int), np.ones(4, bool), np.array([2]))
    assert np.flatnonzero(tied).tolist() == [0, 1]


@given(clips(), st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_the_most_confident_are_as_many_as_may_be_and_none_better_is_left(drawn, most):
    confidence_N, prediction_N, veto_N = drawn
    among_N = kept(veto_N)
    chosen_N = policies.most_confident(confidence_N, prediction_N, among_N, np.array(most))
    for k in range(3):
        of_class_N, of_class_chosen_N = among_N & (prediction_N == k), chosen_N & (prediction_N == k)
        assert of_class_chosen_N.sum() == min(of_class_N.sum(), most[k])
        assert not (of_class_chosen_N & ~of_class_N).any()
        left = confidence_N[of_class_N & ~of_class_chosen_N]
        assert not len(left) or not of_class_chosen_N.any() or left.max() <= confidence_N[of_class_chosen_N].min()


@given(clips(), st.integers(0, 70))
def test_a_cap_is_kept_to_the_clip_and_shares_stay(drawn, most):
    confidence_N, prediction_N, veto_N = drawn
    accepted_N = kept(veto_N)
    chosen_N = policies.capped(confidence_N, prediction_N, accepted_N, most)
    assert chosen_N.sum() == min(accepted_N.sum(), most)
    assert not (chosen_N & ~accepted_N).any()
    before_K, after_K = (np.bincount(prediction_N[mask], minlength=3) for mask in (accepted_N, chosen_N))
    if before_K.sum() > most:
        assert (np.abs(after_K - before_K * most / before_K.sum()) < 1).all()


def test_agreement_of_teachers_by_hand():
    votes_TN = np.array([[0, 0, 0, -1], [0, 1, -1, -1], [0, 1, 0, -1]])
    prediction_N = np.array([0, 1, 0, -1])
    assert policies.teachers_agree(votes_TN, prediction_N, 1.0).tolist()[:3] == [True, False, True]
    assert policies.teachers_agree(votes_TN, prediction_N, 2 / 3).tolist()[:3] == [True, True, True]
    assert policies.teachers_agree(votes_TN[:1], votes_TN[0], 1.0).all()  # one teacher agrees with itself


def test_agreement_of_modalities_by_hand():
    votes_MN = np.array([[0, 0, 1, 2, -1], [0, 1, 1, -1, -1], [0, 1, 1, -1, 0]])
    prediction_N = np.array([0, 0, 0, 0, 0])
    expected = {0: [1, 1, 1, 1, 1], 1: [1, 1, 0, 1, 1], 2: [1, 0, 0, 1, 1], 3: [1, 0, 0, 1, 1]}
    for least, passes in expected.items():
        assert policies.modalities_agree(votes_MN, prediction_N, least).tolist() == [bool(p) for p in passes]
    two = np.array([[0], [-1], [0]])
    assert policies.modalities_agree(two, np.array([0]), 3).tolist() == [True]  # all it has


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=40)
@given(drawn=clips(), most=st.none() | st.integers(0, 30))
def test_every_clip_is_kept_or_told_why_not(name, drawn, most):
    confidence_N, prediction_N, veto_N = drawn
    settings = policy(name, threshold=0.55, quota=3, floor=0.45)
    reason_N, threshold_K = policies.select(settings, confidence_N, prediction_N, veto_N, LABELS, most)
    assert threshold_K.dtype == np.float32
    assert threshold_K.shape == (3,)
    reached_N = confidence_N >= threshold_K[prediction_N]
    for reason, veto, reached in zip(reason_N, veto_N, reached_N, strict=True):
        expected = {veto} if veto else {None, OVER_QUOTA, OVER_CAP} if reached else {BELOW}
        assert reason in expected
    accepted_N = kept(reason_N)
    assert most is None or accepted_N.sum() <= most
    if name == "quota":
        assert (np.bincount(prediction_N[accepted_N], minlength=3) <= 3).all()
    if most is None and name != "quota":
        assert (accepted_N == (reached_N & kept(veto_N))).all()


@pytest.mark.parametrize("name", POLICIES)
@settings(max_examples=25)
@given(drawn=clips(), seed=st.integers(0, 99))
def test_thresholds_do_not_know_the_order_of_clips(name, drawn, seed):
    confidence_N, prediction_N, _ = drawn
    order = np.random.default_rng(seed).permutation(len(confidence_N))
    settings = policy(name, threshold=0.55, quota=3)
    shuffled = policies.thresholds(settings, confidence_N[order], prediction_N[order], LABELS)
    np.testing.assert_allclose(shuffled, policies.thresholds(settings, confidence_N, prediction_N, LABELS))


def test_the_sure_are_kept_whatever_the_class_frequencies():
    """The default keeps a rare class that a fixed threshold would starve."""
    rng = np.random.default_rng(0)
    confidence_N = np.concatenate([rng.uniform(0.85, 1, 900), rng.uniform(0.6, 0.8, 100)]).astype(np.float32)
    prediction_N = np.repeat([0, 2], [900, 100])
    nothing_N = np.full(1000, None, object)
    reasons = {
        name: policies.select(policy(name, threshold=0.85), confidence_N, prediction_N, nothing_N, LABELS, None)[0]
        for name in ("fixed", "quantile")
    }
    assert kept(reasons["fixed"])[900:].sum() == 0
    assert kept(reasons["quantile"])[900:].sum() == pytest.approx(50, abs=1)


def test_reasons_against_a_clip_stay_and_keep_it_out_of_every_count():
    veto_N = NOTHING_N.copy()
    veto_N[0] = "speaker in test"
    reason_N, threshold_K = policies.select(policy("quota", quota=2), CONFIDENCE_N, PREDICTION_N, veto_N, LABELS, 2)
    np.testing.assert_allclose(threshold_K, [0.6, 0.7, 0.0], rtol=1e-6)
    # Of angry 0.8 and 0.6, happy 0.95 and 0.7, sad 0.5, two may stay: shares of 0.8, 0.8 and 0.4.
    assert reason_N.tolist() == ["speaker in test", None, OVER_CAP, None, OVER_CAP, OVER_CAP, BELOW]


def test_ties_at_the_quota_are_cut_and_say_so():
    reason_N, threshold_K = policies.select(
        policy("quota", quota=2), np.ones(4, np.float32), np.zeros(4, int), NOTHING_N[:4], LABELS, None
    )
    assert threshold_K[0] == 1
    assert reason_N.tolist() == [None, None, OVER_QUOTA, OVER_QUOTA]


def test_drift_by_hand():
    labelled_K = np.array([60, 30, 9, 1])
    assert policies.drift(labelled_K, np.array([60, 30, 9, 1])) == [None] * 4
    assert policies.drift(labelled_K, np.array([90, 9, 1, 0])) == [None, "starved", "starved", "starved"]
    assert policies.drift(labelled_K, np.array([60, 8, 28, 4])) == [None, "starved", "floods", "floods"]
    assert policies.drift(labelled_K, np.array([60, 10, 27, 3])) == [None] * 4  # a third and three times are allowed
    assert policies.drift(np.array([1, 0]), np.array([9, 1])) == [None, "floods"]
    assert policies.drift(np.zeros(2, int), np.array([1, 1])) == [None, None]
    assert policies.drift(np.array([1, 1]), np.zeros(2, int)) == [None, None]


def test_named_thresholds_belong_to_one_policy():
    with pytest.raises(ValueError, match=r"pseudo\.thresholds .*pseudo\.policy=quantile"):
        Pseudo(thresholds={"sad": 0.5})
    assert Pseudo(policy="per_class", thresholds={"sad": 0.5}).thresholds == {"sad": 0.5}
