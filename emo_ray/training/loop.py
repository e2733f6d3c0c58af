"""The only training loop. It knows a reporter, but neither Ray nor MLflow.

An epoch or step may run twice, when a crash comes after its report and before the report is committed. So it depends on
nothing but the state before it, the seed and its number.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from emo_ray.config.model_settings import MODALITIES, SUBSETS, Optimisation
from emo_ray.data.batch import Batch, BatchT
from emo_ray.models.head_average import members
from emo_ray.models.trainable_state import cast_frozen, is_finite, trained_state
from emo_ray.training.divergence import diverged
from emo_ray.training.loss import divisor, loss, mass
from emo_ray.training.metrics import counts, objective, validation_metrics
from emo_ray.training.optimizer import optimizer_of, set_rates
from emo_ray.training.run_state import RunState
from emo_ray.training.wait_timer import WaitTimer
from emo_ray.training.weight_average import WeightAverage

TIMES = ("train_clips_per_s", "train_waited")  # metrics of speed, which differ from run to run


class Reporter(Protocol):
    """How the loop reports and restores: this alone differs between plain Python, Ray Train workers and Tune trials."""

    rank: int
    world_size: int

    def restore(self) -> Path | None:
        """A folder that an earlier `report` was given, or None at the start."""

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Take an epoch's metrics and, on rank 0, the folder with its state. Every rank calls it."""

    def keep(self, state: Path | None) -> None:
        """Take, on rank 0, the folder with the state inside an epoch. Every rank calls it."""

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Take note of a finished step, counted from 1."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in rank order, on every rank."""


class PlainReporter:
    """The reporter of one process without Ray: it keeps the metrics and restores nothing."""

    rank, world_size = 0, 1

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []

    def restore(self) -> Path | None:
        """None: training starts from the beginning."""
        return None

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Append the metrics to `history`."""
        self.history.append(metrics)

    def keep(self, state: Path | None) -> None:
        """Ignore the state."""

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Ignore the step."""

    def gather(self, value: Any) -> list[Any]:
        """The value of the only rank."""
        return [value]


@dataclass(frozen=True)
class LoopSettings:
    """The settings of a training run."""

    optimisation: Optimisation
    epochs: int
    steps_per_epoch: int  # for the learning-rate schedule
    seed: int
    bf16: bool = False
    class_weight_K: torch.Tensor | None = None
    subsets: bool = False  # also validate with every subset of the modalities
    section: str = "fusion"  # of the config that holds `optimisation`, for messages
    objective: str = "available/waf"  # what the best epoch has most of, as `tune.objective` says it
    stop_after: int | None = None  # epochs; the learning rate falls as if there were `epochs` of them
    augment: Callable[[Any, int], Batch] | None = None  # (batch on the device, epoch) -> what is trained on instead
    ema: float = 0.0  # decay of the moving average of the weights that is validated and kept; 0: the weights themselves
    logit_shift_K: torch.Tensor | None = None  # see `loss.logit_shift`
    save_every: int | None = None  # steps, after which the state inside the epoch is kept


Batches = Callable[[int], Iterable[Batch]]  # epoch -> a fresh pass over this rank's batches
TrainBatches = Callable[[int, int], Iterable[Batch]]  # (epoch, steps) -> this rank's batches after the first so many
# Trains the epoch that is under way, or what is left of it; its metrics are over the clips of all ranks.
TrainEpoch = Callable[[nn.Module, LoopSettings, RunState, Reporter], dict[str, float]]


def fit(
    model: nn.Module, train: TrainBatches, validation: Batches, settings: LoopSettings, reporter: Reporter
) -> dict[str, Any]:
    """Train a model batch by batch, and return its best epoch: see `fit_epochs`."""
    return fit_epochs(model, by_steps(train), validation, settings, reporter)


def fit_epochs(
    model: nn.Module, train: TrainEpoch, validation: Batches, settings: LoopSettings, reporter: Reporter
) -> dict[str, Any]:
    """Train a model, and return its best epoch by the objective as `{score, epoch, metrics, model}`.

    Of equally good epochs the one with the lower validation loss is taken; without validation clips the last. `model`
    may be wrapped in DDP. `validation` gives each rank its share of the validation clips. State is reported after every
    epoch, and kept every `settings.save_every` steps; a restored run goes on from there.

    An epoch after which the loss, a weight or a logit is not finite is not reported and ends training, so that the last
    state reported is a good one (see `divergence`); one that is kept inside an epoch need not be. Raises ValueError
    where that is the first epoch.
    """
    device = next(model.parameters()).device
    bare = getattr(model, "module", model)
    optimizer = optimizer_of(bare, settings.optimisation, device)
    if settings.bf16:
        cast_frozen(bare, torch.bfloat16)
    average = WeightAverage(bare, optimizer, settings.ema) if settings.ema else None
    state = RunState(bare, optimizer, average, reporter.rank, reporter.world_size)
    if (restored := reporter.restore()) is not None:
        state.restore(restored)
    for epoch in range(state.epoch, settings.stop_after or settings.epochs):
        state.epoch = epoch
        with state.epoch_under_way(settings.seed):
            metrics = train(model, settings, state, reporter)
        with average.applied() if average else nullcontext():
            validated = _validate(bare, validation(epoch), reporter, settings)
            judged = trained_state(bare)
        if validated is None or not (math.isfinite(metrics["train_loss"]) and is_finite(bare)):
            if state.best is None:
                raise ValueError(diverged(settings.section, settings.optimisation.lr, epoch))
            break
        metrics |= validated
        score = _score(metrics, settings.objective, epoch)
        if state.best is None or score > tuple(state.best["score"]):
            state.best = {"score": list(score), "epoch": epoch, "metrics": dict(metrics), "model": judged}
        metrics |= {"epoch": epoch, "best_epoch": state.best["epoch"]}
        with state.written(trained_state(bare) if average else judged) as folder:
            reporter.report(metrics, folder)
    assert state.best is not None, "there is at least one epoch"
    return state.best


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, K) and labels (n,) over batches, in evaluation mode.

    Raises ValueError where a probability is not finite.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    probabilities, labels = [], []
    for batch in batches:
        output = model(batch.to(device))
        probabilities.append(output.probabilities_BK(batch.clip_ids).cpu().numpy())
        labels.append(batch.label_B.cpu().numpy())
    model.train(was_training)
    if not probabilities:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(probabilities), np.concatenate(labels)


def by_steps(train: TrainBatches) -> TrainEpoch:
    """Epochs of a step for each of this rank's batches."""
    return partial(_train_epoch, train)


def _train_epoch(
    train: TrainBatches, model: nn.Module, settings: LoopSettings, state: RunState, reporter: Reporter
) -> dict[str, float]:
    model.train()
    optimisation, epoch, sums = settings.optimisation, state.epoch, state.sums
    weight_K = None if settings.class_weight_K is None else settings.class_weight_K.to(state.device)
    parts = members(state.model)
    losses = len(members(getattr(state.model, "head", state.model)))  # that are summed: in a joint model its heads'
    begun_s = time.perf_counter() - sums.seconds
    timer = WaitTimer(train(epoch, sums.steps), sums.waited_s)
    for batch in timer:
        batch = batch.to(state.device)
        if settings.augment:
            batch = settings.augment(batch, epoch)
        progress = (epoch + min(1.0, (sums.steps + 1) / settings.steps_per_epoch)) / settings.epochs
        set_rates(state.optimizer, progress, optimisation.warmup_fraction)
        state.optimizer.zero_grad(set_to_none=True)
        value = _backward(model, batch, settings, weight_K)
        for part in parts:
            trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
            nn.utils.clip_grad_norm_(trained, optimisation.grad_clip_norm)
        state.optimizer.step()
        sums.add(value, len(batch))
        reporter.progress(epoch, sums.steps, settings.steps_per_epoch)
        if settings.save_every and sums.steps % settings.save_every == 0:
            sums.seconds, sums.waited_s = time.perf_counter() - begun_s, timer.seconds
            with state.written(trained_state(state.model), reporter.gather(state.share())) as folder:
                reporter.keep(folder)
    if not sums.steps:
        raise ValueError(f"epoch {epoch}: found no training batches, expected at least one per worker")
    totals = reporter.gather((float(sums.loss), sums.clips))
    duration_s, clips = time.perf_counter() - begun_s, sum(n for _, n in totals)
    return {
        "train_loss": sum(t for t, _ in totals) / clips / losses,
        "train_clips": clips,
        "train_clips_per_s": clips / duration_s,
        "train_waited": timer.seconds / duration_s,  # share of the time in which this rank had no batch to work on
    }


def _backward(
    model: nn.Module, batch: Batch, settings: LoopSettings, class_weight_K: torch.Tensor | None
) -> torch.Tensor:
    """Accumulate the gradients of a batch's loss, micro-batch by micro-batch, and return the loss.

    The mean over the batch is the sum of the micro-batches' means, each weighted by its share of the batch's mass. The
    same holds for the shares of several workers, whose gradients DDP averages without weights.
    """
    optimisation, device = settings.optimisation, batch.label_B.device
    size = optimisation.micro_batch_size or len(batch)
    parts = [batch] if size >= len(batch) else [batch.rows(i) for i in torch.arange(len(batch)).split(size)]
    total, whole = torch.zeros((), device=device), mass(batch, class_weight_K)
    logit_shift_K = None if settings.logit_shift_K is None else settings.logit_shift_K.to(device)
    ddp = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
    weighted = len(parts) > 1
    if ddp is not None and (class_weight_K is not None or batch.soft is not None):
        # Otherwise the workers' shares, which have equally many clips, also have the same mass.
        torch.distributed.all_reduce(whole, group=ddp.process_group)
        whole = whole / torch.distributed.get_world_size(ddp.process_group)
        weighted = True
    for i, part in enumerate(parts):
        # DDP adds up the workers' gradients in the last pass only.
        with ddp.no_sync() if ddp is not None and i < len(parts) - 1 else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
                output = model(part)
            losses = loss(output, part, optimisation.label_smoothing, class_weight_K, logit_shift_K)
            value = reduce(torch.add, losses.values())
            if weighted:
                value = value * (mass(part, class_weight_K) / divisor(whole))
            value.backward()
        total += value.detach()
    return total


def _validate(
    model: nn.Module, batches: Iterable[Batch], reporter: Reporter, settings: LoopSettings
) -> dict[str, float] | None:
    """The metrics of the validation clips of all ranks; empty without any, None where a logit is not finite."""
    subsets = SUBSETS if settings.subsets else {}
    shares = reporter.gather(_confusion_counts(model, batches, settings.bf16, subsets.values()))
    if any(share is None for share in shares):
        return None
    shares = [(counts_SKK, loss_sum) for counts_SKK, loss_sum in shares if len(counts_SKK)]
    if not shares:
        return {}
    counts_SKK = sum(counts_SKK for counts_SKK, _ in shares)
    return validation_metrics(counts_SKK, sum(loss_sum for _, loss_sum in shares), tuple(subsets))


@torch.inference_mode()
def _confusion_counts(
    model: nn.Module, batches: Iterable[Batch], bf16: bool, subsets: Collection[Sequence[str]]
) -> tuple[np.ndarray, float] | None:
    """Confusion counts (1 + S, K, K) of every clip, then of `only_modalities` for each of S subsets; and a loss.

    The loss is the sum over every clip of its negative log likelihood. The counts are empty without batches; None where
    a logit is not finite, which would count as the first class.
    """
    device, was_training, total = next(model.parameters()).device, model.training, np.zeros(0)
    loss_sum = torch.zeros((), device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    encoded = _encoder(model, bf16)
    model.eval()
    for batch in batches:
        batch = encoded(batch.to(device))
        tables: list[np.ndarray] = []
        for part in (batch, *(only_modalities(batch, names) for names in subsets)):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits_BK = model(part).logits_BK
            finite &= logits_BK.isfinite().all()
            if not tables:
                loss_sum += F.cross_entropy(logits_BK.float(), part.label_B, reduction="sum")
            guess_B, label_B = logits_BK.argmax(dim=1).cpu().numpy(), part.label_B.cpu().numpy()
            tables.append(counts(guess_B, label_B, logits_BK.shape[1]))
        total = np.stack(tables) + (total if len(total) else 0)
    model.train(was_training)
    return (total, float(loss_sum)) if bool(finite) else None


def _encoder(model: nn.Module, bf16: bool) -> Callable[[Any], Any]:
    """What a model makes of a batch once, whichever modalities it is shown of it afterwards: see `JointModel`."""
    encode = getattr(model, "encoded", None)
    if encode is None:
        return lambda batch: batch
    device = next(model.parameters()).device
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)(encode)


def only_modalities(batch: BatchT, names: Sequence[str]) -> BatchT:
    """The clips that have all of these modalities, with all other modalities hidden."""
    shown_M = torch.tensor([name in names for name in MODALITIES], device=batch.present_BM.device)
    has_all_B = batch.present_BM[:, shown_M].all(dim=1)
    return batch.showing(shown_M).rows(has_all_B)


def _score(metrics: Mapping[str, float], name: str, epoch: int) -> tuple[float, float]:
    """What the best epoch has most of: the objective, then the least loss; without validation clips, its number."""
    if "val_loss" not in metrics:
        return float(epoch), 0.0
    return objective(metrics, name), -metrics["val_loss"]
