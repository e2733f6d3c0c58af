"""The accepted clips of a pseudo-labelled corpus, and how a batch is told what to train them towards."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from emo_ray import store
from emo_ray.config.model_settings import Train
from emo_ray.data.batch import Batch

_COLUMNS = ("clip_id", "calibrated", "prediction", "accepted", "round", "teacher")


@dataclass(frozen=True)
class PseudoLabels:
    """What a teacher says of the clips that were accepted of one round."""

    labels: tuple[str, ...]
    target_of: Mapping[str, np.ndarray]  # clip_id -> float32 (K,), which sums to 1
    label_of: Mapping[str, int]  # clip_id -> the class predicted
    weight: float  # of each in the loss, where a labelled clip has 1
    round: int
    teacher: str

    @cached_property
    def digest(self) -> str:
        """Of what they decide in training: the clips, what they are trained towards, the weight. Not of a folder."""
        rows = [
            (clip_id, self.label_of[clip_id], self.target_of[clip_id].tolist()) for clip_id in sorted(self.target_of)
        ]
        return store.digest(rows, self.weight, self.labels)

    def counts(self) -> dict[str, int]:
        """How many clips were given each label."""
        found = Counter(self.label_of.values())
        return {label: found[k] for k, label in enumerate(self.labels)}

    def only(self, clip_ids: Iterable[str]) -> "PseudoLabels | None":
        """The same of these clips alone; None where none is among them."""
        kept = [clip_id for clip_id in clip_ids if clip_id in self.target_of]
        target_of, label_of = ({clip_id: of[clip_id] for clip_id in kept} for of in (self.target_of, self.label_of))
        return replace(self, target_of=target_of, label_of=label_of) if kept else None

    def weights(self, clip_ids: Sequence[str]) -> torch.Tensor:
        """The weight of each of these clips, labelled ones among them: float32 (B,)."""
        return torch.tensor([self.weight if clip_id in self.target_of else 1.0 for clip_id in clip_ids])


def read(folder: Path, labels: Sequence[str], own: Train) -> PseudoLabels:
    """The accepted rows of a round's folder as `own` asks for them; rows that were not accepted are not looked at.

    Raises ValueError where the folder is no finished round, where its classes are not `labels` in their order, and
    where a clip is accepted twice or without probabilities.
    """
    store.read_meta(folder)
    parts = sorted(folder.glob("part-*.parquet"))
    if not parts:
        raise ValueError(f"{folder}: found no part-*.parquet, expected a round of jobs/pseudo_label.py")
    target_of, label_of, about = {}, {}, []
    for row in _accepted(parts, labels):
        clip_id, values = row["clip_id"], row["calibrated"]
        if clip_id in target_of:
            raise ValueError(f"{folder}: found clip {clip_id!r} accepted twice, expected once: make the round anew")
        if values is None or len(values) != len(labels) or not abs(sum(values) - 1) < 1e-3:
            raise ValueError(f"{folder}: found {values} for clip {clip_id!r}, expected {len(labels)} probabilities")
        k = label_of[clip_id] = labels.index(row["prediction"])
        target_of[clip_id] = towards(values, k, own)
        about.append((row["round"], row["teacher"]))
    number, teacher = max(about, default=(0, ""))
    return PseudoLabels(tuple(labels), target_of, label_of, own.pseudo_weight, number, teacher)


def towards(calibrated_K: Sequence[float], k: int, own: Train) -> np.ndarray:
    """What a clip of these probabilities, whose class is predicted to be k, is trained towards: float32 (K,)."""
    return np.asarray(calibrated_K if own.pseudo_targets == "soft" else np.eye(len(calibrated_K))[k], np.float32)


def with_targets(batch: Batch, pseudo: PseudoLabels | None) -> Batch:
    """The batch with target_BK and weight_B; labelled clips have their one label and weight 1. As it is without any."""
    if pseudo is None:
        return batch
    target_BK = F.one_hot(batch.label_B, len(pseudo.labels)).float()
    for row, clip_id in enumerate(batch.clip_ids):
        if clip_id in pseudo.target_of:
            target_BK[row] = torch.from_numpy(pseudo.target_of[clip_id])
    return replace(batch, target_BK=target_BK, weight_B=pseudo.weights(batch.clip_ids))


def read_with_targets(read: Callable[[pa.Table], Batch], pseudo: PseudoLabels | None, table: pa.Table) -> Batch:
    """`with_targets` of what `read` makes of a table. It lives here, where workers that need it import little else."""
    return with_targets(read(table), pseudo)


def _accepted(parts: Sequence[Path], labels: Sequence[str]) -> Iterator[dict]:
    for part in parts:
        table = pq.read_table(part, columns=list(_COLUMNS))
        theirs = json.loads((table.schema.metadata or {}).get(b"labels", b"[]"))
        if theirs != list(labels):
            raise ValueError(
                f"{part}: found pseudo-labels of the classes {', '.join(theirs)}, expected {', '.join(labels)} in this "
                "order: they are another corpus' or an older teacher's, so run jobs/pseudo_label.py with one of these"
            )
        yield from table.filter(table["accepted"]).to_pylist()
