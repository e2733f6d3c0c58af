"""Soft targets of training clips, put into batches clip by clip: those of pseudo-labels, and annotators' votes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from emo_ray import store
from emo_ray.data.batch import BatchT, SoftTargets
from emo_ray.data.manifest import Clip


@dataclass(frozen=True)
class Targets:
    """What some clips are trained towards. Every other clip is trained towards its label, with weight 1."""

    classes: int  # K
    target_of: Mapping[str, np.ndarray]  # clip_id -> float32 (K,), which sums to 1
    weight_of: Mapping[str, float]  # clip_id -> how much the clip counts in the loss

    def __or__(self, other: "Targets") -> "Targets":
        """The targets of both, of a clip that both have the other's."""
        target_of, weight_of = {**self.target_of, **other.target_of}, {**self.weight_of, **other.weight_of}
        return replace(self, target_of=target_of, weight_of=weight_of)

    @cached_property
    def digest(self) -> str:
        """Digest of the clips, their targets and weights."""
        return store.digest([(i, self.target_of[i].tolist(), self.weight_of[i]) for i in sorted(self.target_of)])

    def only(self, clip_ids: Collection[str]) -> "Targets | None":
        """The targets of these clips alone; None if none of them has one."""
        target_of = {clip_id: target_K for clip_id, target_K in self.target_of.items() if clip_id in clip_ids}
        weight_of = {clip_id: self.weight_of[clip_id] for clip_id in target_of}
        return replace(self, target_of=target_of, weight_of=weight_of) if target_of else None

    def weights(self, clip_ids: Sequence[str]) -> torch.Tensor:
        """The weight of each of these clips in the loss, float32 (B,)."""
        return torch.tensor([self.weight_of.get(clip_id, 1.0) for clip_id in clip_ids])


def of_votes(clips: Iterable[Clip], labels: Sequence[str], entropy_weight: float = 0.0) -> Targets | None:
    """The shares of the votes for each class, of the clips that have votes for any; None where none has.

    A clip counts 1 - `entropy_weight` * H / log K, where H is the entropy of its votes: 1 where all annotators agree,
    1 - `entropy_weight` where every class has as many votes.
    """
    target_of: dict[str, np.ndarray] = {}
    weight_of: dict[str, float] = {}
    for clip in clips:
        counts = dict(clip.votes or ())
        count_K = np.array([counts.get(label, 0.0) for label in labels])
        if count_K.sum() > 0:
            share_K = count_K / count_K.sum()
            entropy = -sum(share * np.log(share) for share in share_K if share)
            target_of[clip.clip_id] = share_K.astype(np.float32)
            weight_of[clip.clip_id] = float(max(0.0, 1 - entropy_weight * entropy / np.log(len(labels))))
    return Targets(len(labels), target_of, weight_of) if target_of else None


def with_targets(batch: BatchT, targets: Targets | None) -> BatchT:
    """The batch with soft targets: a clip without one has its label as a one-hot target, and weight 1.

    Without any targets the batch is returned as it is.
    """
    if targets is None:
        return batch
    target_BK = F.one_hot(batch.label_B, targets.classes).float()
    for row, clip_id in enumerate(batch.clip_ids):
        if clip_id in targets.target_of:
            target_BK[row] = torch.from_numpy(targets.target_of[clip_id])
    return replace(batch, soft=SoftTargets(target_BK=target_BK, weight_B=targets.weights(batch.clip_ids)))


def read_with_targets(read: Callable[[pa.Table], BatchT], targets: Targets | None, table: pa.Table) -> BatchT:
    """The batch that `read` makes of a table, with targets. It is here so that Ray's workers import little for it."""
    return with_targets(read(table), targets)
