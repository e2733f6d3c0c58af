"""train: EmoVCLIP's prompts, then the fusion head, from prepared clips to one checkpoint. Makes what is missing before.

Each of the two is trained once per digest of what decides it: changing only `fusion.*` trains only the head again.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch

from emo_ray import cluster, store, tracking
from emo_ray.config import Config
from emo_ray.data.batch import from_features, from_shards
from emo_ray.data.labels import vocabulary
from emo_ray.models import checkpoint
from emo_ray.models.clip import description, frozen_digest
from emo_ray.models.fusion import FusionHead, scalings
from emo_ray.progress import say
from emo_ray.stages import fit
from emo_ray.stages.annotate import Readings, readings_of
from emo_ray.stages.encode import Encoder, shard_columns
from emo_ray.stages.features import encode, frozen_encoders, load, video_encoder
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.training.loss import class_weights

VERSION = 2  # 2: checkpoints carry the digest of the frozen CLIP
_KEPT_SHARE = 0.25  # of the cluster's object store that one split's shards may take
_BLOCK_BYTES = 2**24  # a block costs Ray some 20 ms of CPU, whatever its size
LabelOf = dict[str, int]  # clip_id -> class index


@dataclass(frozen=True)
class Trained:
    """A trained model's checkpoint folder, and the corpus it was trained on."""

    path: Path
    prepared: Prepared
    readings: Readings | None  # that were used

    def summary(self) -> dict:
        """Validation metrics of both phases at their best epoch."""
        return {"notes": list(self.prepared.notes), **store.read_meta(self.path)["best"]}


def train(config: Config) -> Trained:
    """The checkpoint of this config: made now, or found. Raises ValueError where there is nothing to train on."""
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: train makes one")
    no_folds(config)
    prepared = prepare(config)
    root = cluster.store_root(config)
    if len(prepared.labels) < 2:
        vocabulary(prepared.labels, None)  # says what is wrong
    wanted = {split: labels_of(prepared, split) for split in ("train", "validation")}
    if not wanted["train"]:
        raise ValueError(f"{config.data.manifest}: found no labelled training clips, expected at least one per class")
    parts = parts_with(prepared, wanted["train"] | wanted["validation"])
    video_path = _emovclip_path(config, prepared, wanted, root)
    readings = labelled_readings(config, prepared)
    frozen = frozen_encoders(config, readings)
    key = _fusion_digest(config, prepared, wanted, frozen, video_path)
    path = root / "checkpoints" / f"model-{key}"
    if store.is_complete(path):
        say(f"model {path.name} is trained already")
        return Trained(path, prepared, readings)
    run = tracking.open_run(config, root, key, path.name)
    try:
        if video_path is not None:
            _train_emovclip(config, prepared, wanted, video_path, run.epoch)
        encoders = [*frozen, *([video_encoder(video_path)] if video_path else [])]
        folders = encode(config, prepared, encoders, parts)
        table = load(prepared, folders, parts)
        _train_fusion(config, prepared, wanted, table, path, video_path, run.epoch)
        run.artifacts(path, "checkpoint")
        run.metrics({f"validation/{k}": v for k, v in store.read_meta(path)["best"]["fusion"].items()})
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()
    return Trained(path, prepared, readings)


def labelled_readings(config: Config, prepared: Prepared) -> Readings | None:
    """Readings of every labelled clip, of all splits at once: a budget is for one asking. None without annotate.url."""
    return readings_of(config, [clip for clip in prepared.clips if clip.label is not None])


def no_folds(config: Config) -> None:
    """Raises ValueError where folds are asked for, of which only cross-validation knows."""
    if config.data.folds is not None:
        found = f"found data.folds={config.data.folds}, expected none"
        raise ValueError(f"{found}: one model has one split; jobs/crossvalidate.py trains and tests in folds")


def labels_of(prepared: Prepared, split: str) -> LabelOf:
    """The class index of every labelled clip of a split."""
    index = {label: i for i, label in enumerate(prepared.labels)}
    return {c.clip_id: index[c.label] for c in prepared.clips if c.split == split and c.label is not None}


def parts_with(prepared: Prepared, wanted: Iterable[str]) -> list[str]:
    """The parts that hold any of these clips, in their order."""
    ledger = prepared.ledger
    hit = set(ledger.filter(pc.is_in(ledger["clip_id"], pa.array(list(wanted), pa.string())))["part"].to_pylist())
    return [part for part in prepared.parts if part in hit]


def _with_video(prepared: Prepared, label_of: LabelOf) -> LabelOf:
    ledger = prepared.ledger
    usable = ledger.filter(pc.equal(ledger["video_status"], "ok"))["clip_id"].to_pylist()
    return {clip_id: label_of[clip_id] for clip_id in usable if clip_id in label_of}


def _emovclip_path(config: Config, prepared: Prepared, wanted: dict[str, LabelOf], root: Path) -> Path | None:
    """Where the EmoVCLIP of this config and corpus lies or will lie; None where none is to be trained."""
    if config.tables.video:
        return None
    usable = {split: _with_video(prepared, label_of) for split, label_of in wanted.items()}
    if not usable["train"]:
        say("no training clip has video: the model will have none")
        return None
    start = checkpoint.start_folder(config, prepared.labels)
    key = store.digest(
        VERSION,
        frozen_digest(config),
        config.emovclip.model_dump(exclude={"clip", "weights", "start_from"}),
        _train_settings(config),
        prepared.shards.name,
        parts_with(prepared, usable["train"] | usable["validation"]),
        prepared.labels,
        sorted(usable["train"].items()),
        sorted(usable["validation"].items()),
        *([store.digest_path(start / checkpoint.WEIGHTS)] if start else []),
    )
    return root / "checkpoints" / f"emovclip-{key}"


def _fusion_digest(
    config: Config, prepared: Prepared, wanted: dict[str, LabelOf], frozen: Sequence[Encoder], video_path: Path | None
) -> str:
    return store.digest(
        VERSION,
        config.fusion.model_dump(),
        _train_settings(config),
        [encoder.digest for encoder in frozen],
        video_path and video_path.name,
        prepared.shards.name,
        parts_with(prepared, wanted["train"] | wanted["validation"]),
        prepared.labels,
        sorted(wanted["train"].items()),
        sorted(wanted["validation"].items()),
    )


def _train_settings(config: Config) -> dict:
    return {**config.train.model_dump(exclude={"use_gpu", "max_failures"}), "seed": config.seed}


def _train_emovclip(
    config: Config, prepared: Prepared, wanted: dict[str, LabelOf], path: Path, on_epoch: Callable
) -> None:
    if store.is_complete(path):
        say(f"EmoVCLIP {path.name} is trained already")
        return
    usable = {split: _with_video(prepared, label_of) for split, label_of in wanted.items()}
    datasets = {
        split: video_dataset([prepared.shards / name for name in parts_with(prepared, label_of)], label_of)
        for split, label_of in usable.items()
        if label_of
    }
    job = fit.Job(
        phase="emovclip",
        digest=path.name.removeprefix("emovclip-"),
        build=partial(checkpoint.fresh_emovclip, config, prepared.labels),
        collate=partial(from_shards, modalities=("video",), labels=usable["train"] | usable["validation"]),
        optimisation=config.emovclip,
        train_rows=len(usable["train"]),
        precision=config.train.precision,
        class_weight_K=class_weights(config.emovclip, _indices(usable["train"]), len(prepared.labels)),
    )
    best = fit.run(job, config, datasets, on_epoch)
    _save(path, best, config, prepared, {"phase": "EmoVCLIP", "clips": len(usable["train"])})
    fit.clean_up(job, config)


def _train_fusion(
    config: Config, prepared: Prepared, wanted: dict[str, LabelOf], table: pa.Table, path: Path,
    video_path: Path | None, on_epoch: Callable,
) -> None:  # fmt: skip
    tables = {split: labelled(table, label_of) for split, label_of in wanted.items()}
    datasets = {name: ray.data.from_arrow(t).materialize() for name, t in tables.items() if len(t)}
    if "train" not in datasets:
        raise ValueError(
            f"found no training clip with any usable modality, expected some: see bad_media.csv in {prepared.path}, or "
            "name feature tables with tables.video, tables.audio, tables.text"
        )
    statistics = scalings(from_features(tables["train"]))
    job = fit.Job(
        phase="fusion",
        digest=path.name.removeprefix("model-"),
        build=partial(FusionHead, config.fusion, statistics, len(prepared.labels)),
        collate=from_features,
        optimisation=config.fusion,
        train_rows=len(tables["train"]),
        passes_per_epoch=config.fusion.passes_per_epoch,
        class_weight_K=class_weights(config.fusion, _indices(wanted["train"]), len(prepared.labels)),
    )
    best = fit.run(job, config, datasets, on_epoch)
    _save(path, best, config, prepared, {"phase": "fusion", "clips": len(tables["train"])}, video_path)
    fit.clean_up(job, config)


def video_dataset(paths: Sequence[Path], clip_ids: Iterable[str]) -> ray.data.Dataset:
    """Rows of these clips in shard parts: whole parts are read and other rows dropped before any JPEG is decoded.

    Rows that fit are kept in the object store, so that an epoch starts at once; more are streamed from disk each epoch.
    """
    ids = pa.array(list(clip_ids))

    def keep(table: pa.Table) -> pa.Table:
        return table.filter(pc.is_in(table["clip_id"], ids))

    dataset = read_video(paths).map_batches(
        keep, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=cluster.task_cpus()
    )
    dataset.context.execution_options.preserve_order = True  # the same seed must see the same batches
    fits = sum(p.stat().st_size for p in paths) <= _KEPT_SHARE * cluster.object_store_bytes()
    return dataset.materialize() if fits else dataset


def read_video(paths: Sequence[Path]) -> ray.data.Dataset:
    """The rows of shard parts with what video needs, in blocks of about `_BLOCK_BYTES`."""
    blocks = math.ceil(sum(p.stat().st_size for p in paths) / _BLOCK_BYTES)
    return ray.data.read_parquet(
        [str(p) for p in paths],
        columns=shard_columns(["video"]),
        num_cpus=cluster.task_cpus(),
        override_num_blocks=min(blocks, len(paths)),
    )


def labelled(table: pa.Table, label_of: LabelOf) -> pa.Table:
    """The rows of these clips that have any modality, with their `label`."""
    table = table.filter(pc.is_in(table["clip_id"], pa.array(list(label_of), pa.string())))
    usable_B = np.zeros(len(table), bool)
    for name in table.column_names:
        usable_B |= table[name].to_numpy() if name.startswith("has_") else False
    table = table.filter(pa.array(usable_B))
    return table.append_column("label", pa.array([label_of[i] for i in table["clip_id"].to_pylist()], pa.int64()))


def _indices(label_of: LabelOf) -> torch.Tensor:
    return torch.tensor(list(label_of.values()))


def _save(
    path: Path, best: dict, config: Config, prepared: Prepared, about: dict, video_path: Path | None = None
) -> None:
    """The best epoch as a checkpoint folder; a model's holds its EmoVCLIP as well."""
    metrics = {k.removeprefix("val_"): v for k, v in best["metrics"].items() if k.startswith("val_")}
    numbers = {about["phase"].lower(): {**metrics, "epoch": best["epoch"]}}
    if video_path is not None:
        numbers |= store.read_meta(video_path)["best"]
    meta = {"kind": "checkpoint", "version": VERSION, "best": numbers, "history": best["history"]}
    with store.writing(path, meta) as folder:
        card = _card(about, config, prepared, metrics)
        checkpoint.write(folder, best["model"], config, prepared.labels, card)
        seen = [clip for clip in prepared.clips if clip.split in ("train", "validation") and clip.label is not None]
        store.write_text(folder / checkpoint.SEEN, json.dumps({clip.clip_id: clip.split for clip in seen}))
        if video_path is not None:
            _link_tree(video_path, folder / checkpoint.EMOVCLIP)


def _card_of_features(config: Config) -> list[str]:
    """Where the features of each modality come from."""
    own = {
        "video": f"frozen CLIP: {description(config)}",
        "audio": f"sound encoder: {config.audio.encoder}",
        "text": f"text encoder: {config.text.encoder}",
    }
    own |= {
        name: f"{name}: tables {', '.join(Path(p).name for p in config.tables.of(name))}"
        for name in config.tables.given
    }
    started = config.emovclip.start_from
    return [f"- {line}" for line in own.values()] + ([f"- started from: {Path(started).name}"] if started else [])


def _link_tree(source: Path, target: Path) -> None:
    """A copy that shares its bytes where the file system can: checkpoints of one EmoVCLIP are many in a sweep."""
    shutil.copytree(source, target, copy_function=lambda a, b: store.link_or_copy(Path(a), Path(b)))


def _card(about: dict, config: Config, prepared: Prepared, metrics: dict[str, float]) -> str:
    counts = Counter(clip.label for clip in prepared.clips if clip.split == "train")
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in metrics.items())
    lines = [
        f"# {about['phase']} checkpoint of emo_ray",
        "",
        f"- trained on: {Path(config.data.manifest or 'the synthetic corpus').name}, {about['clips']} clips",
        f"- classes (training clips): {', '.join(f'{k} ({counts[k]})' for k in prepared.labels)}",
        *_card_of_features(config),
        f"- validation: {numbers or 'none'}",
        "",
        "Emotion labels are what annotators of one corpus perceived. The model has not been tested on languages,",
        "recording conditions or groups of people beyond its corpus, and must not be used to judge individuals.",
        "",
    ]
    return "\n".join(lines)
