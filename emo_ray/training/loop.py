"""The only training loop. It knows a reporter, not Ray and not MLflow.

An epoch may be run twice (a report that was made but not committed before a crash), so nothing in it depends on more
than the state before it, the seed and the epoch's number.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from emo_ray.config.model_settings import MODALITIES, SUBSETS, Optimisation
from emo_ray.data.batch import Batch, BatchT
from emo_ray.models.trainable_state import cast_frozen, load_trained, trained_state
from emo_ray.training.loss import loss, mass
from emo_ray.training.metrics import counts, of_counts

STATE = "state.pt"
TIMES = ("train_clips_per_s", "train_waited")  # the metrics that differ from run to run


class Reporter(Protocol):
    """What differs between plain Python, a Ray Train worker and a Tune trial."""

    rank: int
    world_size: int

    def restore(self) -> Path | None:
        """A folder that an earlier `report` was given, or None at the start."""

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Takes an epoch's metrics and, on rank 0, the folder of its state; called by every rank."""

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Called after every step."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank."""


class PlainReporter:
    """For one process without Ray: keeps the metrics, restores nothing."""

    rank, world_size = 0, 1

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []

    def restore(self) -> Path | None:
        """Nothing."""

    def report(self, metrics: dict[str, float], state: Path | None) -> None:
        """Keeps the metrics."""
        self.history.append(metrics)

    def progress(self, epoch: int, step: int, steps: int) -> None:
        """Nothing."""

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]


@dataclass(frozen=True)
class LoopSettings:
    """What a training run is, beside its model and data."""

    optimisation: Optimisation
    epochs: int
    steps_per_epoch: int  # for the learning-rate schedule
    seed: int
    bf16: bool = False
    class_weight_K: torch.Tensor | None = None
    subsets: bool = False  # validate with every subset of the modalities, too


Batches = Callable[[int], Iterable[Batch]]  # epoch -> a fresh pass over this rank's batches


def fit(
    model: nn.Module, train: Batches, validation: Batches, plan: LoopSettings, reporter: Reporter
) -> dict[str, Any]:
    """Train, and return the best epoch by validation WAF (ties: the earlier): `{score, epoch, metrics, model}`.

    `model` may be wrapped in DDP. `validation` gives each rank its share of the validation clips; without any the last
    epoch is the best. State is reported after every epoch; a restored run continues with the next one.
    """
    device = next(model.parameters()).device
    bare = getattr(model, "module", model)
    optimizer = _optimizer(bare, plan.optimisation, device)
    if plan.bf16:
        cast_frozen(bare, torch.bfloat16)
    first, best = _restored(bare, optimizer, reporter.restore())
    for epoch in range(first, plan.epochs):
        with _seeded(plan.seed, epoch, reporter.rank, device):
            measured = _train_epoch(model, optimizer, train(epoch), plan, epoch, reporter)
        measured |= _validate(bare, validation(epoch), reporter, plan)
        score = measured.get("val_waf", float(epoch))
        if best is None or score > best["score"]:
            best = {"score": score, "epoch": epoch, "metrics": dict(measured), "model": trained_state(bare)}
        measured |= {"epoch": epoch, "best_epoch": best["epoch"]}
        with TemporaryDirectory() as folder:
            if reporter.rank == 0:
                state = {
                    "epoch": epoch,
                    "model": trained_state(bare),
                    "optimizer": optimizer.state_dict(),
                    "best": best,
                }
                torch.save(state, Path(folder) / STATE)
            reporter.report(measured, Path(folder) if reporter.rank == 0 else None)
    return best


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """What torch's generators start an epoch with."""
    return hash((seed, epoch, rank)) % 2**63


def load_state(folder: Path) -> dict[str, Any]:
    """The state that `fit` reported, on the CPU."""
    return torch.load(folder / STATE, map_location="cpu", weights_only=True)


def learning_rate_factor(progress: float, warmup_fraction: float) -> float:
    """Linear warm-up, then a half cosine to 0, over progress in [0, 1]."""
    if progress < warmup_fraction:
        return progress / warmup_fraction
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warmup_fraction) / (1 - warmup_fraction))))


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[Batch], bf16: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n, K) and labels (n,) over batches, in evaluation mode."""
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    probabilities, labels = [], []
    for batch in batches:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits_BK = model(batch.to(device)).logits_BK
        probabilities.append(logits_BK.float().softmax(dim=-1).cpu().numpy())
        labels.append(batch.label_B.cpu().numpy())
    model.train(was_training)
    if not probabilities:
        return np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
    return np.concatenate(probabilities), np.concatenate(labels)


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Batch], plan: LoopSettings, epoch: int,
    reporter: Reporter,
) -> dict[str, float]:  # fmt: skip
    model.train()
    own, device = plan.optimisation, next(model.parameters()).device
    weight_K = None if plan.class_weight_K is None else plan.class_weight_K.to(device)
    total, clips, steps = torch.zeros((), device=device), 0, 0
    begun_s, waited = time.perf_counter(), Waited(batches)
    for batch in waited:
        batch = batch.to(device)
        progress = (epoch + min(1.0, (steps + 1) / plan.steps_per_epoch)) / plan.epochs
        for group in optimizer.param_groups:
            group["lr"] = own.lr * learning_rate_factor(progress, own.warmup_fraction)
        optimizer.zero_grad(set_to_none=True)
        value = _backward(model, batch, plan, weight_K)
        nn.utils.clip_grad_norm_((p for g in optimizer.param_groups for p in g["params"]), own.grad_clip_norm)
        optimizer.step()
        total += value * len(batch)  # stays on the device: no synchronisation per step
        clips, steps = clips + len(batch), steps + 1
        reporter.progress(epoch, steps, plan.steps_per_epoch)
    if not steps:
        raise ValueError(f"epoch {epoch}: found no training batches, expected at least one per worker")
    sums = reporter.gather((float(total), clips))
    took_s, clips = time.perf_counter() - begun_s, sum(n for _, n in sums)
    return {
        "train_loss": sum(t for t, _ in sums) / clips,
        "train_clips": clips,
        "train_clips_per_s": clips / took_s,
        "train_waited": waited.seconds / took_s,  # share of the time in which this rank had no batch to work on
    }


class Waited:
    """An iterable that adds up the seconds in which its user waits for the next item."""

    def __init__(self, items: Iterable):
        self.items, self.seconds = items, 0.0

    def __iter__(self) -> Iterator:
        iterator, end = iter(self.items), object()
        while True:
            begun_s = time.perf_counter()
            item = next(iterator, end)
            self.seconds += time.perf_counter() - begun_s
            if item is end:
                return
            yield item


def _backward(model: nn.Module, batch: Batch, plan: LoopSettings, class_weight_K: torch.Tensor | None) -> torch.Tensor:
    """Gradients of the batch's loss, micro-batch by micro-batch; the loss.

    A mean over the batch is the sum of the micro-batches' means, each with its share of the batch's mass. That is so
    for the batches of several workers too, of which DDP takes the plain mean.
    """
    own, device = plan.optimisation, batch.label_B.device
    size = own.micro_batch_size or len(batch)
    parts = [batch] if size >= len(batch) else [batch.rows(i) for i in torch.arange(len(batch)).split(size)]
    total, whole = torch.zeros((), device=device), mass(batch, class_weight_K)
    several = isinstance(model, nn.parallel.DistributedDataParallel)
    uneven = several and (class_weight_K is not None or batch.soft is not None)
    if uneven:  # else the workers' equal shares are equally heavy
        torch.distributed.all_reduce(whole, group=model.process_group)
        whole = whole / torch.distributed.get_world_size(model.process_group)
    for i, part in enumerate(parts):
        # DDP adds up the workers' gradients in the last pass only.
        waits = several and i < len(parts) - 1
        with model.no_sync() if waits else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
                output = model(part)
            value = sum(loss(output, part, own.label_smoothing, class_weight_K).values())
            if len(parts) > 1 or uneven:
                value = value * (mass(part, class_weight_K) / whole)
            value.backward()
        total += value.detach()
    return total


def _validate(model: nn.Module, batches: Iterable[Batch], reporter: Reporter, plan: LoopSettings) -> dict[str, float]:
    shown = SUBSETS if plan.subsets else {}
    shares = [share for share in reporter.gather(_counted(model, batches, plan.bf16, shown.values())) if len(share)]
    return validation_metrics(sum(shares), tuple(shown)) if shares else {}


@torch.inference_mode()
def _counted(model: nn.Module, batches: Iterable[Batch], bf16: bool, subsets: Collection[Sequence[str]]) -> np.ndarray:
    """How often which class was taken for which (1 + S, K, K): of every clip, and of those that have all of a subset
    when no more than that is shown. Empty without batches."""
    device, was_training, total = next(model.parameters()).device, model.training, np.zeros(0)
    model.eval()
    for batch in batches:
        batch, each = batch.to(device), []
        for names in (None, *subsets):
            part = batch if names is None else shown_all_of(batch, names)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits_BK = model(part).logits_BK
            guess_B, label_B = logits_BK.argmax(dim=1).cpu().numpy(), part.label_B.cpu().numpy()
            each.append(counts(guess_B, label_B, logits_BK.shape[1]))
        total = np.stack(each) + (total if len(total) else 0)
    model.train(was_training)
    return total


def shown_all_of(batch: BatchT, names: Sequence[str]) -> BatchT:
    """The clips that have all of these modalities, and nothing else of them."""
    shown_M = torch.tensor([name in names for name in MODALITIES], device=batch.present_BM.device)
    has_all_B = batch.present_BM[:, shown_M].all(dim=1)
    return replace(batch, present_BM=batch.present_BM & shown_M).rows(has_all_B)


def validation_metrics(counts_SKK: np.ndarray, subsets: Sequence[str]) -> dict[str, float]:
    """An epoch's metrics of counts of every clip and of each subset (1 + S, K, K).

    `val_waf` is over what each clip has, `val_V/waf` over a subset, `val_mean/waf` their mean: subsets that no clip has
    all of are left out.
    """
    measured = {f"val_{name}": float(value) for name, value in of_counts(counts_SKK[0]).items()}
    measured["val_n"] = int(counts_SKK[0].sum())
    found = [i for i in range(len(subsets)) if counts_SKK[1 + i].any()]
    for name, value_S in of_counts(counts_SKK[1:][found]).items() if found else ():
        measured |= {f"val_{subsets[i]}/{name}": float(value) for i, value in zip(found, value_S, strict=True)}
        measured[f"val_mean/{name}"] = float(value_S.mean())
    return measured


def _optimizer(model: nn.Module, own: Optimisation, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; vectors and scalars (biases, norms, the logit scale) are not decayed."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": own.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=own.lr, fused=device.type in ("cpu", "cuda"))


def _restored(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path | None) -> tuple[int, dict | None]:
    if folder is None:
        return 0, None
    state = load_state(folder)
    load_trained(model, state["model"])
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay  # the state may be another's, with settings of its own
    return state["epoch"] + 1, state["best"]


@contextmanager
def _seeded(seed: int, epoch: int, rank: int, device: torch.device):
    """Torch's generators at a place that only seed, epoch and rank decide; put back afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(epoch_seed(seed, epoch, rank))
        yield
