"""The actor that encodes: one shard part in, one feature part out. Kept light: each of its processes imports it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch

from emo_ray import cluster, store
from emo_ray.data.batch import Batch, from_shards
from emo_ray.settings import MODALITIES

_INPUTS = {"video": ["frames"], "audio": ["audio", "audio_samples"], "text": ["text"]}


@dataclass(frozen=True)
class Encoder:
    """How the features of one modality are made: `build()` gives a callable module `(batch) -> features_BD`.

    A row of NaN says that there is no feature for that clip, such as for sound shorter than one frame.
    """

    modality: str
    digest: str
    build: Callable[[], torch.nn.Module]
    batch_size: int


class Encode:
    """An actor: `__call__` encodes one shard part with one of the encoders, of which it holds the last used.

    Tasks come encoder by encoder, so each is loaded once, and two large models are never in memory together.
    """

    def __init__(self, encoders: Sequence[Encoder]):
        self.encoders, self.loaded = encoders, -1
        self.device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(cluster.usable_threads(cluster.task_cpus()))

    def __call__(self, row: dict) -> dict:
        """A row of `encoder` (its index), `shard` and `feature` (paths) to the number of clips done."""
        encoder = self.encoders[row["encoder"]]
        if self.loaded != row["encoder"]:
            self.module = None  # free the one before
            self.module, self.loaded = encoder.build().eval().to(self.device), row["encoder"]
        return {"clips": self._part(encoder, Path(row["shard"]), Path(row["feature"]))}

    def _part(self, encoder: Encoder, shard: Path, feature: Path) -> int:
        modality = encoder.modality
        columns = ["clip_id", *_INPUTS[modality], *(f"{name}_status" for name in MODALITIES)]
        table = pq.read_table(shard, columns=columns)
        valid = np.flatnonzero(table[f"{modality}_status"].to_numpy() == "ok")
        if modality == "audio":  # equal lengths together: less padding
            lengths = table["audio_samples"].to_numpy(zero_copy_only=False)[valid]
            valid = valid[np.argsort(lengths, kind="stable")]
        size = encoder.batch_size
        chunks = [valid[i : i + size] for i in range(0, len(valid), size)]
        features: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for chunk, batch in zip(chunks, _ahead(_batches(table, chunks, modality)), strict=True):
                features_BD = self.module(batch.to(self.device)).float().cpu().numpy()
                rows = zip(chunk.tolist(), features_BD, strict=True)
                features |= {i: feature_D for i, feature_D in rows if not np.isnan(feature_D).all()}  # NaN: has none
        _write(feature, table["clip_id"], features, self.module.dim)
        return len(table)


def _batches(table: pa.Table, chunks: Sequence[np.ndarray], modality: str) -> Iterator[Batch]:
    for chunk in chunks:
        yield from_shards(table.take(chunk), [modality])


def _ahead(items: Iterable) -> Iterator:
    """The same items, each made in a thread while the one before is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, iterator, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, iterator, end)
            yield item


def _write(path: Path, clip_id: pa.ChunkedArray, features: dict[int, np.ndarray], size: int) -> None:
    """Rows in shard order: `clip_id`, `feature`, `present`; a row without a feature holds NaN, never zeros."""
    values = np.full((len(clip_id), size), np.nan, np.float32)
    for i, feature_D in features.items():
        values[i] = feature_D
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size)
    present = pa.array([i in features for i in range(len(clip_id))])
    table = pa.table({"clip_id": clip_id, "feature": column, "present": present})
    store.write_parquet(path, table, rows_per_group=2**12)
