"""features: encoders over shards, once per encoder digest and shard part.

A feature part has the name and the rows of its shard part. Missing parts are made, parts that are there are kept, so
the stage costs nothing the second time and goes on after a kill.
"""

import json
import pickle
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from emo_ray import cluster, store
from emo_ray.config import Config, flatten, override
from emo_ray.config.job_settings import Annotate
from emo_ray.data import shards
from emo_ray.models import audio, checkpoint, checkpoint_files, emovclip, text
from emo_ray.models.identity import audio_digest, frozen_digest, text_digest
from emo_ray.progress import progress, say
from emo_ray.stages.annotate import Readings, readings_of
from emo_ray.stages.chat import answer_log
from emo_ray.stages.encoding import external_tables
from emo_ray.stages.encoding.actor import EncodeActor, EncoderSpec, table_encoder
from emo_ray.stages.prepare import Prepared, prepare
from emo_ray.training.in_memory import own_device

VERSION = 2  # of the tables' form
# What a given checkpoint does not decide: places, data, and what may run on this machine.
_CALLERS = {
    *("checkpoint", "data", "synthetic", "tables", "evaluate", "pseudo", "store", "tracking", "cluster"),
    *("train.use_gpu", "text.trust_remote_code", "text.device_map"),
    # Where and how to ask; what is asked, and of which model, is the checkpoint's. It must never name the URL that
    # somebody's key is sent to.
    *(f"annotate.{key}" for key in Annotate.model_fields if key not in answer_log.settings(Annotate())),
}


def frozen_encoders(config: Config, readings: Readings | None = None, without: Sequence[str] = ()) -> list[EncoderSpec]:
    """What no training changes: the encoders of sound and text, or the tables of `tables.*` in the place of any.

    That of text uses readings where it is given some.
    """
    digest, table = text_digest(config.text, readings and readings.digest), readings and readings.path
    made = {
        "audio": lambda: EncoderSpec(
            "audio", audio_digest(config.audio), lambda: audio.build(config.audio), config.audio.batch_size
        ),
        "text": lambda: EncoderSpec("text", digest, lambda: text.build(config.text), config.text.batch_size, table),
    }
    made |= {name: partial(table_encoder, config, name) for name in config.tables.given}
    return [make() for name, make in made.items() if name not in without]


def encoders_of(config: Config, path: Path, readings: Readings | None = None) -> list[EncoderSpec]:
    """The encoders of a model in a checkpoint folder; one of sound and text alone has no EmoVCLIP.

    What it learnt from tables is read from tables alone: those of `config`, else the modality is absent. Raises
    ValueError where nothing is left.
    """
    own, _ = checkpoint_files.read_config(path)
    video, tables = path / checkpoint_files.EMOVCLIP, config.tables.given
    without = [name for name in own.tables.given if name not in tables]
    encoders = frozen_encoders(config, readings, without)
    if video.is_dir() and "video" not in (*tables, *without):
        encoders.append(video_encoder(video))
    if not encoders:
        wanted = " or ".join(f"tables.{name}=PATH" for name in own.tables.given)
        raise ValueError(f"{path}: found a model of feature tables, expected some of the same kind: {wanted}")
    return encoders


def of_checkpoint(config: Config, path: Path) -> Config:
    """The checkpoint's own config (its encoders, its seed and so its splits) with the caller's data and places."""
    own, labels = checkpoint_files.read_config(path)
    if own.annotate.url is not None and config.annotate.url is None:
        _say_without(path.name, own.annotate.model)
    callers = {k: v for k, v in flatten(config).items() if k in _CALLERS or k.split(".")[0] in _CALLERS}
    here = {"train.num_workers": min(1, config.train.num_workers)}  # all that it says of a model that is trained
    return override(own, callers | here | {"data.labels": labels})


@cache
def _say_without(name: str, model: str) -> None:
    say(f"{name} was trained with readings by {model}; annotate.url is not set, so transcripts stand alone")


def video_encoder(folder: Path) -> EncoderSpec:
    """The trained EmoVCLIP in a checkpoint folder, as an encoder of video."""
    config, _ = checkpoint_files.read_config(folder)
    digest = store.digest(frozen_digest(config), store.digest_path(folder / checkpoint_files.WEIGHTS))
    return EncoderSpec("video", digest, lambda: emovclip.VideoEncoder(checkpoint.load_emovclip(folder)), batch_size=8)


@dataclass(frozen=True)
class Featured:
    """Feature tables: their common folder, and the folder of each modality."""

    path: Path
    folders: dict[str, Path]
    exported: tuple[Path, ...] = ()

    def summary(self) -> dict:
        """The folder of each modality's table, and what was exported."""
        exported = {"exported": [str(path) for path in self.exported]} if self.exported else {}
        return {name: str(folder) for name, folder in self.folders.items()} | exported


def features(config: Config) -> Featured:
    """Features of every clip of the corpus, sound and text, and video where `checkpoint` names a model.

    With `tables.export` a copy of them for others is left there.
    """
    path = config.checkpoint and Path(config.checkpoint)
    if path:
        config = of_checkpoint(config, path)
    prepared = prepare(config)
    readings = readings_of(config, prepared.clips)
    encoders = encoders_of(config, path, readings) if path else frozen_encoders(config, readings)
    folders = encode_corpus(config, prepared, encoders)
    exported = external_tables.export(config.tables, folders, prepared.parts) if config.tables.export else ()
    return Featured(cluster.store_root(config) / "features", folders, tuple(exported))


def encode_corpus(
    config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec], parts: Sequence[str] | None = None,
) -> dict[str, Path]:  # fmt: skip
    """Make the feature parts of `parts` (default: all) that are missing; a folder per modality that any clip has."""
    parts = prepared.parts if parts is None else parts
    folders, rows, ledger = {}, [], prepared.ledger
    clip_ids = set(ledger["clip_id"].to_pylist())
    ledger = ledger.filter(pc.is_in(ledger["part"], pa.array(list(parts))))
    for i, encoder in enumerate(encoders):
        if not encoder.wanted(ledger):
            continue  # nobody has it: no need to load a model
        folder = folders[encoder.modality] = feature_folder(config, prepared.shards, encoder)
        _note(folder, prepared.shards, encoder)
        todo = [name for name in parts if not (folder / name).exists()]
        if todo and encoder.sources:
            external_tables.check(encoder, clip_ids)
        known = {} if encoder.sources else _known(folder, prepared, todo)
        rows += [
            {
                "encoder": i,
                "shard": str(prepared.shards / name),
                "feature": str(folder / name),
                "part": name,
                "known": pickle.dumps(known.get(name, {})),
            }
            for name in todo
        ]
    if rows:
        _encode(config, prepared, encoders, rows)
    for i in sorted({row["encoder"] for row in rows if encoders[row["encoder"]].sources}):
        external_tables.tell(encoders[i], folders[encoders[i].modality], parts)
    return folders


def _known(folder: Path, prepared: Prepared, todo: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each part to do, which rows other corpora have features of, such as this one before it grew.

    From identities to the parts that hold them: see shards.find.
    """
    others = {path.name for path in folder.glob("part-*.parquet")} - set(prepared.parts)
    others = [name for name in others if (prepared.shards / name).exists()]
    if not others:
        return {}
    identities = {name: shards.identities(prepared.shards / name) for name in todo}
    found = shards.find(prepared.shards, others, {one for ones in identities.values() for one in ones})
    return {name: {one: found[one] for one in ones if one in found} for name, ones in identities.items()}


def feature_folder(config: Config, shards: Path, encoder: EncoderSpec) -> Path:
    """Where this encoder's features of these shards lie or will lie; its parts are named as theirs."""
    key = store.digest(VERSION, encoder.digest, shards.name)
    return cluster.store_root(config) / "features" / f"{encoder.modality}-{key}"


def _note(folder: Path, shards: Path, encoder: EncoderSpec) -> None:
    """What the folder holds. Unlike elsewhere it does not say that the folder is complete: parts are asked for."""
    if not (folder / store.META).exists():
        about = {"kind": "features", "modality": encoder.modality, "encoder": encoder.digest}
        store.write_text(folder / store.META, json.dumps({**about, "shards": shards.name}))


def actor_pool(config: Config, parts: int) -> dict[str, Any]:
    """How actors that encode so many parts are run: the arguments of a Ray Data `map`."""
    gpu = cluster.use_gpu(config, processes=1)
    most = cluster.actor_count(parts, gpu)
    # A local cluster has what it has: its actors start at once, but for a CPU, or tasks that feed them would wait for
    # ever. One that grows starts with one actor and asks for more.
    room = int((cluster.cpus() - 1) / cluster.task_cpus())
    least = 1 if cluster.has_dashboard() else max(1, min(most, room))
    return {
        "compute": ray.data.ActorPoolStrategy(min_size=least, max_size=most),
        "num_cpus": cluster.task_cpus(),
        "num_gpus": 1 if gpu else 0,
    }


def _encode(config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec], rows: list[dict]) -> None:
    clips_of = Counter(prepared.ledger["part"].to_pylist())
    names = ", ".join(encoder.modality for i, encoder in enumerate(encoders) if any(r["encoder"] == i for r in rows))
    with progress(f"encoding {names}", sum(clips_of[row["part"]] for row in rows), "clips") as advance:
        for row in _encoded(config, encoders, rows):
            advance(row["clips"])


def _encoded(config: Config, encoders: Sequence[EncoderSpec], rows: list[dict]) -> Iterator[dict]:
    """What `Encode` makes of these rows, by actors or in this process."""
    if config.train.num_workers == 0:
        with own_device(config) as device:
            yield from map(EncodeActor(encoders, device.type), rows)
        return
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    pool = actor_pool(config, len(rows))
    yield from dataset.map(EncodeActor, fn_constructor_args=(encoders,), **pool).iter_rows()


def load(
    prepared: Prepared, folders: dict[str, Path], parts: Sequence[str] | None = None,
    clip_ids: Collection[str] | None = None,
) -> pa.Table:  # fmt: skip
    """The rows of `parts` as `clip_id` and, per modality, `<modality>` (fixed-size list) and `has_<modality>`.

    With `clip_ids` the rows of these clips, and no others are ever in memory. Modalities that none of the clips has are
    left out.
    """
    parts = prepared.parts if parts is None else parts
    ledger = prepared.ledger
    table = ledger.filter(pc.is_in(ledger["part"], pa.array(list(parts)))).select(["clip_id"])
    wanted = None if clip_ids is None else pc.field("clip_id").isin(list(clip_ids))
    table = table if wanted is None else table.filter(wanted)
    for modality, folder in folders.items():
        column = pa.concat_tables([pq.read_table(folder / name, filters=wanted) for name in parts])
        assert column["clip_id"].equals(table["clip_id"]), f"{folder}: rows differ from the ledger's"
        if pc.any(column["present"]).as_py():
            table = table.append_column(modality, column["feature"])
            table = table.append_column(f"has_{modality}", column["present"])
    return table
