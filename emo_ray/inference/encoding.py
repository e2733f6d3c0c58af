"""Rows of decoded clips to features, by one encoder."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from emo_ray import parquet
from emo_ray.config.model_settings import MODALITIES
from emo_ray.config.train_settings import Augment
from emo_ray.data import transcripts
from emo_ray.data.batch import FROM_SHARDS, Batch, VideoBatch, video_from_shards
from emo_ray.data.frame_choice import Draw, Middles
from emo_ray.data.status import are_ok
from emo_ray.inference.encoders import EncoderSpec, RecogniserSpec
from emo_ray.inference.recognition import transcribe_rows

_INPUTS = {
    "video": ["frames"],
    "audio": ["audio", "audio_samples"],
    "text": ["text"],
    "speech": ["audio", "audio_samples", "language"],
}


def shard_columns(modalities: Iterable[str]) -> list[str]:
    """The columns of a shard part that `encode_rows` needs for these inputs, and every status."""
    inputs = [column for modality in modalities for column in _INPUTS[modality]]
    return ["clip_id", *inputs, *(f"{name}_status" for name in MODALITIES)]


def encode_rows(encoder: EncoderSpec, module: Any, table: pa.Table, device: str) -> pa.Table:
    """Shard rows to their features, in the same order: `clip_id`, `feature` (fixed-size list), `present`.

    `module` is what `encoder` builds, on `device`. A row without the modality holds NaN, never zeros; so does one for
    which the module gives NaN, because its sound is too short, for one. Rows looked up have a `status` as well. Those
    of a recogniser are transcripts.
    """
    if isinstance(encoder, RecogniserSpec):
        return transcribe_rows(encoder, module, table)
    if encoder.sources:
        return module(table["clip_id"].to_pylist())
    modality = encoder.modality
    table = transcripts.filled(table, encoder.transcripts)
    if encoder.readings is not None:
        reading_of = _readings(encoder.readings)
        has_words = are_ok(table["text_status"]).to_numpy()
        clip_ids = table["clip_id"].to_pylist()
        unread = [name for name, words in zip(clip_ids, has_words, strict=True) if words and name not in reading_of]
        assert not unread, f"nobody asked for readings of {len(unread)} clips that are encoded: {unread[0]}"
        readings = [reading_of.get(clip_id) for clip_id in clip_ids]
        table = table.append_column("reading", pa.array(readings, pa.string()))
    valid = np.flatnonzero(are_ok(table[f"{modality}_status"]).to_numpy())
    if modality == "audio":  # equal lengths together: less padding
        lengths = table["audio_samples"].to_numpy(zero_copy_only=False)[valid]
        valid = valid[np.argsort(lengths, kind="stable")]
    chunks = [valid[i : i + encoder.batch_size] for i in range(0, len(valid), encoder.batch_size)]
    values_BD = np.full((len(table), module.dim), np.nan, np.float32)
    with torch.inference_mode():
        for view in range(encoder.views):
            for chunk, batch in zip(chunks, _ahead(_batches(table, chunks, encoder, view)), strict=True):
                shown = _cropped(batch.to(device), encoder, view)
                share_BD = module(shown).float().cpu().numpy() / encoder.views
                values_BD[chunk] = share_BD if view == 0 else values_BD[chunk] + share_BD
    feature = pa.FixedSizeListArray.from_arrays(pa.array(values_BD.ravel()), module.dim)
    present = ~np.isnan(values_BD).all(axis=1)  # a module gives NaN where it finds nothing to encode
    return pa.table({"clip_id": table["clip_id"], "feature": feature, "present": pa.array(present)})


@lru_cache(maxsize=1)
def _readings(path: Path) -> dict[str, str | None]:
    """The reading of each clip by clip_id. The file's name is a digest of its content, so it is read once."""
    table = parquet.read(path, columns=["clip_id", "reading"])
    return dict(zip(table["clip_id"].to_pylist(), table["reading"].to_pylist(), strict=True))


def _batches(table: pa.Table, chunks: Sequence[np.ndarray], encoder: EncoderSpec, view: int) -> Iterator[Batch]:
    """The rows of each chunk; of video a view, of which the first shows the middles of what is stored."""
    read = FROM_SHARDS[encoder.modality]
    if encoder.frames is not None:
        drawn = Draw(encoder.frames, encoder.seed, f"view {view}")
        read = partial(video_from_shards, choose=drawn if view else Middles(encoder.frames))
    for chunk in chunks:
        yield read(table.take(chunk))


def _cropped(batch: Batch, encoder: EncoderSpec, view: int) -> Batch:
    """The batch as a view shows it: the first whole, others cropped as often as in training."""
    if view == 0 or not encoder.crop:
        return batch
    from emo_ray.training.augmentation import Augmentation  # only views need torchvision's transforms

    assert isinstance(batch, VideoBatch), "other encoders have a single view"
    return Augmentation(Augment(crop=encoder.crop), batch.frames_BTCHW.shape[-1], encoder.seed)(batch, view)


def _ahead(items: Iterable) -> Iterator:
    """The same items, each made in a thread while the one before is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, iterator, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, iterator, end)
            yield item
