"""The actor that encodes: one shard part in, one feature part out. Kept light: each of its processes imports it."""

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch

from emo_ray import cluster, store, trouble
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import shards, transcripts
from emo_ray.data.batch import FROM_SHARDS, Batch
from emo_ray.data.status import are_ok
from emo_ray.stages.encoding.encoders import EncoderSpec, RecogniserSpec
from emo_ray.stages.encoding.recognition import transcribe_rows

_INPUTS = {
    "video": ["frames"],
    "audio": ["audio", "audio_samples"],
    "text": ["text"],
    "speech": ["audio", "audio_samples", "language"],
}


class EncodeActor:
    """An actor, or without Ray an object, that encodes shard parts. It holds the encoder that it used last.

    Tasks come encoder by encoder, so each is loaded once, and two large models are never in memory together.
    """

    def __init__(self, encoders: Sequence[EncoderSpec], patience_s: float, device: str | None = None):
        self.encoders, self.patience_s, self.device = encoders, patience_s, device or actor_device()
        self.module: Any = None
        self.loaded = -1  # index of the encoder that `module` is

    def __call__(self, row: dict) -> dict:
        """Encode one shard part; returns the number of its `clips`, and what is `unread`: see trouble.unread.

        A row has `encoder` (its index), `shard` and `feature` (paths) and `encoded_in`: the pickled answer of
        shards.find_rows on parts that have features already. Those rows are copied.
        """
        unread = trouble.unread(lambda: trouble.in_rounds(self._encode, [row], self.patience_s))
        return {"clips": row["clips"], "unread": unread}

    def _encode(self, row: dict) -> None:
        encoder, part_of = self.encoders[row["encoder"]], pickle.loads(row["encoded_in"])
        shard = store.read_parquet(Path(row["shard"]), columns=["identity", *shard_columns(encoder.reads)])
        fresh = shard.filter(pa.array([identity not in part_of for identity in shard["identity"].to_pylist()]))
        tables = [_copied_rows(name, row, part_of) for name in sorted(set(part_of.values()))]
        if len(fresh):
            tables.append(encode_rows(encoder, self._module(row["encoder"]), fresh, self.device))
        table = pa.concat_tables(tables)
        place = {clip_id: i for i, clip_id in enumerate(table["clip_id"].to_pylist())}
        table = table.take([place[clip_id] for clip_id in shard["clip_id"].to_pylist()])
        store.write_parquet(Path(row["feature"]), table, rows_per_group=2**12)

    def _module(self, index: int) -> Any:
        if self.loaded != index:
            self.module = None  # free the one before
            self.module, self.loaded = self.encoders[index].built(self.device), index
        return self.module


def _copied_rows(name: str, row: dict, part_of: Mapping[str, str]) -> pa.Table:
    """The features that part `name` holds of the rows that it was chosen for, from beside the part to be made."""
    identities = shards.identities(Path(row["shard"]).with_name(name))
    features = store.read_parquet(Path(row["feature"]).with_name(name))
    return features.filter(pa.array([part_of.get(identity) == name for identity in identities]))


def actor_device() -> str:
    """Where this actor computes: on the GPU it was given, else on as many threads as it was given CPUs."""
    if torch.cuda.is_available() and ray.get_gpu_ids():
        return "cuda"
    torch.set_num_threads(cluster.usable_threads(cluster.task_cpus()))
    return "cpu"


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
        for chunk, batch in zip(chunks, _ahead(_batches(table, chunks, modality)), strict=True):
            values_BD[chunk] = module(batch.to(device)).float().cpu().numpy()
    feature = pa.FixedSizeListArray.from_arrays(pa.array(values_BD.ravel()), module.dim)
    present = ~np.isnan(values_BD).all(axis=1)  # a module gives NaN where it finds nothing to encode
    return pa.table({"clip_id": table["clip_id"], "feature": feature, "present": pa.array(present)})


@lru_cache(maxsize=1)
def _readings(path: Path) -> dict[str, str | None]:
    """By clip_id; the table's name tells its content, so a process reads it once."""
    table = store.read_parquet(path, columns=["clip_id", "reading"])
    return dict(zip(table["clip_id"].to_pylist(), table["reading"].to_pylist(), strict=True))


def _batches(table: pa.Table, chunks: Sequence[np.ndarray], modality: str) -> Iterator[Batch]:
    for chunk in chunks:
        yield FROM_SHARDS[modality](table.take(chunk))


def _ahead(items: Iterable) -> Iterator:
    """The same items, each made in a thread while the one before is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, iterator, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, iterator, end)
            yield item
