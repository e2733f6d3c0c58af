"""The forward pass of T fusion heads of one shape at once, in batched matrix products.

`FusionHead.forward` is the definition, and tests hold this module to it. Here the parameters of T heads are `tensors`,
by the names that a head gives them, with a leading axis T. All of them may see the same clips (B), or each its own
(T, B).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import Output
from emo_ray.models.fusion import FusionHead

Tensors = Mapping[str, torch.Tensor]


def stack(heads: Sequence[FusionHead]) -> dict[str, torch.Tensor]:
    """The parameters of T heads with a leading axis T; weights of linear layers are (T, in, out).

    So the gradients of these weights come out of batched matrix products without a copy.
    """
    parameters = [dict(head.named_parameters()) for head in heads]
    return {
        name: torch.stack([transposed_weight(name, tensors[name].detach()) for tensors in parameters])
        for name in parameters[0]
    }


def transposed_weight(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A head's parameter in the orientation of `stack`, and back; only weights of linear layers change."""
    return tensor.mT if tensor.ndim == 2 and name.endswith("weight") else tensor


def project(tensors: Tensors, name: str, scaled_BD: torch.Tensor, keep_BH: torch.Tensor | None = None) -> torch.Tensor:
    """A modality's standardised features (B, D) or (T, B, D) to (T, B, H), times dropout's factors."""
    return _block(tensors, f"project.{name}", scaled_BD, keep_BH)


def classify(
    tensors: Tensors,
    projected: Sequence[torch.Tensor | None],
    present_BM: torch.Tensor,
    keep_BH: torch.Tensor | None = None,
) -> Output:
    """The projected modalities (T, B, H), None where no clip has one, to logits_TBK and the fused features."""
    places = []
    for m, projected_TBH in enumerate(projected):
        absent_TBH = tensors["absent_MH"][:, m, None].expand(-1, present_BM.shape[-2], -1)
        if projected_TBH is None:
            places.append(absent_TBH)
        else:
            places.append(torch.where(present_BM[..., m, None], projected_TBH, absent_TBH))
    fused_TBH = _block(tensors, "mix", torch.cat(places, dim=-1), keep_BH)
    return Output(_linear(tensors, "classify", fused_TBH), fused_TBH)


def classify_subsets(
    tensors: Tensors,
    projected: Sequence[torch.Tensor | None],
    present_BM: torch.Tensor,
    subsets: Sequence[Sequence[str]],
) -> list[torch.Tensor]:
    """The logits_TBK of `classify` for each of several subsets of the modalities, the others being hidden.

    The first layer of the mixing block is linear, so what a modality adds to its output is computed once for all
    subsets.
    """
    absent_TMH = tensors["absent_MH"]
    weights = tensors["mix.0.weight"].split(absent_TMH.shape[-1], dim=-2)
    nothing_T1H, gain_of = tensors["mix.0.bias"][:, None], {}
    for m, (name, projected_TBH) in enumerate(zip(MODALITIES, projected, strict=True)):
        nothing_T1H = nothing_T1H + absent_TMH[:, m : m + 1] @ weights[m]
        if projected_TBH is not None:
            gain_TBH = (projected_TBH - absent_TMH[:, m : m + 1]) @ weights[m]
            gain_of[name] = gain_TBH * present_BM[:, m, None]
    shape = (*nothing_T1H.shape[:1], len(present_BM), nothing_T1H.shape[-1])
    logits = []
    for names in subsets:
        mixed_TBH = sum((gain_of[name] for name in names if name in gain_of), nothing_T1H).expand(shape)
        logits.append(_linear(tensors, "classify", _activated(tensors, "mix", mixed_TBH)))
    return logits


def _block(tensors: Tensors, name: str, rows_TBD: torch.Tensor, keep_BH: torch.Tensor | None) -> torch.Tensor:
    """A block of the head (linear layer, GELU, layer norm), then dropout."""
    rows_TBH = _activated(tensors, name, _linear(tensors, f"{name}.0", rows_TBD))
    return rows_TBH if keep_BH is None else rows_TBH * keep_BH


def _activated(tensors: Tensors, name: str, rows_TBH: torch.Tensor) -> torch.Tensor:
    """GELU and layer norm of a block."""
    scale_TH, shift_TH = tensors[f"{name}.2.weight"], tensors[f"{name}.2.bias"]
    normed_TBH = F.layer_norm(F.gelu(rows_TBH), scale_TH.shape[1:])
    return torch.addcmul(shift_TH[:, None], normed_TBH, scale_TH[:, None])


def _linear(tensors: Tensors, name: str, rows_TBD: torch.Tensor) -> torch.Tensor:
    weight_TDH, bias_TH = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return torch.baddbmm(bias_TH[:, None], rows_TBD.expand(len(weight_TDH), *rows_TBD.shape[-2:]), weight_TDH)
