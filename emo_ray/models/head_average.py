"""Fusion heads that differ by their random start alone, and answer together.

One head of a small corpus is one to two points worse than the mean of a few: what each has learnt of chance differs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from emo_ray.data.batch import FeatureBatch, Output
from emo_ray.models.classical_head import ClassicalHead
from emo_ray.models.fusion import FusionHead

PREFIX = "heads"  # of the names of their weights: heads.0.absent_MH, heads.1.absent_MH, ...


class HeadAverage(nn.Module):
    """Two heads or more; the probabilities that they give together are the mean of theirs."""

    def __init__(self, heads: Sequence[FusionHead]):
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, batch: FeatureBatch) -> Output:
        """The logarithms of the mean probabilities as logits_BK, and the mean of the fused features_BD.

        In training mode `each` holds the output of every head, since each learns by its own loss.
        """
        outputs = tuple(head(batch) for head in self.heads)
        log_probabilities_EBK = torch.stack([output.logits_BK.float().log_softmax(dim=-1) for output in outputs])
        logits_BK = log_probabilities_EBK.logsumexp(dim=0)  # log of their sum: a constant does not change a softmax
        features_BD = torch.stack([output.features_BD for output in outputs]).mean(dim=0)
        return Output(logits_BK, features_BD, outputs if self.training else ())

    @property
    def project(self) -> nn.ModuleDict:
        """The projections of the first head; all know the same modalities."""
        return self.heads[0].project  # type: ignore[return-value] # ModuleList's items are plain modules to mypy

    @property
    def offsets(self) -> tuple[int, ...]:
        """The places of the neighbours that the heads see; all see the same."""
        return self.heads[0].offsets  # type: ignore[return-value] # ModuleList's items are plain modules to mypy


Head = FusionHead | HeadAverage | ClassicalHead


def together(heads: Sequence[FusionHead]) -> Head:
    """One head as it is, several as their average."""
    return heads[0] if len(heads) == 1 else HeadAverage(heads)


def members(model: nn.Module) -> list[nn.Module]:
    """The models whose gradients are clipped each alone: the heads of an average, else the model itself."""
    return list(model.heads) if isinstance(model, HeadAverage) else [model]


def states(state: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The state of each head in a `trained_state` of one head or of an average."""
    if not any(name.startswith(f"{PREFIX}.") for name in state):
        return [dict(state)]
    heads: list[dict[str, torch.Tensor]] = []
    while part := _part(state, f"{PREFIX}.{len(heads)}."):
        heads.append(part)
    return heads


def _part(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
