"""Many fusion heads trained at once, each exactly as the loop would train it alone.

A head is tiny and a step of it is all overhead. Heads of the same shape that see the same clips are put together in
batched matrix products; each keeps its own seed, rates and learning rate, and may be taken out after any epoch. All
parameters of a head lie in one piece of memory, so that norm and AdamW pass over it once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.adamw import adamw

from emo_ray.config.model_settings import MODALITIES, SUBSETS, Fusion
from emo_ray.data.batch import FeatureBatch, SoftTargets
from emo_ray.models.fusion import FusionHead, drop_modalities, noise_columns, rates, split_noise
from emo_ray.training.in_memory import orders
from emo_ray.training.loop import epoch_seed, learning_rate_factor
from emo_ray.training.loss import class_weights
from emo_ray.training.metrics import counts
from emo_ray.training.stacked_forward import classify, classify_subsets, project, stack, transposed_weight

# What heads that are trained together must agree on; all other keys of `fusion` may differ.
SHARED_FIELDS = ("hidden", "batch_size", "passes_per_epoch", "start_from")
_CHUNK = 64  # validation clips
_ADAM = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "maximize": False}  # torch's defaults


@dataclass(frozen=True)
class HeadConfig:
    """How one of the heads is trained."""

    own: Fusion
    seed: int


class Epoch(NamedTuple):
    """What an epoch of a lane gave; `counts_SKK` as `loop.validation_metrics` takes them, None without validation."""

    train_loss: float
    counts_SKK: np.ndarray | None


class StackedHeads:
    """Heads that are trained together on the clips of `train`, all with any modality and a label.

    `heads` are fresh, one for each lane, made for the same clips and so with the same scaling. Raises ValueError where
    lanes differ in shape.
    """

    def __init__(
        self,
        heads: Sequence[FusionHead],
        lanes: Sequence[HeadConfig],
        train: FeatureBatch,
        validation: FeatureBatch | None,
        epochs: int,
    ):
        first = lanes[0].own
        for lane in lanes:
            differing = [name for name in SHARED_FIELDS if getattr(lane.own, name) != getattr(first, name)]
            differing += ["modality_dropout"] * (_rates(lane).shape != _rates(lanes[0]).shape)
            if differing:
                raise ValueError(f"found heads that differ in fusion.{differing[0]}, expected the same for all of them")
        self.lanes, self.train, self.epochs, self.done = list(lanes), train, epochs, 0
        self.steps = -(-len(train) // first.batch_size) * first.passes_per_epoch  # of an epoch
        self.classes = heads[0].classify.out_features
        self.scaled = _scaled(heads[0], train)
        self.validation, self.checked = validation, _scaled(heads[0], validation) if validation is not None else {}
        whole = stack(heads)
        # A head that another began may know modalities that no clip here has: those stay as they are.
        idle = tuple(f"project.{name}." for name in MODALITIES if name not in self.scaled)
        self.idle = {name: whole.pop(name) for name in list(whole) if name.startswith(idle)}
        matrices_first = sorted(whole, key=lambda name: whole[name].ndim, reverse=True)  # they alone decay
        self.shapes = {name: whole[name].shape[1:] for name in matrices_first}
        self.decaying = sum(s.numel() for s in self.shapes.values() if len(s) > 1)
        self.flat_TP = torch.cat([whole[name].flatten(1) for name in self.shapes], dim=1)
        self.moments = [torch.zeros_like(self.flat_TP) for _ in range(2)]
        self.targets = train.soft or SoftTargets(
            target_BK=F.one_hot(train.label_B, self.classes).float(), weight_B=torch.ones(len(train))
        )
        self._settle()

    def select(self, places: Sequence[int]) -> None:
        """Go on with some of the lanes alone: their places, in order."""
        index = torch.tensor(places)
        self.lanes = [self.lanes[i] for i in places]
        self.flat_TP = self.flat_TP[index]
        self.moments = [moment_TP[index] for moment_TP in self.moments]
        self.idle = {name: value[index] for name, value in self.idle.items()}
        self._settle()

    def state(self, place: int) -> dict[str, torch.Tensor]:
        """A lane's parameters as they are now."""
        return {name: transposed_weight(name, value[place].detach()).clone() for name, value in self.tensors.items()}

    def epoch(self) -> list[Epoch]:
        """Train every lane for its next epoch, and validate it."""
        seeds = sorted({lane.seed for lane in self.lanes})
        place_T = torch.tensor([seeds.index(lane.seed) for lane in self.lanes])
        noise_of = [torch.Generator().manual_seed(epoch_seed(seed, self.done, rank=0)) for seed in seeds]
        own, total_T, taken = self.lanes[0].own, torch.zeros(len(self.lanes)), self.done * self.steps
        for order in zip(*(orders(len(self.train), s, self.done, own.passes_per_epoch) for s in seeds), strict=True):
            for index_SB in torch.stack(order).split(own.batch_size, dim=1):
                noises = [torch.rand(index_SB.shape[1], noise_columns(own.hidden), generator=g) for g in noise_of]
                if len(seeds) == 1:  # then the lanes share clips and noise
                    loss_T = self._gradients(index_SB[0], noises[0])
                else:
                    loss_T = self._gradients(index_SB[place_T], torch.stack(noises)[place_T])
                self._update(taken)
                taken, total_T = taken + 1, total_T + loss_T * index_SB.shape[1]
        self.done += 1
        counted = self._counted()
        clips = len(self.train) * own.passes_per_epoch
        return [Epoch(float(total) / clips, counted[i] if len(counted) else None) for i, total in enumerate(total_T)]

    def _settle(self) -> None:
        """What follows from lanes and memory: views of it by name, and the lanes' settings as tensors."""
        self.tensors, self.grad_TP = dict(self.idle), torch.zeros_like(self.flat_TP)
        parts = self.flat_TP.split([shape.numel() for shape in self.shapes.values()], dim=1)
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            self.tensors[name] = part.view(-1, *shape).detach().requires_grad_()
        self.rows = list(zip(self.flat_TP, self.grad_TP, *self.moments, strict=True))
        owns = [lane.own for lane in self.lanes]
        self.decay_T = torch.tensor([own.weight_decay for own in owns])
        self.dropout_T11 = torch.tensor([own.dropout for own in owns])[:, None, None]
        self.rate_TR = torch.stack([_rates(lane) for lane in self.lanes])
        self.smoothing_T11 = torch.tensor([own.label_smoothing for own in owns])[:, None, None]
        self.clip_T = torch.tensor([own.grad_clip_norm for own in owns])
        weight_B = self.train.soft and self.train.soft.weight_B
        weights = [class_weights(own, self.train.label_B, self.classes, weight_B) for own in owns]
        self.class_weight_T1K = torch.stack([torch.ones(self.classes) if w is None else w for w in weights])[:, None]

    def _gradients(self, index: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Those of all lanes on the clips of `index` (B,) or (T, B); the loss of each."""
        chances, keeps = split_noise(noise, self.dropout_T11)
        present = drop_modalities(self.train.present_BM[index], self.rate_TR, chances)
        rows = [
            project(self.tensors, name, self.scaled[name][index], keeps[m]) if name in self.scaled else None
            for m, name in enumerate(MODALITIES)
        ]
        logits_TBK = classify(self.tensors, rows, present, keeps[-1]).logits_BK
        loss_T = self._loss(logits_TBK, self.targets.target_BK[index], self.targets.weight_B[index])
        grads = torch.autograd.grad(loss_T.sum(), [self.tensors[name] for name in self.shapes])
        torch.cat([grad.flatten(1) for grad in grads], dim=1, out=self.grad_TP)
        return loss_T.detach()

    def _update(self, taken: int) -> None:
        """What follows the gradients in the loop's step, after `taken` steps."""
        norm_T = torch.linalg.vector_norm(self.grad_TP, dim=1)
        self.grad_TP.mul_((self.clip_T / (norm_T + 1e-6)).clamp(max=1.0)[:, None])
        progress = (taken + 1) / (self.steps * self.epochs)
        owns = [lane.own for lane in self.lanes]
        lrs = [own.lr * learning_rate_factor(progress, own.warmup_fraction) for own in owns]
        # Everything decays in AdamW; what should not is raised by as much before, which is far less to pass over.
        self.flat_TP[:, self.decaying :].div_((1 - torch.tensor(lrs) * self.decay_T)[:, None])
        for row, lr, own in zip(self.rows, lrs, owns, strict=True):  # a call has one learning rate
            value, grad, *moments = ([one] for one in row)
            step, decay = [torch.tensor(float(taken))], own.weight_decay
            adamw(value, grad, *moments, [], step, fused=True, lr=lr, weight_decay=decay, **_ADAM)

    def _loss(self, logits_TBK: torch.Tensor, target_BK: torch.Tensor, weight_B: torch.Tensor) -> torch.Tensor:
        """`loss.loss` of each lane, with its smoothing and class weights."""
        mass_T = (weight_B * (target_BK * self.class_weight_T1K).sum(dim=-1)).sum(dim=-1)
        smooth_TBK = torch.lerp(target_BK.expand_as(logits_TBK), torch.tensor(1 / self.classes), self.smoothing_T11)
        each_TB = -(smooth_TBK * self.class_weight_T1K * logits_TBK.log_softmax(dim=-1)).sum(dim=-1)
        return (weight_B * each_TB).sum(dim=-1) / mass_T

    @torch.no_grad()
    def _counted(self) -> np.ndarray:
        """As `loop` counts, of every lane (T, 1 + S, K, K); empty without validation clips."""
        total = np.zeros(0)
        if self.validation is None:
            return total
        for index_B in torch.arange(len(self.validation)).split(_CHUNK):
            present_BM, label_B = self.validation.present_BM[index_B], self.validation.label_B[index_B].numpy()
            rows = [
                project(self.tensors, name, self.checked[name][index_B]) if name in self.checked else None
                for name in MODALITIES
            ]
            every, subsets = torch.ones(len(index_B), dtype=torch.bool), list(SUBSETS.values())
            logits = classify_subsets(self.tensors, rows, present_BM, subsets)
            shown = [present_BM[:, [MODALITIES.index(name) for name in names]].all(dim=1) for names in subsets]
            # Shown all three, a clip is shown what it has: that counts for all clips as well.
            everything = subsets.index(MODALITIES)
            each = []
            for logits_TBK, measured_B in zip([logits[everything], *logits], [every, *shown], strict=True):
                guess_TB = logits_TBK.argmax(dim=-1)
                each.append(counts(guess_TB[:, measured_B].numpy(), label_B[measured_B], self.classes))
            total = np.stack(each, axis=1) + (total if len(total) else 0)
        return total


def _rates(lane: HeadConfig) -> torch.Tensor:
    return rates(lane.own.modality_dropout)


def _scaled(head: FusionHead, batch: FeatureBatch) -> dict[str, torch.Tensor]:
    """Standardised once and not in every step."""
    known = [name for name in MODALITIES if name in head.project and name in batch.features]
    return {name: head.scaled(batch, name, batch.present_BM[:, MODALITIES.index(name)]) for name in known}
