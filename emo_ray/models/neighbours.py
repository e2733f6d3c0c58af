"""Attention of a clip over its neighbours in a dialogue: what the fusion head adds in conversations.

B clips, N neighbours of each, H the width of the head.
"""

import torch
from torch import nn

from emo_ray.data.dialogues import SPEAKERS

# Fused features have a deviation of 1, and embeddings much smaller than that are not told apart for many epochs: with
# 0.02, three turns of context gave 11 points less on 300 generated clips (docs/conversations.md).
_SPREAD = 0.5


class NeighbourAttention(nn.Module):
    """Adds to a clip's fused features what it reads from the fused features of its neighbours.

    A neighbour is its fused features plus an embedding of its place in the window and one of who speaks in it. Beside
    the neighbours a clip may attend to nothing, whose score is 0: what a clip without neighbours has left. What is read
    passes a gate that starts at 0, so that training starts as that of a head without context: a gate that starts at 0.3
    costs a point where neighbours tell nothing.
    """

    def __init__(self, hidden: int, places: int):
        super().__init__()
        self.place_NH = nn.Parameter(torch.empty(places, hidden).normal_(std=_SPREAD))
        self.speaker_SH = nn.Parameter(torch.empty(len(SPEAKERS), hidden).normal_(std=_SPREAD))
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.read = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.gate_H = nn.Parameter(torch.zeros(hidden))

    def forward(
        self, fused_BH: torch.Tensor, near_BNH: torch.Tensor, speaker_BN: torch.Tensor, usable_BN: torch.Tensor
    ) -> torch.Tensor:
        """Fused features of clips and neighbours to those of the clips (B, H); unusable neighbours are not seen."""
        near_BNH = near_BNH + self.place_NH + self.speaker_SH[speaker_BN]
        score_BN = (self.key(near_BNH) * self.query(fused_BH)[:, None]).sum(dim=-1) / fused_BH.shape[-1] ** 0.5
        score_BN = score_BN.masked_fill(~usable_BN, -torch.inf)
        nothing_B1 = torch.zeros_like(score_BN[:, :1])
        weight_BN = torch.cat([score_BN, nothing_B1], dim=1).softmax(dim=1)[:, :-1]
        read_BH = (weight_BN[..., None] * near_BNH).sum(dim=1)
        return fused_BH + self.gate_H * self.read(torch.cat([fused_BH, read_BH], dim=-1))
