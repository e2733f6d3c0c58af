"""The loss against its formula, the weights against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from emo_ray.data.batch import Batch, Output
from emo_ray.training.loss import balanced_weights, loss

LOGITS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 4
BATCH = Batch(("x",) * 20, torch.ones(20, 3, dtype=torch.bool), label_B=LABELS)


def test_plain_cross_entropy_is_scikit_learns_log_loss():
    found = loss(Output(LOGITS, LOGITS), BATCH)["cross_entropy"]
    assert found.item() == pytest.approx(log_loss(LABELS, LOGITS.double().softmax(dim=1)), rel=1e-5)


def test_smoothing_mixes_the_label_with_a_uniform_target():
    target = 0.8 * torch.eye(4)[LABELS] + 0.2 / 4
    expected = -(target * LOGITS.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss(Output(LOGITS, LOGITS), BATCH, 0.2)["cross_entropy"], expected)


def test_balanced_weights_are_scikit_learns():
    labels = np.array([0] * 30 + [1] * 5 + [3] * 15)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    found = balanced_weights(torch.tensor(labels), 4)
    torch.testing.assert_close(found[[0, 1, 3]], torch.tensor(expected, dtype=torch.float32))
    assert found[2] == 0
