"""The optimiser of the training loop: AdamW, a learning rate for each part of a model, warm-up and cosine decay."""

import math
from typing import Any

import torch
from torch import nn

from emo_ray.config.model_settings import Optimisation


def optimizer_of(model: nn.Module, optimisation: Optimisation, device: torch.device) -> torch.optim.Optimizer:
    """AdamW without decay of vectors and scalars (biases, norms, the logit scale).

    A part of a model may have a learning rate of its own: `optimisation.highest_lr` knows parts by the names that the
    model's `part_of` gives its parameters. Each group has its `highest_lr`, which `set_rates` follows.
    """
    part_of = getattr(model, "part_of", lambda name: None)
    trained = [(optimisation.highest_lr(part_of(n)), p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for rate, p in trained if rate == highest_lr and (p.ndim > 1) is decays],
            "weight_decay": optimisation.weight_decay if decays else 0.0,
            "highest_lr": highest_lr,
        }
        for highest_lr in dict.fromkeys(rate for rate, _ in trained)
        for decays in (True, False)
    ]
    return torch.optim.AdamW(groups, lr=optimisation.lr, fused=device.type in ("cpu", "cuda"))


def set_rates(optimizer: torch.optim.Optimizer, progress: float, warmup_fraction: float) -> None:
    """Set the learning rates for a step at this progress in [0, 1]."""
    for group in optimizer.param_groups:
        group["lr"] = group["highest_lr"] * learning_rate_factor(progress, warmup_fraction)


def learning_rate_factor(progress: float, warmup_fraction: float) -> float:
    """The share of the highest learning rate: linear warm-up, then a half cosine to 0, over progress in [0, 1]."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup_fraction) / (1 - warmup_fraction))))


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put an optimiser's state back, but for rates and decay: the state may come from a trial with other settings."""
    settings = [{name: group[name] for name in ("weight_decay", "highest_lr")} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)
