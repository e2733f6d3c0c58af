"""EmoVCLIP's mathematics written down plainly: slow, but easily seen to be right.

Tests compare the model with it and the benchmark measures against it; nothing else uses it. Here prompt tokens are rows
like any others, made anew for every frame, attention is written out, and low-rank updates are added to weights.
"""

from copy import copy

import torch
import torch.nn.functional as F
from torch import nn

from emo_ray.models.emovclip import EmoVCLIP
from emo_ray.models.prompts import FramePrompts
from emo_ray.models.tower import Block


def encode_video(model: EmoVCLIP, frames_BTCHW: torch.Tensor) -> torch.Tensor:
    """features_BD as `model.encode_video` gives them, from the same weights."""
    tower, (B, T) = model.tower, frames_BTCHW.shape[:2]
    x_FND = tower.embed((frames_BTCHW.flatten(0, 1) / 255 - model.mean) / model.std)
    if model.time_TD is not None:
        x_FND = x_FND + model.time_TD.repeat(B, 1)[:, None]
    x_FND = tower.enter(x_FND)
    rows = x_FND.shape[1]
    for block, prompts in zip(tower.blocks, model.prompts, strict=True):
        assert isinstance(prompts, FramePrompts)
        x_FND = torch.cat([x_FND, *_prompt_rows(prompts, tower.summary(x_FND.unflatten(0, (B, T))))], dim=1)
        x_FND = plain_block(block, x_FND)[:, :rows]
    embedding_BTD = tower.pool(x_FND.unflatten(0, (B, T)))
    return embedding_BTD.mean(dim=1) if model.pooling is None else model.pooling(embedding_BTD)


def plain_block(block: Block, x_FND: torch.Tensor) -> torch.Tensor:
    """A block over rows of frames and prompts alike, with low-rank updates added to its weights."""
    block = _with_updated_weights(block)
    normed_FND, heads = block.norm(x_FND), (*x_FND.shape[:2], block.heads, -1)
    query, key, value = (block.linear(layer, normed_FND).view(heads) for layer in "qkv")
    query = block.ready_query(query.transpose(1, 2)).transpose(1, 2)
    key = block.ready_key(key.transpose(1, 2)).transpose(1, 2)
    return block.finish(x_FND, _mixed(query, key, value))


def _with_updated_weights(block: Block) -> Block:
    """A copy of a block without low-rank updates, whose layers have full weights instead."""
    low_rank, updated = block.low_rank, copy(block)
    if low_rank is None:
        return block
    weights = {
        layer: block.weight(layer) + (low_rank.update(layer) if layer in low_rank.layers else 0)
        for layer in block.layers
    }
    updated.low_rank, updated.weight = None, weights.__getitem__  # type: ignore[method-assign, assignment] # of this copy alone
    return updated


def _prompt_rows(prompts: FramePrompts, cls_BTD: torch.Tensor) -> list[torch.Tensor]:
    """The prompt tokens of all F = B T frames: global (F, G, D), local (F, T, D), summary (F, 1, D)."""
    B, T, D = cls_BTD.shape
    rows = []
    if prompts.global_GD is not None:
        rows.append(prompts.global_GD.repeat(B * T, 1, 1))
    if prompts.cls_proj is not None:
        projected_BTD = prompts.cls_proj(cls_BTD)
        if prompts.local_TD is not None:
            local_BTD = projected_BTD + prompts.local_TD
            rows.append(local_BTD[:, None].repeat(1, T, 1, 1).view(B * T, T, D))
        if prompts.attn is not None:
            summary_BTD = projected_BTD + _attention(prompts.attn, prompts.ln(projected_BTD))
            rows.append(summary_BTD.reshape(B * T, 1, D))
    return rows


def _attention(attn: nn.MultiheadAttention, x_BND: torch.Tensor) -> torch.Tensor:
    """Self-attention over N with the weights of torch's module."""
    B, N, D = x_BND.shape
    heads = (B, N, attn.num_heads, D // attn.num_heads)
    query, key, value = (t.view(heads) for t in F.linear(x_BND, attn.in_proj_weight, attn.in_proj_bias).split(D, -1))
    return attn.out_proj(_mixed(query, key, value))


def _mixed(query_BNHD: torch.Tensor, key_BNHD: torch.Tensor, value_BNHD: torch.Tensor) -> torch.Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2), its heads side by side."""
    scores_BHQK = torch.einsum("bqhd,bkhd->bhqk", query_BNHD, key_BNHD) * query_BNHD.shape[-1] ** -0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores_BHQK.softmax(dim=-1), value_BNHD).flatten(2)
