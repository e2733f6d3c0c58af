"""The joint phase: EmoVCLIP and the fusion head trained on together, end to end, from frames and features."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import ray
import ray.data

from emo_ray import cluster
from emo_ray.config import Config, override
from emo_ray.config.model_settings import EmoVCLIP
from emo_ray.data.batch import Choose, FeatureBatch, JointBatch, joint_from_shards
from emo_ray.data.frame_choice import Middles
from emo_ray.data.frames import KeptFrames
from emo_ray.data.targets import read_with_targets
from emo_ray.models.clip_source import image_size
from emo_ray.models.fusion import FusionHead
from emo_ray.models.head_average import HeadAverage
from emo_ray.models.joint import HEAD, joined, parted
from emo_ray.progress import say
from emo_ray.stages.fitting import ray_train
from emo_ray.stages.fitting.balance import class_balance
from emo_ray.stages.fitting.epoch_log import OnEpoch
from emo_ray.stages.fitting.plan import TrainingPlan
from emo_ray.stages.fitting.ray_train import TrainingJob
from emo_ray.stages.fitting.video_job import augmentation, drawing, kept_frames, video_datasets

PHASE = "joint"
_RATES = 0.1  # of the two phases' learning rates, as both models are trained already


@dataclass(frozen=True)
class JointRows:
    """Makes batches of rows of shards, with features that lie in Ray's object store, once for all workers."""

    features: ray.ObjectRef  # of a FeatureBatch with the features, labels and modalities of all clips
    choose: Choose
    shape_TCHW: tuple[int, ...]  # of the frames that are chosen
    decode: KeptFrames

    def __call__(self, table: pa.Table) -> JointBatch:
        """The batch of a table."""
        return joint_from_shards(table, self._clips, self.choose, self.shape_TCHW, self.decode)

    @cached_property
    def _clips(self) -> FeatureBatch:
        return ray.get(self.features)


def trained_together(
    config: Config,
    plan: TrainingPlan,
    head: FusionHead | HeadAverage,
    best: Mapping[str, Any],
    clips: FeatureBatch,
    on_epoch: OnEpoch,
) -> dict[str, Any]:
    """Train the planned EmoVCLIP and a head that is trained already on, for `train.joint_epochs`.

    `best` is what `ray_train.train` returned of the head, `clips` are the features of all training and validation
    clips. Returns the same as `best`, of both phases as one history; `video` is the trained state of EmoVCLIP where the
    joint phase has the better epoch, else None. Without validation clips it is taken for better.
    """
    before = len(best["history"])
    job, datasets = _job(config, plan, head, clips)
    joint_config = override(config, {"train.epochs": config.train.joint_epochs})
    joint = ray_train.train(
        job, joint_config, datasets, lambda phase, metrics: on_epoch("fusion", _later(metrics, before))
    )
    both = {
        "history": [*best["history"], *(_later(metrics, before) for metrics in joint["history"])],
        "planned": best["planned"] + joint["planned"],
    }
    if "val_loss" in joint["metrics"] and list(joint["score"]) <= list(best["score"]):
        say("training EmoVCLIP and the head together brought nothing on validation clips: both stay as they were")
        return {**best, **both, "video": None}
    video, head_state = parted(joint["model"])
    return {**joint, **both, "epoch": before + joint["epoch"], "model": head_state, "video": video}


def _later(metrics: Mapping[str, float], epochs: int) -> dict[str, float]:
    """An epoch's metrics, counted on after so many epochs."""
    return {**metrics, **{name: metrics[name] + epochs for name in ("epoch", "best_epoch")}}


def _job(
    config: Config, plan: TrainingPlan, head: FusionHead | HeadAverage, clips: FeatureBatch
) -> tuple[TrainingJob, dict[str, ray.data.Dataset]]:
    cluster.connect(config)
    assert plan.video_path is not None, "the plan was checked for an EmoVCLIP"
    train_ids = [clip_id for clip_id in clips.clip_ids if clip_id in plan.clips.train]
    balance = class_balance(config.fusion, plan.clips, train_ids, plan.prepared.labels)
    shown = balance.shown(train_ids)
    judged = [clip_id for clip_id in clips.clip_ids if clip_id in plan.clips.validation]
    collate = partial(_collate, config, plan, ray.put(clips), kept_frames(config))
    job = TrainingJob(
        phase=PHASE,
        digest=plan.key,
        build=partial(joined, plan.video_path, head),
        collate=collate(Middles(config.media.frames)),
        collate_of=partial(drawing, config, collate),
        optimisation=_optimisation(config),
        train_rows=len(shown),
        has_head=True,
        precision=config.train.precision,
        class_weight_K=balance.class_weight_K,
        logit_shift_K=balance.logit_shift_K,
        augment=augmentation(config),
        ema=config.train.ema,
    )
    return job, video_datasets(plan.prepared, shown, judged)


def _collate(
    config: Config, plan: TrainingPlan, features: ray.ObjectRef, decode: KeptFrames, choose: Choose
) -> partial[JointBatch]:
    """A function from rows of shards to a batch, with targets."""
    shape_TCHW = (config.media.frames, 3, image_size(config), image_size(config))
    return partial(read_with_targets, JointRows(features, choose, shape_TCHW, decode), plan.clips.targets)


def _optimisation(config: Config) -> EmoVCLIP:
    """EmoVCLIP's settings with the head's loss, and with a share of the rates that each part had."""
    video, head = config.emovclip, config.fusion
    rates = {part: _RATES * video.highest_lr(part) for part in video.trained_parts} | {HEAD: _RATES * head.lr}
    return video.model_copy(update={"lr": _RATES * video.lr, "lr_of": rates, "label_smoothing": head.label_smoothing})
