"""The actor that encodes: one shard part in, one feature part out. Kept light: each of its processes imports it."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from emo_ray import parquet, resources, trouble
from emo_ray.data import shards
from emo_ray.inference.encoders import EncoderSpec
from emo_ray.inference.encoding import encode_rows, shard_columns


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
        encoder = self.encoders[row["encoder"]]
        part_of = pickle.loads(row["encoded_in"])
        shard = parquet.read(Path(row["shard"]), columns=["identity", *shard_columns(encoder.reads)])
        fresh = shard.filter(pa.array([identity not in part_of for identity in shard["identity"].to_pylist()]))
        tables = [_copied_rows(name, row, part_of) for name in sorted(set(part_of.values()))]
        if len(fresh):
            tables.append(encode_rows(encoder, self._module(row["encoder"]), fresh, self.device))
        table = pa.concat_tables(tables)
        place = {clip_id: i for i, clip_id in enumerate(table["clip_id"].to_pylist())}
        table = table.take([place[clip_id] for clip_id in shard["clip_id"].to_pylist()])
        parquet.write(Path(row["feature"]), table, parquet.LIGHT_ROWS)

    def _module(self, index: int) -> Any:
        if self.loaded != index:
            self.module = None  # free the one before
            self.module, self.loaded = self.encoders[index].built(self.device), index
        return self.module


def _copied_rows(name: str, row: dict, part_of: Mapping[str, str]) -> pa.Table:
    """The features that part `name` holds of the rows that it was chosen for, from beside the part to be made."""
    identities = shards.identities(Path(row["shard"]).with_name(name))
    features = parquet.read(Path(row["feature"]).with_name(name))
    return features.filter(pa.array([part_of.get(identity) == name for identity in identities]))


def actor_device() -> str:
    """Where this actor computes: on the GPU it was given, else on as many threads as it was given CPUs."""
    import ray  # not needed where a job encodes by itself

    if torch.cuda.is_available() and ray.get_gpu_ids():
        return "cuda"
    torch.set_num_threads(resources.usable_threads(resources.task_cpus()))
    return "cpu"
