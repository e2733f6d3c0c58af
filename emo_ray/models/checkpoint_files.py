"""The files of a checkpoint folder, and what can be told from them without loading a model (or importing torch).

`model.safetensors` holds the trained weights only, beside it lie `config.yaml`, `labels.json` and a model card. A
model's folder holds the fusion head; the EmoVCLIP that made its video features lies in `emovclip/` inside it, in the
same form, so that the folder can be copied, shared and loaded without the store (and without Ray).

`meta.json` holds digests of the weights (the head's scaling among them), the labels, the clips that were seen and the
settings that decide features. They tie these together: a file that was damaged, or changed by hand, is refused. Folders
of earlier versions have no digests, and are taken as they are (`has_digests`).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError, safe_open

from emo_ray import store
from emo_ray.config import Config, declarations, load, override, value_of
from emo_ray.config.yaml_core import read
from emo_ray.store import DamagedFile

WEIGHTS, CONFIG, LABELS, CARD, EMOVCLIP = "model.safetensors", "config.yaml", "labels.json", "README.md", "emovclip"
SEEN = "seen_clips.json"  # clip_id -> split of what it was trained and selected on: never to be tested on
SPEAKERS = "speakers.safetensors"  # of a model with tables.standardise=speaker: see training.speaker_scaling
CALIBRATION = "calibration.json"  # of a model: a `FittedTemperature`
FAMILIARITY = "familiarity.json"  # of a model: the bound of models.familiarity by modality

# The settings that name what is read to predict: a file, a folder, or a name that stands for one.
MODEL_FILES = (
    "emovclip.clip",
    "emovclip.weights",
    "audio.encoder",
    "text.encoder",
    "transcribe.model",
    "media.face.model",
)

CHECKED = (WEIGHTS, LABELS, SEEN, SPEAKERS, CALIBRATION, FAMILIARITY, CONFIG)  # the files that a meta has digests of
_NO_PART = (
    "data",
    "tables",
    "tune",
    "bench",
    "chaos",
    "claims",
    "serve",
    "export",
    "store",
    "tracking",
    "cluster",
)  # of a model
_OTHERS = tuple(f"{section}." for section in _NO_PART)


class FittedTemperature(TypedDict):
    """The temperature that calibrates a model's probabilities, and what it did on the clips it was fitted on.

    `training.calibration.calibrated` applies it. Errors are "before" and "after" temperature scaling.
    """

    temperature: float
    n: int  # clips, with all modalities that each has
    clips: str  # which: "validation" or "inner folds"
    ece: dict[str, float]  # expected calibration error, in [0, 1]
    nll: dict[str, float]  # mean negative log-likelihood, in nats


def folder_of(config: Config) -> Path:
    """The absolute path of `checkpoint`: actors stand in other folders. Raises ValueError where none is named."""
    if config.checkpoint is None:
        raise ValueError(
            "found no checkpoint, expected a model's folder: set checkpoint=FOLDER (jobs/train.py makes one)"
        )
    return Path(config.checkpoint).absolute()


def read_config(folder: Path) -> tuple[Config, tuple[str, ...]]:
    """The config and labels of a checkpoint.

    Raises ValueError for a folder without a checkpoint, and for files of something else; DamagedFile for files that
    are not those that the digests are of.
    """
    store.local(folder)
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG, LABELS)):
        raise ValueError(f"{folder}: found no checkpoint, expected {WEIGHTS}, {CONFIG} and {LABELS} in it")
    text = read_bytes(folder, LABELS)
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{folder / LABELS}: found no JSON ({type(error).__name__}), expected names of classes"
        ) from None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or not labels:
        raise ValueError(f"{folder / LABELS}: found {text[:60]!r}, expected a list with the names of the classes")
    check_settings(folder)
    try:
        config = load(str(folder / CONFIG))
    except RecursionError:
        raise ValueError(f"{folder / CONFIG}: found values that are nested too deep, expected a config") from None
    return _with_files_inside(config, folder), tuple(labels)


def _with_files_inside(config: Config, folder: Path) -> Config:
    """The config, in which relative paths of files in the folder are absolute: see `portable`."""
    values = {key: value_of(config, key) for key in MODEL_FILES}
    relative = {key: value for key, value in values.items() if value and not Path(value).is_absolute()}
    inside = {key: str(folder / name) for key, name in relative.items() if (folder / name).exists()}
    return override(config, inside) if inside else config


def read_bytes(folder: Path, name: str) -> bytes:
    """The content of a checkpoint's file. Raises DamagedFile where it is not the one that the digests are of."""
    content = (folder / name).read_bytes()
    _check(folder, name, _digest(content))
    return content


def read_calibration(folder: Path) -> FittedTemperature | None:
    """The calibration of a model; None where it was trained without clips to calibrate it on, or by an early version.

    Raises ValueError for a file without a positive temperature.
    """
    if not (folder / CALIBRATION).is_file():
        return None
    content = read_bytes(folder, CALIBRATION)
    try:
        fitted = json.loads(content)
        is_positive = 0 < float(fitted["temperature"]) < math.inf
    except (ValueError, TypeError, KeyError, RecursionError):
        is_positive = False
    if not is_positive:
        raise ValueError(f"{folder / CALIBRATION}: found no positive temperature, expected one: train the model again")
    return fitted


def read_familiarity(folder: Path) -> dict[str, float]:
    """How far training clips are from their mean: models.familiarity.bounds; empty for a model of an early version.

    Raises ValueError for a file of something else.
    """
    if not (folder / FAMILIARITY).is_file():
        return {}
    content = read_bytes(folder, FAMILIARITY)
    try:
        bounds = json.loads(content)
        return {str(name): float(bound) for name, bound in bounds.items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError(
            f"{folder / FAMILIARITY}: found no distances, expected one for each modality: train the model again"
        ) from None


def check(folder: Path) -> None:
    """Raises DamagedFile for a file of a checkpoint, or of the EmoVCLIP inside, that is not as it was written."""
    for place in (folder, folder / EMOVCLIP):
        for name in digests_of(place):
            check_file(place, name)


def check_file(folder: Path, name: str) -> None:
    """Raises DamagedFile where a checkpoint's file is not the one that the digests are of."""
    if not (folder / name).is_file():
        raise DamagedFile(folder / name, "it is gone")
    if name == CONFIG:
        check_settings(folder)
    else:
        read_bytes(folder, name)


def check_settings(folder: Path) -> None:
    """Raises DamagedFile where a checkpoint's config decides otherwise than when the digests were taken."""
    if not has_digests(folder):
        return
    try:
        settings_digest = _settings_digest(folder)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(folder / CONFIG, f"no settings: {type(error).__name__}") from None
    _check(folder, CONFIG, settings_digest)


def digests(folder: Path) -> dict[str, dict[str, str]]:
    """The entry of a checkpoint's meta that ties the files in a filled folder together."""
    names = [name for name in CHECKED if name != CONFIG and (folder / name).is_file()]
    of_files = {name: _digest((folder / name).read_bytes()) for name in names}
    return {store.DIGESTS: {**of_files, CONFIG: _settings_digest(folder)}}


def digests_of(folder: Path) -> dict[str, str]:
    """The digests in a checkpoint's meta by file; empty where it has none. Raises ValueError for other metas."""
    meta = store.read_meta(folder) if store.is_complete(folder) else {}
    stored = meta.get(store.DIGESTS, {})
    if not isinstance(stored, dict):
        raise ValueError(
            f"{folder / store.META}: found {store.DIGESTS} {stored!r:.60}, expected a digest for each file"
        )
    return stored


def has_digests(folder: Path) -> bool:
    """Whether a checkpoint can be checked: those of earlier versions cannot."""
    return bool(digests_of(folder))


def not_weights(path: Path, error: Exception) -> ValueError:
    """The error for a file of weights that cannot be read."""
    return ValueError(
        f"{path}: found no weights ({type(error).__name__}: {str(error)[:200]}), expected a whole file of safetensors: "
        "copy the checkpoint again, or train it again"
    )


def weight_names(folder: Path) -> set[str]:
    """The names of a checkpoint's tensors, read from the head of the file. Raises ValueError for other files."""
    try:
        with safe_open(folder / WEIGHTS, "np") as weights:
            return set(weights.keys())
    except (SafetensorError, OSError) as error:
        raise not_weights(folder / WEIGHTS, error) from None


def start_folder(config: Config, labels: Sequence[str]) -> Path | None:
    """The folder of the EmoVCLIP that `emovclip.start_from` names, by itself or inside a model's; None for a new one.

    Raises ValueError where there is no EmoVCLIP, or one whose contexts belong to other classes.
    """
    settings = config.emovclip
    if settings.start_from is None:
        return None
    folder = Path(settings.start_from)
    folder = folder / EMOVCLIP if (folder / EMOVCLIP).is_dir() else folder
    _, checkpoint_labels = read_config(folder)
    if "frozen_digest" not in weight_names(folder):
        raise ValueError(f"emovclip.start_from: found no EmoVCLIP in {folder}, expected a checkpoint with one")
    if settings.context_tokens and settings.class_specific_context and checkpoint_labels != tuple(labels):
        raise ValueError(
            f"emovclip.start_from: found contexts of the classes {', '.join(checkpoint_labels)} in {folder}, expected "
            f"{', '.join(labels)} in this order: only contexts of a run with emovclip.class_specific_context=false "
            "fit other classes"
        )
    return folder


def fusion_start_folder(config: Config, labels: Sequence[str]) -> Path | None:
    """The folder of the model whose head `fusion.start_from` names; None for a new head.

    Raises ValueError where there is no head, or one for other classes or for features of another kind.
    """
    if config.fusion.start_from is None:
        return None
    folder = Path(config.fusion.start_from)
    start_config, checkpoint_labels = read_config(folder)
    if start_config.tables.standardise != config.tables.standardise:
        raise ValueError(
            f"fusion.start_from: found a head for tables.standardise={start_config.tables.standardise} in {folder}, "
            f"expected {config.tables.standardise}: start from nothing, or set the head's"
        )
    if checkpoint_labels != tuple(labels):
        raise ValueError(
            f"fusion.start_from: found a head for the classes {', '.join(checkpoint_labels)} in {folder}, expected "
            f"{', '.join(labels)} in this order: start from nothing"
        )
    if not any(name.rpartition(".")[2].startswith("scaling_") for name in weight_names(folder)):
        raise ValueError(f"fusion.start_from: found no fusion head in {folder}, expected a whole model")
    return folder


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _settings_digest(folder: Path) -> str:
    """Digest of the settings in a checkpoint's config that decide what it gives; paths may change, as models move.

    It is taken from the file and not from the config, which gains settings with every version.
    """
    return _digest_of_settings((folder / CONFIG).read_text(encoding="utf-8"))


@lru_cache(maxsize=32)
def _digest_of_settings(text: str) -> str:
    decides = {key for key, declared in declarations().items() if declared.decides and not declared.path}
    tree = read(text) or {}
    if not isinstance(tree, dict):
        raise ValueError(f"found {type(tree).__name__}, expected sections of settings")
    values: dict[str, Any] = {}
    for section, content in tree.items():
        if isinstance(content, dict) and section not in decides:
            values |= {f"{section}.{name}": value for name, value in content.items() if f"{section}.{name}" in decides}
        elif section in decides:
            values[section] = content
    return store.digest({key: value for key, value in values.items() if not key.startswith(_OTHERS)})


def _check(folder: Path, name: str, digest: str) -> None:
    expected = digests_of(folder).get(name, digest)
    if expected != digest:
        raise DamagedFile(
            folder / name, f"digest {digest:.16}, {expected!s:.16} in {store.META}: cut, damaged or changed by hand"
        )
