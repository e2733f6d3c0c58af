"""Many fusion heads trained at once, each exactly as the loop would train it alone.

A head is tiny, and a training step of it is all overhead. Heads of the same shape that see the same clips share batched
matrix products; each keeps its own seed, rates and learning rate, and may be taken out after any epoch. All parameters
of a head lie in one row of a matrix (T, P), so that the gradient norm and AdamW pass over it once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch, SoftTargets
from emo_ray.models.fusion import FusionHead, drop_modalities, rates, split_noise
from emo_ray.training.in_memory import chunks, orders
from emo_ray.training.loss import class_weights, logit_shift, shown_rows
from emo_ray.training.metrics import counts
from emo_ray.training.optimizer import learning_rate_factor
from emo_ray.training.seeds import Stream, derived_seed
from emo_ray.training.stacked_forward import (
    classify,
    fuse,
    fuse_subsets,
    project,
    read_neighbours,
    stack,
    transposed_weight,
)

# Heads that are trained together must agree on these fields of `fusion`; all others may differ.
SHARED_FIELDS = ("hidden", "feature_dropout", "batch_size", "passes_per_epoch", "start_from", "context", "sampling")


@dataclass(frozen=True)
class HeadConfig:
    """How one of the heads is trained."""

    settings: Fusion
    seed: int
    labels: Sequence[str] = ()  # of the classes, for weights by name; by default their numbers


class Epoch(NamedTuple):
    """The results of one head's epoch."""

    train_loss: float
    counts_SKK: np.ndarray | None  # as `metrics.validation_metrics` takes them; None without validation clips
    loss_sum: float  # of the validation clips, as it takes it
    is_finite: bool  # whether its loss, weights and logits are numbers; the loop would end training where they are not
    logits_BK: torch.Tensor | None  # of the validation clips, shown what they have; None without any


class StackedHeads:
    """T heads that are trained together on the clips of `train`, all with a label and at least one modality.

    `heads` are fresh, one for each config, made for the same clips and so with the same scaling. Raises ValueError
    where configs differ in shape.
    """

    def __init__(
        self,
        heads: Sequence[FusionHead],
        configs: Sequence[HeadConfig],
        train: FeatureBatch,
        validation: FeatureBatch | None,
        epochs: int,
    ):
        _check_same_shape(configs)
        shared = configs[0].settings
        self.label_B, self.weight_B = train.label_B, None if train.soft is None else train.soft.weight_B
        if (rows := shown_rows(shared, train.label_B)) is not None:
            train = train.rows(rows)
        self.configs, self.train, self.epochs, self.epochs_done = list(configs), train, epochs, 0
        self.steps_per_epoch = -(-len(train) // shared.batch_size) * shared.passes_per_epoch
        self.first = heads[0]  # whose scaling and rates of dropout on features are those of all
        self.classes = heads[0].classify.out_features
        self.offsets = shared.context.offsets
        self.standardised = _standardised(heads[0], train)
        self.near = _near(heads[0], train)
        self.validation = [(part, _standardised(heads[0], part), _near(heads[0], part)) for part in chunks(validation)]
        self.targets = train.soft or SoftTargets(
            target_BK=F.one_hot(train.label_B, self.classes).float(), weight_B=torch.ones(len(train))
        )
        parameters = stack(heads)
        # A warm-started head may know modalities that no clip here has: their projections stay as they are.
        idle = tuple(f"project.{name}." for name in MODALITIES if name not in self.standardised)
        self.idle = {name: parameters.pop(name) for name in list(parameters) if name.startswith(idle)}
        matrices_first = sorted(parameters, key=lambda name: parameters[name].ndim, reverse=True)  # they alone decay
        self.shapes = {name: parameters[name].shape[1:] for name in matrices_first}
        self.decaying = sum(shape.numel() for shape in self.shapes.values() if len(shape) > 1)
        self.flat_TP = torch.cat([parameters[name].flatten(1) for name in self.shapes], dim=1)
        self.moments_TP = [torch.zeros_like(self.flat_TP) for _ in range(2)]
        self._prepare()

    def select(self, places: Sequence[int]) -> None:
        """Keep some of the heads alone: their places, in order."""
        index = torch.tensor(places)
        self.configs = [self.configs[i] for i in places]
        self.flat_TP = self.flat_TP[index]
        self.moments_TP = [moment_TP[index] for moment_TP in self.moments_TP]
        self.idle = {name: value[index] for name, value in self.idle.items()}
        self._prepare()

    def state(self, place: int) -> dict[str, torch.Tensor]:
        """A copy of the parameters of one head, by the names that `FusionHead` gives them."""
        return {name: transposed_weight(name, value[place].detach()).clone() for name, value in self.tensors.items()}

    def epoch(self) -> list[Epoch]:
        """Train every head for its next epoch, and validate it."""
        seeds = sorted({config.seed for config in self.configs})
        seed_T = torch.tensor([seeds.index(config.seed) for config in self.configs])
        noise_seeds = [derived_seed(seed, Stream.NOISE, self.epochs_done, 0) for seed in seeds]
        generators = [torch.Generator().manual_seed(noise_seed) for noise_seed in noise_seeds]
        shared, step = self.configs[0].settings, self.epochs_done * self.steps_per_epoch
        columns, total_T = self.first.noise_columns, torch.zeros(len(self.configs))
        passes = (orders(len(self.train), seed, self.epochs_done, shared.passes_per_epoch) for seed in seeds)
        for order in zip(*passes, strict=True):
            for index_SB in torch.stack(order).split(shared.batch_size, dim=1):
                clips = index_SB.shape[1]
                noises = [torch.rand(clips, columns, generator=generator) for generator in generators]
                if len(seeds) == 1:  # all heads share clips and noise
                    loss_T = self._gradients(index_SB[0], noises[0])
                else:
                    loss_T = self._gradients(index_SB[seed_T], torch.stack(noises)[seed_T])
                self._update(step)
                step, total_T = step + 1, total_T + loss_T * clips
        self.epochs_done += 1
        counts_TSKK, validation_loss_T, finite_T, logits_TBK = self._validate()
        finite_T &= total_T.isfinite() & self.flat_TP.isfinite().all(dim=1)
        clips_seen = len(self.train) * shared.passes_per_epoch
        return [
            Epoch(
                float(total) / clips_seen,
                None if counts_TSKK is None else counts_TSKK[i],
                float(validation_loss_T[i]),
                bool(finite_T[i]),
                None if logits_TBK is None else logits_TBK[i],
            )
            for i, total in enumerate(total_T)
        ]

    def _prepare(self) -> None:
        """Derive what depends on the heads at hand: views of the flat parameters by name, and settings as tensors."""
        self.tensors, self.grad_TP = dict(self.idle), torch.zeros_like(self.flat_TP)
        parts = self.flat_TP.split([shape.numel() for shape in self.shapes.values()], dim=1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            self.tensors[name] = part.view(-1, *shape).detach().requires_grad_()
        self.rows = list(zip(self.flat_TP, self.grad_TP, *self.moments_TP, strict=True))
        settings_T = [config.settings for config in self.configs]
        self.decay_T = torch.tensor([settings.weight_decay for settings in settings_T])
        self.dropout_T11 = torch.tensor([settings.dropout for settings in settings_T])[:, None, None]
        self.rate_TR = torch.stack([rates(settings.modality_dropout) for settings in settings_T])
        self.smoothing_T11 = torch.tensor([settings.label_smoothing for settings in settings_T])[:, None, None]
        self.max_norm_T = torch.tensor([settings.grad_clip_norm for settings in settings_T])
        numbers = tuple(map(str, range(self.classes)))
        weights = [class_weights(c.settings, self.label_B, c.labels or numbers, self.weight_B) for c in self.configs]
        self.class_weight_T1K = torch.stack([torch.ones(self.classes) if w is None else w for w in weights])[:, None]
        shifts = [logit_shift(settings, self.label_B, self.classes, self.weight_B) for settings in settings_T]
        self.logit_shift_T1K = torch.stack([torch.zeros(self.classes) if s is None else s for s in shifts])[:, None]

    def _gradients(self, index: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Put the gradients of all heads on the clips of `index` (B,) or (T, B) into grad_TP; the loss of each (T,)."""
        chances, keeps = split_noise(noise, self.dropout_T11, self.first.hidden)
        keep_features = self.first.keep_features(noise)
        shown = self.train.present_BM[index]
        present = drop_modalities(shown, self.rate_TR, chances)
        shown_features = {name: rows[index] * keep_features.get(name, 1) for name, rows in self.standardised.items()}
        fused_TBH = self._fused(shown_features, present, keeps)
        if self.near is not None:
            near = self.near.rows(index)
            near_present = near.present_BNM & ~(shown & ~present)[..., None, :]  # dropped in the whole window
            near_keeps = [keep.repeat_interleave(len(self.offsets), dim=-2) for keep in keeps]
            near_features = near.features()
            for name, keep_BD in keep_features.items():
                near_features[name] = near_features[name] * keep_BD.repeat_interleave(len(self.offsets), dim=-2)
            near_TXH = self._fused(near_features, near_present.flatten(-3, -2), near_keeps)
            fused_TBH = self._with_neighbours(fused_TBH, near_TXH, near, near_present)
        logits_TBK = classify(self.tensors, fused_TBH)
        loss_T = self._loss(logits_TBK, self.targets.target_BK[index], self.targets.weight_B[index])
        grads = torch.autograd.grad(loss_T.sum(), [self.tensors[name] for name in self.shapes])
        torch.cat([grad.flatten(1) for grad in grads], dim=1, out=self.grad_TP)
        return loss_T.detach()

    def _fused(
        self, standardised: Mapping[str, torch.Tensor], present: torch.Tensor, keeps: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """The fused features of all heads (T, B, H), from standardised features (B, D) or (T, B, D)."""
        projected = [
            project(self.tensors, name, standardised[name], keep) if name in standardised else None
            for name, keep in zip(MODALITIES, keeps[:-1], strict=True)
        ]
        return fuse(self.tensors, projected, present, keeps[-1])

    def _with_neighbours(
        self, fused_TBH: torch.Tensor, near_TXH: torch.Tensor, near: "_Near", present_BNM: torch.Tensor
    ) -> torch.Tensor:
        """Fused features with what the fused features of neighbours, X = B N, add to them."""
        usable_BN = near.is_there_BN & present_BNM.any(dim=-1)
        near_TBNH = near_TXH.unflatten(1, near.place_BN.shape[-2:])
        return read_neighbours(self.tensors, fused_TBH, near_TBNH, near.speaker_BN, usable_BN)

    def _update(self, step: int) -> None:
        """Clip the gradients and take AdamW's step, as the loop does; `step` counts from 0 over all epochs."""
        norm_T = torch.linalg.vector_norm(self.grad_TP, dim=1)
        self.grad_TP.mul_((self.max_norm_T / (norm_T + 1e-6)).clamp(max=1.0)[:, None])
        progress = (step + 1) / (self.steps_per_epoch * self.epochs)
        settings_T = [config.settings for config in self.configs]
        lrs = [settings.lr * learning_rate_factor(progress, settings.warmup_fraction) for settings in settings_T]
        # AdamW decays a whole row. What should not decay is divided by the same factor before, which passes over less.
        self.flat_TP[:, self.decaying :].div_((1 - torch.tensor(lrs) * self.decay_T)[:, None])
        for row, lr, settings in zip(self.rows, lrs, settings_T, strict=True):  # a call has one learning rate
            _adamw(row, lr, settings.weight_decay, step)

    def _loss(self, logits_TBK: torch.Tensor, target_BK: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
        """The loss of each head (T,), as `loss.loss` has it, with its own smoothing and class weights."""
        mass_T = (weight_B * (target_BK * self.class_weight_T1K).sum(dim=-1)).sum(dim=-1)
        smooth_TBK = torch.lerp(target_BK.expand_as(logits_TBK), torch.tensor(1 / self.classes), self.smoothing_T11)
        shifted_TBK = logits_TBK + self.logit_shift_T1K
        each_TB = -(smooth_TBK * self.class_weight_T1K * shifted_TBK.log_softmax(dim=-1)).sum(dim=-1)
        return (weight_B * each_TB).sum(dim=-1) / mass_T

    @torch.no_grad()
    def _validate(self) -> tuple[np.ndarray | None, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Confusion counts (T, 1 + S, K, K), loss (T), whether all logits are finite (T), and logits (T, B, K).

        Counts and loss are as the loop takes them, logits of clips that are shown all they have. Counts and logits are
        None without validation clips.
        """
        shown: list[torch.Tensor] = []
        total, finite_T = None, torch.ones(len(self.configs), dtype=torch.bool)
        loss_T = torch.zeros(len(self.configs))
        for batch, standardised, near in self.validation:
            logits = [classify(self.tensors, fused) for fused in self._fused_subsets(batch, standardised, near)]
            # With all three modalities shown, a clip is shown whatever it has: that is the count of every clip.
            shown_TBK = logits[list(SUBSETS.values()).index(MODALITIES)]
            shown.append(shown_TBK)
            tables = [_counts(shown_TBK, batch.label_B, self.classes)]
            loss_T -= shown_TBK.log_softmax(dim=-1)[:, torch.arange(len(batch)), batch.label_B].sum(dim=1)
            for names, logits_TBK in zip(SUBSETS.values(), logits, strict=True):
                finite_T &= logits_TBK.isfinite().all(dim=-1).all(dim=-1)
                has_all_B = batch.present_BM[:, [MODALITIES.index(name) for name in names]].all(dim=1)
                tables.append(_counts(logits_TBK[:, has_all_B], batch.label_B[has_all_B], self.classes))
            counts_TSKK = np.stack(tables, axis=1)
            total = counts_TSKK if total is None else total + counts_TSKK
        return total, loss_T, finite_T, torch.cat(shown, dim=1) if shown else None

    def _fused_subsets(
        self, batch: FeatureBatch, standardised: Mapping[str, torch.Tensor], near: "_Near | None"
    ) -> list[torch.Tensor]:
        """The fused features of all heads (T, B, H) when they are shown each subset of the modalities."""

        def fused(standardised: Mapping[str, torch.Tensor], present_BM: torch.Tensor) -> list[torch.Tensor]:
            projected = [project(self.tensors, n, standardised[n]) if n in standardised else None for n in MODALITIES]
            return fuse_subsets(self.tensors, projected, present_BM, list(SUBSETS.values()))

        fused_clips = fused(standardised, batch.present_BM)
        if near is None:
            return fused_clips
        fused_near = fused(near.features(), near.present_BNM.flatten(0, 1))
        shown_SM = torch.tensor([[name in names for name in MODALITIES] for names in SUBSETS.values()])
        return [
            self._with_neighbours(fused_TBH, near_TXH, near, near.present_BNM & shown_M)
            for fused_TBH, near_TXH, shown_M in zip(fused_clips, fused_near, shown_SM, strict=True)
        ]


@dataclass(frozen=True)
class _Near:
    """The neighbours of B clips, or (T, B), among C clips: see `Context`."""

    standardised: Mapping[str, torch.Tensor]  # modality -> (C, D)
    present_CM: torch.Tensor
    place_BN: torch.Tensor  # the row of each neighbour, 0 where there is none
    is_there_BN: torch.Tensor
    speaker_BN: torch.Tensor

    @property
    def present_BNM(self) -> torch.Tensor:
        """Which modalities each neighbour has."""
        return self.present_CM[self.place_BN]

    def features(self) -> dict[str, torch.Tensor]:
        """The standardised features of the neighbours, (B N, D) or (T, B N, D), by modality."""
        return {name: rows_CD[self.place_BN.flatten(-2)] for name, rows_CD in self.standardised.items()}

    def rows(self, index: torch.Tensor) -> "_Near":
        """The neighbours of clips given by their index (B,) or (T, B)."""
        chosen = (values_BN[index] for values_BN in (self.place_BN, self.is_there_BN, self.speaker_BN))
        return _Near(self.standardised, self.present_CM, *chosen)


def _near(head: FusionHead, batch: FeatureBatch) -> _Near | None:
    """The neighbours of a batch that a head sees; None for a head without context."""
    if not head.offsets:
        return None
    context = head.window(batch)
    place_BN, is_there_BN = context.place_BN.clamp(min=0), context.place_BN >= 0
    standardised = _standardised(head, context.clips)
    return _Near(standardised, context.clips.present_BM, place_BN, is_there_BN, context.speaker_BN)


def _check_same_shape(configs: Sequence[HeadConfig]) -> None:
    first = configs[0].settings
    for config in configs:
        differing = [name for name in SHARED_FIELDS if getattr(config.settings, name) != getattr(first, name)]
        if rates(config.settings.modality_dropout).shape != rates(first.modality_dropout).shape:
            differing.append("modality_dropout")
        if differing:
            raise ValueError(f"found heads that differ in fusion.{differing[0]}, expected the same for all of them")


def _standardised(head: FusionHead, batch: FeatureBatch) -> dict[str, torch.Tensor]:
    """The standardised features of every modality that head and clips know: computed once, not in every step."""
    return {
        name: head.standardise(batch.features[name], name, batch.present_BM[:, m])
        for m, name in enumerate(MODALITIES)
        if name in head.project and name in batch.features
    }


def _counts(logits_TBK: torch.Tensor, label_B: torch.Tensor, classes: int) -> np.ndarray:
    """Confusion counts (T, K, K)."""
    return counts(logits_TBK.argmax(dim=-1).numpy(), label_B.numpy(), classes)


def _adamw(row: Sequence[torch.Tensor], lr: float, weight_decay: float, step: int) -> None:
    """AdamW's step number `step` (from 0) on the parameters, gradients and two moments of one head, in place."""
    parameters, gradients, mean, square = row
    adamw(
        [parameters],
        [gradients],
        [mean],
        [square],
        [],
        [torch.tensor(float(step))],
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=lr,
        weight_decay=weight_decay,
        eps=1e-8,
        maximize=False,
    )
