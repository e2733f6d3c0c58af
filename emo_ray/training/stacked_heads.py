"""Many fusion heads trained at once, each exactly as the loop would train it alone.

A head is tiny, and a training step of it is all overhead. Heads of the same shape share batched matrix products; each
keeps its own clips, seed, rates and learning rate, and may be taken out after any epoch. All parameters of a head lie
in one row of a matrix (T, P), so that the gradient norm and AdamW pass over it once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.models.fusion import FusionHead, rates
from emo_ray.training import stacked_adamw as adamw
from emo_ray.training.in_memory import chunks
from emo_ray.training.loss import class_weights, logit_shift, losses
from emo_ray.training.metrics import counts
from emo_ray.training.optimizer import learning_rate_factor
from emo_ray.training.stacked_forward import classify, read_neighbours, stack, stacked, transposed_weight
from emo_ray.training.stacked_rows import Clips, Epochs, Lane, NearRows, Step, TrainingClips
from emo_ray.training.stacked_trunk import backward, fused
from emo_ray.training.stacked_validation import ValidationPart

# Heads that are trained together must agree on these fields of `fusion`; all others may differ.
SHARED_FIELDS = ("hidden", "feature_dropout", "batch_size", "passes_per_epoch", "start_from", "context", "sampling")
_PIECES = ("project", "mix")  # of several parameters: see `stacked_trunk`


@dataclass(frozen=True)
class HeadConfig:
    """How one of the heads is trained."""

    settings: Fusion
    seed: int
    labels: Sequence[str] = ()  # of the classes, for weights by name; by default their numbers
    fold: int = 0  # whose clips it is trained on
    member: int = 0  # its number among the heads of an average, which share seed and fold
    members: int = 1  # how many these are
    # (K,), for classes of different frequency, as `loop.LoopSettings` has them; None: those of the fold's labels
    balance: tuple[torch.Tensor | None, torch.Tensor | None] | None = None


class Epoch(NamedTuple):
    """The results of one head's epoch."""

    train_loss: float
    is_finite: bool  # whether its loss, weights and logits are numbers; the loop would end training where they are not
    counts_SKK: np.ndarray | None = None  # as `metrics.validation_metrics` takes them; None where nothing is validated
    loss_sum: float = 0.0  # of the validation clips, as it takes it
    logits_BK: torch.Tensor | None = None  # of the validation clips, shown what they have


class StackedHeads:
    """T heads that are trained together. Raises ValueError where they differ in shape."""

    def __init__(
        self, heads: Sequence[FusionHead], configs: Sequence[HeadConfig], folds: Sequence[Clips], epochs: int,
        clips: TrainingClips | None = None, head_of: Mapping[int, FusionHead] | None = None,
    ):  # fmt: skip
        _check_same_shape(configs)
        self.configs, self.folds, self.epochs, self.epochs_done = list(configs), folds, epochs, 0
        self.steps_taken_T = [0] * len(configs)  # by AdamW
        self.head_of = head_of or {config.fold: head for config, head in zip(configs, heads, strict=True)}
        self.clips = clips or TrainingClips(folds, self.head_of, configs[0].settings, torch.device("cpu"))
        self.device, self.classes = self.clips.present_CM.device, heads[0].classify.out_features
        self.validation: dict[int, list[ValidationPart]] = {}  # by fold
        parameters = {name: value.to(self.device) for name, value in stack(heads).items()}
        # A warm-started head may know modalities that no clip here has: their projections stay as they are.
        idle = tuple(f"project.{name}." for name in MODALITIES if name not in self.clips.features)
        self.idle = {name: parameters.pop(name) for name in list(parameters) if name.startswith(idle)}
        # Matrices come first: they alone decay.
        matrices_first = sorted(parameters, key=lambda name: (-parameters[name].ndim, *_order(name)))
        self.shapes = {name: parameters[name].shape[1:] for name in matrices_first}
        self.decaying = sum(shape.numel() for shape in self.shapes.values() if len(shape) > 1)
        self.flat_TP = self._flat(parameters)
        self.moments_TP = [torch.zeros_like(self.flat_TP) for _ in range(2)]
        self._prepare()

    def select(self, places: Sequence[int]) -> None:
        """Keep some of the heads alone: their places, in order."""
        index = torch.tensor(places, device=self.device)
        self.configs = [self.configs[i] for i in places]
        self.steps_taken_T = [self.steps_taken_T[i] for i in places]
        self.flat_TP = self.flat_TP[index]
        self.moments_TP = [moment_TP[index] for moment_TP in self.moments_TP]
        self.idle = {name: value[index] for name, value in self.idle.items()}
        self._prepare()

    def state(self, place: int) -> dict[str, torch.Tensor]:
        """A copy of the parameters of one head, by the names that `FusionHead` gives them."""
        return _of_head(self.tensors, place)

    def moments(self, place: int) -> list[dict[str, torch.Tensor]]:
        """A copy of AdamW's two moments of one head, by the names of the parameters that are trained."""
        return [_of_head(self._views(moment_TP), place) for moment_TP in self.moments_TP]

    def resume(
        self, epochs: int, steps_taken: int, moments: Sequence[Sequence[Mapping[str, torch.Tensor]]]
    ) -> None:  # fmt: skip
        """Continue a run that has finished so many `epochs`.

        AdamW had taken `steps_taken` steps when the last of them ended. `moments` holds its first moments of all heads,
        then its second moments, by the names of the parameters.
        """
        self.epochs_done, self.steps_taken_T = epochs, [steps_taken] * len(self.configs)
        self.moments_TP = [self._flat(stacked(moment_T)).to(self.device) for moment_T in moments]

    def steps(self, after: int = 0) -> Iterator[tuple[torch.Tensor, Step]]:
        """Train every head for its next epoch, and yield the loss_T of each step; steps up to `after` are left out."""
        schedule = self._schedule()
        for number, step in enumerate(self.batches.steps(self.epochs_done, self.rate_TR)):
            if number >= after:
                loss_T = self._gradients(step)
                self._update(schedule, number)
                yield loss_T, step
        self.epochs_done += 1
        self.steps_taken_T = [taken + steps for taken, steps in zip(self.steps_taken_T, self.steps_T, strict=True)]

    def epoch(self, subsets: Sequence[str] | None = tuple(SUBSETS)) -> list[Epoch]:
        """Train every head for its next epoch, and validate it on `subsets` of the modalities; None: not at all."""
        total_T = torch.zeros(len(self.configs), device=self.device)
        for loss_T, step in self.steps():
            total_T += loss_T * step.clips_T
        finite_T = total_T.isfinite() & self.flat_TP.isfinite().all(dim=1)
        passes = self.configs[0].settings.passes_per_epoch
        clips_seen_T = [self.clips.clips_of[config.fold] * passes for config in self.configs]
        losses_T = [total / clips for total, clips in zip(total_T.tolist(), clips_seen_T, strict=True)]
        epochs_T = [Epoch(*values) for values in zip(losses_T, finite_T.tolist(), strict=True)]
        for fold in sorted({config.fold for config in self.configs}) if subsets is not None else ():
            if self.folds[fold].validation is None:
                continue
            places = [i for i, config in enumerate(self.configs) if config.fold == fold]
            for place, validated in zip(places, self._validate(fold, places, subsets or ()), strict=True):
                is_finite = epochs_T[place].is_finite and validated.is_finite
                epochs_T[place] = validated._replace(train_loss=epochs_T[place].train_loss, is_finite=is_finite)
        return epochs_T

    def _prepare(self) -> None:
        """Derive what depends on the heads at hand: views of the flat parameters by name, and settings as tensors."""
        self.grad_TP = torch.zeros_like(self.flat_TP)
        self.tensors, self.gradients = self._views(self.flat_TP) | self.idle, self._views(self.grad_TP)
        settings_T = [config.settings for config in self.configs]
        lanes = [Lane(config.fold, config.seed, config.member, config.members) for config in self.configs]
        self.batches = Epochs(self.clips, lanes, settings_T[0], self.head_of)
        self.steps_T = [self.batches.steps_of[config.fold] for config in self.configs]
        self.max_norm_T1 = self._column([settings.grad_clip_norm for settings in settings_T])
        self.dropout_T11 = self._column([settings.dropout for settings in settings_T])[..., None]
        self.smoothing_T11 = self._column([settings.label_smoothing for settings in settings_T])[..., None]
        self.rate_TR = torch.stack([rates(settings.modality_dropout) for settings in settings_T]).to(self.device)
        weights, shifts = zip(*(self._balance(config) for config in self.configs), strict=True)
        self.class_weight_T1K = torch.stack(weights).to(self.device)[:, None]
        self.logit_shift_T1K = torch.stack(shifts).to(self.device)[:, None]

    def _flat(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The trained parameters of T heads, or what is of their shapes, as rows (T, P)."""
        return torch.cat([tensors[name].flatten(1) for name in self.shapes], dim=1)

    def _column(self, values: Sequence[float]) -> torch.Tensor:
        return torch.tensor(values, device=self.device)[:, None]

    def _views(self, flat_TP: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parameters by name, and the vectors of all projections and of the mix in one piece each."""
        parts = flat_TP.split([shape.numel() for shape in self.shapes.values()], dim=1)
        views = {name: part.view(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        vectors_TV = flat_TP[:, self.decaying :]
        projections, hidden = 3 * len(self.clips.features), views["absent_MH"].shape[-1]
        shape = 3, len(self.clips.features), hidden
        views["project"] = vectors_TV[:, : projections * hidden].unflatten(1, shape).permute(1, 2, 0, 3)
        mix_TV = vectors_TV[:, projections * hidden : (projections + 3) * hidden]
        views["mix"] = mix_TV.unflatten(1, (3, hidden)).transpose(0, 1)
        return views

    def _balance(self, config: HeadConfig) -> tuple[torch.Tensor, torch.Tensor]:
        """The class weights and the logits' shift (K,) of a head."""
        train, classes = self.folds[config.fold].train, self.classes
        if config.balance is not None:
            weight_K, shift_K = config.balance
        else:
            weight_B = None if train.soft is None else train.soft.weight_B
            labels = config.labels or tuple(map(str, range(classes)))
            weight_K = class_weights(config.settings, train.label_B, labels, weight_B)
            shift_K = logit_shift(config.settings, train.label_B, classes, weight_B)
        return (
            torch.ones(classes) if weight_K is None else weight_K,
            torch.zeros(classes) if shift_K is None else shift_K,
        )

    @torch.no_grad()
    def _gradients(self, step: Step) -> torch.Tensor:
        """Put the gradients of all heads into grad_TP; the loss of each (T,)."""
        fused_TRH, passed = fused(self.tensors, step.rows, self.dropout_T11)
        window = None if step.near is None else _Window(self, step.near, fused_TRH)
        read_TRH = fused_TRH if window is None else window.read_TRH.detach()
        logits_TRK = classify(self.tensors, read_TRH) + self.logit_shift_T1K
        weighed = step.weight_TR, self.smoothing_T11, self.class_weight_T1K
        loss_T, grad_TRK = losses(logits_TRK, step.target_TRK, *weighed)
        torch.sum(grad_TRK, dim=1, out=self.gradients["classify.bias"])
        self.gradients["classify.weight"].copy_(torch.bmm(read_TRH.mT, grad_TRK))
        grad_TRH = torch.bmm(grad_TRK, self.tensors["classify.weight"].mT)
        if window is not None:
            grad_TRH = window.backward(grad_TRH)
        backward(self.tensors, self.gradients, passed, grad_TRH, self.dropout_T11)
        if window is not None:
            window.backward_near()
        return loss_T

    def _schedule(self) -> adamw.Schedule:
        """The learning rates of the next epoch's steps."""
        rates_TS: list[list[float | None]] = []
        for config, steps in zip(self.configs, self.steps_T, strict=True):
            settings, first = config.settings, self.epochs_done * steps
            progress = [(first + number + 1) / (steps * self.epochs) for number in range(steps)]
            rates_S = [settings.lr * learning_rate_factor(done, settings.warmup_fraction) for done in progress]
            rates_TS.append([*rates_S, *[None] * (max(self.steps_T) - steps)])
        decays_T = [config.settings.weight_decay for config in self.configs]
        return adamw.Schedule(rates_TS, self.steps_taken_T, decays_T, self.device)

    @torch.no_grad()
    def _update(self, schedule: adamw.Schedule, number: int) -> None:
        """Clip the gradients and take AdamW's step, as the loop does; `number` is that of the step in its epoch."""
        norm_T1 = torch.linalg.vector_norm(self.grad_TP, dim=1, keepdim=True)
        clip_T1 = (self.max_norm_T1 / (norm_T1 + 1e-6)).clamp(max=1.0)
        adamw.step(schedule, number, self.flat_TP, self.grad_TP, self.moments_TP, clip_T1, self.decaying)

    @torch.no_grad()
    def _validate(self, fold: int, places: Sequence[int], subsets: Sequence[str]) -> list[Epoch]:
        """What the heads of a fold say of its validation clips: confusion counts and loss as the loop takes them."""
        validation = self.folds[fold].validation
        assert validation is not None, "the caller looks"
        if fold not in self.validation:
            head = self.head_of[fold]
            self.validation[fold] = [ValidationPart.of(head, part, self.device) for part in chunks(validation)]
        tensors = self.tensors
        if len(places) < len(self.configs):
            index = torch.tensor(places, device=self.device)
            tensors = self._views(self.flat_TP[index]) | {name: value[index] for name, value in self.idle.items()}
        shapes = 1 + len(SUBSETS), self.classes, self.classes
        total, shown = np.zeros((len(places), *shapes), np.int64), []
        loss_T, finite_T = (torch.zeros(len(places)), torch.ones(len(places), dtype=torch.bool))
        names = [name for name in SUBSETS if name in subsets or SUBSETS[name] == MODALITIES]
        for part in self.validation[fold]:
            logits_of = dict(zip(names, part.logits(tensors, [SUBSETS[name] for name in names]), strict=True))
            # With all three modalities shown, a clip is shown whatever it has: that is the count of every clip.
            shown.append(logits_of[names[-1]])
            total[:, 0] += _counts(shown[-1], part.clips.label_B, self.classes)
            loss_T -= shown[-1].log_softmax(dim=-1)[:, torch.arange(len(part.clips)), part.clips.label_B].sum(dim=1)
            for name, logits_TBK in logits_of.items():
                finite_T &= logits_TBK.isfinite().all(dim=-1).all(dim=-1)
                if name in subsets:
                    rows = part.clips.places_with(SUBSETS[name])
                    place = 1 + list(SUBSETS).index(name)
                    total[:, place] += _counts(logits_TBK[:, rows], part.clips.label_B[rows], self.classes)
        logits_TBK = torch.cat(shown, dim=1)
        return [
            Epoch(0.0, bool(is_finite), counts_SKK, loss, logits_BK)
            for is_finite, counts_SKK, loss, logits_BK in zip(finite_T, total, loss_T.tolist(), logits_TBK, strict=True)
        ]


class _Window:
    """A step's clips with what their neighbours add, and the way back: the one part that autograd does."""

    def __init__(self, heads: StackedHeads, near: NearRows, fused_TRH: torch.Tensor):
        self.heads = heads
        near_TXH, self.passed = fused(heads.tensors, near.rows, heads.dropout_T11)
        self.names = [name for name in heads.shapes if name.startswith("neighbours.")]
        with torch.enable_grad():
            leaves = [values.detach().requires_grad_() for values in (fused_TRH, near_TXH)]
            parameters = {name: heads.tensors[name].detach().requires_grad_() for name in self.names}
            near_TRNH = leaves[1].unflatten(1, near.usable_TRN.shape[1:])
            self.read_TRH = read_neighbours(parameters, leaves[0], near_TRNH, near.speaker_TRN, near.usable_TRN)
        self.leaves = [*leaves, *parameters.values()]

    def backward(self, grad_TRH: torch.Tensor) -> torch.Tensor:
        """The gradient of the clips alone; those of the neighbours are kept for `backward_near`."""
        fused_grad_TRH, self.near_grad_TXH, *grads = torch.autograd.grad(self.read_TRH, self.leaves, grad_TRH)
        for name, grad in zip(self.names, grads, strict=True):
            self.heads.gradients[name].copy_(grad)
        return fused_grad_TRH

    def backward_near(self) -> None:
        """Add the neighbours' share of the gradients."""
        tensors, gradients = self.heads.tensors, self.heads.gradients
        backward(tensors, gradients, self.passed, self.near_grad_TXH, self.heads.dropout_T11, beta=1.0)


def _of_head(tensors: Mapping[str, torch.Tensor], place: int) -> dict[str, torch.Tensor]:
    """A copy of what is one head's, on the CPU, as `FusionHead` lays it out.

    AdamW's fused step takes it for granted that moments lie in memory as their parameters do.
    """
    return {
        name: transposed_weight(name, value[place]).cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
        if name not in _PIECES
    }


def _order(name: str) -> tuple:
    """Where a parameter lies: vectors of projections first, then of the mix, each kind of vector by modality."""
    first, _, rest = name.partition(".")
    if first == "project":
        modality, _, vector = rest.partition(".")
        return 0, vector, MODALITIES.index(modality)
    return 1 if first == "mix" else 2, rest, first


def _check_same_shape(configs: Sequence[HeadConfig]) -> None:
    first = configs[0].settings
    for config in configs:
        differing = [name for name in SHARED_FIELDS if getattr(config.settings, name) != getattr(first, name)]
        if rates(config.settings.modality_dropout).shape != rates(first.modality_dropout).shape:
            differing.append("modality_dropout")
        if differing:
            raise ValueError(f"found heads that differ in fusion.{differing[0]}, expected the same for all of them")
        assert config.members == configs[0].members, "averages of as many heads"


def _counts(logits_TBK: torch.Tensor, label_B: torch.Tensor, classes: int) -> np.ndarray:
    """Confusion counts (T, K, K)."""
    return counts(logits_TBK.argmax(dim=-1).numpy(), label_B.numpy(), classes)
