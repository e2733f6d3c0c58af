"""The files of a checkpoint folder, and what can be told from them without loading a model (or importing torch).

`model.safetensors` holds the trained weights only, beside it lie `config.yaml`, `labels.json` and a model card. A
model's folder holds the fusion head; the EmoVCLIP that made its video features lies in `emovclip/` inside it, in the
same form, so that the folder can be copied, shared and loaded without the store (and without Ray).
"""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import safe_open

from emo_ray.config import Config, load

WEIGHTS, CONFIG, LABELS, CARD, EMOVCLIP = "model.safetensors", "config.yaml", "labels.json", "README.md", "emovclip"
SEEN = "seen_clips.json"  # clip_id -> split of what it was trained and selected on: never to be tested on


def read_config(folder: Path) -> tuple[Config, tuple[str, ...]]:
    """The config and labels of a checkpoint. Raises ValueError for a folder without a checkpoint."""
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG, LABELS)):
        raise ValueError(f"{folder}: found no checkpoint, expected {WEIGHTS}, {CONFIG} and {LABELS} in it")
    return load(str(folder / CONFIG)), tuple(json.loads((folder / LABELS).read_text(encoding="utf-8")))


def weight_names(folder: Path) -> set[str]:
    """The names of a checkpoint's tensors, read from the head of the file."""
    with safe_open(folder / WEIGHTS, "np") as weights:
        return set(weights.keys())


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

    Raises ValueError where there is no head, or one for other classes.
    """
    if config.fusion.start_from is None:
        return None
    folder = Path(config.fusion.start_from)
    _, checkpoint_labels = read_config(folder)
    if checkpoint_labels != tuple(labels):
        raise ValueError(
            f"fusion.start_from: found a head for the classes {', '.join(checkpoint_labels)} in {folder}, expected "
            f"{', '.join(labels)} in this order: start from nothing"
        )
    if not any(name.startswith("scaling_") for name in weight_names(folder)):
        raise ValueError(f"fusion.start_from: found no fusion head in {folder}, expected a whole model")
    return folder
