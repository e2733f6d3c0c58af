"""EmoVCLIP's mathematics written down plainly: slow, but easily seen to be right.

Tests compare the model with it and the benchmark measures against it; nothing else uses it. Here prompt tokens are rows
like any others, made anew for every frame, and attention is written out.
"""

import torch
import torch.nn.functional as F
from torch import nn

from emo_ray.models.emovclip import EmoVCLIP
from emo_ray.models.prompts import FramePrompts


def encode_video(model: EmoVCLIP, frames_BTCHW: torch.Tensor) -> torch.Tensor:
    """features_BD as `model.encode_video` gives them, from the same weights."""
    visual, (B, T) = model.clip.visual, frames_BTCHW.shape[:2]
    images = (frames_BTCHW.flatten(0, 1) / 255 - model.mean) / model.std
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    x_FND = torch.cat([visual.class_embedding.expand(B * T, 1, -1), patches], dim=1) + visual.positional_embedding
    if model.time_TD is not None:
        x_FND = x_FND + model.time_TD.repeat(B, 1)[:, None]
    x_FND = visual.ln_pre(x_FND)
    rows = x_FND.shape[1]
    for block, prompts in zip(visual.transformer.resblocks, model.prompts, strict=True):
        assert isinstance(prompts, FramePrompts)
        x_FND = torch.cat([x_FND, *_prompt_rows(prompts, x_FND[:, 0].view(B, T, -1))], dim=1)
        x_FND = x_FND + block.ls_1(_attention(block.attn, block.ln_1(x_FND)))
        x_FND = x_FND + block.ls_2(block.mlp(block.ln_2(x_FND)))
        x_FND = x_FND[:, :rows]
    embedding_BTD = (visual.ln_post(x_FND)[:, 0] @ visual.proj).view(B, T, -1)
    return embedding_BTD.mean(dim=1) if model.pooling is None else model.pooling(embedding_BTD)


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
    """Self-attention over N with the weights of torch's module (Vaswani et al. 2017, section 3.2)."""
    B, N, D = x_BND.shape
    heads = (B, N, attn.num_heads, D // attn.num_heads)
    query, key, value = (t.view(heads) for t in F.linear(x_BND, attn.in_proj_weight, attn.in_proj_bias).split(D, -1))
    weight_BHQK = (torch.einsum("bqhd,bkhd->bhqk", query, key) * heads[-1] ** -0.5).softmax(dim=-1)
    return attn.out_proj(torch.einsum("bhqk,bkhd->bqhd", weight_BHQK, value).reshape(B, N, D))
