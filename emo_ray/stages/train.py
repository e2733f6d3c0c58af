"""train: EmoVCLIP's prompts, then the fusion head, from prepared clips to one checkpoint. Makes what is missing before.

Each of the two is trained once per digest of what decides it: changing only `fusion.*` trains only the head again.
"""

import math
from collections.abc import Collection, Iterable, Sequence
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
from emo_ray.data import pseudo
from emo_ray.data.batch import from_features, from_shards
from emo_ray.data.labels import vocabulary
from emo_ray.data.pseudo import PseudoLabels, read_with_targets
from emo_ray.models import checkpoint
from emo_ray.models.clip import frozen_digest
from emo_ray.models.fusion import scalings
from emo_ray.progress import say
from emo_ray.settings import Optimisation, Train
from emo_ray.stages import fit
from emo_ray.stages.annotate import Readings, readings_of
from emo_ray.stages.encode import Encoder, shard_columns
from emo_ray.stages.features import encode, frozen_encoders, load, video_encoder
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.stages.save import VERSION, Phase, save
from emo_ray.training.loss import class_weights

_KEPT_SHARE = 0.25  # of the cluster's object store that one split's shards may take
_BLOCK_BYTES = 2**24  # a block costs Ray some 20 ms of CPU, whatever its size
LabelOf = dict[str, int]  # clip_id -> class index


@dataclass(frozen=True)
class Wanted:
    """The clips that a phase is trained on, pseudo-labelled ones among them, and those that it is judged on."""

    labelled: LabelOf
    validation: LabelOf
    pseudo: PseudoLabels | None = None

    @property
    def train(self) -> LabelOf:
        """The class of every training clip; that of a pseudo-labelled one is the one predicted."""
        return {**self.labelled, **self.pseudo.label_of} if self.pseudo else self.labelled

    @property
    def everything(self) -> LabelOf:
        """Training and validation clips."""
        return self.train | self.validation

    @property
    def deciding(self) -> list:
        """What decides the result beside the classes of the clips, for digests; nothing without pseudo-labels."""
        return [{"pseudo_labels": self.pseudo.digest}] if self.pseudo else []


@dataclass(frozen=True)
class Trained:
    """A trained model's checkpoint folder, and the corpus it was trained on."""

    path: Path
    prepared: Prepared
    readings: Readings | None  # that were used

    def summary(self) -> dict:
        """Validation metrics of both phases at their best epoch."""
        return {"notes": list(self.prepared.notes), **store.read_meta(self.path)["best"]}


@dataclass(frozen=True)
class Planned:
    """What a config trains: on which clips and features, and where its checkpoints lie or will lie."""

    prepared: Prepared
    wanted: Wanted
    readings: Readings | None
    frozen: tuple[Encoder, ...]
    key: str
    path: Path
    video_path: Path | None  # of EmoVCLIP; None where none is trained


def train(config: Config) -> Trained:
    """The checkpoint of this config: made now, or found. Raises ValueError where there is nothing to train on."""
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: train makes one")
    no_folds(config)
    plan = planned(config, prepare(config))
    if store.is_complete(plan.path):
        say(f"model {plan.path.name} is trained already")
    else:
        run = tracking.open_run(config, cluster.store_root(config), plan.key, plan.path.name)
        with run.running():
            make(config, plan, run.epoch)
            run.artifacts(plan.path, "checkpoint")
            run.metrics({f"validation/{k}": v for k, v in store.read_meta(plan.path)["best"]["fusion"].items()})
    return Trained(plan.path, plan.prepared, plan.readings)


def planned(config: Config, prepared: Prepared) -> Planned:
    """What `make` will make. Raises ValueError where there is nothing to train on."""
    root = cluster.store_root(config)
    wanted = _wanted(config, prepared)
    video_path = _emovclip_path(config, prepared, wanted, root)
    readings = labelled_readings(config, prepared, wanted.train)
    frozen = tuple(frozen_encoders(config, readings))
    key = _fusion_digest(config, prepared, wanted, frozen, video_path)
    return Planned(prepared, wanted, readings, frozen, key, root / "checkpoints" / f"model-{key}", video_path)


def make(config: Config, plan: Planned, on_epoch: fit.OnEpoch, here: bool = False) -> None:
    """Train what is planned, and store it; of what is there already, `on_epoch` gets the epochs all the same.

    `here`: in this process, which is a worker itself, and not in workers of its own.
    """
    if plan.video_path is not None:
        make_emovclip(config, plan, on_epoch, here)
    if store.is_complete(plan.path):
        _retell(plan.path, "fusion", on_epoch)
        return
    table = feature_rows(config, plan, plan.wanted.everything, here)
    _train_fusion(config, plan, table, on_epoch, here)


def feature_rows(config: Config, plan: Planned, clip_ids: Collection[str], here: bool = False) -> pa.Table:
    """The features of these clips, as `features.load` gives them; EmoVCLIP's where it is trained."""
    parts = parts_with(plan.prepared, clip_ids)
    encoders = [*plan.frozen, *([video_encoder(plan.video_path)] if plan.video_path else [])]
    return load(plan.prepared, encode(config, plan.prepared, encoders, parts, here), parts, clip_ids)


def _retell(path: Path, phase: str, on_epoch: fit.OnEpoch) -> None:
    for metrics in store.read_meta(path)["history"]:
        on_epoch(phase, metrics)


def labelled_readings(config: Config, prepared: Prepared, also: Collection[str] = ()) -> Readings | None:
    """Readings of every labelled clip, of all splits at once: a budget is for one asking. None without annotate.url.

    `also`: the ids of other clips that are trained on.
    """
    return readings_of(config, [c for c in prepared.clips if c.label is not None or c.clip_id in also])


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


def _wanted(config: Config, prepared: Prepared) -> Wanted:
    """Raises ValueError where there is nothing to train on, or pseudo-labels that must not be trained on."""
    if len(prepared.labels) < 2:
        vocabulary(prepared.labels, None)  # says what is wrong
    labelled, validation = (labels_of(prepared, split) for split in ("train", "validation"))
    if not labelled:
        raise ValueError(f"{config.data.manifest}: found no labelled training clips, expected at least one per class")
    if config.train.pseudo_labels is None:
        return Wanted(labelled, validation)
    accepted = pseudo.read(Path(config.train.pseudo_labels), prepared.labels, config.train)
    split_of = {clip.clip_id: clip.split for clip in prepared.clips}
    wrong = [(name, split_of.get(name)) for name in accepted.label_of if split_of.get(name) != "unlabelled"]
    if wrong:
        shown = ", ".join(f"{name!r} ({split or 'not in the manifest'})" for name, split in sorted(wrong)[:5])
        raise ValueError(
            f"train.pseudo_labels: found {len(wrong)} accepted clips that are not unlabelled ones of this corpus "
            f"({shown}), expected none: nothing is trained on that it is judged on, so run jobs/pseudo_label.py with "
            "this manifest and these splits"
        )
    if not accepted.label_of:
        say(f"{config.train.pseudo_labels}: no clip was accepted, so labelled clips alone are trained on")
    return Wanted(labelled, validation, accepted if accepted.label_of else None)


def _with_video(config: Config, prepared: Prepared, wanted: Wanted) -> Wanted:
    """The clips of EmoVCLIP's phase."""
    ledger = prepared.ledger
    usable = ledger.filter(pc.equal(ledger["video_status"], "ok"))["clip_id"].to_pylist()
    labelled, validation = (
        {clip_id: label_of[clip_id] for clip_id in usable if clip_id in label_of}
        for label_of in (wanted.labelled, wanted.validation)
    )
    both = wanted.pseudo if config.train.pseudo_phases == "both" else None
    return Wanted(labelled, validation, both and both.only(usable))


def _emovclip_path(config: Config, prepared: Prepared, wanted: Wanted, root: Path) -> Path | None:
    """Where the EmoVCLIP of this config and corpus lies or will lie; None where none is to be trained."""
    if config.tables.video:
        return None
    usable = _with_video(config, prepared, wanted)
    if not usable.train:
        say("no training clip has video: the model will have none")
        return None
    start = checkpoint.start_folder(config, prepared.labels)
    key = store.digest(
        VERSION,
        frozen_digest(config),
        config.emovclip.model_dump(exclude={"clip", "weights", "start_from"}),
        _train_settings(config),
        prepared.shards.name,
        parts_with(prepared, usable.everything),
        prepared.labels,
        sorted(usable.train.items()),
        sorted(usable.validation.items()),
        *([store.digest_path(start / checkpoint.WEIGHTS)] if start else []),
        *usable.deciding,
    )
    return root / "checkpoints" / f"emovclip-{key}"


def _fusion_digest(
    config: Config, prepared: Prepared, wanted: Wanted, frozen: Sequence[Encoder], video_path: Path | None
) -> str:
    start = config.fusion.start_from
    return store.digest(
        VERSION,
        config.fusion.model_dump(exclude={"start_from"}),
        _train_settings(config),
        [encoder.digest for encoder in frozen],
        video_path and video_path.name,
        prepared.shards.name,
        parts_with(prepared, wanted.everything),
        prepared.labels,
        sorted(wanted.train.items()),
        sorted(wanted.validation.items()),
        *([store.digest_path(Path(start) / checkpoint.WEIGHTS)] if start else []),
        *wanted.deciding,
    )


def _train_settings(config: Config) -> dict:
    """Of both phases. What is trained towards pseudo-labels is in their digest, and changes nothing without any."""
    elsewhere = {"use_gpu", "max_failures", *(name for name in Train.model_fields if name.startswith("pseudo_"))}
    return {**config.train.model_dump(exclude=elsewhere), "seed": config.seed}


def make_emovclip(config: Config, plan: Planned, on_epoch: fit.OnEpoch, here: bool = False) -> None:
    """The same of EmoVCLIP alone. Of several processes that want one, one makes it and the others wait."""
    with store.alone(plan.video_path.with_name(f".{plan.video_path.name}.lock")):
        _make_emovclip(config, plan, on_epoch, here)


def _make_emovclip(config: Config, plan: Planned, on_epoch: fit.OnEpoch, here: bool) -> None:
    prepared, path = plan.prepared, plan.video_path
    if store.is_complete(path):
        say(f"EmoVCLIP {path.name} is trained already")
        _retell(path, "emovclip", on_epoch)
        return
    usable = _with_video(config, prepared, plan.wanted)
    datasets = {
        split: video_dataset([prepared.shards / name for name in parts_with(prepared, label_of)], label_of)
        for split, label_of in (("train", usable.train), ("validation", usable.validation))
        if label_of
    }
    read = partial(from_shards, modalities=("video",), labels=usable.everything)
    job = fit.Job(
        phase="emovclip",
        digest=path.name.removeprefix("emovclip-"),
        build=partial(checkpoint.fresh_emovclip, config, prepared.labels),
        collate=partial(read_with_targets, read, usable.pseudo),
        optimisation=config.emovclip,
        train_rows=len(usable.train),
        precision=config.train.precision,
        class_weight_K=_class_weights(config.emovclip, usable, len(prepared.labels)),
    )
    best = (fit.run_here if here else fit.run)(job, config, datasets, on_epoch)
    save(path, best, config, prepared, Phase("EmoVCLIP", len(usable.train), usable.pseudo))
    fit.clean_up(job, config)


def _train_fusion(config: Config, plan: Planned, table: pa.Table, on_epoch: fit.OnEpoch, here: bool) -> None:
    job, datasets = fusion_job(config, plan, table)
    best = (fit.run_here if here else fit.run)(job, config, datasets, on_epoch)
    used = plan.wanted.pseudo and plan.wanted.pseudo.only(labelled(table, plan.wanted.train)["clip_id"].to_pylist())
    save(plan.path, best, config, plan.prepared, Phase("fusion", job.train_rows, used), plan.video_path)
    fit.clean_up(job, config)


def fusion_job(config: Config, plan: Planned, table: pa.Table) -> tuple[fit.Job, dict[str, ray.data.Dataset]]:
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
    statistics = scalings(from_features(tables["train"]))
    job = fit.Job(
        phase="fusion",
        digest=plan.key,
        build=partial(checkpoint.fresh_fusion, config, statistics, prepared.labels),
        collate=partial(read_with_targets, from_features, wanted.pseudo),
        optimisation=config.fusion,
        train_rows=len(tables["train"]),
        fusion=True,
        passes_per_epoch=config.fusion.passes_per_epoch,
        class_weight_K=_class_weights(config.fusion, wanted, len(prepared.labels)),
    )
    return job, datasets


def _class_weights(own: Optimisation, wanted: Wanted, classes: int) -> torch.Tensor | None:
    """From the classes of training clips, of which a pseudo-labelled one counts for as much as it weighs."""
    label_of = wanted.train
    weight_B = wanted.pseudo and wanted.pseudo.weights(list(label_of))
    return class_weights(own, torch.tensor(list(label_of.values())), classes, weight_B)


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
