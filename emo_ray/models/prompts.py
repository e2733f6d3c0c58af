"""EmoVCLIP's learned prompts: three kinds on the vision side, context vectors on the text side.

The mechanics are those publicly described for Vita-CLIP (Wasim et al., CVPR 2023). That is our choice, because the
abstract of the paper does not say how its prompts work. `cls_proj` starts as the identity, which is our choice too.
"""

import torch
from torch import nn

from emo_ray.config.model_settings import EmoVCLIP as EmoVCLIPConfig


class FramePrompts(nn.Module):
    """The prompts of one block of the vision tower.

    From the CLS tokens of a clip's frames it makes up to three kinds of prompt tokens, all of CLIP's width D: G global
    tokens, the same for every clip; T local tokens, given to every frame of the clip; one summary token for each frame.
    """

    def __init__(self, config: EmoVCLIPConfig, frames: int, width: int, heads: int, patch_area: int):
        super().__init__()
        bound = (6 / (3 * patch_area + width)) ** 0.5
        self.global_GD: nn.Parameter | None = None
        self.local_TD: nn.Parameter | None = None
        self.cls_proj: nn.Linear | None = None
        self.attn: nn.MultiheadAttention | None = None
        if config.global_prompts:
            self.global_GD = nn.Parameter(torch.empty(config.global_prompts, width).uniform_(-bound, bound))
        if config.local_prompts:
            self.local_TD = nn.Parameter(torch.empty(frames, width).uniform_(-bound, bound))
        if config.local_prompts or config.summary_prompt:
            self.cls_proj = nn.Linear(width, width)
            nn.init.eye_(self.cls_proj.weight)
            nn.init.zeros_(self.cls_proj.bias)
            self.cls_proj.requires_grad_(config.train_cls_proj)
        if config.summary_prompt:
            self.ln = nn.LayerNorm(width)
            self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, cls_BTD: torch.Tensor) -> list[torch.Tensor]:
        """The global, local and summary tokens, as tensors that broadcast to (B, T, number of tokens, D)."""
        tokens: list[torch.Tensor] = []
        if self.global_GD is not None:
            tokens.append(self.global_GD[None, None])
        if self.cls_proj is None:
            return tokens
        projected_BTD = self.cls_proj(cls_BTD)
        if self.local_TD is not None:
            tokens.append((projected_BTD + self.local_TD)[:, None])
        if self.attn is not None:
            normed_BTD = self.ln(projected_BTD)
            summary_BTD = projected_BTD + self.attn(normed_BTD, normed_BTD, normed_BTD, need_weights=False)[0]
            tokens.append(summary_BTD[:, :, None])
        return tokens


class ClassContext(nn.Module):
    """Learned vectors in front of each class name, at the input of the text tower (CoOp's mechanics)."""

    def __init__(self, config: EmoVCLIPConfig, classes: int, width: int):
        super().__init__()
        rows = classes if config.class_specific_context else 1
        self.context_KND = nn.Parameter(torch.empty(rows, config.context_tokens, width).normal_(std=0.02))

    def forward(self, embedded_KLD: torch.Tensor, start: int = 1) -> torch.Tensor:
        """Token embeddings whose places after the start token, if any, are replaced by the context."""
        context_KND = self.context_KND.to(embedded_KLD.dtype).expand(len(embedded_KLD), -1, -1)
        n = context_KND.shape[1]
        return torch.cat([embedded_KLD[:, :start], context_KND, embedded_KLD[:, start + n :]], dim=1)
