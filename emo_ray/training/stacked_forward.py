"""The forward pass of T fusion heads of one shape at once, in batched matrix products.

`FusionHead.forward` is the definition, and tests hold this module to it. Here the parameters of T heads are `tensors`,
by the names that a head gives them, with a leading axis T. All of them may see the same clips (B), or each its own
(T, B).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from emo_ray.config.model_settings import MODALITIES
from emo_ray.models.fusion import FusionHead

Tensors = Mapping[str, torch.Tensor]


def stack(heads: Sequence[FusionHead]) -> dict[str, torch.Tensor]:
    """The parameters of T heads with a leading axis T; weights of linear layers are (T, in, out).

    So the gradients of these weights come out of batched matrix products without a copy.
    """
    return stacked([dict(head.named_parameters()) for head in heads])


def stacked(tensors_T: Sequence[Tensors]) -> dict[str, torch.Tensor]:
    """Tensors of T heads, such as AdamW's moments, in the form that `stack` gives their parameters."""
    return {
        name: torch.stack([transposed_weight(name, tensors[name].detach()) for tensors in tensors_T])
        for name in tensors_T[0]
    }


def transposed_weight(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A head's parameter in the orientation of `stack`, and back; only weights of linear layers change."""
    return tensor.mT if tensor.ndim == 2 and name.endswith("weight") else tensor


def project(tensors: Tensors, name: str, scaled_BD: torch.Tensor) -> torch.Tensor:
    """A modality's standardised features (B, D) to (T, B, H)."""
    return _block(tensors, f"project.{name}", scaled_BD)


def read_neighbours(
    tensors: Tensors,
    fused_TBH: torch.Tensor,
    near_TBNH: torch.Tensor,
    speaker_BN: torch.Tensor,
    usable_BN: torch.Tensor,
) -> torch.Tensor:
    """The fused features of clips with what their neighbours add, as `NeighbourAttention.forward` has it."""
    heads, clips, places, hidden = near_TBNH.shape
    speaker_TBN = speaker_BN.expand(heads, clips, places)
    speaker_TBNH = tensors["neighbours.speaker_SH"][torch.arange(heads)[:, None, None], speaker_TBN]
    near_TBNH = near_TBNH + tensors["neighbours.place_NH"][:, None] + speaker_TBNH
    key_TBNH = _linear(tensors, "neighbours.key", near_TBNH.flatten(1, 2)).view(near_TBNH.shape)
    query_TB1H = _linear(tensors, "neighbours.query", fused_TBH)[:, :, None]
    score_TBN = ((key_TBNH * query_TB1H).sum(dim=-1) / hidden**0.5).masked_fill(~usable_BN, -torch.inf)
    weight_TBN = torch.cat([score_TBN, torch.zeros_like(score_TBN[..., :1])], dim=-1).softmax(dim=-1)[..., :-1]
    read_TBH = (weight_TBN[..., None] * near_TBNH).sum(dim=-2)
    block_TBH = _block(tensors, "neighbours.read", torch.cat([fused_TBH, read_TBH], dim=-1))
    return fused_TBH + tensors["neighbours.gate_H"][:, None] * block_TBH


def classify(tensors: Tensors, fused_TBH: torch.Tensor) -> torch.Tensor:
    """The logits_TBK of fused features."""
    return _linear(tensors, "classify", fused_TBH)


def fuse_subsets(
    tensors: Tensors,
    projected: Sequence[torch.Tensor | None],
    present_BM: torch.Tensor,
    subsets: Sequence[Sequence[str]],
) -> list[torch.Tensor]:
    """The fused features (T, B, H) for each of several subsets of the modalities, the others being hidden.

    `projected` are the modalities as `project` gives them, None where no clip has one.
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
    mixed = [sum((gain_of[name] for name in names if name in gain_of), nothing_T1H) for names in subsets]
    return [_activated(tensors, "mix", mixed_TBH.expand(shape)) for mixed_TBH in mixed]


def _block(tensors: Tensors, name: str, rows_TBD: torch.Tensor) -> torch.Tensor:
    """A block of the head: linear layer, GELU, layer norm."""
    return _activated(tensors, name, _linear(tensors, f"{name}.0", rows_TBD))


def _activated(tensors: Tensors, name: str, rows_TBH: torch.Tensor) -> torch.Tensor:
    """GELU and layer norm of a block."""
    scale_TH, shift_TH = tensors[f"{name}.2.weight"], tensors[f"{name}.2.bias"]
    normed_TBH = F.layer_norm(F.gelu(rows_TBH), scale_TH.shape[1:])
    return torch.addcmul(shift_TH[:, None], normed_TBH, scale_TH[:, None])


def _linear(tensors: Tensors, name: str, rows_TBD: torch.Tensor) -> torch.Tensor:
    weight_TDH, bias_TH = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return torch.baddbmm(bias_TH[:, None], rows_TBD.expand(len(weight_TDH), *rows_TBD.shape[-2:]), weight_TDH)
