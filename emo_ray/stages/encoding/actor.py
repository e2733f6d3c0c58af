"""The actor that encodes: one shard part in, one feature part out. Kept light: each of its processes imports it."""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch

from emo_ray import cluster, store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import shards, tables
from emo_ray.data.batch import FROM_SHARDS, Batch

_INPUTS = {"video": ["frames"], "audio": ["audio", "audio_samples"], "text": ["text"]}


@dataclass(frozen=True)
class EncoderSpec:
    """How the features of one modality are made: `build()` gives a callable module `(batch) -> features_BD`.

    A row of NaN says that there is no feature for that clip, such as for sound shorter than one frame. One that reads
    no media (`sources`) looks features up instead: `build()` gives `data.tables.Tables`.
    """

    modality: str
    digest: str
    build: Callable[[], Any]
    batch_size: int
    readings: Path | None = None  # a table of `clip_id` and `reading`, which an encoder of text is given beside them
    sources: tuple[str, ...] = ()  # feature tables from elsewhere

    @property
    def reads(self) -> list[str]:
        """The modalities whose media it needs."""
        return [] if self.sources else [self.modality]

    def wanted(self, table: pa.Table) -> bool:
        """Whether any of these rows (of a ledger or of shards) has what this encoder reads."""
        return bool(self.sources) or pc.any(pc.equal(table[f"{self.modality}_status"], "ok")).as_py() is True

    def built(self, device: str) -> Any:
        """What encodes, on a device and in evaluation mode."""
        return self.build() if self.sources else self.build().eval().to(device)


def table_encoder(config: Config, modality: str) -> EncoderSpec:
    """The feature tables that `tables.*` names for a modality, in the place of an encoder."""
    sources = config.tables.of(modality)
    return EncoderSpec(modality, tables.digest(sources), partial(tables.Tables, sources), batch_size=1, sources=sources)


class EncodeActor:
    """An actor, or without Ray an object: `__call__` encodes a shard part with an encoder, and holds the last used.

    Tasks come encoder by encoder, so each is loaded once, and two large models are never in memory together.
    """

    def __init__(self, encoders: Sequence[EncoderSpec], device: str | None = None):
        self.encoders, self.loaded, self.device = encoders, -1, device or actor_device()

    def __call__(self, row: dict) -> dict:
        """A row of `encoder` (its index), `shard` and `feature` (paths) and `known` to the number of its clips.

        `known` is the pickled answer of shards.find on parts that have features already: those rows are copied.
        """
        encoder, known = self.encoders[row["encoder"]], pickle.loads(row["known"])
        shard = pq.read_table(row["shard"], columns=["identity", *shard_columns(encoder.reads)])
        fresh = shard.filter(pa.array([one not in known for one in shard["identity"].to_pylist()]))
        tables = [_rows_of(name, row, known) for name in sorted(set(known.values()))]
        if len(fresh):
            tables.append(encode_rows(encoder, self._module(row["encoder"]), fresh, self.device))
        table = pa.concat_tables(tables)
        place = {clip_id: i for i, clip_id in enumerate(table["clip_id"].to_pylist())}
        table = table.take([place[clip_id] for clip_id in shard["clip_id"].to_pylist()])
        store.write_parquet(Path(row["feature"]), table, rows_per_group=2**12)
        return {"clips": len(table)}

    def _module(self, index: int) -> Any:
        if self.loaded != index:
            self.module = None  # free the one before
            self.module, self.loaded = self.encoders[index].built(self.device), index
        return self.module


def _rows_of(name: str, row: dict, known: Mapping[str, str]) -> pa.Table:
    """The features of the rows that part `name` is known for, from beside the part that `row` is to make."""
    identities = shards.identities(Path(row["shard"]).with_name(name))
    features = pq.read_table(Path(row["feature"]).with_name(name))
    return features.filter(pa.array([known.get(one) == name for one in identities]))


def actor_device() -> str:
    """Where this actor computes: on the GPU it was given, else on as many threads as it was given CPUs."""
    if torch.cuda.is_available() and ray.get_gpu_ids():
        return "cuda"
    torch.set_num_threads(cluster.usable_threads(cluster.task_cpus()))
    return "cpu"


def shard_columns(modalities: Iterable[str]) -> list[str]:
    """The columns of a shard part that `encode_table` needs for these modalities, and every status."""
    inputs = [column for modality in modalities for column in _INPUTS[modality]]
    return ["clip_id", *inputs, *(f"{name}_status" for name in MODALITIES)]


def encode_rows(encoder: EncoderSpec, module: Any, table: pa.Table, device: str) -> pa.Table:
    """Shard rows to their features, in the same order: `clip_id`, `feature` (fixed-size list), `present`.

    `module` is what `encoder` builds, on `device`. A row without the modality holds NaN, never zeros; so does one for
    which the module gives NaN, because its sound is too short, for one. Rows looked up have a `status` as well.
    """
    if encoder.sources:
        return module(table["clip_id"].to_pylist())
    modality = encoder.modality
    if encoder.readings is not None:
        reading_of = _readings(encoder.readings)
        readings = [reading_of.get(clip_id) for clip_id in table["clip_id"].to_pylist()]
        table = table.append_column("reading", pa.array(readings, pa.string()))
    valid = np.flatnonzero(table[f"{modality}_status"].to_numpy() == "ok")
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
    table = pq.read_table(path, columns=["clip_id", "reading"])
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
