"""evaluate: a checkpoint on a labelled split, over all seven subsets of the modalities, to a report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from emo_ray import cluster, store, tracking
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch, from_features
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.fusion import FusionHead
from emo_ray.progress import say, show
from emo_ray.reports import evaluation
from emo_ray.stages.encoding.actor import EncoderSpec
from emo_ray.stages.features import encode_corpus, encoders_of, load, of_checkpoint
from emo_ray.stages.fitting.plan import labelled_readings, labels_of, no_folds, parts_with
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.stages.train import train
from emo_ray.training.metrics import chance, confusion, metrics, per_class_f1

VERSION = 1
EVERYTHING = "".join(name[0].upper() for name in MODALITIES)
REPORT, PREDICTIONS = "report.json", "predictions.parquet"


@dataclass(frozen=True)
class Evaluated:
    """A report's folder and its content."""

    path: Path
    report: dict
    mlflow: str  # the command that shows the runs

    def summary(self) -> dict:
        """The content of report.json."""
        return self.report

    def show(self) -> None:
        """The table, for people."""
        show(evaluation.tables(self.report), self.report["notes"], self.path / "report.html")
        say(f"all runs: {self.mlflow}")


def evaluate(config: Config) -> Evaluated:
    """Report on `checkpoint`, or on the model that this config trains (made now where it is missing).

    Raises ValueError where the split has no labelled clips.
    """
    no_folds(config)
    if config.checkpoint is None:
        trained = train(config)
        path, prepared, readings = trained.path, trained.prepared, trained.readings
    else:
        path = Path(config.checkpoint)
        config = of_checkpoint(config, path)
        prepared = prepare(config)
        readings = labelled_readings(config, prepared)
    root = cluster.store_root(config)
    split, label_of, notes = _split(config, prepared, path)
    encoders = encoders_of(config, path, readings)
    weights = store.digest_path(path / checkpoint_files.WEIGHTS)
    key = store.digest(VERSION, weights, [e.digest for e in encoders], prepared.path.name, split, sorted(label_of))
    folder = root / "reports" / key
    if not store.is_complete(folder):
        batch = _batch(config, prepared, encoders, label_of)
        head = checkpoint.load_fusion(path)
        probabilities = {name: shown_only(head, batch, names) for name, names in SUBSETS.items()}
        content = measured(batch, probabilities, prepared, split) | {"checkpoint": path.name}
        content["notes"] += notes
        with store.writing(folder, {"kind": "report", "version": VERSION, "checkpoint": str(path)}) as temporary:
            store.write_text(temporary / REPORT, json.dumps(content, indent=1, ensure_ascii=False))
            write_predictions(temporary / PREDICTIONS, batch, probabilities, prepared.labels)
            evaluation.write_html(content, temporary)
    content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    _track(config, root, path, folder, content)
    return Evaluated(folder, content, tracking.command(config, root))


def _split(config: Config, prepared: Prepared, path: Path) -> tuple[str, dict[str, int], list[str]]:
    """The split to measure on, its labels, and what to say about it. Clips that the model has seen are left out."""
    names = ("test", "validation") if config.evaluate.split == "auto" else (config.evaluate.split,)
    name = next((n for n in names if labels_of(prepared, n)), None)
    if name is None:
        raise ValueError(f"found no labelled clips in {' or '.join(names)}, expected some: see evaluate.split")
    label_of = labels_of(prepared, name)
    if name != "test":
        return name, label_of, [f"the model was {'trained' if name == 'train' else 'selected'} on {name} clips"]
    seen = json.loads((path / checkpoint_files.SEEN).read_text(encoding="utf-8"))
    unseen = {clip_id: label for clip_id, label in label_of.items() if clip_id not in seen}
    if not unseen:
        raise ValueError(
            f"found only clips that {path.name} was trained or selected on (by clip_id), expected others in {name}"
        )
    left_out = len(label_of) - len(unseen)
    note = f"left out {left_out} {name} clips that {path.name} was trained or selected on (by clip_id)"
    return name, unseen, [note] if left_out else []


def _batch(
    config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec], label_of: dict[str, int]
) -> FeatureBatch:
    """Features and labels of the split's clips, one batch: features are small."""
    parts = parts_with(prepared, label_of)
    table = load(prepared, encode_corpus(config, prepared, encoders, parts), parts)
    table = table.filter(pa.array([clip_id in label_of for clip_id in table["clip_id"].to_pylist()]))
    label = pa.array([label_of[clip_id] for clip_id in table["clip_id"].to_pylist()], pa.int64())
    return from_features(table.append_column("label", label))


@torch.inference_mode()
def shown_only(head: FusionHead, batch: FeatureBatch, names: Sequence[str]) -> np.ndarray:
    """Probabilities (B, K) when the head is shown only these modalities, of those that each clip has."""
    shown_M = torch.tensor([name in names for name in MODALITIES])
    masked = replace(batch, present_BM=batch.present_BM & shown_M)
    return head(masked).logits_BK.softmax(dim=-1).numpy()


def scores(batch: FeatureBatch, probabilities: dict[str, np.ndarray]) -> dict:
    """A subset is measured on the clips that have all of it; "available" on every clip with whatever it has."""
    present_BM, label_B = batch.present_BM.numpy(), batch.label_B.numpy()
    subsets = {}
    for name, modalities in SUBSETS.items():
        has_all_B = present_BM[:, [MODALITIES.index(m) for m in modalities]].all(axis=1)
        subsets[name] = metrics(probabilities[name][has_all_B], label_B[has_all_B]) if has_all_B.any() else None
    any_B = present_BM.any(axis=1)
    available = metrics(probabilities[EVERYTHING][any_B], label_B[any_B]) if any_B.any() else None
    return {"subsets": subsets, "available": available}


def measured(batch: FeatureBatch, probabilities: dict[str, np.ndarray], prepared: Prepared, split: str) -> dict:
    """The report of these clips but for its `checkpoint`. Raises ValueError where none has any modality."""
    present_BM, label_B = batch.present_BM.numpy(), batch.label_B.numpy()
    everything, any_B = probabilities[EVERYTHING], present_BM.any(axis=1)
    if not any_B.any():
        raise ValueError(f"found no usable modality in any {split} clip: see bad_media.csv in {prepared.path}")
    f1_K, count_K = (
        per_class_f1(everything[any_B], label_B[any_B]),
        np.bincount(label_B, minlength=len(prepared.labels)),
    )
    notes = list(prepared.notes)
    if not any_B.all():
        notes.append(f"{int((~any_B).sum())} clips of the split have no usable modality and are not measured")
    return {
        **scores(batch, probabilities),
        "per_class_f1": dict(zip(prepared.labels, f1_K.tolist(), strict=True)),
        "per_class_n": dict(zip(prepared.labels, count_K.tolist(), strict=True)),
        "confusion": confusion(everything[any_B], label_B[any_B]).tolist(),
        "split": split,
        "labels": list(prepared.labels),
        "chance": chance(label_B[any_B], len(prepared.labels)),
        "n_clips": len(label_B),
        "notes": notes,
    }


def write_predictions(
    path: Path, batch: FeatureBatch, probabilities: dict[str, np.ndarray], labels: Sequence[str],
    further: Mapping[str, pa.Array] | None = None,
) -> None:  # fmt: skip
    """One row a clip: what is present, the label, and the probabilities per subset (in the order of the labels)."""
    columns = {f"p_{name}": pa.array(values.tolist(), pa.list_(pa.float32())) for name, values in probabilities.items()}
    present = {f"has_{name}": pa.array(batch.present_BM[:, m].numpy()) for m, name in enumerate(MODALITIES)}
    truth = pa.array([labels[i] for i in batch.label_B.tolist()])
    table = pa.table({"clip_id": pa.array(batch.clip_ids), "label": truth, **(further or {}), **present, **columns})
    store.write_parquet(path, table.replace_schema_metadata({"labels": json.dumps(list(labels))}), rows_per_group=2**12)


def _track(config: Config, root: Path, path: Path, folder: Path, content: dict) -> None:
    """Into the run that made the model; a given checkpoint has a run for each corpus it is measured on."""
    key = path.name.removeprefix("model-") if config.checkpoint is None else store.digest(folder.name)
    run = tracking.open_run(config, root, key, path.name)
    values = {f"{content['split']}/{n}/{k}": v for n, m in content["subsets"].items() if m for k, v in m.items()}
    run.metrics(values | {f"{content['split']}/available/{k}": v for k, v in content["available"].items()})
    run.artifacts(folder, f"report-{folder.name}")
    run.finish()
