"""Pseudo-labels: the accepted clips of a round, read from its folder."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emo_ray import parquet, store
from emo_ray.config.train_settings import Train
from emo_ray.data import clip_tables
from emo_ray.data.targets import Targets

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

    @property
    def targets(self) -> Targets:
        """The targets and weights of the clips."""
        return Targets(len(self.labels), self.target_of, dict.fromkeys(self.target_of, self.weight))


def read(folder: Path, labels: Sequence[str], train: Train) -> PseudoLabels:
    """The accepted rows of a round's folder, with the targets and the weight that `train` asks for.

    Raises ValueError where the folder is no finished round, where its classes are not `labels` in their order, and
    where a clip is accepted twice or without probabilities.
    """
    store.read_meta(folder)
    parts = [folder / name for name in store.names(folder, "part-*.parquet")]
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


def _accepted_rows(parts: Sequence[Path], labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    for part in parts:
        table = parquet.read(part, columns=list(_COLUMNS))
        part_labels = clip_tables.labels_of(table)
        if part_labels != list(labels):
            raise ValueError(
                f"{part}: found pseudo-labels of the classes {', '.join(part_labels)}, expected {', '.join(labels)} in "
                "this order: they are from another corpus or an older teacher, so run jobs/pseudo_label.py again"
            )
        yield from table.filter(table["accepted"]).to_pylist()
