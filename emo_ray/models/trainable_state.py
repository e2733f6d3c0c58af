"""The part of a model's state that training decides."""

from collections.abc import Mapping

import torch
from torch import nn


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state that training decides, on the CPU: everything but a frozen part the model names."""
    frozen = getattr(model, "frozen_prefix", None)
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if frozen is None or not name.startswith(frozen)
    }


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices of the frozen part in the dtype of autocast, which would cast them anew at every use."""
    prefix = getattr(model, "frozen_prefix", None)
    for name, module in model.named_modules():
        if prefix and name.startswith(prefix) and isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def load_trained(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a `trained_state` back. Raises ValueError where names or shapes do not fit."""
    own = model.state_dict()
    expected = trained_state(model)
    wrong = sorted(set(expected) ^ set(state)) or [k for k in state if state[k].shape != own[k].shape]
    if wrong:
        raise ValueError(
            f"found weights that do not fit the model ({', '.join(wrong[:5])}), expected those of the same config"
        )
    model.load_state_dict(dict(state), strict=False)
