"""train: EmoVCLIP's prompts, then the fusion head, from prepared clips to one checkpoint; makes what is missing."""

import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
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
from emo_ray.config.model_settings import Optimisation
from emo_ray.data.batch import from_features, video_from_shards
from emo_ray.data.pseudo import read_with_targets
from emo_ray.models import checkpoint
from emo_ray.models.clip import check_tag
from emo_ray.models.fusion import scalings
from emo_ray.progress import say
from emo_ray.stages.annotate import Readings
from emo_ray.stages.encoding.actor import shard_columns
from emo_ray.stages.features import encode_corpus, load, video_encoder
from emo_ray.stages.fitting import ray_train
from emo_ray.stages.fitting.checkpoint_folder import Phase, save
from emo_ray.stages.fitting.epoch_log import OnEpoch
from emo_ray.stages.fitting.plan import (
    LabelOf,
    TrainingClips,
    TrainingPlan,
    no_folds,
    parts_with,
    resolve_training,
    with_video,
)
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.training.loss import class_weights

_KEPT_SHARE = 0.25  # of the cluster's object store that one split's shards may take
_BLOCK_BYTES = 2**24  # a block costs Ray some 20 ms of CPU, whatever its size


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
    plan = resolve_training(config, prepare(config))
    if store.is_complete(plan.path):
        say(f"model {plan.path.name} is trained already")
    else:
        run = tracking.open_run(config, cluster.store_root(config), plan.key, plan.path.name)
        with run.running():
            train_phases(config, plan, run.epoch)
            run.artifacts(plan.path, "checkpoint")
            run.metrics({f"validation/{k}": v for k, v in store.read_meta(plan.path)["best"]["fusion"].items()})
    return Trained(plan.path, plan.prepared, plan.readings)


def train_phases(config: Config, plan: TrainingPlan, on_epoch: OnEpoch) -> None:
    """Train what is planned, and store it; of what is there already, `on_epoch` gets the epochs all the same."""
    if plan.video_path is not None:
        train_emovclip(config, plan, on_epoch)
    with _alone(plan.path):
        if store.is_complete(plan.path):
            _replay_epochs(plan.path, "fusion", on_epoch)
        else:
            _train_fusion(config, plan, feature_rows(config, plan, plan.wanted.all_clips), on_epoch)


def feature_rows(config: Config, plan: TrainingPlan, clip_ids: Collection[str]) -> pa.Table:
    """The features of these clips, as `features.load` gives them; EmoVCLIP's where it is trained."""
    parts = parts_with(plan.prepared, clip_ids)
    encoders = [*plan.frozen, *([video_encoder(plan.video_path)] if plan.video_path else [])]
    return load(plan.prepared, encode_corpus(config, plan.prepared, encoders, parts), parts, clip_ids)


def _replay_epochs(path: Path, phase: str, on_epoch: OnEpoch) -> None:
    for metrics in store.read_meta(path)["history"]:
        on_epoch(phase, metrics)


def train_emovclip(config: Config, plan: TrainingPlan, on_epoch: OnEpoch) -> None:
    """The same of EmoVCLIP alone."""
    with _alone(plan.video_path):
        _make_emovclip(config, plan, on_epoch)


def _alone(path: Path) -> AbstractContextManager[None]:
    """Of several processes that want a checkpoint, such as trials, one makes it and the others wait."""
    return store.alone(path.with_name(f".{path.name}.lock"))


def _make_emovclip(config: Config, plan: TrainingPlan, on_epoch: OnEpoch) -> None:
    prepared, path = plan.prepared, plan.video_path
    if store.is_complete(path):
        say(f"EmoVCLIP {path.name} is trained already")
        _replay_epochs(path, "emovclip", on_epoch)
        return
    check_tag(config)
    usable = with_video(config, prepared, plan.wanted)
    datasets = {
        split: video_dataset([prepared.shards / name for name in parts_with(prepared, label_of)], label_of)
        for split, label_of in (("train", usable.train), ("validation", usable.validation))
        if label_of
    }
    read = partial(video_from_shards, labels=usable.all_clips)
    job = ray_train.TrainingJob(
        phase="emovclip",
        digest=path.name.removeprefix("emovclip-"),
        build=partial(checkpoint.fresh_emovclip, config, prepared.labels),
        collate=partial(read_with_targets, read, usable.pseudo),
        optimisation=config.emovclip,
        train_rows=len(usable.train),
        precision=config.train.precision,
        class_weight_K=_class_weights(config.emovclip, usable, list(usable.train), len(prepared.labels)),
    )
    best = ray_train.train(job, config, datasets, on_epoch)
    save(path, best, config, prepared, Phase("EmoVCLIP", len(usable.train), usable.pseudo))
    ray_train.clean_up(job, config)


def _train_fusion(config: Config, plan: TrainingPlan, table: pa.Table, on_epoch: OnEpoch) -> None:
    job, datasets = fusion_job(config, plan, table)
    best = ray_train.train(job, config, datasets, on_epoch)
    used = plan.wanted.pseudo and plan.wanted.pseudo.only(labelled(table, plan.wanted.train)["clip_id"].to_pylist())
    save(plan.path, best, config, plan.prepared, Phase("fusion", job.train_rows, used), plan.video_path)
    ray_train.clean_up(job, config)


def fusion_job(
    config: Config, plan: TrainingPlan, table: pa.Table
) -> tuple[ray_train.TrainingJob, dict[str, ray.data.Dataset]]:
    """How the head is trained on these features. Raises ValueError where no training clip has any."""
    prepared, wanted = plan.prepared, plan.wanted
    tables = {"train": labelled(table, wanted.train), "validation": labelled(table, wanted.validation)}
    datasets = {name: ray.data.from_arrow(t).materialize() for name, t in tables.items() if len(t)}
    if "train" not in datasets:
        raise ValueError(
            f"found no training clip with any usable modality, expected some: see bad_media.csv in {prepared.path}, or "
            "name feature tables with tables.video, tables.audio, tables.text"
        )
    # Of pseudo-labelled clips too, which are training clips: how features are scaled tells nothing of labels.
    statistics, usable = scalings(from_features(tables["train"])), tables["train"]["clip_id"].to_pylist()
    job = ray_train.TrainingJob(
        phase="fusion",
        digest=plan.key,
        build=partial(checkpoint.fresh_fusion, config, statistics, prepared.labels),
        collate=partial(read_with_targets, from_features, wanted.pseudo),
        optimisation=config.fusion,
        train_rows=len(usable),
        fusion=True,
        passes_per_epoch=config.fusion.passes_per_epoch,
        class_weight_K=_class_weights(config.fusion, wanted, usable, len(prepared.labels)),
    )
    return job, datasets


def _class_weights(
    own: Optimisation, wanted: TrainingClips, clip_ids: Sequence[str], classes: int
) -> torch.Tensor | None:
    """From the classes of the clips trained on, of which a pseudo-labelled one counts for as much as it weighs."""
    weight_B = wanted.pseudo and wanted.pseudo.weights(clip_ids)
    return class_weights(own, torch.tensor([wanted.train[name] for name in clip_ids]), classes, weight_B)


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
