"""crossvalidate: the fusion head trained and tested in folds, for corpora too small to be split, to a report.

Folds are grouped by speaker. All that a head knows it knows from the training clips of its fold: scale, the mean that
stands for unknown values, weights. It is trained for a fixed number of epochs, because a validation split of a few
dozen clips would choose an epoch by chance and cost clips to train on. A fold and seed is a Ray task with one core.
"""

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import ray
import torch

from emo_ray import cluster, store, tracking
from emo_ray.config import Config, flatten, override
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data import splits
from emo_ray.data.batch import FeatureBatch, from_features
from emo_ray.progress import progress
from emo_ray.reports import evaluation
from emo_ray.stages.evaluate import (
    EVERYTHING,
    PREDICTIONS,
    REPORT,
    Evaluated,
    measured,
    scores,
    shown_only,
    write_predictions,
)
from emo_ray.stages.features import encode_corpus, frozen_encoders, load
from emo_ray.stages.fitting.plan import labelled_readings, labels_of, parts_with
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.stages.train import labelled
from emo_ray.training.in_memory import fit_head, one_thread
from emo_ray.training.metrics import metrics

VERSION = 2  # 2: a head draws all its noise at once
FOLDS = 5
_NO_VIDEO = "video is left out: EmoVCLIP would have to be trained in every fold; give its features as tables.video"
Probabilities = dict[str, np.ndarray]  # subset -> (clips, K)


def crossvalidate(config: Config) -> Evaluated:
    """Every labelled clip tested by heads of the other folds. Makes the features that are missing before.

    Raises ValueError where there are too few speakers or labels, or no features.
    """
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: cross-validation trains in every fold")
    for key in ("fusion.start_from", "train.pseudo_labels"):
        if (given := flatten(config)[key]) is not None:
            raise ValueError(f"found {key}={given}, expected none: it may know the clips that a fold is tested on")
    config = override(config, {"data.folds": config.data.folds or FOLDS})
    prepared = prepare(config)
    label_of = labels_of(prepared, "train")
    if len(set(label_of.values())) < 2:
        raise ValueError(
            "found labelled clips of fewer than two classes, expected at least two: see data.columns.label"
        )
    encoders, root = frozen_encoders(config, labelled_readings(config, prepared)), cluster.store_root(config)
    deciding = [config.data.folds, config.crossvalidate.heads, config.train.epochs, config.seed]
    digests = [encoder.digest for encoder in encoders]
    key = store.digest(VERSION, config.fusion.model_dump(exclude={"start_from"}), deciding, digests, prepared.path.name)
    folder = root / "reports" / f"folds-{key}"
    if not store.is_complete(folder):
        parts = parts_with(prepared, label_of)
        table = labelled(load(prepared, encode_corpus(config, prepared, encoders, parts), parts), label_of)
        if not len(table):
            raise ValueError("found no labelled clip with any usable modality, expected some: see tables.* and data.*")
        batch = from_features(table.sort_by("clip_id"))
        fold_B = _folds(config, prepared, batch)
        heads = _predicted(config, batch, fold_B, len(prepared.labels))
        probabilities = {name: np.mean([head[name] for head in heads], axis=0) for name in SUBSETS}
        content = _content(prepared, batch, fold_B, probabilities)
        content["notes"] += _notes(config, prepared, batch, heads, len(label_of))
        with store.writing(folder, {"kind": "report", "version": VERSION, "folds": config.data.folds}) as temporary:
            store.write_text(temporary / REPORT, json.dumps(content, indent=1, ensure_ascii=False))
            further = {"fold": pa.array(fold_B + 1)}
            write_predictions(temporary / PREDICTIONS, batch, probabilities, prepared.labels, further)
            evaluation.write_html(content, temporary)
    content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    run = tracking.open_run(config, root, key, folder.name)
    values = {f"folds/{n}/{k}": v for n, m in content["subsets"].items() if m for k, v in m.items()}
    run.metrics(values | {f"folds/available/{k}": v for k, v in content["available"].items()})
    run.artifacts(folder, "report")
    run.finish()
    return Evaluated(folder, content, tracking.command(config, root))


def _folds(config: Config, prepared: Prepared, batch: FeatureBatch) -> np.ndarray:
    clip_of = {clip.clip_id: clip for clip in prepared.clips}
    return splits.folds([clip_of[clip_id] for clip_id in batch.clip_ids], config.data.folds, config.seed)


def _predicted(config: Config, batch: FeatureBatch, fold_B: np.ndarray, classes: int) -> list[Probabilities]:
    """For each head, every clip's probabilities by the one that was trained without the clip's fold."""
    shared = ray.put(batch)
    tasks = {
        _fold.remote(shared, fold_B == fold, override(config, {"seed": config.seed + head}), classes): (head, fold)
        for head in range(config.crossvalidate.heads)
        for fold in range(config.data.folds)
    }
    empty = np.zeros((len(batch), classes), np.float32)
    made = [{name: empty.copy() for name in SUBSETS} for _ in range(config.crossvalidate.heads)]
    waiting = list(tasks)
    with progress(f"training in {config.data.folds} folds", len(waiting), "heads") as advance:
        while waiting:
            done, waiting = ray.wait(waiting)
            for task in done:
                head, fold = tasks[task]
                for name, probability_BK in ray.get(task).items():
                    made[head][name][fold_B == fold] = probability_BK
            advance(len(done))
    return made


@ray.remote(num_cpus=1)
def _fold(batch: FeatureBatch, tested_B: np.ndarray, config: Config, classes: int) -> Probabilities:
    """Train on the clips that are not tested, and predict those that are, shown each subset of the modalities."""
    with one_thread():
        return held_out(batch, tested_B, config, classes)


def held_out(batch: FeatureBatch, tested_B: np.ndarray, config: Config, classes: int) -> Probabilities:
    """What one head, trained on the other clips alone, gives for the tested ones."""
    mask_B = torch.tensor(tested_B)
    head = fit_head(batch.rows(~mask_B), None, config, classes)
    return {name: shown_only(head, batch.rows(mask_B), names) for name, names in SUBSETS.items()}


def _content(prepared: Prepared, batch: FeatureBatch, fold_B: np.ndarray, probabilities: Probabilities) -> dict:
    speaker_of = {clip.clip_id: clip.speaker for clip in prepared.clips}
    folds = []
    for fold in range(fold_B.max() + 1):
        own_B = fold_B == fold
        rows = batch.rows(torch.from_numpy(own_B))
        speakers = {speaker_of[clip_id] for clip_id in rows.clip_ids} - {None}
        about = {"n_clips": len(rows), "speakers": sorted(speakers)}
        folds.append(about | scores(rows, {name: values[own_B] for name, values in probabilities.items()}))
    return measured(batch, probabilities, prepared, "folds") | {"folds": folds}


def _notes(
    config: Config, prepared: Prepared, batch: FeatureBatch, heads: Sequence[Probabilities], labelled_clips: int
) -> list[str]:
    grouped = any(clip.speaker is not None for clip in prepared.clips)
    alone = [metrics(head[EVERYTHING], batch.label_B.numpy())["waf"] for head in heads]
    notes = [
        "folds keep speakers apart" if grouped else "no speakers are known: the same person may be on both sides",
        f"probabilities are means of {len(heads)} heads; one alone has {100 * np.mean(alone):.1f} % WAF on average",
    ]
    has_video = "ok" in prepared.ledger["video_status"].unique().to_pylist()
    if has_video and "video" not in config.tables.given:
        notes.append(_NO_VIDEO)
    if len(batch) < labelled_clips:
        notes.append(f"{labelled_clips - len(batch)} labelled clips have no usable modality and are not measured")
    unknown = [name for name in MODALITIES if name in batch.features and batch.features[name].isnan().any()]
    if unknown:
        notes.append(f"unknown {' and '.join(unknown)} values are the mean of the training folds")
    return notes
