"""From features to fused features for T heads at once, and back: the gradients are written where the optimiser reads.

`FusionHead` is the definition, and tests hold this module to it. Autograd would keep and copy more than it computes
here: a step of one head is a third of a millisecond of matrix products. `tensors` and `gradients` are by the names that
a head gives its parameters, with a leading axis T; weights of linear layers are (T, in, out). Their `project` (3, M, T,
H) and `mix` (3, T, H) are views of the blocks' vectors: the bias, and shift and scale of the layer norm.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F

from emo_ray.config.model_settings import MODALITIES
from emo_ray.training.stacked_rows import Rows

_EPSILON = 1e-5  # of torch's layer norm
Tensors = Mapping[str, torch.Tensor]


class _Block(NamedTuple):
    """What the way back through a block (GELU, layer norm, dropout) needs; the axes before X are T, or M and T."""

    linear_XH: torch.Tensor
    activated_XH: torch.Tensor
    normed_XH: torch.Tensor
    mean_X1: torch.Tensor
    deviation_X1: torch.Tensor
    keep_XH: torch.Tensor
    scale_1H: torch.Tensor


class Passed(NamedTuple):
    """What the way back through all of it needs."""

    rows: Rows
    project: _Block
    input_MTnH: torch.Tensor  # of the mix, with n + 1 places: the last one is the absent modality's
    mix: _Block


def fused(tensors: Tensors, rows: Rows, dropout_T11: torch.Tensor) -> tuple[torch.Tensor, Passed]:
    """The fused features (T, R, H) in training mode, and what `backward` takes.

    The first layer of the mix is linear: it is computed for each shown modality and for the absent one, then gathered.
    """
    absent_TMH, names = tensors["absent_MH"], tuple(rows.features)
    hidden = absent_TMH.shape[-1]
    weights = dict(zip(MODALITIES, tensors["mix.0.weight"].split(hidden, dim=1), strict=True))
    modalities, heads, n, _ = rows.noise_MTnH.shape
    linear_MTnH = torch.empty_like(rows.noise_MTnH)
    input_MTnH = rows.noise_MTnH.new_empty(modalities, heads, n + 1, hidden)
    for i, (name, features_TnD) in enumerate(rows.features.items()):
        bias_TH, weight_TDH = tensors[f"project.{name}.0.bias"], tensors[f"project.{name}.0.weight"]
        torch.baddbmm(bias_TH[:, None], features_TnD, weight_TDH, out=linear_MTnH[i])
        input_MTnH[i, :, -1] = absent_TMH[:, MODALITIES.index(name)]
    _, shift_MTH, scale_MTH = tensors["project"]
    project = _through(scale_MTH, shift_MTH, linear_MTnH, rows.noise_MTnH, dropout_T11, input_MTnH[:, :, :-1])
    output_MTnH = torch.empty_like(input_MTnH)
    for i, name in enumerate(names):
        torch.bmm(input_MTnH[i], weights[name], out=output_MTnH[i])
    shape = len(names), *rows.noise_TRH.shape
    mixed_TRH = output_MTnH.flatten(0, 2).index_select(0, rows.place_X).view(shape).sum(dim=0)
    mixed_TRH += tensors["mix.0.bias"][:, None]
    for m, name in enumerate(MODALITIES):
        if name not in names:
            mixed_TRH += torch.bmm(absent_TMH[:, m : m + 1], weights[name])
    fused_TRH = torch.empty_like(mixed_TRH)
    _, shift_TH, scale_TH = tensors["mix"]
    mix = _through(scale_TH, shift_TH, mixed_TRH, rows.noise_TRH, dropout_T11, fused_TRH)
    return fused_TRH, Passed(rows, project, input_MTnH, mix)


def backward(
    tensors: Tensors, gradients: Tensors, passed: Passed, fused_grad_TRH: torch.Tensor, dropout_T11: torch.Tensor,
    beta: float = 0.0,
) -> None:  # fmt: skip
    """Put the gradients of all parameters into `gradients`, which are multiplied by `beta` before."""
    hidden, names = fused_grad_TRH.shape[-1], tuple(passed.rows.features)
    weights, weight_gradients = (
        dict(zip(MODALITIES, values["mix.0.weight"].split(hidden, dim=1), strict=True))
        for values in (tensors, gradients)
    )
    grad_TRH, vectors_3TH = _back(passed.mix, fused_grad_TRH, dropout_T11)
    _put(gradients["mix"], vectors_3TH, beta)
    sum_TH, input_MTnH = vectors_3TH[0], passed.input_MTnH
    padded_XH = F.pad(grad_TRH, (0, 0, 0, 1)).flatten(0, 1)
    output_grad_MTnH = padded_XH.index_select(0, passed.rows.row_X).view_as(input_MTnH)
    # Not as a difference of sums: AdamW would make steps of the rounding that is left where no row lacks a modality.
    places = input_MTnH.shape[2]
    place_MTR = passed.rows.place_X.view(len(names), *grad_TRH.shape[:2])
    is_absent_TMR = (place_MTR % places == places - 1).transpose(0, 1).to(grad_TRH.dtype)
    output_grad_MTnH[:, :, -1] = torch.bmm(is_absent_TMR, grad_TRH).transpose(0, 1)
    input_grad_MTnH = torch.empty_like(input_MTnH)
    for i, name in enumerate(names):
        torch.bmm(output_grad_MTnH[i], weights[name].mT, out=input_grad_MTnH[i])
        weight_gradients[name].baddbmm_(input_MTnH[i].mT, output_grad_MTnH[i], beta=beta)
        _put(gradients["absent_MH"][:, MODALITIES.index(name)], input_grad_MTnH[i, :, -1], beta)
    for m, name in enumerate(MODALITIES):
        if name not in names:
            absent_T1H = tensors["absent_MH"][:, m : m + 1]
            weight_gradients[name].baddbmm_(absent_T1H.mT, sum_TH[:, None], beta=beta)
            _put(gradients["absent_MH"][:, m], torch.bmm(sum_TH[:, None], weights[name].mT)[:, 0], beta)
    grad_MTnH, vectors_3MTH = _back(passed.project, input_grad_MTnH[:, :, :-1], dropout_T11)
    _put(gradients["project"], vectors_3MTH, beta)
    for i, (name, features_TnD) in enumerate(passed.rows.features.items()):
        gradients[f"project.{name}.0.weight"].baddbmm_(features_TnD.mT, grad_MTnH[i], beta=beta)


def _through(
    scale_H: torch.Tensor, shift_H: torch.Tensor, linear_XH: torch.Tensor, noise_XH: torch.Tensor,
    dropout_T11: torch.Tensor, out_XH: torch.Tensor,
) -> _Block:  # fmt: skip
    """GELU, layer norm and dropout of a block, into `out_XH`."""
    activated_XH = F.gelu(linear_XH)
    normed_XH, mean_X1, deviation_X1 = torch.native_layer_norm(activated_XH, linear_XH.shape[-1:], None, None, _EPSILON)
    scale_1H, shift_1H = scale_H[..., None, :] / (1 - dropout_T11), shift_H[..., None, :] / (1 - dropout_T11)
    # As numbers: multiplying by truth values takes four times as long.
    keep_XH = torch.ge(noise_XH, dropout_T11, out=torch.empty_like(linear_XH))
    torch.mul(torch.addcmul(shift_1H, normed_XH, scale_1H), keep_XH, out=out_XH)
    return _Block(linear_XH, activated_XH, normed_XH, mean_X1, deviation_X1, keep_XH, scale_1H)


def _back(block: _Block, grad_XH: torch.Tensor, dropout_T11: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of a block's linear layer's output, and of its three vectors, from that of the block's output."""
    grad_XH = grad_XH * block.keep_XH
    vectors_3H = grad_XH.new_empty(3, *grad_XH.shape[:-2], grad_XH.shape[-1])  # bias, shift and scale
    torch.sum(grad_XH, dim=-2, out=vectors_3H[1])
    torch.sum(grad_XH * block.normed_XH, dim=-2, out=vectors_3H[2])
    vectors_3H[1:] /= 1 - dropout_T11[:, 0]
    grad_XH *= block.scale_1H
    statistics = block.mean_X1, block.deviation_X1, None, None
    activated_grad_XH, _, _ = torch.ops.aten.native_layer_norm_backward(
        grad_XH, block.activated_XH, grad_XH.shape[-1:], *statistics, [True, False, False]
    )
    grad_XH = torch.ops.aten.gelu_backward(activated_grad_XH, block.linear_XH)
    torch.sum(grad_XH, dim=-2, out=vectors_3H[0])
    return grad_XH, vectors_3H


def _put(gradient: torch.Tensor, value: torch.Tensor, beta: float) -> None:
    if beta:
        gradient.mul_(beta).add_(value)
    else:
        gradient.copy_(value)
