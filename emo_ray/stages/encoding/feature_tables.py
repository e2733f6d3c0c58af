"""Encoders over shards to feature tables, once per encoder digest and shard part.

A feature part has the name and the rows of its shard part. Missing parts are made, parts that are there are kept, so
encoding costs nothing the second time and goes on after a kill.
"""

import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import cluster, durable, parquet, resources, store, trouble
from emo_ray.config import Config
from emo_ray.data import shards
from emo_ray.inference.encoders import EncoderSpec, feature_folder
from emo_ray.progress import progress
from emo_ray.stages.decoding.shard_plan import Decoded
from emo_ray.stages.encoding import external_tables


def encode_corpus(
    config: Config, prepared: Decoded, encoders: Sequence[EncoderSpec], parts: Sequence[str] | None = None
) -> dict[str, Path]:
    """Make the feature parts of `parts` (default: all) that are missing; a folder per modality that any clip has."""
    parts = prepared.parts if parts is None else parts
    ledger = prepared.ledger
    clip_ids = set(ledger["clip_id"].to_pylist())
    ledger = ledger.filter(pc.is_in(ledger["part"], pa.array(list(parts))))
    folders: dict[str, Path] = {}
    rows: list[dict[str, Any]] = []
    clips_of = Counter(ledger["part"].to_pylist())
    for i, encoder in enumerate(encoders):
        if not encoder.wanted(ledger):
            continue  # nobody has it: no need to load a model
        folder = folders[encoder.modality] = feature_folder(config, prepared.shards, encoder)
        _note(folder, prepared.shards, encoder)
        missing = store.missing(folder, parts)
        if missing and encoder.sources:
            external_tables.check(encoder, clip_ids)
        encoded_in = {} if encoder.sources else _encoded_elsewhere(folder, prepared, missing)
        rows += [
            {
                "encoder": i,
                "shard": str(prepared.shards / name),
                "feature": str(folder / name),
                "part": name,
                "clips": clips_of[name],
                "encoded_in": pickle.dumps(encoded_in.get(name, {})),
            }
            for name in missing
        ]
    if rows:
        _encode_with_progress(config, encoders, rows)
    for i in sorted({row["encoder"] for row in rows if encoders[row["encoder"]].sources}):
        external_tables.report_rows(encoders[i], folders[encoders[i].modality], parts)
    return folders


def load(
    prepared: Decoded, folders: dict[str, Path], parts: Sequence[str] | None = None,
    clip_ids: Collection[str] | None = None,
) -> pa.Table:  # fmt: skip
    """The rows of `parts`: `clip_id`, `speaker` and, per modality, `<modality>` (fixed-size list) and `has_<modality>`.

    With `clip_ids` the rows of these clips, and no others are ever in memory. Modalities that none of the clips has are
    left out.
    """
    parts = prepared.parts if parts is None else parts
    ledger = prepared.ledger
    table = ledger.filter(pc.is_in(ledger["part"], pa.array(list(parts)))).select(["clip_id", "part"])
    if clip_ids is not None:
        chosen_ids = set(clip_ids)
        table = table.filter(pa.array([clip_id in chosen_ids for clip_id in table["clip_id"].to_pylist()], pa.bool_()))
    ids_in: dict[str, list[str]] = defaultdict(list)  # of each part alone: a filter by all ids takes their time a part
    for clip_id, part in zip(table["clip_id"].to_pylist(), table["part"].to_pylist(), strict=True):
        ids_in[part].append(clip_id)
    speakers = [prepared.speaker_of.get(clip_id) for clip_id in table["clip_id"].to_pylist()]
    table = table.select(["clip_id"]).append_column("speaker", pa.array(speakers, pa.string()))
    for modality, folder in folders.items():
        chosen_of = {name: pc.field("clip_id").isin(pa.array(ids_in[name], pa.string())) for name in parts}
        column = pa.concat_tables([parquet.read(folder / name, filters=chosen_of[name]) for name in parts])
        assert column["clip_id"].equals(table["clip_id"]), f"{folder}: rows differ from the ledger's"
        if pc.any(column["present"]).as_py():
            table = table.append_column(modality, column["feature"])
            table = table.append_column(f"has_{modality}", column["present"])
    return table


def actor_pool(config: Config, parts: int) -> dict[str, Any]:
    """How actors that encode so many parts are run: the arguments of a Ray Data `map`."""
    import ray.data

    requests = resources.actor_resources(config)
    most = resources.actor_count(parts, requests["num_gpus"])
    # A local cluster has what it has: its actors start at once, but for a CPU, or tasks that feed them would wait for
    # ever. One that grows starts with one actor and asks for more.
    room = int((cluster.cpus() - 1) / resources.task_cpus())
    least = 1 if cluster.has_dashboard() else max(1, min(most, room))
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        **requests,
    }


def _encoded_elsewhere(folder: Path, prepared: Decoded, missing: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each missing part, which of its rows have features already, in parts of other corpora.

    Such as this corpus before it grew. From identities to the parts that hold them: see shards.find_rows.
    """
    other_parts = set(store.names(folder, "part-*.parquet")) - set(prepared.parts)
    decoded = other_parts & set(store.names(prepared.shards))
    if not decoded:
        return {}
    identities_of = {name: shards.identities(prepared.shards / name) for name in missing}
    part_of = shards.find_rows(
        prepared.shards, decoded, {i for identities in identities_of.values() for i in identities}
    )
    return {name: {i: part_of[i] for i in identities if i in part_of} for name, identities in identities_of.items()}


def _note(folder: Path, shards: Path, encoder: EncoderSpec) -> None:
    """Write what the folder holds. Unlike elsewhere this does not say that it is complete: parts are asked for."""
    if not store.is_complete(folder):
        about = {"kind": "features", "modality": encoder.modality, "encoder": encoder.digest}
        durable.write_text(folder / store.META, json.dumps({**about, "shards": shards.name}))


def _encode_with_progress(config: Config, encoders: Sequence[EncoderSpec], rows: list[dict]) -> None:
    """Encode these rows. Raises PlaceTrouble at the end where sources could not be read; their parts are not made."""
    names = ", ".join(encoder.modality for i, encoder in enumerate(encoders) if any(r["encoder"] == i for r in rows))
    total = sum(row["clips"] for row in rows)
    unread = []
    with progress(f"encoding {names}", total, "clips") as advance:
        for row in _encode(config, encoders, rows):
            unread.append(row["unread"])
            advance(row["clips"])
    trouble.check_read(unread)


def _encode(config: Config, encoders: Sequence[EncoderSpec], rows: list[dict]) -> Iterator[dict]:
    """Run `EncodeActor` over these rows, in actors or in this process."""
    from emo_ray.stages.encoding.actor import EncodeActor  # torch and Ray take seconds to import
    from emo_ray.training.in_memory import own_device

    is_light = all(encoders[row["encoder"]].sources for row in rows)  # features are read from tables
    clips_of_part = {row["part"]: row["clips"] for row in rows}  # each modality has a row
    clips = sum(clips_of_part.values()) if is_light else sum(row["clips"] for row in rows)
    if config.train.num_workers == 0 or resources.stays_here(config, len(rows), clips, is_light):
        with own_device(config) as device:
            yield from map(EncodeActor(encoders, config.media.patience_s, device.type), rows)
        return
    import ray.data

    cluster.connect(config)
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    pool = actor_pool(config, len(rows))
    actor: Any = EncodeActor  # Ray's types know functions alone
    yield from dataset.map(actor, fn_constructor_args=(encoders, config.media.patience_s), **pool).iter_rows()
