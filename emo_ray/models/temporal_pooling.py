"""Temporal pooling: the embeddings of a clip's frames become one of the clip (`emovclip.pooling`)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

HEADS, QUERIES = 4, 4


class TemporalAttention(nn.Module):
    """The mean over frames plus a correction, from learned queries that attend over the frames and their times.

    This is ours, not the paper's: CLIP's tower sees single frames, so a mean of its embeddings knows the order of
    frames only as far as prompts have carried it into each frame. Training starts at the mean: the last layer is zero.
    """

    def __init__(self, frames: int, width: int):
        super().__init__()
        if width % HEADS:
            raise ValueError(
                f"found embeddings of {width} dimensions, expected a multiple of {HEADS} for attention over "
                "frames: set emovclip.pooling=mean"
            )
        self.ln = nn.LayerNorm(width)
        self.time_TD = nn.Parameter(torch.empty(frames, width).normal_(std=0.5))
        self.query_QD = nn.Parameter(torch.empty(QUERIES, width).normal_())
        self.attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        first, last = nn.Linear(QUERIES * width, 2 * width), nn.Linear(2 * width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(first, nn.GELU(), last)

    def forward(self, frames_BTD: torch.Tensor) -> torch.Tensor:
        """Frame embeddings to features_BD of length about 1; only their direction matters, for they enter a cosine."""
        frames_BTD = F.normalize(frames_BTD, dim=-1)
        attended_BQD, _ = self._attend(frames_BTD, need_weights=False)
        return frames_BTD.mean(dim=1) + self.mlp(attended_BQD.flatten(1))

    def weights(self, frames_BTD: torch.Tensor) -> torch.Tensor:
        """The attention over the frames of each clip (B, T), which sums to 1: the mean over queries and heads."""
        _, weights_BQT = self._attend(F.normalize(frames_BTD, dim=-1), need_weights=True)
        assert weights_BQT is not None  # asked for
        return weights_BQT.mean(dim=1)

    def _attend(self, frames_BTD: torch.Tensor, need_weights: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the queries take from normalised frame embeddings (B, Q, D), and the weights (B, Q, T) if asked for."""
        normed_BTD = self.ln(frames_BTD)
        query_BQD = self.query_QD.expand(frames_BTD.shape[0], -1, -1)
        return self.attn(query_BQD, normed_BTD + self.time_TD, normed_BTD, need_weights=need_weights)


@contextmanager
def recorded(model: object) -> Iterator[list[torch.Tensor]]:
    """The attention over frames (B, T) of each batch that a model pools in this block, on the CPU.

    It stays empty for a model without attention over frames, and for what is no module.
    """
    recorded_BT: list[torch.Tensor] = []

    def record(module: nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        assert isinstance(module, TemporalAttention)
        recorded_BT.append(module.weights(*inputs).float().cpu())

    modules = model.modules() if isinstance(model, nn.Module) else ()
    handles = [module.register_forward_hook(record) for module in modules if isinstance(module, TemporalAttention)]
    try:
        yield recorded_BT
    finally:
        for handle in handles:
            handle.remove()
