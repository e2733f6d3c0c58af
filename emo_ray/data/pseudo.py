"""Pseudo-labels: the accepted clips of a round, read from its folder and put into batches as training targets."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from emo_ray import parquet, store
from emo_ray.config.train_settings import Train
from emo_ray.data.batch import BatchT, SoftTargets

_COLUMNS = ("clip_id", "calibrated", "prediction", "accepted", "round", "teacher")


@dataclass(frozen=True)
class PseudoLabels:
    """A teacher's labels for the clips of one round that were accepted."""

    labels: tuple[str, ...]
    target_of: Mapping[str, np.ndarray]  # clip_id -> float32 (K,), which sums to 1
    label_of: Mapping[str, int]  # clip_id -> the predicted class
    weight: float  # of each in the loss, where a labelled clip has 1
    round: int
    teacher: str

    @cached_property
    def digest(self) -> str:
        """Digest of what decides training: the clips, their targets, the weight. The folder does not count."""
        rows = [
            (clip_id, self.label_of[clip_id], self.target_of[clip_id].tolist()) for clip_id in sorted(self.target_of)
        ]
        return store.digest(rows, self.weight, self.labels)

    def counts(self) -> dict[str, int]:
        """How many clips have each label."""
        counts = Counter(self.label_of.values())
        return {label: counts[k] for k, label in enumerate(self.labels)}

    def only(self, clip_ids: Iterable[str]) -> "PseudoLabels | None":
        """The pseudo-labels of these clips alone; None if none of them has one."""
        kept = [clip_id for clip_id in clip_ids if clip_id in self.target_of]
        if not kept:
            return None
        target_of = {clip_id: self.target_of[clip_id] for clip_id in kept}
        label_of = {clip_id: self.label_of[clip_id] for clip_id in kept}
        return replace(self, target_of=target_of, label_of=label_of)

    def weights(self, clip_ids: Sequence[str]) -> torch.Tensor:
        """The weight of each of these clips in the loss, float32 (B,): 1 for those without a pseudo-label."""
        return torch.tensor([self.weight if clip_id in self.target_of else 1.0 for clip_id in clip_ids])


def read(folder: Path, labels: Sequence[str], train: Train) -> PseudoLabels:
    """The accepted rows of a round's folder, with the targets and the weight that `train` asks for.

    Raises ValueError where the folder is no finished round, where its classes are not `labels` in their order, and
    where a clip is accepted twice or without probabilities.
    """
    store.read_meta(folder)
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise ValueError(f"{folder}: found no part-*.parquet, expected a round of jobs/pseudo_label.py")
    target_of: dict[str, np.ndarray] = {}
    label_of: dict[str, int] = {}
    rounds = []
    for row in _accepted_rows(parts, labels):
        clip_id, values = row["clip_id"], row["calibrated"]
        if clip_id in target_of:
            raise ValueError(f"{folder}: found clip {clip_id!r} accepted twice, expected once: make the round anew")
        if values is None or len(values) != len(labels) or not abs(sum(values) - 1) < 1e-3:
            raise ValueError(f"{folder}: found {values} for clip {clip_id!r}, expected {len(labels)} probabilities")
        label_of[clip_id] = labels.index(row["prediction"])
        target_of[clip_id] = training_target(values, label_of[clip_id], train)
        rounds.append((row["round"], row["teacher"]))
    last_round, teacher = max(rounds, default=(0, ""))
    return PseudoLabels(tuple(labels), target_of, label_of, train.pseudo_weight, last_round, teacher)


def training_target(calibrated_K: Sequence[float], k: int, train: Train) -> np.ndarray:
    """The target of a clip with these probabilities and predicted class `k`: float32 (K,)."""
    return np.asarray(calibrated_K if train.pseudo_targets == "soft" else np.eye(len(calibrated_K))[k], np.float32)


def with_targets(batch: BatchT, pseudo: PseudoLabels | None) -> BatchT:
    """The batch with soft targets: a labelled clip's target is one-hot and its weight 1.

    Without pseudo-labels the batch is returned as it is.
    """
    if pseudo is None:
        return batch
    target_BK = F.one_hot(batch.label_B, len(pseudo.labels)).float()
    for row, clip_id in enumerate(batch.clip_ids):
        if clip_id in pseudo.target_of:
            target_BK[row] = torch.from_numpy(pseudo.target_of[clip_id])
    return replace(batch, soft=SoftTargets(target_BK=target_BK, weight_B=pseudo.weights(batch.clip_ids)))


def read_with_targets(read: Callable[[pa.Table], BatchT], pseudo: PseudoLabels | None, table: pa.Table) -> BatchT:
    """The batch that `read` makes of a table, with targets. It is here so that Ray's workers import little for it."""
    return with_targets(read(table), pseudo)


def _accepted_rows(parts: Sequence[Path], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for part in parts:
        table = parquet.read(part, columns=list(_COLUMNS))
        part_labels = json.loads((table.schema.metadata or {}).get(b"labels", b"[]"))
        if part_labels != list(labels):
            raise ValueError(
                f"{part}: found pseudo-labels of the classes {', '.join(part_labels)}, expected {', '.join(labels)} in "
                "this order: they are from another corpus or an older teacher, so run jobs/pseudo_label.py again"
            )
        yield from table.filter(table["accepted"]).to_pylist()
