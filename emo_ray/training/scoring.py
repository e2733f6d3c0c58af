"""Scores of a fusion head: its probabilities for each subset of the modalities, and the metrics that they give."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from emo_ray import parquet
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.prepared import Prepared
from emo_ray.models.checkpoint_files import FittedTemperature
from emo_ray.models.head_average import Head
from emo_ray.training import bootstrap, calibration
from emo_ray.training.metrics import chance, confusion, counts, metrics, of_counts, per_class

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
    label_B = batch.label_B.numpy()
    subsets = {
        name: _measured(probabilities[name], label_B, batch.places_with(modalities))
        for name, modalities in SUBSETS.items()
    }
    with_any = np.flatnonzero(batch.present_BM.numpy().any(axis=1))
    return {"subsets": subsets, "available": _measured(probabilities[EVERYTHING], label_B, with_any)}


def _measured(probability_BK: np.ndarray, label_B: np.ndarray, rows: np.ndarray) -> dict[str, float] | None:
    """Metrics of these rows and the number of their classes; None without rows."""
    if not len(rows):
        return None
    return metrics(probability_BK[rows], label_B[rows]) | {"classes": len(np.unique(label_B[rows]))}


def report_of(
    batch: FeatureBatch, probabilities: Probabilities, prepared: Prepared, split: str, seed: int,
    fitted: FittedTemperature | None = None,
) -> Any:  # fmt: skip
    """The report of these clips (reports.evaluation.EvaluationReport) but for what only their model knows.

    `fitted` is the temperature of the model, if it has any. Raises ValueError where no clip has any modality.
    """
    present_BM, label_B = batch.present_BM.numpy(), batch.label_B.numpy()
    any_B = present_BM.any(axis=1)
    if not any_B.any():
        raise ValueError(f"found no usable modality in any {split} clip: see bad_media.csv in {prepared.path}")
    everything_BK, true_B = probabilities[EVERYTHING][any_B], label_B[any_B]
    confusion_KK = confusion(everything_BK, true_B)
    count_K = np.bincount(label_B, minlength=len(prepared.labels))
    notes = list(prepared.notes)
    if not any_B.all():
        notes.append(f"{int((~any_B).sum())} clips of the split have no usable modality and are not measured")
    speakers = prepared.speakers_of(batch.clip_ids)
    return {
        **scores(batch, probabilities),
        **spread(batch, probabilities, speakers, seed),
        **{
            f"per_class_{name}": dict(zip(prepared.labels, values_K.tolist(), strict=True))
            for name, values_K in per_class(confusion_KK).items()
        },
        "per_class_n": dict(zip(prepared.labels, count_K.tolist(), strict=True)),
        "confusion": confusion_KK.tolist(),
        "confusions": _confusions_alone(batch, probabilities),
        "calibration": _calibration(everything_BK, true_B, fitted),
        "balance": _balance(prepared),
        "split": split,
        "labels": list(prepared.labels),
        "chance": chance(true_B, len(prepared.labels)),
        "n_clips": len(label_B),
        "notes": notes,
    }


def objective_interval(
    batch: FeatureBatch, probabilities: Probabilities, objective: str, speakers: Sequence[str | None], seed: int
) -> bootstrap.DrawnInterval:
    """The interval of an objective such as VAT/waf, mean/uar or available/accuracy (see `metrics.objective`).

    `speakers` names the speaker of each clip. Clips without the modalities of a subset are drawn all the same, and
    count there as taken for one more class, which is left out of the tables.
    """
    where, score = objective.split("/")
    rows_of = {name: batch.places_with(names) for name, names in SUBSETS.items() if where in (name, "mean")}
    if where == "available":
        rows_of = {EVERYTHING: np.flatnonzero(batch.present_BM.numpy().any(axis=1))}
    rows_of = {name: rows for name, rows in rows_of.items() if len(rows)}
    classes = probabilities[EVERYTHING].shape[1]
    guess_XB = np.full((len(rows_of), len(batch)), classes)
    for guess_B, (name, rows) in zip(guess_XB, rows_of.items(), strict=True):
        guess_B[rows] = probabilities[name][rows].argmax(axis=1)
    drawn = np.flatnonzero((guess_XB < classes).any(axis=0))
    group_B = bootstrap.speaker_groups([speakers[row] for row in drawn.tolist()])
    label_B = batch.label_B.numpy()[drawn]
    counts_RXKK = bootstrap.resampled(guess_XB[:, drawn], label_B, classes + 1, group_B, seed)[..., :-1, :-1]
    with np.errstate(invalid="ignore"):  # a resample may hold no clip of a rare subset, which then counts for nothing
        value_R = np.nanmean(of_counts(counts_RXKK)[score], axis=1)
    return {"ends": bootstrap.interval(value_R), "drawn": "clips" if group_B is None else "speakers"}


def spread(
    batch: FeatureBatch, probabilities: Probabilities, speakers: Sequence[str | None], seed: int
) -> dict[str, Any]:
    """How far other speakers or clips might give other scores: `intervals`, `drawn`, `fusion` and `speakers`.

    They are entries of reports.evaluation.EvaluationReport. `speakers` names the speaker of each clip.
    """
    label_B, group_B = batch.label_B.numpy(), bootstrap.speaker_groups(speakers)
    rows_of = {name: batch.places_with(modalities) for name, modalities in SUBSETS.items()}
    guess_of = {name: values_BK.argmax(axis=1) for name, values_BK in probabilities.items()}
    any_B = np.flatnonzero(batch.present_BM.numpy().any(axis=1))
    shown = {name: (guess_of[name], rows) for name, rows in rows_of.items()} | {
        "available": (guess_of[EVERYTHING], any_B)
    }
    classes = probabilities[EVERYTHING].shape[1]

    measured_speakers = [speakers[row] for row in any_B.tolist()]
    return {
        "intervals": {
            name: bootstrap.score_intervals(
                guess_B[rows], label_B[rows], classes, bootstrap.groups_among(group_B, rows), seed
            )
            for name, (guess_B, rows) in shown.items()
            if len(rows)
        },
        "drawn": "clips" if group_B is None else "speakers",
        "fusion": _fusion_lead(rows_of, guess_of, label_B, classes, group_B, seed),
        "speakers": _by_speaker(measured_speakers, guess_of[EVERYTHING][any_B], label_B[any_B], classes),
    }


def _fusion_lead(
    rows_of: Mapping[str, np.ndarray], guess_of: Mapping[str, np.ndarray], label_B: np.ndarray, classes: int,
    group_B: np.ndarray | None, seed: int,
) -> dict[str, Any] | None:  # fmt: skip
    """The lead in WAF of the largest subset over the best of its modalities alone, on the clips that have all of it.

    None where no clip has two modalities. The best is chosen on these clips, which flatters it.
    """
    measured = [name for name, rows in rows_of.items() if len(name) > 1 and len(rows)]
    if not measured:
        return None
    subset = max(measured, key=lambda name: (len(name), len(rows_of[name])))
    rows = rows_of[subset]
    guess_XB = np.stack([guess_of[name][rows] for name in (subset, *subset)])
    waf_X = of_counts(counts(guess_XB, label_B[rows], classes))["waf"]
    best = 1 + int(waf_X[1:].argmax())
    groups = bootstrap.groups_among(group_B, rows)
    intervals = bootstrap.difference_intervals(guess_XB[[0, best]], label_B[rows], classes, groups, seed)
    return {
        "subset": subset,
        "best": subset[best - 1],
        "waf": float(waf_X[0]),
        "best_waf": float(waf_X[best]),
        "difference": float(waf_X[0] - waf_X[best]),
        "interval": intervals["waf"],
        "n": len(rows),
    }


def _by_speaker(
    speakers: Sequence[str | None], guess_B: np.ndarray, label_B: np.ndarray, classes: int
) -> dict[str, dict[str, float]]:
    """The WAF and number of clips of each speaker, in the order of their names."""
    by_speaker = {}
    for speaker in sorted({name for name in speakers if name is not None}):
        rows = np.array([name == speaker for name in speakers])
        waf = float(of_counts(counts(guess_B[rows], label_B[rows], classes))["waf"])
        by_speaker[speaker] = {"waf": waf, "n": int(rows.sum())}
    return by_speaker


def _confusions_alone(batch: FeatureBatch, probabilities: Probabilities) -> dict[str, list[list[int]]]:
    """Confusion counts of each modality alone, on the clips that have it; empty for one that no clip has."""
    label_B = batch.label_B.numpy()
    rows_of = {name: batch.places_with(names) for name, names in SUBSETS.items() if len(names) == 1}
    return {
        name: confusion(probabilities[name][rows], label_B[rows]).tolist()
        for name, rows in rows_of.items()
        if len(rows)
    }


def _calibration(probability_BK: np.ndarray, label_B: np.ndarray, fitted: FittedTemperature | None) -> dict[str, Any]:
    """How calibrated the model is on these clips, before and after the temperature that training fitted.

    Without one, "after" is as before, and `temperature` None.
    """
    temperature = fitted["temperature"] if fitted else None
    after_BK = calibration.calibrated(probability_BK, temperature or 1.0)
    about = {"temperature": temperature, "fitted_on": f"{fitted['n']} clips ({fitted['clips']})" if fitted else None}
    return about | calibration.change(probability_BK, after_BK, label_B)


def _balance(prepared: Prepared) -> dict[str, dict[str, int]]:
    """Labelled clips of each class in each split that has any."""
    balance = {}
    for split in ("train", "validation", "test"):
        classes = Counter(clip.label for clip in prepared.clips if clip.split == split and clip.label is not None)
        if classes:
            balance[split] = {label: classes[label] for label in prepared.labels}
    return balance


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
    parquet.write(path, table.replace_schema_metadata({"labels": json.dumps(list(labels))}), parquet.LIGHT_ROWS)
