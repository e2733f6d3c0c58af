"""Settings of the fusion head for a small corpus, chosen in inner folds of the clips that it is then trained on.

A validation split of a few dozen clips chooses by chance, and its clips are lost to training. In inner folds, which no
speaker or dialogue crosses, every clip is judged once by heads that have not seen it; then all of them are trained on.

What is searched is what was seen to matter on small tables (docs/small-corpora.md): the width of the head, dropout, and
the number of epochs. Learning rate, weight decay and label smoothing stay as the recipe has them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from emo_ray.config import Config, override
from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data import folding
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.models.fusion import FusionHead, feature_rates, scalings
from emo_ray.models.head_average import Head, together
from emo_ray.training import classical_heads
from emo_ray.training.divergence import diverged
from emo_ray.training.head_stacks import Heads
from emo_ray.training.metrics import counts, objective, validation_metrics
from emo_ray.training.scoring import shown_only
from emo_ray.training.stacked_clips import Clips
from emo_ray.training.stacked_heads import Epoch, HeadConfig

_WIDER = 3  # times fusion.hidden
_MORE_DROPOUT = 0.6
Judged = tuple[np.ndarray, float, torch.Tensor] | None  # counts_SKK, loss sum, logits_BK; None where training diverged
Curves = list[list[Judged]]  # of each candidate, of each epoch
Folds = tuple[list[Clips], list[list[str]], list[Fusion], Config, Sequence[str]]  # what `curves` takes
Run = Callable[[Callable[..., list[Curves]], Sequence[Folds]], Iterable[list[Curves]]]


@dataclass(frozen=True)
class OutOfFold:
    """What one head with the chosen settings takes each clip for in the inner fold that leaves it out."""

    clip_ids: tuple[str, ...]
    label_B: np.ndarray  # int64
    probability_BK: np.ndarray  # float32, shown all modalities that the clip has


@dataclass(frozen=True)
class Choice:
    """What is best in the inner folds: the config, the number of epochs, and their metrics on the clips left out."""

    config: Config
    epochs: int
    metrics: dict[str, float]
    candidates: int
    out_of_fold: OutOfFold = field(compare=False)

    @property
    def settings(self) -> str:
        """What was chosen, in a few words."""
        settings = self.config.fusion
        if settings.is_classical:
            return f"the regularisation of fusion.kind={settings.kind}"
        searched = f"hidden {settings.hidden}, dropout {settings.dropout:g}, " if self.candidates > 1 else ""
        return f"{searched}{self.epochs} of {self.config.train.epochs} epochs"

    @property
    def note(self) -> str:
        """A sentence for reports on a model that is trained with it."""
        value = 100 * objective(self.metrics, self.config.train.objective)
        return (
            f"{INNER_FOLDS} inner folds chose {self.settings} ({self.config.train.objective} {value:.1f} there), then "
            "all labelled training and validation clips were trained on"
        )


def candidates(config: Config, searches: bool) -> list[Fusion]:
    """The settings to choose from: those of the config and, where more are searched, a wider head and more dropout."""
    if not searches:
        return [config.fusion]
    settings = config.fusion
    more_dropout: dict[str, Any] = {"dropout": max(settings.dropout, _MORE_DROPOUT)}
    changes: list[dict[str, Any]] = [{}, more_dropout, {"hidden": _WIDER * settings.hidden}]
    return [settings.model_copy(update=change) for change in changes]


def choose(
    batch: FeatureBatch, config: Config, labels: Sequence[str], searches: bool, groups: Sequence[str],
    run: Run | None = None,
) -> Choice:  # fmt: skip
    """The settings with the most of `train.objective` in inner folds of the clips, and of equal ones the least loss.

    The clips all have a label and at least one modality; no fold divides those of one of `groups` (`splits.grouped`).
    `run(curves, folds)` may spread the folds over processes; without it all heads are trained together.
    Raises ValueError where there are too few groups to fold, or every candidate diverges.
    """
    if len(set(groups)) < INNER_FOLDS:
        raise ValueError(
            f"found {len(set(groups))} groups of labelled clips (speakers, dialogues or recordings) for {INNER_FOLDS} "
            "inner folds, expected as many: set train.refit=false and fusion.auto=false, or leave speakers unread with "
            "data.columns.speaker=null"
        )
    fold_B = folding.best_folds(batch.label_B.tolist(), groups, INNER_FOLDS, config.seed)
    settings = candidates(config, searches)
    masks = [torch.from_numpy(fold_B == fold) for fold in range(INNER_FOLDS)]
    folds = [Clips(batch.rows(~mask_B), batch.rows(mask_B)) for mask_B in masks]
    outside = [_outside(groups, mask_B) for mask_B in masks]
    if run is None:
        of_folds = curves(folds, outside, settings, config, labels)
    else:
        alone = [([fold], [groups_T], settings, config, labels) for fold, groups_T in zip(folds, outside, strict=True)]
        of_folds = [of_fold for (of_fold,) in run(curves, alone)]
    best: tuple[tuple[float, float], int, int, dict[str, float]] | None = None
    for c in range(len(settings)):
        for epoch in range(len(of_folds[0][c])):
            results = [of_fold[c][epoch] for of_fold in of_folds]
            if any(result is None for result in results):
                break
            metrics = validation_metrics(
                np.sum([fold[0] for fold in results if fold], axis=0),
                sum(fold[1] for fold in results if fold),
                tuple(SUBSETS),
            )
            score = objective(metrics, config.train.objective), -metrics["val_loss"]
            if best is None or score > best[0]:
                best = score, c, epoch, metrics
    if best is None:
        raise ValueError(diverged("fusion", config.fusion.lr, 0))
    _, c, epoch, metrics = best
    changes = {"fusion.hidden": settings[c].hidden, "fusion.dropout": settings[c].dropout}
    out_of_fold = _out_of_fold(batch, masks, [of_fold[c][epoch] for of_fold in of_folds])
    return Choice(override(config, changes), epoch + 1, metrics, len(settings), out_of_fold)


def _out_of_fold(batch: FeatureBatch, masks: Sequence[torch.Tensor], results: Sequence[Judged]) -> OutOfFold:
    """The probabilities of the clips from the folds that leave them out, in the order of the batch."""
    logits_BK = torch.cat([fold[2] for fold in results if fold])
    probability_BK = torch.empty_like(logits_BK)
    probability_BK[torch.cat([mask_B.nonzero().flatten() for mask_B in masks])] = logits_BK.softmax(dim=-1)
    return OutOfFold(batch.clip_ids, batch.label_B.numpy(), probability_BK.numpy())


def fit_average(train: FeatureBatch, config: Config, labels: Sequence[str], epochs: int | None = None) -> Head:
    """`train.heads` heads of as many seeds that are trained on these clips, as one, in evaluation mode.

    They are trained for so many `epochs` (default: all) of `train.epochs`. Raises ValueError where one diverges.
    """
    seeds = [config.seed + number for number in range(config.train.averaged_heads(len(train)))]
    heads = _fresh([config.fusion] * len(seeds), seeds, train, len(labels))
    head_configs = [HeadConfig(config.fusion, seed, labels) for seed in seeds]
    trained = Heads(heads, head_configs, [Clips(train, None)], config.train.epochs)
    for epoch in range(epochs or config.train.epochs):
        if not all(result.is_finite for result in trained.epoch(None)):
            raise ValueError(diverged("fusion", config.fusion.lr, epoch))
    for place, head in enumerate(heads):
        head.load_state_dict(head.state_dict() | trained.state(place))
    return together(heads).eval()


def curves(
    folds: Sequence[Clips], groups: Sequence[Sequence[str]], settings: Sequence[Fusion], config: Config,
    labels: Sequence[str],
) -> list[Curves]:  # fmt: skip
    """For each fold each candidate's confusion counts, loss and logits on its validation clips after every epoch.

    `groups` are those of the training clips of each fold, of which the folds of a classical head divide none; such a
    head has a single epoch.
    """
    classes = len(labels)
    if config.fusion.is_classical:
        return [[[_judged_classical(fold, config, classes, names)]] for fold, names in zip(folds, groups, strict=True)]
    heads: list[FusionHead] = []
    for fold in folds:
        heads += _fresh(settings, [config.seed] * len(settings), fold.train, classes)
    head_configs = [
        HeadConfig(candidate, config.seed, labels, fold) for fold in range(len(folds)) for candidate in settings
    ]
    trained = Heads(heads, head_configs, folds, config.train.epochs)
    epochs = [trained.epoch() for _ in range(config.train.epochs)]
    of_heads = [[_judged(epoch) for epoch in each] for each in zip(*epochs, strict=True)]
    return [of_heads[first : first + len(settings)] for first in range(0, len(of_heads), len(settings))]


def _judged_classical(fold: Clips, config: Config, classes: int, groups: Sequence[str]) -> Judged:
    assert fold.validation is not None, "an inner fold leaves clips out"
    return judged(classical_heads.fit(fold.train, config, classes, groups), fold.validation, classes)


@torch.inference_mode()
def judged(head: Head, tested: FeatureBatch, classes: int) -> tuple[np.ndarray, float, torch.Tensor]:
    """A head's confusion counts and loss as `validation_metrics` takes them, and its logits (B, K).

    Each subset is measured on the clips that have all of it, the loss is of clips that are shown all they have.
    """
    logits_BK = head(tested).logits_BK
    label_B = tested.label_B.numpy()
    tables = [counts(logits_BK.argmax(dim=1).numpy(), label_B, classes)]
    for names in SUBSETS.values():
        rows = tested.places_with(names)
        tables.append(counts(shown_only(head, tested, names)[rows].argmax(axis=1), label_B[rows], classes))
    loss_sum = F.cross_entropy(logits_BK, tested.label_B, reduction="sum")
    return np.stack(tables), float(loss_sum), logits_BK


def _fresh(
    settings: Sequence[Fusion], seeds: Sequence[int], train: FeatureBatch, classes: int
) -> list[FusionHead]:  # fmt: skip
    scaling_of = scalings(train)
    rates_of = feature_rates(train, settings[0].feature_dropout)
    heads = []
    with torch.random.fork_rng(devices=[]):
        for candidate, seed in zip(settings, seeds, strict=True):
            torch.manual_seed(seed)
            heads.append(FusionHead(candidate, scaling_of, classes, rates_of))
    return heads


def _judged(epoch: Epoch) -> Judged:
    if not epoch.is_finite:
        return None
    assert epoch.counts_SKK is not None, "a fold has clips to be judged on"
    assert epoch.logits_BK is not None, "a fold has clips to be judged on"
    return epoch.counts_SKK, epoch.loss_sum, epoch.logits_BK


def _outside(groups: Sequence[str], mask_B: torch.Tensor) -> list[str]:
    return [group for group, is_tested in zip(groups, mask_B.tolist(), strict=True) if not is_tested]
