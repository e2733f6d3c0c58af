"""Scores of a fusion head: its probabilities for each subset of the modalities, and the metrics that they give."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from emo_ray import store
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.prepared import Prepared
from emo_ray.models.head_average import Head
from emo_ray.training.metrics import chance, confusion, metrics, per_class_f1

EVERYTHING = "".join(name[0].upper() for name in MODALITIES)
Probabilities = dict[str, np.ndarray]  # subset of the modalities, such as "VA" -> float32 (B, K)


@torch.inference_mode()
def shown_only(head: Head, batch: FeatureBatch, names: Sequence[str]) -> np.ndarray:
    """Probabilities (B, K) when the head is shown only these modalities, of those that each clip has.

    Raises ValueError where one is not finite.
    """
    shown_M = torch.tensor([name in names for name in MODALITIES])
    return head(batch.showing(shown_M)).probabilities_BK(batch.clip_ids).numpy()


def scores(batch: FeatureBatch, probabilities: Probabilities) -> dict[str, Any]:
    """A subset is measured on the clips that have all of it; "available" on every clip with whatever it has.

    Beside the metrics stands the number of "classes" that occur among the clips, which UAR and macro F1 average over.
    """
    present_BM, label_B = batch.present_BM.numpy(), batch.label_B.numpy()
    subsets = {}
    for name, modalities in SUBSETS.items():
        with_all = np.flatnonzero(present_BM[:, [MODALITIES.index(m) for m in modalities]].all(axis=1))
        subsets[name] = _measured(probabilities[name], label_B, with_all)
    with_any = np.flatnonzero(present_BM.any(axis=1))
    return {"subsets": subsets, "available": _measured(probabilities[EVERYTHING], label_B, with_any)}


def _measured(probability_BK: np.ndarray, label_B: np.ndarray, rows: np.ndarray) -> dict[str, float] | None:
    """Metrics of these rows and the number of their classes; None without rows."""
    if not len(rows):
        return None
    return metrics(probability_BK[rows], label_B[rows]) | {"classes": len(np.unique(label_B[rows]))}


def report_of(batch: FeatureBatch, probabilities: Probabilities, prepared: Prepared, split: str) -> Any:
    """The report of these clips (reports.evaluation.EvaluationReport) but for its `checkpoint`.

    Raises ValueError where none has any modality."""
    present_BM, label_B = batch.present_BM.numpy(), batch.label_B.numpy()
    everything_BK, any_B = probabilities[EVERYTHING], present_BM.any(axis=1)
    if not any_B.any():
        raise ValueError(f"found no usable modality in any {split} clip: see bad_media.csv in {prepared.path}")
    f1_K = per_class_f1(everything_BK[any_B], label_B[any_B])
    count_K = np.bincount(label_B, minlength=len(prepared.labels))
    notes = list(prepared.notes)
    if not any_B.all():
        notes.append(f"{int((~any_B).sum())} clips of the split have no usable modality and are not measured")
    return {
        **scores(batch, probabilities),
        "per_class_f1": dict(zip(prepared.labels, f1_K.tolist(), strict=True)),
        "per_class_n": dict(zip(prepared.labels, count_K.tolist(), strict=True)),
        "confusion": confusion(everything_BK[any_B], label_B[any_B]).tolist(),
        "split": split,
        "labels": list(prepared.labels),
        "chance": chance(label_B[any_B], len(prepared.labels)),
        "n_clips": len(label_B),
        "notes": notes,
    }


def write_predictions(
    path: Path, batch: FeatureBatch, probabilities: Probabilities, labels: Sequence[str],
    more_columns: Mapping[str, pa.Array] | None = None,
) -> None:  # fmt: skip
    """One row a clip: what is present, the label, and the probabilities per subset (in the order of the labels)."""
    columns = {f"p_{name}": pa.array(values.tolist(), pa.list_(pa.float32())) for name, values in probabilities.items()}
    present = {f"has_{name}": pa.array(batch.present_BM[:, m].numpy()) for m, name in enumerate(MODALITIES)}
    truth = pa.array([labels[k] for k in batch.label_B.tolist()])
    ids = pa.array(batch.clip_ids)
    table = pa.table({"clip_id": ids, "label": truth, **(more_columns or {}), **present, **columns})
    store.write_parquet(path, table.replace_schema_metadata({"labels": json.dumps(list(labels))}), rows_per_group=2**12)
