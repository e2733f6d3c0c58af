"""Averages over layers and valid positions."""

import torch

from emo_ray.models.hidden_states import masked_mean, mean_of_layers


def test_masked_mean_is_the_mean_of_the_valid_rows():
    values = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 0, 1]])
    reference = torch.stack([v[m.bool()].mean(dim=0) for v, m in zip(values, valid, strict=True)])
    torch.testing.assert_close(masked_mean(values, valid), reference)


def test_layers_count_from_either_end():
    states = [torch.full((1, 2, 3), float(i)) for i in range(5)]
    assert mean_of_layers(states, [0, -1]).unique().item() == 2.0
