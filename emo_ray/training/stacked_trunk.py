"""From features to fused features for T heads at once, and back: the gradients are written where the optimiser reads.

`FusionHead` is the definition, and tests hold this module to it. Autograd would keep and copy more than it computes
here: a step of one head is a third of a millisecond of matrix products. `tensors` and `gradients` are by the names that
a head gives its parameters, with a leading axis T; weights of linear layers are (T, in, out).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from emo_ray.config.model_settings import MODALITIES
from emo_ray.training.stacked_rows import Rows

_EPSILON = 1e-5  # of torch's layer norm
Tensors = Mapping[str, torch.Tensor]


class _Block(NamedTuple):
    """What the way back through a block (GELU, layer norm, dropout) needs."""

    linear_TXH: torch.Tensor
    activated_TXH: torch.Tensor
    normed_TXH: torch.Tensor
    mean_TX1: torch.Tensor
    deviation_TX1: torch.Tensor
    keep_TXH: torch.Tensor
    scale_T1H: torch.Tensor


class Passed(NamedTuple):
    """What the way back through all of it needs."""

    rows: Rows
    blocks: Mapping[str, _Block]
    inputs: Sequence[torch.Tensor]  # of the mix, of each modality (T, n + 1, H): the last place is the absent one's


def fused(tensors: Tensors, rows: Rows, dropout_T11: torch.Tensor) -> tuple[torch.Tensor, Passed]:
    """The fused features (T, R, H) in training mode, and what `backward` takes.

    The first layer of the mix is linear: it is computed for each shown modality and for the absent one, then gathered.
    """
    absent_TMH = tensors["absent_MH"]
    heads, _, hidden = absent_TMH.shape
    weights = tensors["mix.0.weight"].split(hidden, dim=1)
    mixed_TRH = tensors["mix.0.bias"][:, None].expand(heads, rows.noise_TRH.shape[1], hidden).clone()
    blocks: dict[str, _Block] = {}
    inputs: list[torch.Tensor] = []
    for m, name in enumerate(MODALITIES):
        if name not in rows.shown:
            inputs.append(absent_TMH[:, m : m + 1])
            mixed_TRH += torch.bmm(inputs[-1], weights[m])
            continue
        shown = rows.shown[name]
        input_TnH = torch.empty(heads, shown.features_TnD.shape[1] + 1, hidden, device=absent_TMH.device)
        bias_TH, weight_TDH = tensors[f"project.{name}.0.bias"], tensors[f"project.{name}.0.weight"]
        linear_TnH = torch.baddbmm(bias_TH[:, None], shown.features_TnD, weight_TDH)
        blocks[name] = _through(tensors, f"project.{name}", linear_TnH, shown.noise_TnH, dropout_T11, input_TnH[:, :-1])
        input_TnH[:, -1] = absent_TMH[:, m]
        inputs.append(input_TnH)
        output_XH = torch.bmm(input_TnH, weights[m]).flatten(0, 1)
        mixed_TRH += output_XH.index_select(0, shown.place_X).view_as(mixed_TRH)
    fused_TRH = torch.empty_like(mixed_TRH)
    blocks["mix"] = _through(tensors, "mix", mixed_TRH, rows.noise_TRH, dropout_T11, fused_TRH)
    return fused_TRH, Passed(rows, blocks, inputs)


def backward(
    tensors: Tensors, gradients: Tensors, passed: Passed, fused_grad_TRH: torch.Tensor, dropout_T11: torch.Tensor,
    beta: float = 0.0,
) -> None:  # fmt: skip
    """Put the gradients of all parameters into `gradients`, which are multiplied by `beta` before."""
    hidden = fused_grad_TRH.shape[-1]
    weights, weight_gradients = (values["mix.0.weight"].split(hidden, dim=1) for values in (tensors, gradients))
    grad_TRH = _back(gradients, "mix", passed.blocks["mix"], fused_grad_TRH, dropout_T11, beta)
    sum_TH = grad_TRH.sum(dim=1)
    padded_XH = F.pad(grad_TRH, (0, 0, 0, 1)).flatten(0, 1)
    for m, (name, input_TnH) in enumerate(zip(MODALITIES, passed.inputs, strict=True)):
        if name in passed.rows.shown:
            output_grad_TnH = padded_XH.index_select(0, passed.rows.shown[name].row_X).view_as(input_TnH)
            output_grad_TnH[:, -1] = sum_TH - output_grad_TnH[:, :-1].sum(dim=1)
        else:
            output_grad_TnH = sum_TH[:, None]
        weight_gradients[m].baddbmm_(input_TnH.mT, output_grad_TnH, beta=beta)
        input_grad_TnH = torch.bmm(output_grad_TnH, weights[m].mT)
        _put(gradients["absent_MH"][:, m], input_grad_TnH[:, -1], beta)
        if name in passed.rows.shown:
            block, features_TnD = passed.blocks[name], passed.rows.shown[name].features_TnD
            grad_TnH = _back(gradients, f"project.{name}", block, input_grad_TnH[:, :-1], dropout_T11, beta)
            gradients[f"project.{name}.0.weight"].baddbmm_(features_TnD.mT, grad_TnH, beta=beta)


def _through(
    tensors: Tensors, name: str, linear_TXH: torch.Tensor, noise_TXH: torch.Tensor, dropout_T11: torch.Tensor,
    out_TXH: torch.Tensor,
) -> _Block:  # fmt: skip
    """GELU, layer norm and dropout of a block, into `out_TXH`."""
    activated_TXH = F.gelu(linear_TXH)
    normed_TXH, *statistics = torch.native_layer_norm(activated_TXH, linear_TXH.shape[-1:], None, None, _EPSILON)
    scale_T1H = tensors[f"{name}.2.weight"][:, None] / (1 - dropout_T11)
    shift_T1H = tensors[f"{name}.2.bias"][:, None] / (1 - dropout_T11)
    # As numbers: multiplying by truth values takes four times as long.
    keep_TXH = torch.ge(noise_TXH, dropout_T11, out=torch.empty_like(linear_TXH))
    torch.mul(torch.addcmul(shift_T1H, normed_TXH, scale_T1H), keep_TXH, out=out_TXH)
    return _Block(linear_TXH, activated_TXH, normed_TXH, *statistics, keep_TXH, scale_T1H)


def _back(
    gradients: Tensors, name: str, block: _Block, grad_TXH: torch.Tensor, dropout_T11: torch.Tensor, beta: float
) -> torch.Tensor:
    """The gradient of a block's linear layer's output, from that of the block's output."""
    grad_TXH = grad_TXH * block.keep_TXH
    _put(gradients[f"{name}.2.weight"], (grad_TXH * block.normed_TXH).sum(dim=1) / (1 - dropout_T11[:, 0]), beta)
    _put(gradients[f"{name}.2.bias"], grad_TXH.sum(dim=1) / (1 - dropout_T11[:, 0]), beta)
    grad_TXH *= block.scale_T1H
    statistics = block.mean_TX1, block.deviation_TX1, None, None
    shape = grad_TXH.shape[-1:]
    activated_grad_TXH, _, _ = torch.ops.aten.native_layer_norm_backward(
        grad_TXH, block.activated_TXH, shape, *statistics, [True, False, False]
    )
    grad_TXH = torch.ops.aten.gelu_backward(activated_grad_TXH, block.linear_TXH)
    _put(gradients[f"{name}.0.bias"], grad_TXH.sum(dim=1), beta)
    return grad_TXH


def _put(gradient: torch.Tensor, value: torch.Tensor, beta: float) -> None:
    if beta:
        gradient.mul_(beta).add_(value)
    else:
        gradient.copy_(value)
