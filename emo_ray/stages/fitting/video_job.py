"""How EmoVCLIP is trained: rows of shards with frames, and the frames that each epoch shows of them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray.data

from emo_ray import bucket, cluster, parquet, resources, store
from emo_ray.config import Config
from emo_ray.data.batch import Choose, VideoBatch, video_from_shards
from emo_ray.data.frame_choice import Draw, Middles
from emo_ray.data.frames import KeptFrames
from emo_ray.data.prepared import Prepared
from emo_ray.data.targets import read_with_targets
from emo_ray.inference.encoding import shard_columns
from emo_ray.models import checkpoint
from emo_ray.models.clip_source import image_size
from emo_ray.stages.fitting.balance import class_balance
from emo_ray.stages.fitting.plan import TrainingClips, TrainingPlan, clips_with_video
from emo_ray.stages.fitting.ray_train import TrainingJob

if TYPE_CHECKING:
    from emo_ray.training.augmentation import Augmentation

# Of the cluster's object store: as much may one split's shards take in it, and all workers' decoded frames beside it.
_KEPT_SHARE = 0.25
_BLOCK_BYTES = 2**24  # a block costs Ray some 20 ms of CPU, whatever its size


def emovclip_job(config: Config, plan: TrainingPlan, path: Path) -> tuple[TrainingJob, dict[str, ray.data.Dataset]]:
    """How the planned EmoVCLIP is trained, and the rows of clips that it is trained and judged on."""
    cluster.connect(config)
    prepared = plan.prepared
    clips = clips_with_video(config, plan.prepared, plan.clips)
    train_ids = list(clips.train)
    balance = class_balance(config.emovclip, clips, train_ids, prepared.labels)
    shown = balance.shown(train_ids)
    collate = partial(_collate, clips, kept_frames(config))
    job = TrainingJob(
        phase="emovclip",
        digest=path.name.removeprefix("emovclip-"),
        build=partial(checkpoint.fresh_emovclip, config, prepared.labels),
        collate=collate(Middles(config.media.frames)),
        collate_of=partial(drawing, config, collate),
        optimisation=config.emovclip,
        train_rows=len(shown),
        precision=config.train.precision,
        augment=augmentation(config),
        ema=config.train.ema,
        class_weight_K=balance.class_weight_K,
        logit_shift_K=balance.logit_shift_K,
    )
    return job, video_datasets(prepared, shown, list(clips.validation))


def augmentation(config: Config) -> "Augmentation | None":
    """What changes training frames; None where nothing does."""
    if not config.augment.is_used:
        return None
    from emo_ray.training.augmentation import Augmentation  # torchvision takes seconds to import

    return Augmentation(config.augment, image_size(config), config.seed)


def kept_frames(config: Config) -> KeptFrames:
    """What decodes the frames of an epoch for a worker, and keeps as many for later epochs as its share has room for.

    A process that trains by itself may be one of many trials: it gets the share of one core.
    """
    processes = config.train.num_workers or max(1.0, cluster.cpus())
    return KeptFrames(int(_KEPT_SHARE * cluster.object_store_bytes() / processes))


def _collate(clips: TrainingClips, decode: KeptFrames, choose: Choose) -> Callable[[pa.Table], VideoBatch]:
    """A function from rows of shards to a batch of the frames that are chosen, with targets."""
    read = partial(video_from_shards, labels=clips.all_clips, choose=choose, decode=decode)
    return partial(read_with_targets, read, clips.targets)


def drawing(
    config: Config, collate: Callable[[Choose], Callable[[pa.Table], VideoBatch]], epoch: int
) -> Callable[[pa.Table], VideoBatch]:
    """The function from training rows to a batch in an epoch, which draws the frames of each clip anew."""
    return collate(Draw(config.media.frames, config.seed, f"epoch {epoch}"))


def video_datasets(
    prepared: Prepared, train_ids: Sequence[str], validation_ids: Sequence[str]
) -> dict[str, ray.data.Dataset]:
    """The rows of training and of validation clips by split, which is left out where it has no clip."""
    return {
        split: video_dataset([prepared.shards / name for name in prepared.parts_with(ids)], ids)
        for split, ids in (("train", train_ids), ("validation", validation_ids))
        if ids
    }


def video_dataset(paths: Sequence[Path], clip_ids: Iterable[str]) -> ray.data.Dataset:
    """Rows of these clips in shard parts: whole parts are read and other rows dropped before any JPEG is decoded.

    A clip that is named several times has as many rows. Rows that fit are kept in the object store, so that an epoch
    starts at once; more are streamed from disk each epoch.
    """
    copies = Counter(clip_ids)

    def keep(table: pa.Table) -> pa.Table:
        counts = np.array([copies[name] for name in table["clip_id"].to_pylist()], int)
        return table.take(np.repeat(np.arange(len(table)), counts))

    dataset = read_video(paths).map_batches(
        keep, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **resources.task_resources()
    )
    dataset.context.execution_options.preserve_order = True  # the same seed must see the same batches
    fits = store.bytes_of(paths) <= _KEPT_SHARE * cluster.object_store_bytes()
    return dataset.materialize() if fits else dataset


def read_video(paths: Sequence[Path]) -> ray.data.Dataset:
    """The rows of shard parts with what video needs, in blocks of about `_BLOCK_BYTES`."""
    blocks = math.ceil(store.bytes_of(paths) / _BLOCK_BYTES)
    places = [bucket.storage_of(path) for path in paths]
    return ray.data.read_parquet(
        [place for place, _ in places],
        filesystem=places[0][1],
        columns=shard_columns(["video"]),
        num_cpus=resources.task_cpus(),
        override_num_blocks=min(blocks, len(paths)),
    )


def check_parts(paths: Sequence[Path]) -> None:
    """Read what video needs of shard parts once. Raises store.DamagedFile for the first that is damaged.

    Ray reads parts itself and checks no pages; this costs as long as one pass over the files takes.
    """
    for path in paths:
        parquet.read(path, columns=shard_columns(["video"]))
