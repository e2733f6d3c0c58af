"""Many fusion heads trained at once, each exactly as the loop would train it alone.

A head is tiny, and a training step of it by torch's modules is all overhead. On a GPU, heads of the same shape share
batched matrix products; on a CPU compiled code trains one after the other. Each keeps its own clips, seed, rates and
learning rate, and may be taken out after any epoch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.models.fusion import FusionHead, rates
from emo_ray.training.in_memory import chunks
from emo_ray.training.loss import class_weights, logit_shift
from emo_ray.training.metrics import counts
from emo_ray.training.optimizer import learning_rate_factor
from emo_ray.training.stacked_adamw import Schedule
from emo_ray.training.stacked_clips import Clips, Epochs, Lane, TrainingClips
from emo_ray.training.stacked_parameters import StackedParameters, StackedSettings
from emo_ray.training.stacked_steps import StackedSteps
from emo_ray.training.stacked_validation import ValidationPart

if TYPE_CHECKING:
    from emo_ray.training.compiled_heads import CompiledSteps

# Heads that are trained together must agree on these fields of `fusion`; all others may differ.
SHARED_FIELDS = ("hidden", "feature_dropout", "batch_size", "passes_per_epoch", "start_from", "context", "sampling")


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
        self.stack = StackedParameters(heads, tuple(self.clips.features), self.device)
        self._prepare()

    def select(self, places: Sequence[int]) -> None:
        """Keep some of the heads alone: their places, in order."""
        self.configs = [self.configs[i] for i in places]
        self.steps_taken_T = [self.steps_taken_T[i] for i in places]
        self.stack.select(torch.tensor(places, device=self.device))
        self._prepare()

    def state(self, place: int) -> dict[str, torch.Tensor]:
        """A copy of the parameters of one head, by the names that `FusionHead` gives them."""
        return self.stack.of_head(self.stack.tensors(), place)

    def moments(self, place: int) -> list[dict[str, torch.Tensor]]:
        """A copy of AdamW's two moments of one head, by the names of the parameters that are trained."""
        return [self.stack.of_head(self.stack.views(moment_TP), place) for moment_TP in self.stack.moments_TP]

    def resume(
        self, epochs: int, steps_taken: int, moments: Sequence[Sequence[Mapping[str, torch.Tensor]]]
    ) -> None:  # fmt: skip
        """Continue a run that has finished so many `epochs`.

        AdamW had taken `steps_taken` steps when the last of them ended. `moments` holds its first moments of all heads,
        then its second moments, by the names of the parameters.
        """
        self.epochs_done, self.steps_taken_T = epochs, [steps_taken] * len(self.configs)
        self.stack.set_moments(moments)

    def steps(self, after: int = 0, pause_every: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Train every head for its next epoch, and yield the loss_TS and the clips_TS of some steps at a time.

        Steps up to `after` are left out. Heads are never further than what has been yielded, and every multiple of
        `pause_every` steps ends such a part.
        """
        schedule = self._schedule()
        for visits in self.batches.visits(self.epochs_done, self.rate_TR):
            clips_TS, last = visits.rows_ST.T, visits.first + len(visits.rows_ST)
            first = max(after, visits.first)
            while first < last:
                pause = first - first % pause_every + pause_every if pause_every else last
                numbers = range(first, min(pause, last))
                loss_TS = self.trainer.train(visits, numbers, schedule)
                yield loss_TS, clips_TS[:, numbers.start - visits.first : numbers.stop - visits.first]
                first = numbers.stop
        self.epochs_done += 1
        self.steps_taken_T = [taken + steps for taken, steps in zip(self.steps_taken_T, self.steps_T, strict=True)]

    def epoch(self, subsets: Sequence[str] | None = tuple(SUBSETS)) -> list[Epoch]:
        """Train every head for its next epoch, and validate it on `subsets` of the modalities; None: not at all."""
        total_T = torch.zeros(len(self.configs), device=self.device)
        for loss_TS, clips_TS in self.steps():
            total_T += (loss_TS * clips_TS).sum(dim=1)
        finite_T = total_T.isfinite() & self.stack.flat_TP.isfinite().all(dim=1)
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
        """Derive what depends on the heads at hand."""
        settings_T = [config.settings for config in self.configs]
        lanes = [Lane(config.fold, config.seed, config.member, config.members) for config in self.configs]
        self.batches = Epochs(self.clips, lanes, settings_T[0], self.head_of)
        self.steps_T = [self.batches.steps_of[config.fold] for config in self.configs]
        self.rate_TR = torch.stack([rates(settings.modality_dropout) for settings in settings_T]).to(self.device)
        settings = StackedSettings.of(settings_T, [self._balance(config) for config in self.configs], self.device)
        self.trainer = _trainer(self.stack, settings, self.batches)

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

    def _schedule(self) -> Schedule:
        """The learning rates of the next epoch's steps."""
        rates_TS: list[list[float | None]] = []
        for config, steps in zip(self.configs, self.steps_T, strict=True):
            settings, first = config.settings, self.epochs_done * steps
            progress = [(first + number + 1) / (steps * self.epochs) for number in range(steps)]
            rates_S = [settings.lr * learning_rate_factor(done, settings.warmup_fraction) for done in progress]
            rates_TS.append([*rates_S, *[None] * (max(self.steps_T) - steps)])
        decays_T = [config.settings.weight_decay for config in self.configs]
        return Schedule(rates_TS, self.steps_taken_T, decays_T, self.device)

    @torch.no_grad()
    def _validate(self, fold: int, places: Sequence[int], subsets: Sequence[str]) -> list[Epoch]:
        """What the heads of a fold say of its validation clips: confusion counts and loss as the loop takes them."""
        validation = self.folds[fold].validation
        assert validation is not None, "the caller looks"
        if fold not in self.validation:
            head = self.head_of[fold]
            self.validation[fold] = [ValidationPart.of(head, part, self.device) for part in chunks(validation)]
        index = None if len(places) == len(self.configs) else torch.tensor(places, device=self.device)
        tensors = self.stack.tensors(index)
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


def _trainer(stack: StackedParameters, settings: StackedSettings, epochs: Epochs) -> "StackedSteps | CompiledSteps":
    """Compiled steps on a CPU; torch's on a GPU, and for heads with neighbours."""
    if stack.flat_TP.device.type != "cpu" or epochs.clips.near is not None:
        return StackedSteps(stack, settings, epochs)
    from emo_ray.training.compiled_heads import CompiledSteps  # numba takes half a second to import

    return CompiledSteps(stack, settings, epochs)


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
