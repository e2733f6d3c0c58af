"""The fusion head over video, audio and text features, and modality dropout (DESIGN section 6).

The abstract states the idea (a head trained with modality dropout); the architecture below is our choice.

The head's mathematics are functions of its tensors, which may be `stacked` ones of T heads: `training.bulk` trains many
at once, each with its own rates. All chance of a training step is one draw of uniform noise, so that each of them
gets the noise that it would have drawn alone.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

from emo_ray.config.model_settings import MODALITIES, Fusion
from emo_ray.data.batch import Batch, Output

_OUTLIER = 5.0  # standard deviations beyond which a standardised feature is cut off
_CHANCES = len(MODALITIES) + 1  # noise that modality dropout takes for a clip
Tensors = Mapping[str, torch.Tensor]


class FusionHead(nn.Module):
    """Projects each present modality, puts a learned token in the place of each absent one, and classifies.

    `scaling` holds, for every modality that has features, their mean and deviation (2, D) over the training clips.
    What stands in an absent modality's features can never reach the output; a NaN in a present one's is a value that is
    not known, and is taken for the training clips' mean.
    """

    def __init__(self, config: Fusion, scaling: Tensors, classes: int):
        super().__init__()
        self.hidden = config.hidden
        self.dropout, self.modality_dropout = config.dropout, rates(config.modality_dropout)
        self.project = nn.ModuleDict()
        for name, statistics in scaling.items():
            self.register_buffer(f"scaling_{name}", statistics.clone())
            self.project[name] = _block(statistics.shape[1], config.hidden)
        self.absent_MH = nn.Parameter(torch.empty(len(MODALITIES), config.hidden).normal_(std=0.02))
        self.mix = _block(len(MODALITIES) * config.hidden, config.hidden)
        self.classify = nn.Linear(config.hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """A batch with features to logits_BK and the fused features_BD; in training mode modalities are dropped."""
        present_BM, tensors = batch.present_BM, dict(self.named_parameters())
        keeps = [None] * (len(MODALITIES) + 1)
        if self.training:
            noise_BN = torch.rand(len(batch), noise_columns(self.hidden), device=present_BM.device)
            chances_BC, keeps = kept(noise_BN, self.dropout)
            present_BM = drop_modalities(present_BM, self.modality_dropout.to(present_BM.device), chances_BC)
        rows = []
        for m, name in enumerate(MODALITIES):
            known = name in self.project and name in batch.features  # else nobody here has it
            scaled_BD = self.scaled(batch, name, present_BM[:, m]) if known else None
            rows.append(None if scaled_BD is None else project(tensors, name, scaled_BD, keeps[m]))
        return mix(tensors, rows, present_BM, keeps[-1])

    def scaled(self, batch: Batch, name: str, present_B: torch.Tensor) -> torch.Tensor:
        """A modality's features (B, D), standardised; zeros, which are the training clips' mean, where there are none.

        Raises ValueError where they are not as many as those that the head was trained on.
        """
        mean_D, deviation_D = getattr(self, f"scaling_{name}")
        found = batch.features[name].shape[1]
        if found != len(mean_D):
            raise ValueError(
                f"found {found} {name} features of a clip, expected {len(mean_D)}: the head was trained on others, so "
                f"give its {name} encoder, or tables.{name} of the same kind"
            )
        scaled_BD = ((batch.features[name] - mean_D) / deviation_D).clamp(-_OUTLIER, _OUTLIER).nan_to_num(0.0)
        # Zeroed before the projection as well: a NaN there would pass through the gradient of torch.where.
        return scaled_BD.masked_fill(~present_B[:, None], 0.0)


def stacked(heads: Sequence[FusionHead]) -> dict[str, torch.Tensor]:
    """The tensors of T heads with a leading axis T; matrices of linear layers are (T, in, out).

    So their gradients come out of batched matrix products in one piece.
    """
    found = [dict(head.named_parameters()) for head in heads]
    return {name: torch.stack([oriented(name, one[name].detach()) for one in found]) for name in found[0]}


def oriented(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A head's tensor as `stacked` holds it, and one of those as a head does."""
    return tensor.mT if tensor.ndim == 2 and name.endswith("weight") else tensor


def project(tensors: Tensors, name: str, scaled_BD: torch.Tensor, keep_BH: torch.Tensor | None) -> torch.Tensor:
    """A modality's standardised features to (B, H), or (T, B, H) by stacked tensors; multiplied by `keep_BH`."""
    return _through(tensors, f"project.{name}", scaled_BD, keep_BH)


def mix(
    tensors: Tensors, rows: Sequence[torch.Tensor | None], present_BM: torch.Tensor, keep_BH: torch.Tensor | None
) -> Output:
    """The projected modalities, None where nobody has one, to logits and fused features; axis T as in `project`."""
    placed = []
    for m, row_BH in enumerate(rows):
        absent_BH = tensors["absent_MH"][..., m, None, :].expand(
            *tensors["absent_MH"].shape[:-2], present_BM.shape[-2], -1
        )
        placed.append(absent_BH if row_BH is None else torch.where(present_BM[..., m, None], row_BH, absent_BH))
    fused_BH = _through(tensors, "mix", torch.cat(placed, dim=-1), keep_BH)
    return Output(_linear(tensors, "classify", fused_BH), fused_BH)


def mix_subsets(
    tensors: Tensors, rows: Sequence[torch.Tensor | None], present_BM: torch.Tensor, subsets: Sequence[Sequence[str]]
) -> list[torch.Tensor]:
    """The logits (T, B, K) of stacked tensors for each of several subsets of the modalities, where no more is shown.

    What `mix` gives of each, for less: its first layer is linear, so what a modality adds to it is the same in all.
    """
    unknown_TMH = tensors["absent_MH"]
    weights = tensors["mix.0.weight"].split(unknown_TMH.shape[-1], dim=-2)
    nothing_T1H, gain_of = tensors["mix.0.bias"][:, None], {}
    for m, (name, row_TBH) in enumerate(zip(MODALITIES, rows, strict=True)):
        nothing_T1H = nothing_T1H + unknown_TMH[:, m : m + 1] @ weights[m]
        if row_TBH is not None:
            gained_TBH = (row_TBH - unknown_TMH[:, m : m + 1]) @ weights[m]
            gain_of[name] = gained_TBH * present_BM[:, m, None]
    mixed = (sum((gain_of[name] for name in names if name in gain_of), nothing_T1H) for names in subsets)
    everyone = (*nothing_T1H.shape[:1], len(present_BM), nothing_T1H.shape[-1])
    return [_linear(tensors, "classify", _activated(tensors, "mix", one.expand(everyone))) for one in mixed]


def noise_columns(hidden: int) -> int:
    """N, the random numbers that a clip takes in a training step."""
    return _CHANCES + (len(MODALITIES) + 1) * hidden


def kept(noise_BN: torch.Tensor, rate: float | torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Uniform noise in [0, 1) to the chances_BC of `drop_modalities`, and dropout's factors for each block (B, H).

    `rate` may be (T, 1, 1), with or without noise of T heads.
    """
    widths = (noise_BN.shape[-1] - _CHANCES) // (len(MODALITIES) + 1)
    keep_BN = (noise_BN[..., _CHANCES:] >= rate) / (1 - rate)
    return noise_BN[..., :_CHANCES], list(keep_BN.split(widths, dim=-1))


def _block(wide: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, hidden), nn.GELU(), nn.LayerNorm(hidden))


def _through(tensors: Tensors, name: str, rows: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """What `_block` does, then dropout."""
    rows = _activated(tensors, name, _linear(tensors, f"{name}.0", rows))
    return rows if keep is None else rows * keep


def _activated(tensors: Tensors, name: str, rows: torch.Tensor) -> torch.Tensor:
    """What comes after `_block`'s linear layer."""
    rows = F.gelu(rows)
    scale, shift = tensors[f"{name}.2.weight"], tensors[f"{name}.2.bias"]
    if scale.ndim == 1:
        return F.layer_norm(rows, scale.shape, scale, shift)
    return torch.addcmul(shift[:, None], F.layer_norm(rows, scale.shape[1:]), scale[:, None])


def _linear(tensors: Tensors, name: str, rows: torch.Tensor) -> torch.Tensor:
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if weight.ndim == 2:
        return F.linear(rows, weight, bias)
    return torch.baddbmm(bias[:, None], rows.expand(len(weight), *rows.shape[-2:]), weight)


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


def rates(rate: float | Mapping[str, float]) -> torch.Tensor:
    """A rate of modality dropout as `drop_modalities` takes it: a single one (1,), or one per modality (M,)."""
    return torch.tensor([rate.get(name, 0.0) for name in MODALITIES] if isinstance(rate, Mapping) else [float(rate)])


def drop_modalities(present_BM: torch.Tensor, rate_R: torch.Tensor, chances_BC: torch.Tensor) -> torch.Tensor:
    """Modality dropout: the mask with modalities taken away at random, never the last one.

    A single rate (1,) is the probability with which one of the incomplete, non-empty patterns of a clip's present
    modalities is drawn uniformly. A rate per modality (M,) drops each by itself; where all would go, one of them, drawn
    uniformly, stays. `chances_BC` are uniform in [0, 1), with C = M + 1. All may have a leading axis T.
    """
    if rate_R.shape[-1] == 1:
        patterns = [p for p in product((False, True), repeat=len(MODALITIES)) if any(p)]
        patterns_PM = torch.tensor(patterns, device=present_BM.device)
        # Pattern p is allowed for clip b where it is a proper subset of what b has.
        within_BP = (~patterns_PM | present_BM[..., None, :]).all(dim=-1)
        allowed_BP = within_BP & (patterns_PM.sum(dim=1) < present_BM.sum(dim=-1, keepdim=True))
        drawn_BM = (_one_of(allowed_BP, chances_BC[..., -1])[..., None] & patterns_PM).any(dim=-2)
        drop_B = (chances_BC[..., 0] < rate_R) & allowed_BP.any(dim=-1)
        return torch.where(drop_B[..., None], drawn_BM, present_BM)
    kept_BM = present_BM & (chances_BC[..., :-1] >= rate_R[..., None, :])
    return torch.where(kept_BM.any(dim=-1, keepdim=True), kept_BM, _one_of(present_BM, chances_BC[..., -1]))


def _one_of(allowed_BP: torch.Tensor, chance_B: torch.Tensor) -> torch.Tensor:
    """One of the allowed in each row, all of them equally likely; none where none is allowed."""
    count_B1 = allowed_BP.sum(dim=-1, keepdim=True)
    place_B1 = (chance_B[..., None] * count_B1).long().clamp(max=count_B1 - 1)  # 0.99... times 6 may round to 6
    return allowed_BP & (allowed_BP.cumsum(dim=-1) - 1 == place_B1)
