"""The loss against its formula, and class weights against scikit-learn, and what else is done about rare classes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from emo_ray.config import load
from emo_ray.config.fusion_settings import Fusion
from emo_ray.data.batch import Batch, Output, SoftTargets
from emo_ray.training.loss import balanced_weights, class_weights, logit_shift, loss, mass, shown_rows

DICE = torch.Generator().manual_seed(0)
LOGITS = torch.randn(20, 4, generator=DICE)
LABELS = torch.arange(20) % 4
BATCH = Batch(clip_ids=("x",) * 20, present_BM=torch.ones(20, 3, dtype=torch.bool), label_B=LABELS)
TARGETS = torch.randn(20, 4, generator=DICE).softmax(dim=1)
WEIGHTS = torch.rand(20, generator=DICE) + 0.1
SOFT = replace(BATCH, soft=SoftTargets(target_BK=TARGETS, weight_B=WEIGHTS))
HEAVY = torch.tensor([0.5, 1.0, 2.0, 0.0])


def actual(batch, *options):
    return loss(Output(LOGITS, LOGITS), batch, *options)["cross_entropy"]


def test_plain_cross_entropy_is_scikit_learns_log_loss():
    assert actual(BATCH).item() == pytest.approx(log_loss(LABELS, LOGITS.double().softmax(dim=1)), rel=1e-5)


def test_smoothing_mixes_the_label_with_a_uniform_target():
    target = 0.8 * torch.eye(4)[LABELS] + 0.2 / 4
    expected = -(target * LOGITS.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(actual(BATCH, 0.2), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_of_equal_weight_are_torchs(smoothing):
    even = replace(BATCH, soft=SoftTargets(target_BK=TARGETS, weight_B=torch.full((20,), 0.3)))
    torch.testing.assert_close(actual(even, smoothing), F.cross_entropy(LOGITS, TARGETS, label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight_K", [None, HEAVY])
def test_weighted_soft_targets_are_a_weighted_mean_of_what_each_clip_costs(smoothing, class_weight_K):
    """The expected value is summed clip by clip and class by class."""
    heavy, above, below = (torch.ones(4) if class_weight_K is None else class_weight_K), 0.0, 0.0
    for logits, target, weight in zip(LOGITS.double(), TARGETS.double(), WEIGHTS.double(), strict=True):
        for k in range(4):
            nll = logits.logsumexp(dim=0) - logits[k]
            above += weight * heavy[k] * ((1 - smoothing) * target[k] + smoothing / 4) * nll
            below += weight * heavy[k] * target[k]
    assert actual(SOFT, smoothing, class_weight_K).item() == pytest.approx((above / below).item(), rel=1e-5)
    assert mass(SOFT, class_weight_K).item() == pytest.approx(below.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight_K", [None, HEAVY])
def test_a_certain_target_with_weight_one_is_its_label(smoothing, class_weight_K):
    certain = replace(BATCH, soft=SoftTargets(target_BK=torch.eye(4)[LABELS], weight_B=torch.ones(20)))
    options = smoothing, class_weight_K
    torch.testing.assert_close(actual(certain, *options), actual(BATCH, *options))
    torch.testing.assert_close(
        actual(BATCH, *options),
        F.cross_entropy(LOGITS, LABELS, HEAVY if class_weight_K is not None else None, label_smoothing=smoothing),
    )


def test_clips_that_weigh_nothing_cost_nothing():
    weightless = replace(BATCH, soft=SoftTargets(target_BK=TARGETS, weight_B=torch.zeros(20)))
    assert actual(weightless) == 0
    of_class_3 = replace(BATCH, soft=SoftTargets(target_BK=torch.eye(4)[3].expand(20, 4), weight_B=WEIGHTS))
    assert actual(of_class_3, 0.0, HEAVY) == 0


def test_a_clip_of_weight_two_is_that_clip_twice():
    twice = BATCH.rows(torch.tensor([*range(20), 3]))
    heavier = replace(
        BATCH,
        soft=SoftTargets(target_BK=torch.eye(4)[LABELS], weight_B=torch.ones(20).index_fill(0, torch.tensor([3]), 2.0)),
    )
    expected = F.cross_entropy(LOGITS[[*range(20), 3]], twice.label_B, label_smoothing=0.1)
    torch.testing.assert_close(actual(heavier, 0.1), expected)


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 30 + [1] * 5 + [3] * 15)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    actual = balanced_weights(torch.tensor(labels), 4)
    torch.testing.assert_close(actual[[0, 1, 3]], torch.tensor(expected, dtype=torch.float32))
    assert actual[2] == 0


def test_balanced_weights_count_a_clip_as_scikit_learn_does_with_sample_weights():
    labels, weights = np.array([0] * 30 + [1] * 5 + [3] * 15), np.linspace(0.1, 1, 50)
    classes = np.array([0, 1, 3])
    expected = compute_class_weight("balanced", classes=classes, y=labels, sample_weight=weights)
    actual = balanced_weights(torch.tensor(labels), 4, torch.tensor(weights, dtype=torch.float32))
    torch.testing.assert_close(actual[classes], torch.tensor(expected, dtype=torch.float32))
    assert actual[2] == 0
    assert class_weights(Fusion(class_weights="none"), torch.tensor(labels), "abcd") is None


def test_weights_by_name_are_in_the_order_of_the_classes():
    settings = Fusion(class_weights={"sad": 2.0, "angry": 0.5, "happy": 1.0})
    label_B = torch.tensor([0, 1, 2])
    assert class_weights(settings, label_B, ("angry", "happy", "sad")).tolist() == [0.5, 1.0, 2.0]
    with pytest.raises(ValueError, match=r"class_weights: .*sad.*angry, calm"):
        class_weights(settings, label_B, ("angry", "calm"))


@pytest.mark.parametrize("tau", [0.5, 1.0])
def test_adjusted_logits_are_those_of_the_formula(tau):
    """Menon et al. (2021), equation 10: -log of exp(f_y + tau log pi_y) over the sum of exp(f_k + tau log pi_k)."""
    counts = np.array([30, 5, 1, 15])
    shift = logit_shift(Fusion(logit_adjustment=tau), torch.arange(4).repeat_interleave(torch.tensor(counts)), 4)
    prior = counts / counts.sum()
    powers = np.exp(LOGITS.double().numpy()) * prior**tau
    expected = -np.log(powers[np.arange(20), LABELS] / powers.sum(axis=1)).mean()
    assert actual(BATCH, 0.0, None, shift).item() == pytest.approx(expected, rel=1e-5)


def test_logits_are_adjusted_by_how_much_clips_count_and_finite_for_absent_classes():
    label_B, weight_B = torch.tensor([0] * 30 + [1] * 20), torch.tensor([1.0] * 30 + [0.5] * 20)
    shift = logit_shift(Fusion(logit_adjustment=1.0), label_B, 3, weight_B)
    torch.testing.assert_close(shift.exp(), torch.tensor([30, 10, 1]) / 41)
    assert logit_shift(Fusion(), label_B, 3) is None


def test_balanced_sampling_shows_every_clip_and_every_class_as_often():
    label_B = torch.tensor([0] * 30 + [1] * 7 + [3] * 1 + [1] * 6)
    rows = shown_rows(Fusion(sampling="balanced"), label_B)
    assert torch.bincount(label_B[rows]).tolist() == [30, 30, 0, 30]
    shown = torch.bincount(rows, minlength=len(label_B))
    assert set(shown[label_B == 1].tolist()) == {2, 3}
    assert shown.min() == 1
    assert shown_rows(Fusion(), label_B) is None


def test_two_cures_of_imbalance_that_undo_each_other_are_refused():
    for other in ("class_weights=balanced", "logit_adjustment=1"):
        key, value = other.split("=")
        with pytest.raises(ValueError, match=r"fusion.*sampling=balanced"):
            load("mini", {"fusion.sampling": "balanced", f"fusion.{key}": value})
    with pytest.raises(ValueError, match="class_weights"):
        Fusion(class_weights={"sad": -1.0})
