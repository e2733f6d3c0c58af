"""The two phases of training: EmoVCLIP's prompts, then the fusion head, each to a checkpoint."""

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from emo_ray import store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.batch import FeatureBatch, from_features, with_context
from emo_ray.data.dialogues import Windows, with_neighbours
from emo_ray.data.folding import INNER_FOLDS
from emo_ray.data.prepared import LabelOf
from emo_ray.data.splits import grouped
from emo_ray.data.targets import read_with_targets, with_targets
from emo_ray.inference.encoders import video_encoder
from emo_ray.models import checkpoint, familiarity
from emo_ray.models.classical_head import ClassicalHead
from emo_ray.models.fusion import feature_rates, scalings
from emo_ray.models.head_average import Head
from emo_ray.models.trainable_state import load_trained
from emo_ray.progress import say
from emo_ray.stages.encoding.feature_tables import encode_corpus, load
from emo_ray.stages.encoding.labelled import labelled_batch, labelled_rows
from emo_ray.stages.fitting import joint, ray_train
from emo_ray.stages.fitting.balance import class_balance
from emo_ray.stages.fitting.checkpoint_folder import TrainedPhase, write_checkpoint, write_video
from emo_ray.stages.fitting.epoch_log import OnEpoch
from emo_ray.stages.fitting.folds import in_folds
from emo_ray.stages.fitting.heads import calibration_of_choice, calibration_on, classical, with_weights
from emo_ray.stages.fitting.plan import VERSION, TrainingPlan, clips_with_video
from emo_ray.stages.fitting.video_job import check_parts, emovclip_job
from emo_ray.training import speaker_scaling
from emo_ray.training.selection import Choice, choose
from emo_ray.training.speaker_scaling import SpeakerScaling

ReadFeatures = Callable[[pa.Table], FeatureBatch]


def train_phases(config: Config, plan: TrainingPlan, on_epoch: OnEpoch) -> None:
    """Train the planned phases. For phases that are already trained, replay their recorded epochs to `on_epoch`."""
    if plan.video_path is not None:
        train_emovclip(config, plan, on_epoch)

    def fill(folder: Path) -> dict[str, Any]:
        table = feature_rows(config, plan, plan.clips.all_clips)
        by_speaker = scaling_by_speaker(config, plan, table)
        choice = _choice(config, plan, table, by_speaker) if plan.inner_folds else None
        head_config = choice.config if choice else config
        validation = _labelled(plan, table, plan.clips.validation, by_speaker)
        trained_ids = labelled_rows(table, plan.clips.train)["clip_id"].to_pylist()
        if not trained_ids:
            raise ValueError(
                f"found no training clip with any usable modality, expected some: see bad_media.csv in "
                f"{plan.prepared.path}, or name feature tables with tables.video, tables.audio, tables.text"
            )
        head: Head
        if config.fusion.is_classical:
            train = _labelled(plan, table, plan.clips.labelled, by_speaker)
            head, best = classical(config, plan.prepared, train, validation)
            on_epoch("fusion", best["metrics"])
        else:
            job, datasets = fusion_job(head_config, plan, table, by_speaker, choice.epochs if choice else None)
            best = ray_train.train(job, head_config, datasets, on_epoch)
            head = with_weights(job, best)
        video_path = plan.video_path
        if config.train.joint_epochs:
            best = _trained_together(config, plan, head, best, table, on_epoch)
            if best["video"] is not None:
                video_path = write_video(folder, plan, best["video"], config)
                table = feature_rows(config, plan, plan.clips.all_clips, video_path)
                validation = _labelled(plan, table, plan.clips.validation, by_speaker)
        pseudo = plan.clips.pseudo and plan.clips.pseudo.only(trained_ids)
        fitted = calibration_of_choice(choice) if choice else calibration_on(head, validation)
        bounds = familiarity.bounds(head, _labelled(plan, table, plan.clips.train, by_speaker))
        phase = TrainedPhase("fusion", len(trained_ids), pseudo, choice, fitted, bounds)
        if by_speaker is not None:
            speaker_scaling.write(folder, by_speaker)
        return write_checkpoint(folder, best, head_config, plan.prepared, phase, video_path)

    _train_once(plan.path, "fusion", config, on_epoch, fill)


def _trained_together(
    config: Config, plan: TrainingPlan, head: Head, best: dict[str, Any], table: pa.Table, on_epoch: OnEpoch
) -> dict[str, Any]:
    """The best epoch after the joint phase, see `joint.trained_together`, whose weights the head then has.

    Raises ValueError where no clip has video.
    """
    assert not isinstance(head, ClassicalHead), "the plan was checked for a head with gradients"
    if "video" not in head.project:
        raise ValueError("found train.joint_epochs with no training clip with video, expected train.joint_epochs=0")
    clips = labelled_batch(table, plan.clips.all_clips, None)
    best = joint.trained_together(config, plan, head, best, clips, on_epoch)
    load_trained(head, best["model"])
    return best


def train_emovclip(config: Config, plan: TrainingPlan, on_epoch: OnEpoch) -> None:
    """Train the planned EmoVCLIP, or replay its recorded epochs where it is trained already."""
    path = plan.video_path
    assert path is not None, "the plan trains no EmoVCLIP"

    def fill(folder: Path) -> dict[str, Any]:
        from emo_ray.models.clip import check_tag  # open_clip takes seconds to import, and a head needs none of it

        check_tag(config)
        parts = plan.prepared.parts_with(plan.clips.all_clips)
        check_parts([plan.prepared.shards / name for name in parts])
        job, datasets = emovclip_job(config, plan, path)
        best = ray_train.train(job, config, datasets, on_epoch)
        pseudo = clips_with_video(config, plan.prepared, plan.clips).pseudo
        return write_checkpoint(folder, best, config, plan.prepared, TrainedPhase("EmoVCLIP", job.train_rows, pseudo))

    if store.is_complete(path):
        say(f"EmoVCLIP {path.name} is trained already")
    _train_once(path, "emovclip", config, on_epoch, fill)


def feature_rows(
    config: Config, plan: TrainingPlan, clip_ids: Collection[str], video_path: Path | None = None
) -> pa.Table:
    """The features of these clips and of their neighbours, as `feature_tables.load` gives them.

    Those of video are EmoVCLIP's where the plan has one; `video_path` is another one's folder.
    """
    video_path = video_path or plan.video_path
    clip_ids = with_neighbours(clip_ids, plan.windows)
    parts = plan.prepared.parts_with(clip_ids)
    encoders = [*plan.encoders, *([video_encoder(video_path)] if video_path else [])]
    return load(plan.prepared, encode_corpus(config, plan.prepared, encoders, parts), parts, clip_ids)


def fusion_job(
    config: Config,
    plan: TrainingPlan,
    table: pa.Table,
    by_speaker: SpeakerScaling | None = None,
    stop_after: int | None = None,
) -> tuple[ray_train.TrainingJob, dict[str, pa.Table]]:
    """How the head is trained on these features, which at least one training clip has."""
    prepared, clips = plan.prepared, plan.clips
    train_rows = labelled_rows(table, clips.train)
    read: ReadFeatures = from_features if by_speaker is None else partial(_standardised, by_speaker)
    # Pseudo-labelled clips count as well: how features are scaled says nothing about labels.
    train = read(train_rows)
    usable = train_rows["clip_id"].to_pylist()
    statistics = scalings(train)
    rates_of = feature_rates(train, config.fusion.feature_dropout)
    if config.fusion.start_from is None:  # else the head may know more modalities than its clips show
        table = table.drop_columns([name for name in table.column_names if _modality(name) not in (None, *statistics)])
    balance = class_balance(config.fusion, clips, usable, prepared.labels)
    shown = train_rows if balance.rows is None else train_rows.take(balance.rows)
    tables = {"train": shown, "validation": labelled_rows(table, clips.validation)}
    heads = config.train.averaged_heads(len(usable))
    if plan.windows is not None:
        read = WithNeighbours(read, read(table), plan.windows.only(clips.all_clips))
    job = ray_train.TrainingJob(
        phase="fusion",
        digest=plan.key,
        build=partial(checkpoint.fresh_fusion, config, statistics, prepared.labels, heads, rates_of),
        collate=partial(read_with_targets, read, clips.targets),
        optimisation=config.fusion,
        train_rows=len(shown),
        fusion=True,
        passes_per_epoch=config.fusion.passes_per_epoch,
        class_weight_K=balance.class_weight_K,
        logit_shift_K=balance.logit_shift_K,
        stop_after=stop_after,
    )
    return job, {name: rows for name, rows in tables.items() if len(rows)}


def _choice(config: Config, plan: TrainingPlan, table: pa.Table, by_speaker: SpeakerScaling | None) -> Choice:
    """The settings and epochs that inner folds choose."""
    batch = with_targets(_labelled(plan, table, plan.clips.labelled, by_speaker), plan.clips.votes)
    run = None if config.train.num_workers == 0 else partial(in_folds, config, len(batch))
    say(f"choosing settings of the head in {INNER_FOLDS} inner folds of {len(batch)} clips")
    groups = grouped(plan.prepared.clips_of(batch.clip_ids)).names
    return choose(batch, config, plan.prepared.labels, config.fusion.searches(len(batch)), groups, run)


def _labelled(
    plan: TrainingPlan, table: pa.Table, label_of: LabelOf, by_speaker: SpeakerScaling | None
) -> FeatureBatch:
    """The features of these clips and their neighbours, standardised as the head takes them."""
    batch = labelled_batch(table, label_of, plan.windows)
    return batch if by_speaker is None else by_speaker.applied(batch)


def scaling_by_speaker(config: Config, plan: TrainingPlan, table: pa.Table) -> SpeakerScaling | None:
    """How these features are standardised by speaker; None where they are not.

    Variances come from labelled training clips, the statistics of each speaker from all training and validation clips.
    """
    if config.tables.standardise == "corpus":
        return None
    labelled, all_clips = (
        from_features(labelled_rows(table, label_of)) for label_of in (plan.clips.labelled, plan.clips.all_clips)
    )
    return speaker_scaling.estimated(labelled, [all_clips])


def _standardised(by_speaker: SpeakerScaling, table: pa.Table) -> FeatureBatch:
    """A batch of rows as `from_features` reads them, standardised by speaker."""
    return by_speaker.applied(from_features(table))


@dataclass(frozen=True)
class WithNeighbours:
    """Makes batches of rows of features, with their neighbours.

    Where Ray's workers get it, the neighbours lie in the object store, once for all of them.
    """

    read: ReadFeatures
    clips: FeatureBatch
    windows: Windows

    def __call__(self, table: pa.Table) -> FeatureBatch:
        """The batch of a table."""
        return with_context(self.read(table), self.clips, self.windows)

    def __reduce__(self) -> tuple[Callable[..., "WithNeighbours"], tuple[Any, ...]]:
        return _with_neighbours, (self.read, self._shared, self.windows)

    @cached_property
    def _shared(self) -> ray.ObjectRef:
        return ray.put(self.clips)


def _with_neighbours(read: ReadFeatures, clips: ray.ObjectRef, windows: Windows) -> WithNeighbours:
    return WithNeighbours(read, ray.get(clips), windows)


def _modality(column: str) -> str | None:
    """The modality that a column of a feature table belongs to."""
    name = column.removeprefix("has_")
    return name if name in MODALITIES else None


def _train_once(
    path: Path, phase: str, config: Config, on_epoch: OnEpoch, fill: Callable[[Path], dict[str, Any]]
) -> None:
    """Make the checkpoint at `path` with `fill(folder)`, unless this or another process, such as a trial, made it."""
    is_trained_here = False

    def train(folder: Path) -> dict[str, Any]:
        nonlocal is_trained_here
        is_trained_here = True
        return fill(folder)

    meta = store.artefact(path, {"kind": "checkpoint", "version": VERSION}, train)
    _clean_up(config, phase, path)
    if not is_trained_here:
        for metrics in meta["history"]:
            on_epoch(phase, metrics)


def forget_state(config: Config, plan: TrainingPlan) -> None:
    """Remove what stopped training has left to go on from, unless another process goes on from it now."""
    for phase, path in (("emovclip", plan.video_path), ("fusion", plan.path)):
        if path is not None:
            with suppress(TimeoutError), store.being_made(path, timeout_s=0) as is_alone:
                if is_alone:  # else files cannot be locked, and nobody knows
                    _clean_up(config, phase, path)


def _clean_up(config: Config, phase: str, path: Path) -> None:
    for name in (phase, joint.PHASE):
        ray_train.clean_up(config, name, path.name.rpartition("-")[2])
