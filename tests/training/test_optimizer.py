"""The optimiser: its schedule, and what a restored state may change."""

import pytest
import torch
from torch import nn

from emo_ray.config.fusion_settings import Fusion
from emo_ray.training.optimizer import learning_rate_factor, load_moments, optimizer_of, set_rates


def test_learning_rate_rises_then_falls_to_zero():
    factors = [learning_rate_factor(i / 100, 0.1) for i in range(101)]
    assert factors[0] == 0
    assert factors[10] == pytest.approx(1.0)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert learning_rate_factor(0, 0) == 1


def test_a_restored_state_brings_moments_but_neither_rates_nor_decay():
    layer = nn.Linear(3, 2)
    before = optimizer_of(layer, Fusion(lr=1e-2, weight_decay=0.3), torch.device("cpu"))
    layer(torch.ones(1, 3)).sum().backward()
    before.step()
    after = optimizer_of(layer, Fusion(lr=1e-3, weight_decay=0.1), torch.device("cpu"))
    load_moments(after, before.state_dict())
    set_rates(after, progress=0.1, warmup_fraction=0.1)
    assert [group["lr"] for group in after.param_groups] == [1e-3, 1e-3]
    assert [group["weight_decay"] for group in after.param_groups] == [0.1, 0.0]
    assert all("exp_avg" in after.state[parameter] for parameter in layer.parameters())
