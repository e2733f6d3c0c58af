"""A checkpoint with the files that its config names, in one folder that works on any machine."""

import os
import shutil
from pathlib import Path
from typing import Any

from emo_ray import durable, store
from emo_ray.config import RECIPES, Config, dump, flatten, override
from emo_ray.models.checkpoint_files import CONFIG, EMOVCLIP, MODEL_FILES, digests, read_config

ENCODERS = "encoders"  # the folder of copied files
_TRAINING = ("emovclip.start_from", "fusion.start_from", "train.pseudo_labels", "checkpoint", "pseudo.teachers")
_PLACES = (
    "data.",
    "media.face.boxes",
    "store.",
    "cluster.",
    "tracking.",
    "claims.",
    "chaos.",
    "bench.",
    "crosscorpus.",
)


def write(checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Copy a checkpoint and the local files of its encoders into an existing folder; its config then names the copies.

    What lies beside our recipes comes with emo_ray, and is not copied. Paths that only training needed are left out.
    Returns the entries of the folder's meta.
    """
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(store.META, ".*"))
    for inner in (folder, folder / EMOVCLIP):
        if (inner / CONFIG).is_file():
            _name_copies(checkpoint / inner.relative_to(folder), inner, folder / ENCODERS)
    if (folder / EMOVCLIP).is_dir():
        meta = store.read_meta(checkpoint / EMOVCLIP) if store.is_complete(checkpoint / EMOVCLIP) else {}
        store.write_meta(folder / EMOVCLIP, meta | digests(folder / EMOVCLIP))
    meta = store.read_meta(checkpoint) if store.is_complete(checkpoint) else {}
    return meta | digests(folder)


def _name_copies(source: Path, folder: Path, encoders: Path) -> None:
    """Copy the files that the config in `source` names, and write the config that names them into `folder`."""
    config, _ = read_config(source)
    names = {key: value for key, value in flatten(config).items() if key in MODEL_FILES and value}
    copies = {key: _copied(Path(value), encoders) for key, value in names.items()}
    changes = {key: os.path.relpath(path, folder) for key, path in copies.items() if path is not None}
    durable.write_text(folder / CONFIG, dump(override(_shareable(config), changes)))


def _copied(path: Path, encoders: Path) -> Path | None:
    """Where the copy of a file or folder lies; None for what is neither, or comes with emo_ray."""
    if not path.exists() or path.resolve().is_relative_to(RECIPES):
        return None
    copy = encoders / path.name
    if path.is_dir():
        shutil.copytree(path, copy, dirs_exist_ok=True)
        return copy
    copy.parent.mkdir(exist_ok=True)
    merges = path.with_suffix(".bpe.gz")  # of the tokenizer of an architecture's file
    for file in (path, *((merges,) if path.suffix == ".json" and merges.is_file() else ())):
        durable.link_or_copy(file, encoders / file.name)
    if path.suffix == ".json" and path.with_suffix(".tokenizer").is_dir():
        shutil.copytree(path.with_suffix(".tokenizer"), copy.with_suffix(".tokenizer"), dirs_exist_ok=True)
    return copy


def _shareable(config: Config) -> Config:
    """The config without places of the machine that the model was trained on."""
    values, defaults = flatten(config), flatten(Config())
    private = [key for key in values if key in _TRAINING or key.startswith(_PLACES)]
    kept: dict[str, Any] = {"data.labels": values["data.labels"]}
    kept |= {f"tables.{name}": [Path(path).name for path in config.tables.of(name)] for name in config.tables.given}
    return override(config, {key: defaults[key] for key in private} | kept)
