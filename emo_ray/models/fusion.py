"""The fusion head over video, audio and text features, and modality dropout (docs/method.md).

The abstract states the idea (a head trained with modality dropout); the architecture below is our choice.

Beside hidden units and modalities, features are dropped: the more of them there are for each training clip, the more.
One rate for all modalities would be too much for a narrow one, or too little for thousands of features of text.

A training step draws all its noise at once, as one uniform tensor, and derives all dropout from it. So
`training.stacked_heads`, which trains many heads together, can give each head the noise it would have drawn alone.
"""

from collections.abc import Mapping
from itertools import product

import torch
from torch import nn

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import Context, FeatureBatch, Output
from emo_ray.models.neighbours import NeighbourAttention
from emo_ray.models.trainable_state import not_finite

# dropout's factors: (B, H) for each modality and for "mix", (B, D) for the features of a modality: see `_features`
Keep = dict[str, torch.Tensor | float]
_OUTLIER = 5.0  # standard deviations beyond which a standardised feature is cut off
CHANCES = len(MODALITIES) + 1  # columns of noise that modality dropout takes


class FeatureScaling(nn.Module):
    """A part of a head: the mean and deviation (2, D) of each modality's features over the training clips."""

    def __init__(self, scaling: Mapping[str, torch.Tensor]):
        super().__init__()
        for name, statistics in scaling.items():
            self.register_buffer(f"scaling_{name}", statistics.clone())

    def standardise(self, features_BD: torch.Tensor, name: str, present_B: torch.Tensor) -> torch.Tensor:
        """A modality's features, standardised; absent and unknown values are 0, the training clips' mean.

        Raises ValueError where their number is not that of the features that the head was trained on.
        """
        width, expected = features_BD.shape[1], self.get_buffer(f"scaling_{name}").shape[1]
        if width != expected:
            raise ValueError(
                f"found {width} {name} features of a clip, expected {expected}: the head was trained on others, so "
                f"give its {name} encoder, or tables.{name} of the same kind"
            )
        standardised_BD = standardised(features_BD, self.get_buffer(f"scaling_{name}"))
        # Absent rows are zeroed here although torch.where drops them later: a NaN would pass through its gradient.
        return standardised_BD.masked_fill(~present_B[:, None], 0.0)


class FusionHead(FeatureScaling):
    """Projects each present modality, puts a learned token in the place of each absent one, and classifies.

    `scaling` holds, for every modality that has features, their mean and deviation (2, D) over the training clips.
    The values that a clip has in an absent modality never reach the output. A NaN in a present modality is an unknown
    value, and is replaced by the training clips' mean. `feature_rates` are those of dropout on features, which
    training alone needs.
    """

    def __init__(
        self,
        config: Fusion,
        scaling: Mapping[str, torch.Tensor],
        classes: int,
        feature_rates: Mapping[str, float] | None = None,
    ):
        super().__init__(scaling)
        self.feature_rates = dict(feature_rates or {})
        self.hidden = config.hidden
        self.dropout, self.modality_dropout = config.dropout, rates(config.modality_dropout)
        self.project = nn.ModuleDict()
        for name, statistics in scaling.items():
            self.project[name] = _block(statistics.shape[1], config.hidden)
        self.absent_MH = nn.Parameter(torch.empty(len(MODALITIES), config.hidden).normal_(std=0.02))
        self.mix = _block(len(MODALITIES) * config.hidden, config.hidden)
        self.classify = nn.Linear(config.hidden, classes)
        self.offsets = config.context.offsets
        if self.offsets:
            self.neighbours = NeighbourAttention(config.hidden, len(self.offsets))

    def forward(self, batch: FeatureBatch) -> Output:
        """A batch with features to logits_BK and the fused features_BD; in training mode modalities are dropped.

        Raises ValueError where the head has context and nobody has looked for the neighbours of these clips.
        """
        present_BM = batch.present_BM
        keep_of: Keep = dict.fromkeys((*MODALITIES, "mix"), 1.0)  # nothing is dropped
        if self.training:
            noise_BN = torch.rand(len(batch), self.noise_columns, device=present_BM.device)
            chances_BC, keeps_BH = split_noise(noise_BN, self.dropout, self.hidden)
            keep_of.update(zip(keep_of, keeps_BH, strict=True))
            for name, keep_BD in self.keep_features(noise_BN).items():
                keep_of[_features(name)] = keep_BD
            present_BM = drop_modalities(present_BM, self.modality_dropout.to(present_BM.device), chances_BC)
        fused_BH = self._fuse(batch.features, present_BM, keep_of)
        if self.offsets:
            fused_BH = self._with_neighbours(fused_BH, batch, present_BM, keep_of)
        return Output(self.classify(fused_BH), fused_BH)

    def _fuse(self, features: Mapping[str, torch.Tensor], present_BM: torch.Tensor, keep_of: Keep) -> torch.Tensor:
        """The features of clips as one vector each, (B, H)."""
        places = []
        for m, name in enumerate(MODALITIES):
            place_BH = self.absent_MH[m].expand(present_BM.shape[0], -1)
            if name in self.project and name in features:  # else no training clip had it, or no clip here has it
                standardised_BD = self.standardise(features[name], name, present_BM[:, m])
                projected_BH = keep_of[name] * self.project[name](keep_of.get(_features(name), 1.0) * standardised_BD)
                place_BH = torch.where(present_BM[:, m, None], projected_BH, place_BH)
            places.append(place_BH)
        return keep_of["mix"] * self.mix(torch.cat(places, dim=-1))

    def _with_neighbours(
        self, fused_BH: torch.Tensor, batch: FeatureBatch, present_BM: torch.Tensor, keep_of: Keep
    ) -> torch.Tensor:
        """The fused features of clips (B, H) with what their neighbours add.

        A clip and its neighbours have one draw of noise: the same modalities and hidden units are dropped in all of
        them. For in use a modality lacks a whole recording (no transcript, no camera), and a window of which a single
        clip was reduced would let the head read the clip's class off the neighbours' unreduced modalities.
        """
        context = self.window(batch)
        rows = context.place_BN.clamp(min=0).flatten()
        hidden_BM = batch.present_BM & ~present_BM
        near_BNM = context.clips.present_BM[rows].unflatten(0, context.place_BN.shape) & ~hidden_BM[:, None]
        near_keep: Keep = {
            name: keep.repeat_interleave(len(self.offsets), dim=0) if isinstance(keep, torch.Tensor) else keep
            for name, keep in keep_of.items()
        }
        near_features = {name: values[rows] for name, values in context.clips.features.items()}
        near_BNH = self._fuse(near_features, near_BNM.flatten(0, 1), near_keep).unflatten(0, context.place_BN.shape)
        usable_BN = (context.place_BN >= 0) & near_BNM.any(dim=-1)
        return self.neighbours(fused_BH, near_BNH, context.speaker_BN, usable_BN)

    def window(self, batch: FeatureBatch) -> Context:
        """The neighbours that the head sees beside each clip. Raises ValueError where nobody has looked for them."""
        if batch.context is None:
            raise ValueError(f"found clips without neighbours, expected those at {self.offsets}: attach their context")
        return batch.context.window(self.offsets)

    @property
    def noise_columns(self) -> int:
        """N, how many random numbers a training step draws for a clip."""
        return hidden_columns(self.hidden) + sum(self._widths())

    def keep_features(self, noise_BN: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dropout's factors (B, D) for the features of each modality that loses any, from a step's noise."""
        parts = noise_BN[..., hidden_columns(self.hidden) :].split(self._widths(), dim=-1)
        rated = zip(self.feature_rates.items(), parts, strict=True)
        return {name: (part_BD >= rate) / (1 - rate) for (name, rate), part_BD in rated}

    def _widths(self) -> list[int]:
        return [self.get_buffer(f"scaling_{name}").shape[1] for name in self.feature_rates]


def hidden_columns(hidden: int) -> int:
    """How many of a step's random numbers decide which modalities and hidden units a clip loses."""
    return CHANCES + (len(MODALITIES) + 1) * hidden


def split_noise(
    noise_BN: torch.Tensor, dropout: float | torch.Tensor, hidden: int
) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    """Uniform noise in [0, 1) to the chances_BC of `drop_modalities` and the factors (B, H) of dropout.

    There are M + 1 factors: one for each modality's projection, then one for the mixed features. `dropout` may be a
    tensor (T, 1, 1) for T heads, with noise of each head or noise that all of them share.
    """
    keep_BN = (noise_BN[..., CHANCES : hidden_columns(hidden)] >= dropout) / (1 - dropout)
    return noise_BN[..., :CHANCES], list(keep_BN.split(hidden, dim=-1))


def feature_rates(batch: FeatureBatch, rate: float | None) -> dict[str, float]:
    """The rates of dropout on the features of the modalities that any of these training clips has.

    Without a `rate`, it is D / (D + n) for D features and n clips that have them. In linear regression on standardised
    features that would be a ridge penalty of D (Wager et al. 2013, section 2). Modalities that lose none are left out.
    """
    if rate == 0:
        return {}
    clips_of = {name: int(batch.present_BM[:, MODALITIES.index(name)].sum()) for name in batch.features}
    widths = {name: values_BD.shape[1] for name, values_BD in batch.features.items()}
    return {
        name: widths[name] / (widths[name] + clips) if rate is None else rate
        for name, clips in clips_of.items()
        if clips
    }


def _features(modality: str) -> str:
    return f"{modality} features"


def _block(wide: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(wide, hidden), nn.GELU(), nn.LayerNorm(hidden))


def scalings(batch: FeatureBatch) -> dict[str, torch.Tensor]:
    """The `scaling` of every modality that any of these training clips has; no other can be learnt.

    Raises ValueError for features that are infinite or too large to be standardised.
    """
    present = {name: batch.present_BM[:, MODALITIES.index(name)] for name in batch.features}
    scaling_of = {name: scaling(batch.features[name][rows]) for name, rows in present.items() if rows.any()}
    for name, statistics in scaling_of.items():
        if not_finite({f"scaling_{name}": statistics}) or statistics[1].isinf().sum() > _unknown(batch, name).sum():
            largest = batch.features[name][present[name]].nan_to_num(0.0, torch.inf, -torch.inf).abs().max()
            raise ValueError(
                f"found {name} features of up to {float(largest):.3g}, expected finite ones whose variance a float32 "
                f"can hold: scale the numbers in tables.{name}, or look for a damaged encoder"
            )
    return scaling_of


def _unknown(batch: FeatureBatch, name: str) -> torch.Tensor:
    """Which features (D,) of a modality no clip that has it knows."""
    return batch.features[name][batch.present_BM[:, MODALITIES.index(name)]].isnan().all(dim=0)


def scaling(features_BD: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation (2, D) of the known values of training features.

    A constant feature gets a deviation of 1. A feature that is unknown in all clips gets an infinite one, so that it
    never counts.
    """
    mean_D, count_D = features_BD.nanmean(dim=0), features_BD.isfinite().sum(dim=0)
    filled_BD = torch.where(features_BD.isnan(), mean_D, features_BD)
    deviation_D = filled_BD.std(dim=0, correction=0) * (len(features_BD) / count_D).sqrt()
    unknown_D = count_D == 0
    deviation_D = torch.where(deviation_D > 1e-6, deviation_D, 1.0).masked_fill(unknown_D, torch.inf)
    return torch.stack([mean_D.masked_fill(unknown_D, 0.0), deviation_D])


def standardised(features_BD: torch.Tensor, scaling_2D: torch.Tensor) -> torch.Tensor:
    """Features on the scale of the training clips; outliers are cut off, and unknown values are 0, their mean."""
    mean_D, deviation_D = scaling_2D
    return ((features_BD - mean_D) / deviation_D).clamp(-_OUTLIER, _OUTLIER).nan_to_num(0.0)


def rates(rate: float | Mapping[str, float]) -> torch.Tensor:
    """`fusion.modality_dropout` as a tensor for `drop_modalities`: one rate (1,), or one per modality (M,)."""
    return torch.tensor([rate.get(name, 0.0) for name in MODALITIES] if isinstance(rate, Mapping) else [float(rate)])


def drop_modalities(present_BM: torch.Tensor, rate_R: torch.Tensor, chances_BC: torch.Tensor) -> torch.Tensor:
    """Modality dropout: `present_BM` with modalities removed at random, but never a clip's last one.

    With one rate (1,), a clip is reduced with that probability, to a pattern drawn uniformly from the incomplete,
    non-empty patterns of its present modalities. With a rate per modality (M,), each is dropped by itself; where all
    would be dropped, one of them, drawn uniformly, stays. `chances_BC` are uniform in [0, 1), with C = M + 1. All
    arguments may have a leading axis T.
    """
    if rate_R.shape[-1] == 1:
        patterns = [p for p in product((False, True), repeat=len(MODALITIES)) if any(p)]
        patterns_PM = torch.tensor(patterns, device=present_BM.device)
        # Pattern p is allowed for clip b if it is a proper subset of the modalities of b.
        within_BP = (~patterns_PM | present_BM[..., None, :]).all(dim=-1)
        allowed_BP = within_BP & (patterns_PM.sum(dim=1) < present_BM.sum(dim=-1, keepdim=True))
        drawn_BM = (_one_of(allowed_BP, chances_BC[..., -1])[..., None] & patterns_PM).any(dim=-2)
        drop_B = (chances_BC[..., 0] < rate_R) & allowed_BP.any(dim=-1)
        return torch.where(drop_B[..., None], drawn_BM, present_BM)
    kept_BM = present_BM & (chances_BC[..., :-1] >= rate_R[..., None, :])
    return torch.where(kept_BM.any(dim=-1, keepdim=True), kept_BM, _one_of(present_BM, chances_BC[..., -1]))


def _one_of(allowed_BP: torch.Tensor, chance_B: torch.Tensor) -> torch.Tensor:
    """A mask with one of the allowed places of each row, drawn uniformly; without any for a row that allows none."""
    count_B1 = allowed_BP.sum(dim=-1, keepdim=True)
    place_B1 = (chance_B[..., None] * count_B1).long().clamp(max=count_B1 - 1)  # 0.999... times 6 may round to 6
    return allowed_BP & (allowed_BP.cumsum(dim=-1) - 1 == place_B1)
