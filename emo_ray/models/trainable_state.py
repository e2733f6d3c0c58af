"""The part of a model's state that training changes."""

from collections.abc import Mapping

import torch
from torch import nn


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy on the CPU of all parameters and buffers but the frozen part, which `model.frozen_prefix` names."""
    frozen = getattr(model, "frozen_prefix", None)
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if frozen is None or not name.startswith(frozen)
    }


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the matrices of the frozen part to the dtype of autocast once, instead of anew at every use."""
    prefix = getattr(model, "frozen_prefix", None)
    for name, module in model.named_modules():
        if prefix and name.startswith(prefix) and isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def load_trained(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a `trained_state` back into a model. Raises ValueError where names or shapes do not fit."""
    expected = trained_state(model)
    wrong = sorted(set(expected) ^ set(state)) or [k for k in state if state[k].shape != expected[k].shape]
    if wrong:
        raise ValueError(
            f"found weights that do not fit the model ({', '.join(wrong[:5])}), expected those of the same config"
        )
    model.load_state_dict(dict(state), strict=False)
