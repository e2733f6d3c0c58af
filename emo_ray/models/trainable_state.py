"""The part of a model's state that training changes."""

from collections.abc import Mapping

import torch
from torch import nn


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy on the CPU of all parameters and buffers but the frozen part, which `model.frozen_prefix` names.

    Parameters in it that are trained nevertheless belong to the state.
    """
    frozen = getattr(model, "frozen_prefix", None)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if frozen is None or name in trained or not name.startswith(frozen)
    }


def is_finite(model: nn.Module) -> bool:
    """Whether all parameters that training changes are numbers; one synchronisation with the device."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return bool(torch.stack([parameter.detach().isfinite().all() for parameter in trained]).all())


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The names of a state's tensors that hold NaN or infinity.

    The second row of a `scaling_...` tensor, a head's deviations, may be infinite: such a feature never counts.
    """

    def is_finite(name: str, value: torch.Tensor) -> bool:
        counted = value[:1] if name.rpartition(".")[2].startswith("scaling_") else value
        return bool(counted.isfinite().all()) and not bool(value.isnan().any())

    return [name for name, value in state.items() if not is_finite(name, value)]


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the matrices of the frozen part to the dtype of autocast once, instead of anew at every use."""
    prefix = getattr(model, "frozen_prefix", None)
    for name, module in model.named_modules():
        if prefix and name.startswith(prefix) and isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(dtype)


def load_trained(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put a `trained_state` back into a model. Raises ValueError where names, shapes or kinds of numbers do not fit."""
    expected = trained_state(model)
    wrong = sorted(set(expected) ^ set(state)) or [
        name
        for name, value in state.items()
        if value.shape != expected[name].shape or value.is_floating_point() != expected[name].is_floating_point()
    ]
    if wrong:
        raise ValueError(
            f"found weights that do not fit the model ({', '.join(wrong[:5])}), expected those of the same config"
        )
    model.load_state_dict(dict(state), strict=False)
