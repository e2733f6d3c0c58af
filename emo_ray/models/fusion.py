"""The fusion head over video, audio and text features, and modality dropout (DESIGN section 6).

The abstract states the idea (a head trained with modality dropout); the architecture below is our choice.
"""

from collections.abc import Mapping
from itertools import product

import torch
from torch import nn

from emo_ray.data.batch import Batch, Output
from emo_ray.settings import MODALITIES, Fusion

_OUTLIER = 5.0  # standard deviations beyond which a standardised feature is cut off


class FusionHead(nn.Module):
    """Projects each present modality, puts a learned token in the place of each absent one, and classifies.

    `scaling` holds, for every modality that has features, their mean and deviation (2, D) over the training clips.
    What stands in an absent modality's features can never reach the output; a NaN in a present one's is a value that is
    not known, and is taken for the training clips' mean.
    """

    def __init__(self, config: Fusion, scaling: Mapping[str, torch.Tensor], classes: int):
        super().__init__()
        self.modality_dropout = config.modality_dropout
        self.project = nn.ModuleDict()
        for name, statistics in scaling.items():
            self.register_buffer(f"scaling_{name}", statistics.clone())
            self.project[name] = nn.Sequential(
                nn.Linear(statistics.shape[1], config.hidden),
                nn.GELU(),
                nn.LayerNorm(config.hidden),
                nn.Dropout(config.dropout),
            )
        self.absent_MH = nn.Parameter(torch.empty(len(MODALITIES), config.hidden).normal_(std=0.02))
        self.mix = nn.Sequential(
            nn.Linear(len(MODALITIES) * config.hidden, config.hidden),
            nn.GELU(),
            nn.LayerNorm(config.hidden),
            nn.Dropout(config.dropout),
        )
        self.classify = nn.Linear(config.hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """A batch with features to logits_BK and the fused features_BD; in training mode modalities are dropped."""
        present_BM = batch.present_BM
        if self.training:
            present_BM = drop_modalities(present_BM, self.modality_dropout)
        rows = []
        for m, name in enumerate(MODALITIES):
            absent_BH = self.absent_MH[m].expand(len(batch), -1)
            if name in self.project and name in batch.features:  # else nobody here has it
                rows.append(torch.where(present_BM[:, m, None], self._projected(batch, name, present_BM), absent_BH))
            else:
                rows.append(absent_BH)
        fused_BH = self.mix(torch.cat(rows, dim=1))
        return Output(self.classify(fused_BH), fused_BH)

    def _projected(self, batch: Batch, name: str, present_BM: torch.Tensor) -> torch.Tensor:
        mean_D, deviation_D = getattr(self, f"scaling_{name}")
        found = batch.features[name].shape[1]
        if found != len(mean_D):
            raise ValueError(
                f"found {found} {name} features of a clip, expected {len(mean_D)}: the head was trained on others, so "
                f"give its {name} encoder, or tables.{name} of the same kind"
            )
        # The mean is 0 here.
        scaled_BD = ((batch.features[name] - mean_D) / deviation_D).clamp(-_OUTLIER, _OUTLIER).nan_to_num(0.0)
        absent_B = ~present_BM[:, MODALITIES.index(name)]
        # Zeroed before the projection as well: a NaN there would pass through the gradient of torch.where.
        return self.project[name](scaled_BD.masked_fill(absent_B[:, None], 0.0))


def scalings(batch: Batch) -> dict[str, torch.Tensor]:
    """`scaling` of every modality that any of these (training) clips has; what none has cannot be learnt."""
    present = {name: batch.present_BM[:, MODALITIES.index(name)] for name in batch.features}
    return {name: scaling(batch.features[name][rows]) for name, rows in present.items() if rows.any()}


def scaling(features_BD: torch.Tensor) -> torch.Tensor:
    """Mean and deviation (2, D) of the known values of present training features.

    Constant ones get a deviation of 1; those that no clip knows an infinite one, so that they never count.
    """
    mean_D, count_D = features_BD.nanmean(dim=0), features_BD.isfinite().sum(dim=0)
    filled_BD = torch.where(features_BD.isnan(), mean_D, features_BD)
    deviation_D = filled_BD.std(dim=0, correction=0) * (len(features_BD) / count_D).sqrt()
    unknown_D = count_D == 0
    deviation_D = torch.where(deviation_D > 1e-6, deviation_D, 1.0).masked_fill(unknown_D, torch.inf)
    return torch.stack([mean_D.masked_fill(unknown_D, 0.0), deviation_D])


def drop_modalities(
    present_BM: torch.Tensor, rate: float | Mapping[str, float], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Modality dropout: the mask with modalities taken away at random, never the last one.

    A single rate is the probability with which one of the incomplete, non-empty patterns of a clip's present
    modalities is drawn uniformly. A rate per modality drops each by itself; where all would go, one of them, drawn
    uniformly, stays.
    """
    if isinstance(rate, Mapping):
        return _drop_each(present_BM, rate, generator)
    device = present_BM.device
    patterns_PM = torch.tensor([p for p in product((False, True), repeat=len(MODALITIES)) if any(p)], device=device)
    # Pattern p is allowed for clip b where it is a proper subset of what b has.
    within_BP = (~patterns_PM[None] | present_BM[:, None]).all(dim=2)
    allowed_BP = within_BP & (patterns_PM.sum(dim=1) < present_BM.sum(dim=1, keepdim=True))
    drop_B = torch.rand(len(present_BM), generator=generator, device=device) < rate
    drop_B &= allowed_BP.any(dim=1)
    weights_BP = torch.where(drop_B[:, None], allowed_BP, torch.ones_like(allowed_BP)).float()
    drawn_B = torch.multinomial(weights_BP, 1, generator=generator).squeeze(1)
    return torch.where(drop_B[:, None], patterns_PM[drawn_B], present_BM)


def _drop_each(present_BM: torch.Tensor, rates: Mapping[str, float], generator: torch.Generator | None) -> torch.Tensor:
    device = present_BM.device
    rate_M = torch.tensor([rates.get(name, 0.0) for name in MODALITIES], device=device)
    kept_BM = present_BM & (torch.rand(present_BM.shape, generator=generator, device=device) >= rate_M)
    saved_B = torch.multinomial(present_BM.float() + 1e-9, 1, generator=generator)
    one_BM = torch.zeros_like(present_BM).scatter(1, saved_B, True) & present_BM
    return torch.where(kept_BM.any(dim=1, keepdim=True), kept_BM, one_BM)
