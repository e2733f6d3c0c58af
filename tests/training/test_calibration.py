import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from emo_ray.training.calibration import (
    LEAST,
    MOST,
    calibrated,
    fit_temperature,
    fitted,
    negative_log_likelihood,
    reliability,
)

SEEDS = st.integers(0, 2**16)


def world(seed, clips=4000, classes=5, temperature=1.0):
    """Labels drawn from the probabilities of some logits, and what a model says that multiplies these by a number."""
    rng = np.random.default_rng(seed)
    logits_BK = rng.normal(scale=2, size=(clips, classes))
    truth_BK = softmax(logits_BK, axis=1)
    label_B = (truth_BK.cumsum(axis=1) > rng.random((clips, 1))).argmax(axis=1)
    return softmax(logits_BK * temperature, axis=1).astype(np.float32), label_B


def plain_error(probability_BK, label_B, bins=15):
    """Clip by clip, as the paper's equation 5 reads."""
    members = [[] for _ in range(bins)]
    for row, label in zip(probability_BK.astype(float), label_B, strict=True):
        place = next(m for m in range(bins) if row.max() <= np.linspace(0, 1, bins + 1)[m + 1])
        members[place].append((row.max(), row.argmax() == label))
    gaps = [len(m) * abs(np.mean([c for c, _ in m]) - np.mean([r for _, r in m])) for m in members if m]
    return sum(gaps) / len(label_B)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_a_model_was_spoilt_with_is_found(temperature):
    probability_BK, label_B = world(0, temperature=temperature)
    fitted = fit_temperature(probability_BK, label_B)
    assert fitted == pytest.approx(temperature, rel=0.05)
    calibrated_BK = calibrated(probability_BK, fitted)
    assert reliability(calibrated_BK, label_B).error < 0.02
    if temperature != 1:
        assert reliability(calibrated_BK, label_B).error < reliability(probability_BK, label_B).error / 2


def test_no_other_temperature_is_likelier():
    probability_BK, label_B = world(1, clips=300, temperature=1.7)
    best = fit_temperature(probability_BK, label_B)
    losses = [log_loss(label_B, softmax(np.log(probability_BK) / t, axis=1)) for t in np.geomspace(LEAST, MOST, 400)]
    assert log_loss(label_B, softmax(np.log(probability_BK) / best, axis=1)) <= min(losses) + 1e-7


def test_the_likelihood_is_that_of_scikit_learn():
    probability_BK, label_B = world(2, clips=200)
    actual = negative_log_likelihood(probability_BK, label_B)
    assert actual == pytest.approx(log_loss(label_B, probability_BK), abs=1e-5)


@given(seed=SEEDS, temperature=st.floats(LEAST, MOST))
def test_calibrated_rows_are_distributions_with_the_same_order(seed, temperature):
    probability_BK, _ = world(seed, clips=20)
    own_BK = calibrated(probability_BK, temperature)
    assert own_BK.dtype == np.float32
    np.testing.assert_allclose(own_BK.sum(axis=1), 1, atol=1e-5)
    assert (own_BK.argmax(axis=1) == probability_BK.argmax(axis=1)).all()
    np.testing.assert_allclose(own_BK, softmax(np.log(probability_BK.astype(float)) / temperature, axis=1), atol=1e-6)


def test_a_temperature_of_one_changes_nothing_at_all():
    probability_BK, _ = world(3, clips=20)
    assert (calibrated(probability_BK, 1.0) == probability_BK).all()


def test_certainty_stays_finite():
    sure_BK, label_B = np.eye(3, dtype=np.float32), np.array([0, 1, 0])
    assert np.isfinite(calibrated(sure_BK, 3.0)).all()
    assert np.isfinite(negative_log_likelihood(sure_BK, label_B))
    assert fit_temperature(sure_BK, np.array([1, 2, 0])) == pytest.approx(MOST, rel=1e-3)
    right_BK = 0.2 + 0.4 * np.eye(3)  # all are right, so no confidence is too high
    assert fit_temperature(right_BK, np.arange(3)) == pytest.approx(LEAST, rel=1e-3)


@given(seed=SEEDS, clips=st.integers(1, 60), classes=st.integers(2, 7), bins=st.integers(1, 20))
def test_the_error_is_that_of_the_plain_formulation(seed, clips, classes, bins):
    probability_BK, label_B = world(seed, clips, classes)
    assert reliability(probability_BK, label_B, bins).error == pytest.approx(
        plain_error(probability_BK, label_B, bins), abs=1e-9
    )


@given(seed=SEEDS)
def test_bins_are_those_of_scikit_learn(seed):
    probability_BK, label_B = world(seed, clips=100)
    right_B = probability_BK.argmax(axis=1) == label_B
    accuracy, confidence = calibration_curve(right_B, probability_BK.max(axis=1).astype(float), n_bins=15)
    diagram = reliability(probability_BK, label_B)
    filled = diagram.count > 0
    np.testing.assert_allclose(diagram.accuracy[filled], accuracy)
    np.testing.assert_allclose(diagram.confidence[filled], confidence)
    assert np.isnan(diagram.accuracy[~filled]).all()
    assert diagram.count.sum() == 100
    assert len(diagram.edges) == 16


def test_bins_and_error_by_hand():
    probability_BK = np.array([[0.55, 0.45], [0.6, 0.4], [0.1, 0.9], [0.0, 1.0]])
    diagram = reliability(probability_BK, np.array([0, 1, 1, 1]), bins=10)
    assert diagram.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 1, 1]  # 0.6 and 0.9 belong below
    assert diagram.accuracy[5] == 0.5
    assert diagram.confidence[5] == pytest.approx(0.575)
    assert diagram.error == pytest.approx((2 * 0.075 + 0.1 + 0) / 4)


def test_clips_without_probabilities_stay_so_and_count_nowhere():
    probability_BK, label_B = world(4, clips=50)
    with_gaps_BK = np.concatenate([probability_BK, np.full((3, 5), np.nan, np.float32)])
    labels_B = np.concatenate([label_B, [0, 1, 2]])
    assert fit_temperature(with_gaps_BK, labels_B) == fit_temperature(probability_BK, label_B)
    assert reliability(with_gaps_BK, labels_B).error == reliability(probability_BK, label_B).error
    assert negative_log_likelihood(with_gaps_BK, labels_B) == negative_log_likelihood(probability_BK, label_B)
    assert np.isnan(calibrated(with_gaps_BK, 2.0)[-3:]).all()


def test_without_clips_there_is_nothing_to_measure():
    none_BK, none_B = np.zeros((0, 3), np.float32), np.zeros(0, int)
    assert fit_temperature(none_BK, none_B) == 1.0
    assert np.isnan(reliability(none_BK, none_B).error)
    assert np.isnan(negative_log_likelihood(none_BK, none_B))
    assert calibrated(none_BK, 2.0).shape == (0, 3)


def test_what_is_stored_of_a_model_is_measured_on_the_clips_that_have_probabilities():
    probability_BK, label_B = world(3, clips=500, temperature=2.0)
    probability_BK[:40] = np.nan
    stored = fitted(probability_BK, label_B, "validation")
    after_BK = calibrated(probability_BK, stored["temperature"])
    assert stored["n"] == 460
    assert stored["temperature"] == fit_temperature(probability_BK, label_B)
    assert stored["ece"]["after"] == pytest.approx(plain_error(after_BK[40:], label_B[40:]), abs=1e-6)
    assert stored["nll"]["before"] == negative_log_likelihood(probability_BK[40:], label_B[40:])
    assert stored["nll"]["after"] < stored["nll"]["before"]
    assert fitted(probability_BK[:40], label_B[:40], "validation") is None
