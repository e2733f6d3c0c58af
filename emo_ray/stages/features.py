"""features: encoders over shards, once per encoder digest and shard part.

A feature part has the name and the rows of its shard part. Missing parts are made, parts that are there are kept, so
the stage costs nothing the second time and goes on after a kill.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
import torch

from emo_ray import cluster, store
from emo_ray.config import MODALITIES, Config
from emo_ray.data.batch import Batch, from_shards
from emo_ray.models import audio, checkpoint, emovclip, text
from emo_ray.progress import progress
from emo_ray.stages.prepare import Prepared, prepare

VERSION = 2  # of the tables' form
_INPUTS = {"video": ["frames"], "audio": ["audio", "audio_samples"], "text": ["text"]}


@dataclass(frozen=True)
class Encoder:
    """How the features of one modality are made: `build()` gives a callable module `(batch) -> features_BD`."""

    modality: str
    digest: str
    build: Callable[[], torch.nn.Module]
    batch_size: int


def frozen_encoders(config: Config) -> list[Encoder]:
    """The encoders of sound and text, which no training changes."""
    return [
        Encoder("audio", audio.digest(config.audio), lambda: audio.build(config.audio), config.audio.batch_size),
        Encoder("text", text.digest(config.text), lambda: text.build(config.text), config.text.batch_size),
    ]


def video_encoder(folder: Path) -> Encoder:
    """The trained EmoVCLIP in a checkpoint folder, as an encoder of video."""
    config, _ = checkpoint.read_config(folder)
    digest = store.digest(emovclip.frozen_digest(config), store.digest_path(folder / checkpoint.WEIGHTS))
    return Encoder("video", digest, lambda: emovclip.VideoEncoder(checkpoint.load_emovclip(folder)), batch_size=8)


@dataclass(frozen=True)
class Featured:
    """Feature tables: their common folder, and the folder of each modality."""

    path: Path
    folders: dict[str, Path]

    def summary(self) -> dict:
        """The folder of each modality's table."""
        return {name: str(folder) for name, folder in self.folders.items()}


def features(config: Config) -> Featured:
    """Features of every clip of the corpus, sound and text, and video where `checkpoint` names a model."""
    prepared = prepare(config)
    encoders = frozen_encoders(config)
    if config.checkpoint is not None:
        encoders.append(video_encoder(Path(config.checkpoint) / checkpoint.EMOVCLIP))
    folders = {encoder.modality: encode(config, prepared, encoder) for encoder in encoders}
    return Featured(cluster.store_root(config) / "features", folders)


def encode(config: Config, prepared: Prepared, encoder: Encoder, parts: Sequence[str] | None = None) -> Path:
    """Make the feature parts of `parts` (default: all of the corpus) that are missing; returns their folder."""
    key = store.digest(VERSION, encoder.digest, prepared.shards.name)
    folder = cluster.store_root(config) / "features" / f"{encoder.modality}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = prepared.parts if parts is None else parts
    todo = [name for name in parts if not (folder / name).exists()]
    if not todo:
        return folder
    about = {"kind": "features", "modality": encoder.modality, "encoder": encoder.digest}
    store.write_text(folder / store.META, json.dumps({**about, "shards": prepared.shards.name}))
    gpu = cluster.use_gpu(config, wanted=1)
    rows = [{"shard": str(prepared.shards / name), "feature": str(folder / name)} for name in todo]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _Encode,
        fn_constructor_args=(encoder,),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cluster.actor_count(len(rows), gpu)),
        num_cpus=cluster.task_cpus(),
        num_gpus=1 if gpu else 0,
    )
    clips = sum(part in set(todo) for part in prepared.ledger["part"].to_pylist())
    with progress(f"encoding {encoder.modality}", clips, "clips") as advance:
        for row in dataset.iter_rows():
            advance(row["clips"])
    return folder


def load(prepared: Prepared, folders: dict[str, Path], parts: Sequence[str] | None = None) -> pa.Table:
    """The rows of `parts` as `clip_id` and, per modality, `<modality>` (fixed-size list) and `has_<modality>`.

    Modalities that none of these clips has are left out.
    """
    parts = prepared.parts if parts is None else parts
    ledger = prepared.ledger
    table = ledger.filter(pc.is_in(ledger["part"], pa.array(list(parts)))).select(["clip_id"])
    for modality, folder in folders.items():
        column = pa.concat_tables([pq.read_table(folder / name) for name in parts])
        assert column["clip_id"].equals(table["clip_id"]), f"{folder}: rows differ from the ledger's"
        if pc.any(column["present"]).as_py():
            table = table.append_column(modality, column["feature"])
            table = table.append_column(f"has_{modality}", column["present"])
    return table


class _Encode:
    """An actor: `__init__` loads the encoder, `__call__` encodes one shard part into one feature part."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder
        gpu = torch.cuda.is_available() and bool(ray.get_gpu_ids())
        if not gpu:
            torch.set_num_threads(cluster.usable_threads(cluster.task_cpus()))
        self.module = encoder.build().eval().to("cuda" if gpu else "cpu")
        self.device = "cuda" if gpu else "cpu"

    def __call__(self, row: dict) -> dict:
        modality = self.encoder.modality
        columns = ["clip_id", *_INPUTS[modality], *(f"{name}_status" for name in MODALITIES)]
        table = pq.read_table(row["shard"], columns=columns)
        valid = np.flatnonzero(table[f"{modality}_status"].to_numpy() == "ok")
        if modality == "audio":  # equal lengths together: less padding
            lengths = table["audio_samples"].to_numpy(zero_copy_only=False)[valid]
            valid = valid[np.argsort(lengths, kind="stable")]
        size = self.encoder.batch_size
        chunks = [valid[i : i + size] for i in range(0, len(valid), size)]
        features: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for chunk, batch in zip(chunks, _ahead(_batches(table, chunks, modality)), strict=True):
                features_BD = self.module(batch.to(self.device)).float().cpu().numpy()
                features |= dict(zip(chunk.tolist(), features_BD, strict=True))
        _write(Path(row["feature"]), table["clip_id"], features, self.module.dim)
        return {"clips": len(table)}


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
