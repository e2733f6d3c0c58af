"""What can be checked before a job begins, in less than a second and without Ray: paths, encoders, GPUs.

So that nobody learns of a wrong name or a missing GPU after hours of decoding.
"""

from collections.abc import Collection
from pathlib import Path

from emo_ray import cluster
from emo_ray.config import Config, flatten
from emo_ray.config.model_settings import MODALITIES
from emo_ray.models import checkpoint_files
from emo_ray.models.identity import stand_in_notes
from emo_ray.models.weights import Weights, problems_of, weights_of

# Keys of files and folders that must be there, however a job uses them.
_PATHS = (
    "checkpoint", "data.manifest", "media.face.boxes", "train.pseudo_labels", "emovclip.start_from",
    "fusion.start_from", "pseudo.teachers",
)  # fmt: skip
_TABLES = ("tables.video", "tables.audio", "tables.text")


def check(config: Config, sections: Collection[str]) -> list[str]:
    """What a user must know of the encoders, a line each: what will be fetched, what stand-ins are good for.

    `sections`: those of the config that the job reads, which tell what it builds. Raises ValueError that names
    everything that is missing.
    """
    problems = [*missing_paths(config), *(missing_gpus(config) if "train" in sections else [])]
    notes: list[str] = []
    keys = built_models(config, sections)
    if keys and not problems:
        model_config = models_config(config)
        named = weights_of(model_config, on_gpu=config.train.use_gpu == "yes")
        weights = [entry for entry in named if entry.key.partition(".")[0] in keys]
        problems += problems_of(model_config, weights)
        notes += [*fetched(weights), *(stand_in_notes(model_config) if "emovclip" in keys else [])]
    if problems:
        raise ValueError("\n".join(problems))
    return notes


def built_models(config: Config, sections: Collection[str]) -> set[str]:
    """The sections of the models that a job builds: all where it encodes, a recogniser alone where it transcribes."""
    if config.checkpoint is not None:
        return {"emovclip", "audio", "text", "transcribe"}
    if {"audio", "text"} & {*sections}:
        return {"audio", "text", "transcribe", *({"emovclip"} & {*sections})}  # folds and features train none
    return {"transcribe"} & {*sections}


def models_config(config: Config) -> Config:
    """The config whose encoders a job uses: that of the checkpoint, if one is named, with the caller's data.

    A modality that the checkpoint learnt from feature tables, or that the caller has tables for, needs no encoder.
    """
    if config.checkpoint is None or not (Path(config.checkpoint) / checkpoint_files.CONFIG).is_file():
        return config
    model_config, _ = checkpoint_files.read_config(Path(config.checkpoint))
    tables = {name: config.tables.of(name) or model_config.tables.of(name) for name in MODALITIES}
    return model_config.model_copy(update={"data": config.data, "tables": config.tables.model_copy(update=tables)})


def missing_paths(config: Config) -> list[str]:
    """A line for each file or folder that the config names and that is not there."""
    values = flatten(config)
    named = [(key, path) for key in (*_PATHS, *_TABLES) for path in _listed(values[key])]
    return [
        f"{key}: found no file or folder {path}{_place(path)}, expected one: correct the path"
        for key, path in named
        if "://" not in path and not Path(path).expanduser().exists()
    ]


def _place(path: str) -> str:
    """Where a relative path was looked for."""
    return "" if Path(path).expanduser().is_absolute() else f" below {Path.cwd()}"


def _listed(value: str | list[str] | None) -> list[str]:
    return value if isinstance(value, list) else [value] if value else []


def missing_gpus(config: Config) -> list[str]:
    """A line where GPUs are demanded that this machine lacks; a joined cluster is asked when the job is there."""
    count, needed = cluster.local_gpus(), max(1, config.train.num_workers)
    if config.train.use_gpu != "yes" or cluster.joins(config) or count is None or count >= needed:
        return []
    return [
        f"train.use_gpu=yes: found {count} GPUs on this machine, expected {needed}: lower train.num_workers, set "
        "train.use_gpu=auto, or join a cluster (docs/cluster.md)"
    ]


def fetched(weights: list[Weights]) -> list[str]:
    """A line on what is to be fetched from the model hub, if anything."""
    missing = [entry for entry in weights if entry.fetched_bytes != 0]
    parts = [f"{entry.name} ({megabytes(entry.fetched_bytes)})" for entry in missing]
    if not parts:
        return []
    total = megabytes(sum(entry.fetched_bytes or 0 for entry in missing))
    return [f"to be fetched, once: {', '.join(parts)}" + (f", {total} in all" if len(parts) > 1 else "")]


def megabytes(size: float | None) -> str:
    """Bytes for people: "378 MB", "16.4 GB"."""
    if size is None:
        return "of unknown size"
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
