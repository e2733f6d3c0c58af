"""Averages that the frozen transformers encoders share: over hidden layers, then over valid positions."""

from collections.abc import Sequence

import torch


def mean_of_layers(states: Sequence[torch.Tensor], layers: Sequence[int]) -> torch.Tensor:
    """The mean of the chosen hidden states (B, L, D), in float32. Raises ValueError for layers that do not exist."""
    count = len(states)
    if not all(-count <= layer < count for layer in layers):
        raise ValueError(
            f"found layers {list(layers)}, expected numbers from {-count} to {count - 1}: this model has {count} "
            "hidden states, of which 0 is what enters its first layer and -1 what leaves its last"
        )
    # Layers of one model may lie on several GPUs.
    return torch.stack([states[layer].float().to(states[-1].device) for layer in layers]).mean(dim=0)


def masked_sum(values_BLD: torch.Tensor, valid_BL: torch.Tensor) -> torch.Tensor:
    """The sum over valid positions (B, D); the values of the others do not matter, even where they are NaN."""
    invalid_BL1 = ~valid_BL.to(values_BLD.device, torch.bool).unsqueeze(-1)
    return values_BLD.masked_fill(invalid_BL1, 0).sum(dim=1)


def masked_mean(values_BLD: torch.Tensor, valid_BL: torch.Tensor) -> torch.Tensor:
    """The mean over valid positions (B, D); NaN for a row without any."""
    return masked_sum(values_BLD, valid_BL) / valid_BL.sum(dim=1, keepdim=True).to(values_BLD.device)
